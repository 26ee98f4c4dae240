//! The port to the file system: the operations that a log uses, and no others. Tests replace it by a disk that loses
//! power or fails at a chosen operation.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::FallocateFlags, io::Errno};

use crate::journal::embedded::error::with_path;

/// A directory of files.
pub(in crate::journal::embedded) trait Disk: Send + Sync {
    /// The names of the files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates an empty file. A file of this name is replaced.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file. A file with the new name is replaced. Durable after [`sync`](Self::sync).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Open handles still read it. Durable after [`sync`](Self::sync).
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Waits until the names of all files are on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub(in crate::journal::embedded) trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// The bytes that it takes on the disk.
    fn disk_bytes(&self) -> io::Result<u64>;

    /// Reads bytes from a position until `buf` is full.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before that.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<()>;

    /// Writes all bytes at a position. After an error any part of them may be written.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Reserves space up to this length, filled with zeros. Does nothing where the file system cannot reserve space:
    /// the file then grows with each write.
    fn reserve(&self, length: u64) -> io::Result<()>;

    /// Waits until the content is on the disk. After an error the content is unknown, and a later success does not mean
    /// that it is on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
pub(in crate::journal::embedded) struct Directory(PathBuf);

// === impl Directory ===

impl Directory {
    /// The directory at this path, which must exist.
    pub(in crate::journal::embedded) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.0)
            .map_err(with_path(&self.0))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.0.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Ok(Arc::new(file.map_err(with_path(&path))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Arc::new(options.open(self.0.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.read_exact_at(buf, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
