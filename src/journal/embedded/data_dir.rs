//! The data directory and its lock.
//!
//! ```text
//!  DIR/LOCK                      locked by the process that uses the directory
//!  DIR/journal/MARK              the number of the last commit, written after each commit
//!  DIR/journal/0000000001.seg …  the segments of the log
//!  DIR/journal/store             the store of version 0.1, which is refused
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{OpenError, error::with_path, exchange, segments::high_water_mark};

/// The directory of the store of version 0.1.
const OLD_STORE: &str = "store";

/// A data directory, locked by this process.
pub(super) struct DataDir {
    dir: PathBuf,
    /// Holds the lock until it is closed.
    _lock: File,
}

// === impl DataDir ===

impl DataDir {
    /// Creates the directory if it does not exist, and locks it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::io(dir, &error);
        check_clock().map_err(failed)?;
        if fs::metadata(dir).is_ok_and(|about| !about.is_dir()) {
            return Err(OpenError::NotADirectory(dir.to_owned()));
        }
        // After an interrupted repair the directory is renamed below.
        let journal = if exchange::is_interrupted(dir).unwrap_or(false) { dir.to_owned() } else { dir.join("journal") };
        DirBuilder::new().recursive(true).mode(0o700).create(&journal).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => OpenError::NotADirectory(dir.to_owned()),
            // The path exists, but may not be accessible.
            io::ErrorKind::AlreadyExists => match fs::metadata(&journal).map_err(with_path(&journal)) {
                Ok(_) => OpenError::NotADirectory(dir.to_owned()),
                Err(error) => failed(error),
            },
            _ => failed(error),
        })?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(dir.join("LOCK")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // For the message only, so errors are ignored.
                let owner = fs::read_to_string(dir.join("LOCK")).unwrap_or_default();
                return Err(OpenError::InUse { dir: dir.to_owned(), owner: owner.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if exchange::restore(dir).map_err(failed)? {
            tracing::warn!("an interrupted repair was undone");
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        let data_dir = Self { dir: dir.to_owned(), _lock: lock };
        if exists(&data_dir.journal().join(OLD_STORE)).map_err(failed)? {
            return Err(OpenError::OldFormat(dir.to_owned()));
        }
        Ok(data_dir)
    }

    /// Locks a directory that has a journal, or had one.
    pub(super) fn take_existing(dir: &Path) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::io(dir, &error);
        if exchange::is_interrupted(dir).map_err(failed)? {
            return Self::take(dir);
        }
        let journal = dir.join("journal");
        if !exists(&journal).map_err(failed)? {
            return Err(OpenError::Missing(dir.to_owned()));
        }
        let mut names = fs::read_dir(&journal).map_err(with_path(&journal)).map_err(failed)?;
        match names.any(|entry| entry.is_ok()) {
            true => Self::take(dir),
            false => Err(OpenError::Missing(dir.to_owned())),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("LOCK")
    }

    pub(super) fn high_water_mark(&self) -> PathBuf {
        self.journal().join(high_water_mark::NAME)
    }

    /// Free bytes of the disk for this user.
    pub(super) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// Timestamps are milliseconds since 1970, and parts of the program panic with an earlier clock.
#[expect(clippy::disallowed_methods, reason = "the clock of the machine itself is checked")]
fn check_clock() -> io::Result<()> {
    let before_1970 = |_| io::Error::other("the clock of this machine is before 1970; set it and start again");
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(drop).map_err(before_1970)
}

/// True if a file exists. If the file cannot be accessed, this is an error, not `false`.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    path.try_exists().map_err(with_path(path))
}

/// The id of this boot of the machine. 0 if it is unknown; it then counts as another boot each time.
pub(super) fn boot_id() -> u128 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&id.trim().replace('-', ""), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let taken = DataDir::take(dir.path()).unwrap();
        assert!(
            matches!(DataDir::take(dir.path()), Err(OpenError::InUse { owner, .. }) if owner == std::process::id().to_string())
        );
        drop(taken);
        DataDir::take(dir.path()).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::take(&file), Err(OpenError::NotADirectory(_))));
        assert!(matches!(DataDir::take(&file.join("below")), Err(OpenError::NotADirectory(_))));
    }
}
