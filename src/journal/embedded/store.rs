//! The store: one ordered map on disk, by fjall. This file knows fjall; nothing else does.
//!
//! Everything is in one keyspace, so that a commit is one entry of fjall's own write-ahead log, and the state row, which
//! each commit carries, tells how far all rows are complete.

use std::{
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Slice};

use super::OpenError;
use crate::supervise::text;

/// A store that is open. Clones are the same one, which is closed with the last of them.
#[derive(Clone)]
pub(super) struct Store {
    db: Database,
    rows: Keyspace,
    handles: Arc<()>,
}

/// Rows of a range, as they are read.
pub(super) struct Rows(fjall::Iter);

/// The store after one commit: later commits do not change what it gives.
///
/// This is not guaranteed: fjall makes a commit visible in part if it writes or merges a table at that moment. Readers
/// of several rows must check that the rows belong together.
pub(super) struct Snapshot {
    store: fjall::Snapshot,
    rows: Keyspace,
}

/// What a commit writes.
pub(super) struct Commit {
    batch: fjall::OwnedWriteBatch,
    rows: Keyspace,
    bytes: usize,
}

/// Why the store does not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The disk has no room.
    #[error("the disk is full: {0}")]
    Full(String),
    /// An error of the operating system; this is not damage.
    #[error("{0}")]
    Io(String),
    /// The disk itself fails to read or write.
    #[error("{0}")]
    Disk(String),
    /// It was closed.
    #[error("the journal is closed")]
    Closed,
    /// What is on the disk cannot be read.
    #[error("{0}")]
    Damaged(String),
    /// Consecutive events that were requested cannot be read; `through` is the offset of the last one.
    #[error("{what}")]
    Unreadable { through: u64, what: String },
}

const EIO: i32 = 5;
const KEYSPACE: &str = "rows";
/// Blocks of rows that are kept ready to read; decoded events are kept elsewhere.
const BLOCK_CACHE_BYTES: u64 = 8 << 20;
/// What is written to a table at once: also about as much as is read again after a crash.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The least that fjall takes.
const LOG_BYTES: u64 = 64 << 20;
/// Threads that write and merge tables.
const THREADS: usize = 2;
/// Below the numbers at which fjall stops for good: memtables that wait to be tables, and tables that wait to be merged.
const MAX_SEALED: usize = 3;
const MAX_UNMERGED: usize = 28;
/// How often it is looked whether they have caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

// === impl OpenError ===

impl OpenError {
    pub(super) fn store(dir: &Path, error: &StoreError) -> Self {
        match error {
            StoreError::Damaged(what) => Self::Damaged { dir: dir.to_owned(), what: what.clone() },
            _ => Self::Io { dir: dir.to_owned(), reason: error.to_string() },
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens the store, or makes an empty one.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        check_clock()?;
        let open = || -> Result<Self, fjall::Error> {
            let db = Database::builder(path)
                .cache_size(BLOCK_CACHE_BYTES)
                .max_journaling_size(LOG_BYTES)
                .manual_journal_persist(true)
                .worker_threads(THREADS)
                .open()?;
            let options = || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    .manual_journal_persist(true)
                    .expect_point_read_hits(true)
            };
            let rows = db.keyspace(KEYSPACE, options)?;
            Ok(Self { db, rows, handles: Arc::default() })
        };
        guarded(open)
    }

    /// True when there is no clone: with this one it would be closed.
    pub(super) fn alone(&self) -> bool {
        Arc::strong_count(&self.handles) == 1
    }

    /// Begins a commit; waits while the tables are behind.
    pub(super) fn commit(&self) -> Result<Commit, StoreError> {
        self.wait_for_room()?;
        Ok(Commit { batch: self.db.batch(), rows: self.rows.clone(), bytes: 0 })
    }

