//! The store: one ordered map on disk, by fjall. This file knows fjall; nothing else does.
//!
//! Everything is in one keyspace, so that a commit is one entry of fjall's own write-ahead log, and the state row, which
//! each commit carries, tells how far all rows are complete.

use std::{
    any::Any,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

/// A store that is open.
pub struct Store {
    db: Database,
    rows: Keyspace,
}

/// What a commit writes.
pub struct Commit {
    batch: fjall::OwnedWriteBatch,
    rows: Keyspace,
}

/// Why the store does not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk has no room.
    #[error("the disk is full: {0}")]
    Full(String),
    /// The operating system refuses.
    #[error("{0}")]
    Io(String),
    /// It was closed.
    #[error("the journal is closed")]
    Closed,
    /// What is on the disk cannot be read.
    #[error("{0}")]
    Damaged(String),
}

const KEYSPACE: &str = "rows";
/// Blocks of rows that are kept ready to read; decoded events are kept elsewhere.
const BLOCK_CACHE_BYTES: u64 = 8 << 20;
/// What is written to a table at once: also about as much as is read again after a crash.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The least that fjall takes.
const LOG_BYTES: u64 = 64 << 20;
/// Threads that write and merge tables.
const THREADS: usize = 2;

// === impl Store ===

impl Store {
    /// Opens the store, or makes an empty one.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
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
            Ok(Self { db, rows })
        };
        guarded(open)
    }

    pub fn commit(&self) -> Commit {
        Commit { batch: self.db.batch(), rows: self.rows.clone() }
    }

    /// Makes sure that what was written is on the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        guarded(|| self.db.persist(PersistMode::SyncData))
    }

    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>, StoreError> {
        guarded(|| self.rows.get(key))
    }

    /// Rows whose key begins with `prefix`, in order, from the key `from` on where that is later.
    pub fn scan(&self, prefix: u8, from: &[u8]) -> impl Iterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        let start = if from.first() == Some(&prefix) { from.to_vec() } else { vec![prefix] };
        let rows = self.rows.range((Bound::Included(start), Bound::Excluded(vec![prefix + 1])));
        rows.map(|row| guarded(|| row.into_inner()))
    }

    /// Merges all tables, so that what was deleted leaves the disk.
    pub fn compact(&self) -> Result<(), StoreError> {
        guarded(|| {
            self.rows.rotate_memtable_and_wait()?;
            self.rows.major_compact()
        })
    }

    /// Bytes on the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.db.disk_space().unwrap_or(0)
    }
}

// === impl Commit ===

impl Commit {
    pub fn put(&mut self, key: impl AsRef<[u8]>, row: Vec<u8>) {
        self.batch.insert(&self.rows, key.as_ref(), row);
    }

    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.batch.remove(&self.rows, key.as_ref());
    }

    /// Writes it, all or nothing: to the operating system, and with `sync` to the disk.
    pub fn write(self, sync: bool) -> Result<(), StoreError> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        guarded(|| self.batch.durability(Some(mode)).commit())
    }
}

// === impl StoreError ===

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match &error {
            fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => match io.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full(io.to_string()),
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
                _ => Self::Io(io.to_string()),
            },
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
        Err(panic) => Err(StoreError::Damaged(format!("the store cannot make sense of its files: {}", said(&*panic)))),
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
