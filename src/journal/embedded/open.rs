//! Opens a journal: locks the directory, checks that all acknowledged data are there, and restores the index.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
    thread::{self, JoinHandle},
};

use quick_cache::sync::Cache;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    Embedded, EmbeddedState, Footprint, OpenError, StoreError,
    committer::{Committer, SharedCommitter},
    data_dir::{self, DataDir},
    items::Restored,
    segments::{Directory, Files, JournalState, Options, Scan, Segments},
    writer::{Command, Writer},
};
use crate::{
    clock::{Clock, Moment},
    journal::{Config, SyncMode, log::Log, new_epoch, notifier::Notifiers},
};

/// Initial estimate of the number of events in the cache.
const CACHED_EVENTS: usize = 1 << 14;
/// Size of a segment: a sixteenth of the journal, within these limits.
const MIN_SEGMENT_BYTES: u64 = 4 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;
/// In a large journal segments are larger, so that at most about 400 files are open.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
const MANY_SEGMENTS: u64 = 200;
/// Timestamps ahead of the clock by less than this are not logged.
const WARN_AHEAD_MS: u64 = 60_000;

/// Opens the journal and starts its writer.
pub(super) fn open(
    config: &Config,
    dir: &Path,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
) -> Result<(Arc<EmbeddedState>, SharedCommitter, JoinHandle<()>), OpenError> {
    let data_dir = DataDir::take(dir)?;
    let mut restored = Restored::default();
    let disk = Arc::new(Directory::at(&data_dir.journal()));
    let options = options(config, data_dir::boot_id());
    let segments =
        Segments::open(disk, options, new_epoch(), &mut restored).map_err(|error| OpenError::store(dir, &error))?;
    if !restored.damaged.is_empty() {
        tracing::error!(
            items = restored.damaged.len(),
            "some events or records of the journal are damaged and cannot be read; see `millstream journal verify`"
        );
    }
    let now = clock.moment();
    warn_ahead(&segments.state(), now);
    let topic_segments = std::mem::take(&mut restored.topic_segments);
    let log = restored.finish(config, segments.epoch(), &segments.state(), now);
    let shared = Arc::new(state(config, log, segments.files(), clock));
    let committer = Committer::new(shared.clone(), data_dir, config.clone(), segments, topic_segments);
    let committer: SharedCommitter = Arc::new(Mutex::new(Some(committer)));
    let writer = Writer::new(shared.clone(), committer.clone(), config.sync == SyncMode::Always);
    let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run(commands));
    let thread = thread.map_err(|error| OpenError::io(dir, &error))?;
    Ok((shared, committer, thread))
}

/// Opens a journal that is only read. Nothing is changed.
pub(super) fn open_to_read(config: &Config, data_dir: &DataDir) -> Result<Embedded, OpenError> {
    let failed = |error: StoreError| OpenError::store(data_dir.dir(), &error);
    let mut restored = Restored::default();
    let disk = Directory::at(&data_dir.journal());
    let scan = Scan::of(&disk, data_dir::boot_id()).map_err(|error| OpenError::unreadable(data_dir.dir(), &error))?;
    let state_at_end = scan.read_intact(&mut restored).map_err(failed)?.state();
    let epoch = scan.epoch().unwrap_or_else(new_epoch);
    let clock = Clock::system();
    let log = restored.finish(config, epoch, &state_at_end, clock.moment());
    let shared = Arc::new(state(config, log, Arc::new(scan.files()), clock));
    Ok(Embedded::around(config, shared, Arc::new(Mutex::new(None))))
}

fn state(config: &Config, log: Log, files: Arc<Files>, clock: Clock) -> EmbeddedState {
    EmbeddedState {
        epoch: log.epoch(),
        head: watch::Sender::new(log.head()),
        log: RwLock::new(log),
        events: Cache::with_weighter(CACHED_EVENTS, config.cache_bytes, Footprint),
        disk_bytes: AtomicU64::new(files.disk_bytes()),
        files,
        notifiers: Notifiers::default(),
        clock,
        commits: AtomicU64::new(0),
        stalls: AtomicU64::new(0),
        refusal: RwLock::default(),
        closed: AtomicBool::new(false),
        wake: Notify::new(),
    }
}

/// The settings of the log of segments.
pub(super) fn options(config: &Config, boot: u128) -> Options {
    let bytes = (config.max_bytes / 16).clamp(MIN_SEGMENT_BYTES, SEGMENT_BYTES);
    let bytes = bytes.max((config.max_bytes / MANY_SEGMENTS).min(MAX_SEGMENT_BYTES));
    let segment_bytes = u32::try_from(bytes).expect("it is at most 1 GiB");
    Options { segment_bytes, always: config.sync == SyncMode::Always, boot }
}

fn warn_ahead(state: &JournalState, now: Moment) {
    let last = state.log_state().last_timestamp;
    if let Some(ahead_ms) = last.checked_sub(now.wall).filter(|ahead| *ahead > WARN_AHEAD_MS) {
        tracing::warn!(
            ahead_ms,
            "the last event is ahead of the clock; events ahead of the clock get the age of the event after them"
        );
    }
}

impl OpenError {
    pub(super) fn unreadable(dir: &Path, error: &io::Error) -> Self {
        Self::store(dir, &StoreError::io(error))
    }
}
