//! Errors of the journal, grouped by the reaction of the caller.

use std::path::{Path, PathBuf};

use crate::event;

/// Why a batch was rejected. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// An event is not valid: fix it.
    #[error("event {index}: {reason}")]
    Invalid {
        /// Index of the event in the batch.
        index: usize,
        /// The reason.
        reason: event::Invalid,
    },
    /// The key was used for another event: use a new key.
    #[error("event {index}: id `{key}` was used for another event by this publisher in this topic")]
    KeyReused {
        /// Index of the event in the batch.
        index: usize,
        /// The key.
        key: String,
    },
    /// A record has not the expected revision: read it again. The value is its key.
    #[error("record `{0}` has changed")]
    Conflict(String),
    /// The journal cannot write now: try again later.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why the journal cannot serve a request now. It may be repeated later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// The disk is full, or data that must not be deleted fill `max_bytes`.
    #[error("the journal is full: {0}")]
    Full(String),
    /// Events arrive faster than they can be written.
    #[error("too much waits to be written to the journal")]
    Busy,
    /// A verification or compaction is running; only one may run at a time.
    #[error("the journal is being verified or compacted; try again when that has ended")]
    Working,
    /// The node is stopping.
    #[error("the journal is closed")]
    Closed,
    /// The next requested events are stored but cannot be read. A caller that can report a gap continues after them.
    #[error("the journal failed: {reason}")]
    Unreadable {
        /// The offset of the last unreadable event.
        through: u64,
        /// The reason.
        reason: String,
    },
    /// The adapter failed.
    #[error("the journal failed: {0}")]
    Failed(String),
    /// The stored data are damaged.
    #[error("the journal failed: {0}")]
    Damaged(String),
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the data directory.
    #[error(
        "the data directory `{}` is in use by another process (pid {owner}); stop that one, or name another directory \
         with `--data-dir`", dir.display()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Content of the lock file: the pid of the other process.
        owner: String,
    },
    /// There is no journal in the directory, and none was created.
    #[error("there is no journal in `{}`", .0.display())]
    Missing(PathBuf),
    /// The path of the data directory is not a directory.
    #[error("the data directory `{}` is not a directory; name another one with `--data-dir`", .0.display())]
    NotADirectory(PathBuf),
    /// Version 0.1 wrote the journal. Nothing was changed.
    #[error(
        "the journal in `{dir}` has the format of Millstream 0.1, the last version that reads it: with that version run \
         `millstream journal export --data-dir {dir} > events.jsonl`, move `{dir}/journal` away, then with this version run \
         `millstream journal import --data-dir {dir} events.jsonl`. Nothing was changed", dir = .0.display()
    )]
    OldFormat(PathBuf),
    /// The operating system does not permit the access.
    #[error("the data directory `{}` cannot be used: {reason}", dir.display())]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// Acknowledged data are missing or have changed. Nothing was opened.
    #[error(
        "the journal in `{0}` is damaged: {what}. Nothing was changed. `millstream journal verify --data-dir {0}` lists \
         the damage; `millstream journal repair --data-dir {0}` keeps everything that can be read and begins a new epoch, \
         so that clients get a gap", dir.display()
    )]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        what: String,
    },
}

// === impl Unavailable ===

/// For writes whose batch is known to be good: every refusal is then a failure of the journal.
impl From<AppendError> for Unavailable {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Unavailable(unavailable) => unavailable,
            other => Self::Failed(other.to_string()),
        }
    }
}

// === impl OpenError ===

impl OpenError {
    pub(super) fn io(dir: &Path, error: &std::io::Error) -> Self {
        Self::Io { dir: dir.to_owned(), reason: error.to_string() }
    }
}
