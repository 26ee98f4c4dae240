//! Opens a journal: locks the directory, checks that all acknowledged data are there, and chooses the epoch.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
    thread::{self, JoinHandle},
};

use quick_cache::sync::Cache;
use tokio::sync::{mpsc, watch};

use super::{
    EmbeddedState, Footprint, OpenError, check,
    data_dir::{self, DataDir, HighWaterMark, HighWaterMarkFile},
    restore::{self, Restored},
    rows::{self, STATE_KEY, StateRow},
    store::{Store, StoreError},
    writer::{Command, InitialState, Writer},
};
use crate::{
    clock::Clock,
    journal::{Config, SyncMode, log::Log, new_epoch, notifier::Notifiers},
};

/// Initial estimate of the number of events in the cache.
const CACHED_EVENTS: usize = 1 << 14;

/// Opens the journal and starts its writer.
pub(super) fn open(
    config: &Config,
    dir: &Path,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
) -> Result<(Arc<EmbeddedState>, JoinHandle<()>), OpenError> {
    let data_dir = DataDir::take(dir)?;
    let boot = data_dir::boot_id();
    let damaged = |what: String| OpenError::Damaged { dir: dir.to_owned(), what };
    let refused = |error: io::Error| OpenError::io(dir, &error);
    let known = HighWaterMark::read(&data_dir.high_water_mark()).map_err(refused)?;
    let known = known.map_err(|why| damaged(format!("its file `journal/MARK`: {why}")))?;
    check_files(&data_dir, known).map_err(refused)?.map_err(&damaged)?;
    if let Some(high_water_mark) = known.filter(|high_water_mark| high_water_mark.commit > 0) {
        let complete = high_water_mark.synced || !machine_crashed(high_water_mark, boot);
        check::check(&data_dir.store(), complete.then_some(high_water_mark.commit))
            .map_err(|error| OpenError::store(dir, &error))?;
    }
    let store = Store::open(&data_dir.store()).map_err(|error| OpenError::store(dir, &error))?;
    let failed = |error: StoreError| OpenError::store(dir, &error);
    let restored = match restore::restore(&store, config, clock.moment()).map_err(failed)? {
        Some(restored) => restored,
        None if known.is_none_or(|high_water_mark| high_water_mark.commit == 0) => {
            init_store(&store, config).map_err(failed)?
        }
        None => return Err(damaged("its store is empty, but commits were acknowledged".into())),
    };
    let epoch = choose_epoch(&store, known, &restored, boot, dir)?;
    let Restored { mut log, state, fragmented } = restored;
    log.set_epoch(epoch);
    let commit =
        state.commit.max(known.map_or(0, |high_water_mark| high_water_mark.commit)) + u64::from(epoch != state.epoch);
    if epoch != state.epoch {
        store_epoch(&store, epoch, commit, &log).map_err(failed)?;
    }
    let high_water_mark = HighWaterMark { commit, clean: false, synced: config.sync == SyncMode::Always, boot };
    let file = HighWaterMarkFile::open(&data_dir.high_water_mark(), high_water_mark).map_err(refused)?;
    file.write(high_water_mark).and_then(|()| file.sync()).map_err(refused)?;

    let after = InitialState { commit, changes: log.take_changes(), fragmented };
    let shared = Arc::new(EmbeddedState {
        head: watch::Sender::new(log.head()),
        log: RwLock::new(log),
        events: Cache::with_weighter(CACHED_EVENTS, config.cache_bytes, Footprint),
        disk_bytes: AtomicU64::new(store.disk_bytes()),
        store: RwLock::new(Some(store)),
        notifiers: Notifiers::default(),
        epoch,
        clock,
        commits: AtomicU64::new(0),
        refusal: RwLock::default(),
        closed: AtomicBool::new(false),
    });
    let writer = Writer::new(shared.clone(), data_dir, file, config.clone(), boot, after);
    let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run(commands));
    let thread = thread.map_err(refused)?;
    Ok((shared, thread))
}

/// Checks that high-water mark and store both exist, or neither.
fn check_files(data_dir: &DataDir, high_water_mark: Option<HighWaterMark>) -> io::Result<Result<(), String>> {
    let stored = data_dir::exists(&data_dir.store())?;
    match high_water_mark {
        None if stored => return Ok(Err("its file `journal/MARK` is missing".into())),
        Some(high_water_mark) if high_water_mark.commit > 0 && !stored => {
            return Ok(Err("its directory `journal/store` is missing".into()));
        }
        // The mark is written first. So a store without a mark is never a beginning that was interrupted.
        None => {
            let first = HighWaterMark { commit: 0, clean: false, synced: true, boot: data_dir::boot_id() };
            HighWaterMarkFile::open(&data_dir.high_water_mark(), first)
                .map_err(data_dir::with_path(&data_dir.high_water_mark()))?;
        }
        Some(_) => {}
    }
    Ok(Ok(()))
}

fn init_store(store: &Store, config: &Config) -> Result<Restored, StoreError> {
    let log = Log::new(config, new_epoch());
    let state = StateRow::new(log.epoch(), 0, &log.log_state());
    let mut commit = store.commit()?;
    commit.put(STATE_KEY, rows::encode(&state));
    commit.write(true)?;
    Ok(Restored { log, state, fragmented: BTreeSet::new() })
}

/// The epoch to use. After a machine crash with a `sync` other than `always`, offsets may have been acknowledged and
/// lost. They must not be used again in the same epoch, so a new one begins.
fn choose_epoch(
    store: &Store,
    high_water_mark: Option<HighWaterMark>,
    restored: &Restored,
    boot: u128,
    dir: &Path,
) -> Result<u64, OpenError> {
    let epoch = restored.state.epoch;
    let Some(high_water_mark) = high_water_mark else { return Ok(epoch) };
    if machine_crashed(high_water_mark, boot) && !high_water_mark.synced {
        let lost = high_water_mark.commit.saturating_sub(restored.state.commit);
        tracing::warn!(
            commits = lost,
            "the machine stopped before all commits were on the disk; a new epoch begins, so that clients get a gap"
        );
        return Ok(new_epoch());
    }
    if restored.state.commit < high_water_mark.commit {
        let (has, had) = (restored.state.commit, high_water_mark.commit);
        let what = format!("commit {had} was acknowledged, and the store ends with commit {has}");
        return Err(OpenError::Damaged { dir: dir.to_owned(), what });
    }
    store.sync().map_err(|error| OpenError::store(dir, &error))?;
    Ok(epoch)
}

/// True if the machine crashed, and not only the process.
fn machine_crashed(high_water_mark: HighWaterMark, boot: u128) -> bool {
    !high_water_mark.clean && (high_water_mark.boot != boot || boot == 0)
}

fn store_epoch(store: &Store, epoch: u64, commit: u64, log: &Log) -> Result<(), StoreError> {
    let mut batch = store.commit()?;
    batch.put(STATE_KEY, rows::encode(&StateRow::new(epoch, commit, &log.log_state())));
    batch.write(true)
}
