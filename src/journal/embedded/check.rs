//! Checks the files of the store before the store opens them, while nothing has changed yet.
//!
//! The store itself would cut a log at the first unreadable entry and accept content that no checksum covers. It would
//! also delete a tree that seems incomplete.
//!
//! ```text
//!  N.jnl         commits ([`salvage`]); then zeros, or a commit that was incomplete when the process ended
//!  keyspaces/N   current: version checksum 0; vVERSION: the list of tables
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

use super::{
    data_dir::{exists, with_path},
    salvage::{self, LogCommit},
    store::StoreError,
};

/// The readable beginning of a log.
#[derive(Default)]
struct LogPrefix {
    /// End of the last whole commit, in bytes.
    end: usize,
    /// Sequence number of the last whole commit.
    sequence: u64,
    /// Number of the last commit with a state row.
    number: Option<u64>,
}

/// The trees of every store: one for the names of the others, one for all our rows.
const TREES: [&str; 2] = ["0", "1"];

/// Checks a store that must contain this commit. `None` if the last commits may be missing, as after a machine crash.
pub(super) fn check(store: &Path, commit: Option<u64>) -> Result<(), StoreError> {
    check_lists(store)?;
    let mut logs = logs(store)?;
    // A store always has a log. A new one is created only together with the store.
    let Some(active) = logs.pop() else { return Err(missing(store, "its write-ahead log")) };
    let mut sequence = 0;
    for log in logs {
        let (prefix, bytes) = read_prefix(&log, sequence)?;
        // A log is closed when it is full. After its commits there are only zeros.
        if bytes[prefix.end..].iter().any(|byte| *byte != 0) {
            return Err(broken(&log, prefix.end));
        }
        sequence = prefix.sequence;
    }
    let (prefix, bytes) = read_prefix(&active, sequence)?;
    if let (Some(has), Some(had)) = (prefix.number, commit)
        && has < had
    {
        let name = active.display();
        let what = format!("commit {had} was acknowledged, and `{name}` ends with commit {has} at byte {}", prefix.end);
        return Err(StoreError::Damaged(what));
    }
    // A log that does not begin with a whole commit is either new or damaged.
    if prefix.end == 0 && memchr::memmem::find(&bytes, salvage::MAGIC).is_some() {
        return Err(broken(&active, 0));
    }
    if prefix.number.is_some() {
        // The rest was never acknowledged. The store would treat a part of a commit as damage.
        cut_at(&active, prefix.end)?;
    }
    Ok(())
}

/// Removes from the newest log everything after a commit. The store reported an error for it, but may have written it.
pub(super) fn cut(store: &Path, commit: u64) -> Result<(), StoreError> {
    let Some(active) = logs(store)?.pop() else { return Err(missing(store, "its write-ahead log")) };
    let bytes = salvage::read_written(&active).map_err(io(&active))?;
    let mut end = 0;
    while let Some(LogCommit { length, number, .. }) = salvage::commit(&bytes[end..]) {
        if number.is_some_and(|number| number > commit) {
            return cut_at(&active, end);
        }
        end += length;
    }
    Ok(())
}

fn cut_at(log: &Path, end: usize) -> Result<(), StoreError> {
    let cut = |file: File| file.set_len(end as u64).and_then(|()| file.sync_all());
    File::options().write(true).open(log).and_then(cut).map_err(io(log))
}

/// The logs, oldest first.
fn logs(store: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(store).map_err(io(store))? {
        let path = entry.map_err(io(store))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl"));
        if let Some(number) = name.and_then(|name| name.parse::<u64>().ok()) {
            logs.push((number, path));
        }
    }
    logs.sort_unstable();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// Reads the whole commits at the beginning of a log. Sequence numbers, which no checksum covers, must increase.
fn read_prefix(path: &Path, mut before: u64) -> Result<(LogPrefix, Vec<u8>), StoreError> {
    let bytes = salvage::read_written(path).map_err(io(path))?;
    let mut prefix = LogPrefix::default();
    while let Some(LogCommit { length, sequence, number }) = salvage::commit(&bytes[prefix.end..]) {
        if sequence <= before && prefix.end > 0 {
            return Err(broken(path, prefix.end));
        }
        before = sequence;
        prefix = LogPrefix { end: prefix.end + length, sequence, number: number.or(prefix.number) };
    }
    Ok((prefix, bytes))
}

fn missing(store: &Path, what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} is missing in `{}`", store.display()))
}

fn broken(path: &Path, at: usize) -> StoreError {
    StoreError::Damaged(format!("`{}` is not as it was written, from byte {at} on", path.display()))
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<'_> {
    move |error| StoreError::io(&with_path(path)(error))
}

fn is_present(path: &Path) -> Result<bool, StoreError> {
    exists(path).map_err(|error| StoreError::io(&error))
}

/// Compares each list of tables (`v7`) with its checksum (`current`). fjall writes the checksum but never reads it.
///
/// fjall accepts some damage in a list. Other damage makes it panic with a lock that its clean-up takes again: the
/// process aborts.
fn check_lists(path: &Path) -> Result<(), StoreError> {
    if !is_present(&path.join("version"))? {
        // Without this file fjall would create a new store.
        return Err(missing(path, "the file `version`"));
    }
    for tree in TREES {
        if !is_present(&path.join("keyspaces").join(tree))? {
            return Err(missing(path, "a tree"));
        }
    }
    let trees = path.join("keyspaces");
    for tree in fs::read_dir(&trees).map_err(io(&trees))? {
        let tree = tree.map_err(io(&trees))?.path();
        let damaged = |what| StoreError::Damaged(format!("in `{}` {what}", tree.display()));
        let read = |name: &str, missing| {
            let file = tree.join(name);
            fs::read(&file).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => damaged(missing),
                _ => io(&file)(error),
            })
        };
        let current = read("current", "the file `current` is missing")?;
        let parts = current.split_first_chunk::<8>().map(|(id, rest)| (u64::from_le_bytes(*id), rest));
        let Some((id, Some((checksum, [0])))) = parts.map(|(id, rest)| (id, rest.split_first_chunk::<16>())) else {
            return Err(damaged("the file `current` is not as it was written"));
        };
        let list = read(&format!("v{id}"), "the list of tables is missing")?;
        if xxh3_128(&list) != u128::from_le_bytes(*checksum) {
            return Err(damaged("the list of tables is not as it was written"));
        }
    }
    Ok(())
}
