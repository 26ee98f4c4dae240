//! The store: one ordered map on disk. Only this file uses fjall.
//!
//! All rows are in one keyspace, so that a commit is one entry of the write-ahead log of fjall. Each commit writes the
//! state row, which shows up to which commit all rows are complete.

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

/// An open store. Clones share it; it is closed with the last of them.
#[derive(Clone)]
pub(super) struct Store {
    db: Database,
    rows: Keyspace,
    handles: Arc<()>,
}

/// An iterator over the rows of a range.
pub(super) struct Rows(fjall::Iter);

/// The store as it was after one commit. Later commits do not change it.
///
/// This is not guaranteed: fjall makes a commit visible in part if it writes or merges a table at that moment. Readers
/// of several rows must check that the rows belong together.
pub(super) struct StoreSnapshot {
    store: fjall::Snapshot,
    rows: Keyspace,
}

/// A commit that is being prepared.
pub(super) struct Commit {
    batch: fjall::OwnedWriteBatch,
    rows: Keyspace,
    bytes: usize,
}

/// Why the store cannot do something.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The disk is full.
    #[error("the disk is full: {0}")]
    Full(String),
    /// An error of the operating system; this is not damage.
    #[error("{0}")]
    Io(String),
    /// The disk fails to read or write.
    #[error("{0}")]
    Disk(String),
    /// The store was closed.
    #[error("the journal is closed")]
    Closed,
    /// The stored data are damaged.
    #[error("{0}")]
    Damaged(String),
    /// Consecutive events that were requested cannot be read; `through` is the offset of the last one.
    #[error("{what}")]
    Unreadable { through: u64, what: String },
}

const EIO: i32 = 5;
const KEYSPACE: &str = "rows";
/// Size of the block cache in bytes. Decoded events have their own cache.
const BLOCK_CACHE_BYTES: u64 = 8 << 20;
/// Bytes that are written to one table. About this much is read again after a crash.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The smallest size that fjall accepts.
const LOG_BYTES: u64 = 64 << 20;
/// Number of threads that write and merge tables.
const THREADS: usize = 2;
/// Maximum number of waiting memtables, and of unmerged tables. Both are below the numbers at which fjall stops.
const MAX_SEALED: usize = 3;
const MAX_UNMERGED: usize = 28;
/// Interval of the check whether the threads have caught up.
const POLL_EVERY: Duration = Duration::from_millis(5);

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
    /// Opens the store. Creates an empty one if it does not exist.
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

    /// True if there is no clone, so that dropping this one closes the store.
    pub(super) fn alone(&self) -> bool {
        Arc::strong_count(&self.handles) == 1
    }

    /// Begins a commit. Waits while the tables are behind.
    pub(super) fn commit(&self) -> Result<Commit, StoreError> {
        self.wait_for_room()?;
        Ok(Commit { batch: self.db.batch(), rows: self.rows.clone(), bytes: 0 })
    }

    /// Waits until everything that was written is on the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        guarded(|| self.db.persist(PersistMode::SyncData))
    }

    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>, StoreError> {
        guarded(|| self.rows.get(key))
    }

    pub(super) fn snapshot(&self) -> StoreSnapshot {
        StoreSnapshot { store: self.db.snapshot(), rows: self.rows.clone() }
    }

    /// Rows whose keys begin with `prefix`, in order, from the key `from` on if it has this prefix.
    pub(super) fn scan(
        &self,
        prefix: u8,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        let start = if from.first() == Some(&prefix) { from.to_vec() } else { vec![prefix] };
        let mut rows = self.range(Bound::Included(start), vec![prefix + 1]);
        std::iter::from_fn(move || rows.next())
    }

    /// Rows in a range of keys, from both ends. After an error, the rows from that end are not complete.
    pub(super) fn range(&self, from: Bound<Vec<u8>>, before: Vec<u8>) -> Rows {
        Rows(self.rows.range((from, Bound::Excluded(before))))
    }

    /// Keys of the rows from `from` on and before `before`.
    pub(super) fn keys(&self, from: &[u8], before: &[u8]) -> impl Iterator<Item = Result<Slice, StoreError>> + use<> {
        let mut rows = self.range(Bound::Included(from.to_vec()), before.to_vec());
        std::iter::from_fn(move || guarded(|| rows.0.next().map(fjall::Guard::key).transpose()).transpose())
    }

    /// Merges all tables, which frees the disk space of deleted rows.
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        guarded(|| self.rows.rotate_memtable())?;
        self.wait_while(|rows| rows.sealed_memtable_count() > 0)?;
        guarded(|| self.rows.major_compact())
    }

    /// Waits until the disk has caught up, so that a commit does not block. If fjall's threads have failed, fjall itself
    /// would wait for ever; this returns the error.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        self.wait_while(|rows| rows.sealed_memtable_count() >= MAX_SEALED || rows.l0_table_count() >= MAX_UNMERGED)
    }

    #[expect(clippy::disallowed_methods, reason = "the writer's thread, and those of readers, may wait for the disk")]
    fn wait_while(&self, busy: impl Fn(&Keyspace) -> bool) -> Result<(), StoreError> {
        while busy(&self.rows) {
            // Returns the error if a thread has failed.
            guarded(|| self.db.persist(PersistMode::Buffer))?;
            std::thread::sleep(POLL_EVERY);
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

// === impl StoreSnapshot ===

impl StoreSnapshot {
    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>, StoreError> {
        guarded(|| self.store.get(&self.rows, key))
    }
}

// === impl Commit ===

impl Commit {
    /// Size of its keys and rows in bytes.
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

    /// Writes the commit completely or not at all: to the operating system, and with `sync` to the disk.
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

/// Returns a panic as an error. Damaged files can make the store panic, and this must not end the node.
fn guarded<T>(work: impl FnOnce() -> Result<T, fjall::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(StoreError::from),
        Err(panic) => check_clock().and(Err(match text(&*panic) {
            // The store panicked on an error of the operating system, so this is not damage.
            refused if refused.contains("Os { code: ") => StoreError::Io(refused.to_owned()),
            other => StoreError::Damaged(format!("the store cannot read its files: {other}")),
        })),
    }
}

/// fjall panics when the clock is before 1970.
#[expect(clippy::disallowed_methods, reason = "the same clock that fjall reads")]
fn check_clock() -> Result<(), StoreError> {
    let before_1970 = || StoreError::Io("the clock of this machine is before 1970; set it and start again".into());
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(drop).map_err(|_| before_1970())
}