    /// Makes sure that what was written is on the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        guarded(|| self.db.persist(PersistMode::SyncData))
    }

    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>, StoreError> {
        guarded(|| self.rows.get(key))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot { store: self.db.snapshot(), rows: self.rows.clone() }
    }

    /// Rows whose key begins with `prefix`, in order, from the key `from` on where that is later.
    pub(super) fn scan(
        &self,
        prefix: u8,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        let start = if from.first() == Some(&prefix) { from.to_vec() } else { vec![prefix] };
        let mut rows = self.range(Bound::Included(start), vec![prefix + 1]);
        std::iter::from_fn(move || rows.next())
    }

    /// Rows from a key on and before another, from both ends. What follows an error from the same end is not complete.
    pub(super) fn range(&self, from: Bound<Vec<u8>>, before: Vec<u8>) -> Rows {
        Rows(self.rows.range((from, Bound::Excluded(before))))
    }

    /// Keys of rows, from a key on and before another.
    pub(super) fn keys(&self, from: &[u8], before: &[u8]) -> impl Iterator<Item = Result<Slice, StoreError>> + use<> {
        let mut rows = self.range(Bound::Included(from.to_vec()), before.to_vec());
        std::iter::from_fn(move || guarded(|| rows.0.next().map(fjall::Guard::key).transpose()).transpose())
    }

    /// Merges all tables, so that what was deleted leaves the disk.
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        guarded(|| self.rows.rotate_memtable())?;
        self.wait_while(|rows| rows.sealed_memtable_count() > 0)?;
        guarded(|| self.rows.major_compact())
    }

    /// Waits until a commit will not be held up: behind a disk that is slow, or one that has failed. fjall itself waits
    /// without asking whether the threads that it waits for are still there.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        self.wait_while(|rows| rows.sealed_memtable_count() >= MAX_SEALED || rows.l0_table_count() >= MAX_UNMERGED)
    }

    #[expect(clippy::disallowed_methods, reason = "the writer's thread, and those of readers, may wait for the disk")]
    fn wait_while(&self, busy: impl Fn(&Keyspace) -> bool) -> Result<(), StoreError> {
        while busy(&self.rows) {
            // Says so when a thread has failed.
            guarded(|| self.db.persist(PersistMode::Buffer))?;
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Bytes on the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.db.disk_space().unwrap_or(0)
    }
}

// === impl Rows ===

impl Rows {
    pub(super) fn next_back(&mut self) -> Option<Result<(Slice, Slice), StoreError>> {
        guarded(|| self.0.next_back().map(fjall::Guard::into_inner).transpose()).transpose()
    }
}

impl Iterator for Rows {
    type Item = Result<(Slice, Slice), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        guarded(|| self.0.next().map(fjall::Guard::into_inner).transpose()).transpose()
    }
}

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>, StoreError> {
        guarded(|| self.store.get(&self.rows, key))
    }
}

// === impl Commit ===

impl Commit {
    /// Bytes of the keys and rows that were put into it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn put(&mut self, key: impl AsRef<[u8]>, row: Vec<u8>) {
        self.bytes += key.as_ref().len() + row.len();
        self.batch.insert(&self.rows, key.as_ref(), row);
    }

    pub(super) fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.batch.remove(&self.rows, key.as_ref());
    }

    /// Writes it, all or nothing: to the operating system, and with `sync` to the disk.
    pub(super) fn write(self, sync: bool) -> Result<(), StoreError> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        guarded(|| self.batch.durability(Some(mode)).commit())
    }
}

// === impl StoreError ===

impl StoreError {
    pub(super) fn io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            io::ErrorKind::NotFound => Self::Damaged(format!("a file of the store is missing: {error}")),
            _ if error.raw_os_error() == Some(EIO) => Self::Disk(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match &error {
            fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => Self::io(io),
            fjall::Error::Poisoned => Self::Io("an earlier write failed".to_owned()),
            fjall::Error::Locked => Self::Io("another process has it open".to_owned()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// Damage can make the store panic where it takes a file for sound: that must not end the node.
fn guarded<T>(work: impl FnOnce() -> Result<T, fjall::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(StoreError::from),
        Err(panic) => check_clock().and(Err(match text(&*panic) {
            // The store panicked on an error of the operating system, so this is not damage.
            refused if refused.contains("Os { code: ") => StoreError::Io(refused.to_owned()),
            other => StoreError::Damaged(format!("the store cannot make sense of its files: {other}")),
        })),
    }
}

/// fjall panics when the clock is before 1970.
#[expect(clippy::disallowed_methods, reason = "the same clock that fjall reads")]
fn check_clock() -> Result<(), StoreError> {
    let before_1970 = || StoreError::Io("the clock of this machine stands before 1970; set it and start again".into());
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(drop).map_err(|_| before_1970())
}
