//! The data directory: its lock, and the high-water mark beside the store.
//!
//! ```text
//!  DIR/LOCK           locked by the process that uses the directory
//!  DIR/journal/MARK   the number of the last commit, written after each commit
//!  DIR/journal/store  the store
//! ```
//!
//! The recovery of the store may cut off commits that it cannot read. The high-water mark shows this: a store that ends
//! before its mark has lost commits.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::OpenError;

/// A data directory, locked by this process.
pub(super) struct DataDir {
    dir: PathBuf,
    /// Holds the lock until it is closed.
    _lock: File,
}

/// The high-water mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HighWaterMark {
    /// The number of the last acknowledged commit.
    pub commit: u64,
    /// True after a clean stop.
    pub clean: bool,
    /// True while every commit is on the disk before it is acknowledged.
    pub synced: bool,
    /// The boot of the machine during which it was written.
    pub boot: u128,
}

/// The file of the high-water mark.
pub(super) struct HighWaterMarkFile(File);

const MAGIC: &[u8; 8] = b"msmark01";
const HIGH_WATER_MARK_BYTES: usize = 8 + 8 + 1 + 1 + 16 + 4;

// === impl DataDir ===

impl DataDir {
    /// Creates the directory if it does not exist, and locks it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::io(dir, &error);
        if fs::metadata(dir).is_ok_and(|about| !about.is_dir()) {
            return Err(OpenError::NotADirectory(dir.to_owned()));
        }
        let journal = dir.join("journal");
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
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        let data_dir = Self { dir: dir.to_owned(), _lock: lock };
        // A snapshot may be left of a process that was killed.
        let _ = fs::remove_dir_all(data_dir.snapshot_dir());
        Ok(data_dir)
    }

    /// Locks a directory that has a journal, or had one.
    pub(super) fn take_existing(dir: &Path) -> Result<Self, OpenError> {
        let journal = dir.join("journal");
        for name in ["MARK", "store", "store.new"] {
            if exists(&journal.join(name)).map_err(|error| OpenError::io(dir, &error))? {
                return Self::take(dir);
            }
        }
        Err(OpenError::Missing(dir.to_owned()))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    pub(super) fn store(&self) -> PathBuf {
        self.journal().join("store")
    }

    /// The directory for the snapshot of a stopped journal.
    pub(super) fn snapshot_dir(&self) -> PathBuf {
        self.journal().join("look")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("LOCK")
    }

    pub(super) fn high_water_mark(&self) -> PathBuf {
        self.journal().join("MARK")
    }

    /// Free bytes of the disk for this user.
    pub(super) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

// === impl HighWaterMarkFile ===

impl HighWaterMarkFile {
    /// Opens the file. A new file gets the content `first`.
    pub(super) fn open(path: &Path, first: HighWaterMark) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let file = Self(file);
        if file.0.metadata()?.len() == 0 {
            file.write(first)?;
            file.sync()?;
        }
        Ok(file)
    }

    pub(super) fn write(&self, high_water_mark: HighWaterMark) -> io::Result<()> {
        self.0.write_all_at(&high_water_mark.encode(), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

// === impl HighWaterMark ===

impl HighWaterMark {
    /// Reads the mark. `None` if there is no file; the inner error if its content is not valid.
    ///
    /// # Errors
    /// If the operating system cannot read the file. This is not damage.
    pub(super) fn read(path: &Path) -> io::Result<Result<Option<Self>, String>> {
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(with_path(path)(error)),
            Ok(bytes) => Ok(Self::decode(&bytes).map(Some).ok_or_else(|| "it is not as it was written".to_owned())),
        }
    }

    fn encode(self) -> [u8; HIGH_WATER_MARK_BYTES] {
        let mut bytes = [0; HIGH_WATER_MARK_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.commit.to_le_bytes());
        bytes[16] = u8::from(self.clean);
        bytes[17] = u8::from(self.synced);
        bytes[18..34].copy_from_slice(&self.boot.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..34]);
        bytes[34..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HIGH_WATER_MARK_BYTES] = bytes.as_array()?;
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        let sound = body.starts_with(MAGIC) && crc32fast::hash(body) == u32::from_le_bytes(*checksum);
        let high_water_mark = || -> Option<Self> {
            Some(Self {
                commit: u64::from_le_bytes(*body[8..16].as_array()?),
                clean: body[16] == 1,
                synced: body[17] == 1,
                boot: u128::from_le_bytes(*body[18..34].as_array()?),
            })
        };
        high_water_mark().filter(|_| sound)
    }
}

/// True if a file exists. If the file cannot be accessed, this is an error, not `false`.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    path.try_exists().map_err(with_path(path))
}

/// Adds the path of the file to an error.
pub(super) fn with_path(path: &Path) -> impl FnOnce(io::Error) -> io::Error + use<'_> {
    move |error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
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
    fn a_high_water_mark_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("MARK");
        assert_eq!(HighWaterMark::read(&path).unwrap(), Ok(None));
        let high_water_mark = HighWaterMark { commit: 7, clean: true, synced: false, boot: boot_id() };
        let file = HighWaterMarkFile::open(&path, high_water_mark).unwrap();
        assert_eq!(HighWaterMark::read(&path).unwrap(), Ok(Some(high_water_mark)));
        file.write(HighWaterMark { commit: 8, ..high_water_mark }).unwrap();
        assert_eq!(HighWaterMark::read(&path).unwrap().unwrap().unwrap().commit, 8);
        let mut bytes = fs::read(&path).unwrap();
        bytes[9] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(HighWaterMark::read(&path).unwrap().is_err());
        fs::write(&path, "").unwrap();
        assert!(HighWaterMark::read(&path).unwrap().is_err());
        assert!(HighWaterMark::read(dir.path()).is_err(), "an unreadable file is not a damaged one");
    }

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
