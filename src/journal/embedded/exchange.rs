//! Exchanges the store of a journal for a repaired one. After a crash at any step either the old store or the new one is in
//! its place; [`put_back`] completes an exchange that was interrupted.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::place::{self, Mark, MarkFile, Place};
use crate::event::now_ms;

/// Puts the new store in the place of the old one; returns the path of the old one.
pub(super) fn exchange(place: &Place, fresh: &Path, commit: u64) -> io::Result<PathBuf> {
    let (store, journal) = (place.store(), place.journal());
    let damaged = journal.join(format!("store.damaged-{}", now_ms()));
    let sync = || File::open(&journal)?.sync_all();
    sync()?;
    // The new store first takes the later name of the old one, so that the exchange leaves each with its final name.
    fs::rename(fresh, &damaged)?;
    if renameat_with(CWD, &damaged, CWD, &store, RenameFlags::EXCHANGE).is_err() {
        // Some file systems have no exchange. Between the two renames there is no store; [`put_back`] repairs that.
        fs::rename(&damaged, fresh)?;
        fs::rename(&store, &damaged)?;
        fs::rename(fresh, &store)?;
    }
    sync()?;
    let mark = Mark { commit, clean: true, synced: true, boot: place::boot() };
    let beside = journal.join("MARK.new");
    let _ = fs::remove_file(&beside);
    MarkFile::open(&beside, mark)?;
    fs::rename(&beside, place.mark())?;
    sync()?;
    Ok(damaged)
}

/// Puts the old store back if a repair was interrupted between two renames.
pub(super) fn put_back(place: &Place) -> io::Result<()> {
    if place::there(&place.store())? {
        return Ok(());
    }
    let lies = fs::read_dir(place.journal())?.filter_map(Result::ok).map(|entry| entry.path());
    let damaged =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("store.damaged-"));
    match lies.filter(damaged).max() {
        Some(last) => fs::rename(last, place.store()),
        None => Ok(()),
    }
}
