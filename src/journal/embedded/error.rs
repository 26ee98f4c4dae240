//! Why the log of segments cannot do something.

use std::{io, path::Path};

use super::{OpenError, Unavailable};

/// Why the log cannot do something.
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
    /// The stored data are damaged.
    #[error("{0}")]
    Damaged(String),
    /// A segment was removed after its live items were moved. The index has their new locations.
    #[error("segment {0} was removed")]
    Removed(u32),
    /// Consecutive events that were requested cannot be read; `through` is the offset of the last one.
    #[error("{what}")]
    Unreadable { through: u64, what: String },
}

const EIO: i32 = 5;

// === impl StoreError ===

impl StoreError {
    pub(super) fn io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            io::ErrorKind::NotFound => Self::Damaged(format!("a file of the journal is missing: {error}")),
            _ if error.raw_os_error() == Some(EIO) => Self::Disk(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}

// === impl OpenError ===

impl OpenError {
    pub(super) fn store(dir: &Path, error: &StoreError) -> Self {
        match error {
            StoreError::Damaged(what) => Self::Damaged { dir: dir.to_owned(), what: what.clone() },
            _ => Self::Io { dir: dir.to_owned(), reason: error.to_string() },
        }
    }
}

// === impl Unavailable ===

impl From<&StoreError> for Unavailable {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self::Full(error.to_string()),
            StoreError::Unreadable { through, what } => Self::Unreadable { through: *through, reason: what.clone() },
            StoreError::Damaged(what) => Self::Damaged(what.clone()),
            StoreError::Io(_) | StoreError::Disk(_) | StoreError::Removed(_) => Self::Failed(error.to_string()),
        }
    }
}

/// Adds the path of the file to an error.
pub(super) fn with_path(path: &Path) -> impl FnOnce(io::Error) -> io::Error + use<'_> {
    move |error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}
