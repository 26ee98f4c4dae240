//! Exchanges the store of a journal for a repaired one. After a crash at any step either the old or the new store is in
//! place; [`restore_store`] completes an interrupted exchange.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::data_dir::{self, DataDir, HighWaterMark, HighWaterMarkFile};
use crate::event::now_ms;

/// Puts the new store in place of the old one. Returns the new path of the old one.
pub(super) fn exchange(data_dir: &DataDir, new_store: &Path, commit: u64) -> io::Result<PathBuf> {
    let (store, journal) = (data_dir.store(), data_dir.journal());
    let damaged = journal.join(format!("store.damaged-{}", now_ms()));
    let sync = || File::open(&journal)?.sync_all();
    sync()?;
    // The new store first gets the final name of the old one. Then one exchange gives both their final names.
    fs::rename(new_store, &damaged)?;
    if renameat_with(CWD, &damaged, CWD, &store, RenameFlags::EXCHANGE).is_err() {
        // Some file systems have no exchange. Between the two renames there is no store: see [`restore_store`].
        fs::rename(&damaged, new_store)?;
        fs::rename(&store, &damaged)?;
        fs::rename(new_store, &store)?;
    }
    sync()?;
    let high_water_mark = HighWaterMark { commit, clean: true, synced: true, boot: data_dir::boot_id() };
    let beside = journal.join("MARK.new");
    let _ = fs::remove_file(&beside);
    HighWaterMarkFile::open(&beside, high_water_mark)?;
    fs::rename(&beside, data_dir.high_water_mark())?;
    sync()?;
    Ok(damaged)
}

/// Puts the old store back if an exchange was interrupted between two renames.
pub(super) fn restore_store(data_dir: &DataDir) -> io::Result<()> {
    if data_dir::exists(&data_dir.store())? {
        return Ok(());
    }
    let lies = fs::read_dir(data_dir.journal())?.filter_map(Result::ok).map(|entry| entry.path());
    let damaged =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("store.damaged-"));
    match lies.filter(damaged).max() {
        Some(last) => fs::rename(last, data_dir.store()),
        None => Ok(()),
    }
}
