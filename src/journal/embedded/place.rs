//! The data directory: whose it is, and the high-water mark beside the store.
//!
//! ```text
//!  DIR/LOCK           held by the process that uses the directory
//!  DIR/journal/MARK   the last commit, written after each; of the store's own recovery it is known that it may cut off
//!                     what it cannot read: a store that stands before its mark has lost something
//!  DIR/journal/store  the store
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::OpenError;

/// A data directory that is this process's alone.
pub(super) struct Place {
    dir: PathBuf,
    /// Given up when it is closed.
    _lock: File,
}

/// The high-water mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The last commit that was acknowledged.
    pub commit: u64,
    /// True after a stop in order.
    pub clean: bool,
    /// True while every commit is on the disk before it is acknowledged.
    pub synced: bool,
    /// The boot of the machine in which it was written.
    pub boot: u128,
}

/// The file of the mark.
pub(super) struct MarkFile(File);

const MAGIC: &[u8; 8] = b"msmark01";
const MARK_BYTES: usize = 8 + 8 + 1 + 1 + 16 + 4;

// === impl Place ===

impl Place {
    /// Makes the directory if need be, and takes it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::io(dir, &error);
        if fs::metadata(dir).is_ok_and(|about| !about.is_dir()) {
            return Err(OpenError::NotADirectory(dir.to_owned()));
        }
        let journal = dir.join("journal");
        DirBuilder::new().recursive(true).mode(0o700).create(&journal).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => OpenError::NotADirectory(dir.to_owned()),
            // The path exists, but may not be accessible.
            io::ErrorKind::AlreadyExists => match fs::metadata(&journal).map_err(of_file(&journal)) {
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
                // It only makes the message better.
                let owner = fs::read_to_string(dir.join("LOCK")).unwrap_or_default();
                return Err(OpenError::InUse { dir: dir.to_owned(), owner: owner.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        let place = Self { dir: dir.to_owned(), _lock: lock };
        // Of a look that was killed.
        let _ = fs::remove_dir_all(place.look());
        Ok(place)
    }

    /// Takes a directory in which there is a journal, or was one.
    pub(super) fn take_existing(dir: &Path) -> Result<Self, OpenError> {
        let journal = dir.join("journal");
        for name in ["MARK", "store", "store.new"] {
            if there(&journal.join(name)).map_err(|error| OpenError::io(dir, &error))? {
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

    /// Where a stopped journal is copied to, to be looked at.
    pub(super) fn look(&self) -> PathBuf {
        self.journal().join("look")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("LOCK")
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.journal().join("MARK")
    }

    /// Bytes that the disk has left for us.
    pub(super) fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

// === impl MarkFile ===

impl MarkFile {
    /// Opens the file, or begins it with `first`.
    pub(super) fn open(path: &Path, first: Mark) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let file = Self(file);
        if file.0.metadata()?.len() == 0 {
            file.write(first)?;
            file.sync()?;
        }
        Ok(file)
    }

    pub(super) fn write(&self, mark: Mark) -> io::Result<()> {
        self.0.write_all_at(&mark.encode(), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

// === impl Mark ===

impl Mark {
    /// Reads the mark: `None` if there is no file, and an inner error if its content is not valid.
    ///
    /// # Errors
    /// When the operating system cannot read the file; this is not damage.
    pub(super) fn read(path: &Path) -> io::Result<Result<Option<Self>, String>> {
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(of_file(path)(error)),
            Ok(bytes) => Ok(Self::decode(&bytes).map(Some).ok_or_else(|| "it is not as it was written".to_owned())),
        }
    }

    fn encode(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
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
        let bytes: &[u8; MARK_BYTES] = bytes.as_array()?;
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        let sound = body.starts_with(MAGIC) && crc32fast::hash(body) == u32::from_le_bytes(*checksum);
        let mark = || -> Option<Self> {
            Some(Self {
                commit: u64::from_le_bytes(*body[8..16].as_array()?),
                clean: body[16] == 1,
                synced: body[17] == 1,
                boot: u128::from_le_bytes(*body[18..34].as_array()?),
            })
        };
        mark().filter(|_| sound)
    }
}

/// True if a file exists. A file that may not be accessed is an error, not a missing file.
pub(super) fn there(path: &Path) -> io::Result<bool> {
    path.try_exists().map_err(of_file(path))
}

/// Adds the path of the file to an error of the operating system.
pub(super) fn of_file(path: &Path) -> impl FnOnce(io::Error) -> io::Error + use<'_> {
    move |error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// Names this boot of the machine; 0 where the system does not tell, which is taken for another boot each time.
pub(super) fn boot() -> u128 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&id.trim().replace('-', ""), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("MARK");
        assert_eq!(Mark::read(&path).unwrap(), Ok(None));
        let mark = Mark { commit: 7, clean: true, synced: false, boot: boot() };
        let file = MarkFile::open(&path, mark).unwrap();
        assert_eq!(Mark::read(&path).unwrap(), Ok(Some(mark)));
        file.write(Mark { commit: 8, ..mark }).unwrap();
        assert_eq!(Mark::read(&path).unwrap().unwrap().unwrap().commit, 8);
        let mut bytes = fs::read(&path).unwrap();
        bytes[9] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(Mark::read(&path).unwrap().is_err());
        fs::write(&path, "").unwrap();
        assert!(Mark::read(&path).unwrap().is_err());
        assert!(Mark::read(dir.path()).is_err(), "a file that cannot be read is not one with wrong content");
    }

    #[test]
    fn a_directory_is_had_once() {
        let dir = tempfile::tempdir().unwrap();
        let taken = Place::take(dir.path()).unwrap();
        assert!(
            matches!(Place::take(dir.path()), Err(OpenError::InUse { owner, .. }) if owner == std::process::id().to_string())
        );
        drop(taken);
        Place::take(dir.path()).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Place::take(&file), Err(OpenError::NotADirectory(_))));
        assert!(matches!(Place::take(&file.join("below")), Err(OpenError::NotADirectory(_))));
    }
}
