//! Exchanges a journal for a repaired one. After a crash at any step either the old or the new one is in place;
//! [`restore`] undoes an interrupted exchange.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::event::now_ms;

/// The directory of the repaired journal before it has its final name.
pub(super) const NEW: &str = "journal.new";
const DAMAGED: &str = "journal.damaged-";

/// Puts the new journal in a data directory in place of the old one. Returns the new path of the old one.
pub(super) fn exchange(dir: &Path) -> io::Result<PathBuf> {
    let (journal, new) = (dir.join("journal"), dir.join(NEW));
    let damaged = dir.join(format!("{DAMAGED}{}", now_ms()));
    let sync = || File::open(dir)?.sync_all();
    sync()?;
    // The new journal first gets the final name of the old one. Then one exchange gives both their final names.
    fs::rename(&new, &damaged)?;
    if renameat_with(CWD, &damaged, CWD, &journal, RenameFlags::EXCHANGE).is_err() {
        // Some file systems have no exchange. Between the two renames there is no journal: see [`restore`].
        fs::rename(&damaged, &new)?;
        fs::rename(&journal, &damaged)?;
        fs::rename(&new, &journal)?;
    }
    sync()?;
    Ok(damaged)
}

/// True if an exchange was interrupted between two renames.
pub(super) fn is_interrupted(dir: &Path) -> io::Result<bool> {
    let exists = |path: &Path| path.try_exists();
    Ok(exists(dir)? && !exists(&dir.join("journal"))? && exists(&dir.join(NEW))? && last_damaged(dir)?.is_some())
}

/// Puts the old journal back after an interrupted exchange. Returns true if it did.
pub(super) fn restore(dir: &Path) -> io::Result<bool> {
    match last_damaged(dir)?.filter(|_| is_interrupted(dir).is_ok_and(|interrupted| interrupted)) {
        Some(last) => fs::rename(last, dir.join("journal")).map(|()| true),
        None => Ok(false),
    }
}

fn last_damaged(dir: &Path) -> io::Result<Option<PathBuf>> {
    let paths = fs::read_dir(dir)?.filter_map(Result::ok).map(|entry| entry.path());
    let is_damaged = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DAMAGED));
    Ok(paths.filter(is_damaged).max())
}
