//! What a journal refuses, and why.

use std::path::{Path, PathBuf};

use crate::event;

/// Why a batch was not written. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Fix the event.
    #[error("event {index}: {reason}")]
    Invalid {
        /// Which event of the batch.
        index: usize,
        /// What is wrong with it.
        reason: event::Invalid,
    },
    /// The key was used for another event; take a new one.
    #[error("event {index}: id `{key}` was used for another event by this publisher in this topic")]
    KeyReused {
        /// Which event of the batch.
        index: usize,
        /// The key.
        key: String,
    },
    /// A record is not as expected; read it again.
    #[error("record `{0}` has changed")]
    Conflict(String),
    /// Try again later.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The journal cannot do it now; try again later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// Nothing can be kept beside what must be kept, or the disk has no room.
    #[error("the journal is full: {0}")]
    Full(String),
    /// More is published than can be written.
    #[error("too much waits to be written to the journal")]
    Busy,
    /// One verification or compaction at a time.
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

/// A journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the data directory `{}` is in use by another process (pid {owner}); stop that one, or name another directory \
         with `--data-dir`", dir.display()
    )]
    InUse {
        /// Which directory.
        dir: PathBuf,
        /// What the other process wrote into its lock.
        owner: String,
    },
    /// Nothing is there, and nothing was made.
    #[error("there is no journal in `{}`", .0.display())]
    Missing(PathBuf),
    /// Something else is there.
    #[error("the data directory `{}` is not a directory; name another one with `--data-dir`", .0.display())]
    NotADirectory(PathBuf),
    /// The system refuses.
    #[error("the data directory `{}` cannot be used: {reason}", dir.display())]
    Io {
        /// Which directory.
        dir: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Something that was acknowledged is missing or has changed. Nothing was opened.
    #[error(
        "the journal in `{0}` is damaged: {what}. Nothing was changed. `millstream journal verify --data-dir {0}` lists \
         what is wrong; `millstream journal repair --data-dir {0}` keeps what can be read and begins a new epoch, so that \
         clients are told of a gap", dir.display()
    )]
    Damaged {
        /// Which directory.
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
