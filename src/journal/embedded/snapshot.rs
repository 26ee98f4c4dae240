//! A snapshot of a stopped journal: a copy of its files that can be opened without changing the journal.
//!
//! Tables are hard links, because they are written once. Logs are copied commit by commit ([`salvage`]), because opening a
//! store cuts a log where it cannot be read. The copy is deleted with the snapshot, or at the latest with the next one.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    OpenError,
    data_dir::{self, DataDir, HighWaterMark, HighWaterMarkFile, exists, with_path},
    exchange::restore_store,
    salvage::{self, Salvaged},
};

/// A copy of a journal, and the lock of its data directory.
pub(super) struct JournalSnapshot {
    pub data_dir: DataDir,
    /// The copy, which is a data directory itself.
    copy: PathBuf,
    /// `None` if there is no file; an error if its content is not valid.
    pub high_water_mark: Result<Option<HighWaterMark>, String>,
    /// Result of copying the logs.
    pub logs: Salvaged,
}

/// How the node that wrote a journal has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastStop {
    /// The node stopped cleanly.
    Clean,
    /// The node was killed.
    Killed,
    /// The machine crashed or lost power.
    Crashed,
    /// The high-water mark cannot be read.
    Unknown,
}

// === impl JournalSnapshot ===

impl JournalSnapshot {
    /// Copies a data directory, which must exist and must not be in use.
    pub(super) fn at(dir: &Path) -> Result<Self, OpenError> {
        let data_dir = DataDir::take_existing(dir)?;
        restore_store(&data_dir).map_err(|error| OpenError::io(dir, &error))?;
        let copy = data_dir.snapshot_dir();
        let high_water_mark =
            HighWaterMark::read(&data_dir.high_water_mark()).map_err(|error| OpenError::io(dir, &error))?;
        let mut snapshot = Self { data_dir, copy, high_water_mark, logs: Salvaged::default() };
        snapshot.copy_all().map_err(|error| OpenError::io(dir, &error))?;
        Ok(snapshot)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.copy
    }

    /// Path of the copied store.
    pub(super) fn store(&self) -> PathBuf {
        self.copy.join("journal/store")
    }

    pub(super) fn last_stop(&self) -> LastStop {
        match self.high_water_mark {
            Ok(Some(high_water_mark)) if high_water_mark.clean => LastStop::Clean,
            Ok(Some(high_water_mark)) if high_water_mark.boot == data_dir::boot_id() && high_water_mark.boot != 0 => {
                LastStop::Killed
            }
            Ok(Some(_)) => LastStop::Crashed,
            _ => LastStop::Unknown,
        }
    }

    /// True if the last commits may be missing without damage: the machine crashed, and the settings allowed commits
    /// that were not on the disk yet.
    pub(super) fn may_have_lost(&self) -> bool {
        self.last_stop() == LastStop::Crashed
            && matches!(self.high_water_mark, Ok(Some(high_water_mark)) if !high_water_mark.synced)
    }

    fn copy_all(&mut self) -> io::Result<()> {
        remove(&self.copy)?;
        DirBuilder::new().recursive(true).mode(0o700).create(self.copy.join("journal"))?;
        if let Ok(Some(high_water_mark)) = self.high_water_mark {
            // A snapshot must not begin a new epoch.
            let commit = if self.may_have_lost() { 1 } else { high_water_mark.commit };
            HighWaterMarkFile::open(
                &self.copy.join("journal/MARK"),
                HighWaterMark { commit, synced: true, ..high_water_mark },
            )?;
        }
        let store = self.data_dir.store();
        if exists(&store)? { self.copy_dir(&store, &self.store()) } else { Ok(()) }
    }

    fn copy_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from).map_err(with_path(from))? {
            let entry = entry?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let named = || with_path(&source);
            if fs::metadata(&source).map_err(named())?.is_dir() {
                self.copy_dir(&source, &target)?;
            } else if salvage::is_log(&source) {
                self.logs += salvage::copy_log(&source, &target).map_err(named())?;
            } else if from.ends_with("tables") && fs::hard_link(&source, &target).is_ok() {
                // The table is linked.
            } else {
                fs::copy(&source, &target).map_err(named())?;
            }
        }
        Ok(())
    }
}

impl Drop for JournalSnapshot {
    fn drop(&mut self) {
        // The next snapshot deletes the rest.
        let _ = remove(&self.copy);
    }
}

/// Bytes of a directory on the disk.
pub(super) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.metadata()?;
        bytes += if file.is_dir() { disk_bytes(&entry.path())? } else { file.blocks() * 512 };
    }
    Ok(bytes)
}

/// Removes a directory if it exists.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

// === impl LastStop ===

impl LastStop {
    /// The text for messages and the `lastStop` field.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "in order",
            Self::Killed => "killed",
            Self::Crashed => "the machine stopped",
            Self::Unknown => "unknown",
        }
    }
}
