//! A look at a stopped journal that changes nothing: a copy of it, which may be opened and read like any other.
//!
//! Tables are linked, since they are written once; logs are copied commit by commit ([`salvage`]), because opening a store
//! cuts off what it cannot read of them. The copy is gone when the look ends; a leftover goes with the next one.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    OpenError,
    exchange::put_back,
    place::{self, Mark, MarkFile, Place, of_file, there},
    salvage::{self, Salvaged},
};

/// A copy of a journal whose directory is ours.
pub(super) struct Look {
    pub place: Place,
    /// The copy, a data directory of its own.
    copy: PathBuf,
    /// The mark, `None` if there is no file, or the reason why its content is not valid.
    pub mark: Result<Option<Mark>, String>,
    /// What was found in the logs.
    pub logs: Salvaged,
}

/// How a journal was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastStop {
    /// In order.
    Clean,
    /// The node was killed.
    Killed,
    /// The machine stopped while it ran.
    Crashed,
    /// The mark does not say.
    Unknown,
}

// === impl Look ===

impl Look {
    /// Copies what is in a data directory, which must be there and not in use.
    pub(super) fn at(dir: &Path) -> Result<Self, OpenError> {
        let place = Place::take_existing(dir)?;
        put_back(&place).map_err(|error| OpenError::io(dir, &error))?;
        let copy = place.look();
        let mark = Mark::read(&place.mark()).map_err(|error| OpenError::io(dir, &error))?;
        let mut look = Self { place, copy, mark, logs: Salvaged::default() };
        look.copy_all().map_err(|error| OpenError::io(dir, &error))?;
        Ok(look)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.copy
    }

    /// The store of the copy.
    pub(super) fn store(&self) -> PathBuf {
        self.copy.join("journal/store")
    }

    pub(super) fn last_stop(&self) -> LastStop {
        match self.mark {
            Ok(Some(mark)) if mark.clean => LastStop::Clean,
            Ok(Some(mark)) if mark.boot == place::boot() && mark.boot != 0 => LastStop::Killed,
            Ok(Some(_)) => LastStop::Crashed,
            _ => LastStop::Unknown,
        }
    }

    /// True when commits may be missing without anything being damaged: they were not on the disk yet, and that was what
    /// the settings asked for.
    pub(super) fn may_have_lost(&self) -> bool {
        self.last_stop() == LastStop::Crashed && matches!(self.mark, Ok(Some(mark)) if !mark.synced)
    }

    fn copy_all(&mut self) -> io::Result<()> {
        remove(&self.copy)?;
        DirBuilder::new().recursive(true).mode(0o700).create(self.copy.join("journal"))?;
        if let Ok(Some(mark)) = self.mark {
            // A look begins no epoch.
            let commit = if self.may_have_lost() { 1 } else { mark.commit };
            MarkFile::open(&self.copy.join("journal/MARK"), Mark { commit, synced: true, ..mark })?;
        }
        let store = self.place.store();
        if there(&store)? { self.copy_dir(&store, &self.store()) } else { Ok(()) }
    }

    fn copy_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from).map_err(of_file(from))? {
            let entry = entry?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let named = || of_file(&source);
            if fs::metadata(&source).map_err(named())?.is_dir() {
                self.copy_dir(&source, &target)?;
            } else if salvage::is_log(&source) {
                self.logs += salvage::copy_log(&source, &target).map_err(named())?;
            } else if from.ends_with("tables") && fs::hard_link(&source, &target).is_ok() {
                // Linked.
            } else {
                fs::copy(&source, &target).map_err(named())?;
            }
        }
        Ok(())
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        // What is left goes with the next look.
        let _ = remove(&self.copy);
    }
}

/// Bytes that a directory takes on the disk.
pub(super) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.metadata()?;
        bytes += if file.is_dir() { disk_bytes(&entry.path())? } else { file.blocks() * 512 };
    }
    Ok(bytes)
}

/// Removes a directory that may be there.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

// === impl LastStop ===

impl LastStop {
    /// In words.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "in order",
            Self::Killed => "killed",
            Self::Crashed => "the machine stopped",
            Self::Unknown => "unknown",
        }
    }
}
