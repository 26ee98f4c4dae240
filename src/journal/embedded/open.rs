//! Opening: whose directory it is, whether all is there that was acknowledged, and whether offsets may go on.

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
    Footprint, OpenError, Shared, check,
    place::{self, Mark, MarkFile, Place},
    restore::{self, Restored},
    rows::{self, STATE, State},
    store::{Store, StoreError},
    writer::{After, Command, Writer},
};
use crate::{
    clock::Clock,
    journal::{Config, SyncMode, bell::Bells, log::Log, new_epoch},
};

/// Events of which the cache expects to hold this many, as a first guess.
const CACHED_EVENTS: usize = 1 << 14;

/// Opens the journal and starts its writer.
pub(super) fn open(
    config: &Config,
    dir: &Path,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
) -> Result<(Arc<Shared>, JoinHandle<()>), OpenError> {
    let place = Place::take(dir)?;
    let boot = place::boot();
    let damaged = |what: String| OpenError::Damaged { dir: dir.to_owned(), what };
    let refused = |error: io::Error| OpenError::io(dir, &error);
    let known = Mark::read(&place.mark()).map_err(refused)?;
    let known = known.map_err(|why| damaged(format!("its file `journal/MARK`: {why}")))?;
    check_files(&place, known).map_err(refused)?.map_err(&damaged)?;
    if let Some(mark) = known.filter(|mark| mark.commit > 0) {
        let complete = mark.synced || !crashed(mark, boot);
        check::check(&place.store(), complete.then_some(mark.commit)).map_err(|error| OpenError::store(dir, &error))?;
    }
    let store = Store::open(&place.store()).map_err(|error| OpenError::store(dir, &error))?;
    let failed = |error: StoreError| OpenError::store(dir, &error);
    let restored = match restore::restore(&store, config, clock.moment()).map_err(failed)? {
        Some(restored) => restored,
        None if known.is_none_or(|mark| mark.commit == 0) => begin(&store, config).map_err(failed)?,
        None => return Err(damaged("its store is empty and should not be".into())),
    };
    let epoch = going_on(&store, known, &restored, boot, dir)?;
    let Restored { mut log, state, ragged } = restored;
    log.set_epoch(epoch);
    let commit = state.commit.max(known.map_or(0, |mark| mark.commit)) + u64::from(epoch != state.epoch);
    if epoch != state.epoch {
        renew(&store, epoch, commit, &log).map_err(failed)?;
    }
    let mark = Mark { commit, clean: false, synced: config.sync == SyncMode::Always, boot };
    let file = MarkFile::open(&place.mark(), mark).map_err(refused)?;
    file.write(mark).and_then(|()| file.sync()).map_err(refused)?;

    let after = After { commit, changes: log.take_changes(), ragged };
    let shared = Arc::new(Shared {
        head: watch::Sender::new(log.head()),
        log: RwLock::new(log),
        events: Cache::with_weighter(CACHED_EVENTS, config.cache_bytes, Footprint),
        disk_bytes: AtomicU64::new(store.disk_bytes()),
        store: RwLock::new(Some(store)),
        bells: Bells::default(),
        epoch,
        clock,
        commits: AtomicU64::new(0),
        refusal: RwLock::default(),
        closed: AtomicBool::new(false),
    });
    let writer = Writer::new(shared.clone(), place, file, config.clone(), boot, after);
    let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run(commands));
    let thread = thread.map_err(refused)?;
    Ok((shared, thread))
}

/// Mark and store come and go together.
fn check_files(place: &Place, mark: Option<Mark>) -> io::Result<Result<(), String>> {
    let stored = place::there(&place.store())?;
    match mark {
        None if stored => return Ok(Err("its file `journal/MARK` is missing".into())),
        Some(mark) if mark.commit > 0 && !stored => return Ok(Err("its directory `journal/store` is missing".into())),
        // The mark comes first, so that a store without one is never half of a beginning.
        None => {
            let first = Mark { commit: 0, clean: false, synced: true, boot: place::boot() };
            MarkFile::open(&place.mark(), first).map_err(place::of_file(&place.mark()))?;
        }
        Some(_) => {}
    }
    Ok(Ok(()))
}

fn begin(store: &Store, config: &Config) -> Result<Restored, StoreError> {
    let log = Log::new(config, new_epoch());
    let state = State::new(log.epoch(), 0, &log.marks());
    let mut commit = store.commit()?;
    commit.put(STATE, rows::encode(&state));
    commit.write(true)?;
    Ok(Restored { log, state, ragged: BTreeSet::new() })
}

/// The epoch to go on with. Offsets that may have been given out and lost must not be given out again under the same
/// epoch: after a crash of the machine with anything but `sync = "always"` it is a new one.
fn going_on(store: &Store, mark: Option<Mark>, restored: &Restored, boot: u128, dir: &Path) -> Result<u64, OpenError> {
    let epoch = restored.state.epoch;
    let Some(mark) = mark else { return Ok(epoch) };
    if crashed(mark, boot) && !mark.synced {
        let lost = mark.commit.saturating_sub(restored.state.commit);
        tracing::warn!(
            commits = lost,
            "the machine stopped while commits were not on the disk yet; a new epoch begins, clients are told of a gap"
        );
        return Ok(new_epoch());
    }
    if restored.state.commit < mark.commit {
        let (has, had) = (restored.state.commit, mark.commit);
        let what = format!("commit {had} was acknowledged, and the store ends with commit {has}");
        return Err(OpenError::Damaged { dir: dir.to_owned(), what });
    }
    store.sync().map_err(|error| OpenError::store(dir, &error))?;
    Ok(epoch)
}

/// True when the whole machine went down, and not only the process.
fn crashed(mark: Mark, boot: u128) -> bool {
    !mark.clean && (mark.boot != boot || boot == 0)
}

fn renew(store: &Store, epoch: u64, commit: u64, log: &Log) -> Result<(), StoreError> {
    let mut batch = store.commit()?;
    batch.put(STATE, rows::encode(&State::new(epoch, commit, &log.marks())));
    batch.write(true)
}
