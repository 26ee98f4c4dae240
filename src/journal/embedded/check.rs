//! A look at the store's files before the store opens them. Its own opening cuts a log off where it cannot read on,
//! believes what no checksum covers, and deletes a tree that seems half made: here damage is found while nothing was
//! changed yet.
//!
//! ```text
//!  N.jnl         commits ([`salvage`]); then zeros, or what was being written when the process died
//!  keyspaces/N   current: version checksum 0; vVERSION: the list of tables
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

use super::{
    place::{of_file, there},
    salvage::{self, Commit},
    store::StoreError,
};

/// What a log has, as far as it is whole.
#[derive(Default)]
struct Walk {
    /// Where the last whole commit ends.
    end: usize,
    /// Its sequence number.
    sequence: u64,
    /// The number of the last one that has the state row.
    number: Option<u64>,
}

/// The trees of every store: the names of the others, and all our rows.
const TREES: [&str; 2] = ["0", "1"];

/// Checks a store that should have this commit; `None` when the last ones may be gone, as after a crash of the machine.
pub(super) fn check(store: &Path, commit: Option<u64>) -> Result<(), StoreError> {
    check_lists(store)?;
    let mut logs = logs(store)?;
    // There is one from the beginning on; where it makes a new one, the store has none to lose.
    let Some(active) = logs.pop() else { return Err(missing(store, "its write-ahead log")) };
    let mut sequence = 0;
    for log in logs {
        let (walk, bytes) = walk(&log, sequence)?;
        // It was closed when it was full: behind its commits stand zeros.
        if bytes[walk.end..].iter().any(|byte| *byte != 0) {
            return Err(broken(&log, walk.end));
        }
        sequence = walk.sequence;
    }
    let (walk, bytes) = walk(&active, sequence)?;
    if let (Some(has), Some(had)) = (walk.number, commit)
        && has < had
    {
        let name = active.display();
        let what = format!("commit {had} was acknowledged, and `{name}` ends with commit {has} at byte {}", walk.end);
        return Err(StoreError::Damaged(what));
    }
    // One that does not begin with a whole commit is new, or damaged.
    if walk.end == 0 && memchr::memmem::find(&bytes, salvage::MAGIC).is_some() {
        return Err(broken(&active, 0));
    }
    if walk.number.is_some() {
        // What follows was never acknowledged. The store would take the half of it for damage.
        cut_at(&active, walk.end)?;
    }
    Ok(())
}

/// Takes out of the newest log what comes after a commit: it was refused, and stands there all the same.
pub(super) fn cut(store: &Path, commit: u64) -> Result<(), StoreError> {
    let Some(active) = logs(store)?.pop() else { return Err(missing(store, "its write-ahead log")) };
    let bytes = salvage::written(&active).map_err(io(&active))?;
    let mut end = 0;
    while let Some(Commit { length, number, .. }) = salvage::commit(&bytes[end..]) {
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

/// Reads a log as far as it is whole. Sequence numbers, which no checksum covers, must rise.
fn walk(path: &Path, mut before: u64) -> Result<(Walk, Vec<u8>), StoreError> {
    let bytes = salvage::written(path).map_err(io(path))?;
    let mut walk = Walk::default();
    while let Some(Commit { length, sequence, number }) = salvage::commit(&bytes[walk.end..]) {
        if sequence <= before && walk.end > 0 {
            return Err(broken(path, walk.end));
        }
        before = sequence;
        walk = Walk { end: walk.end + length, sequence, number: number.or(walk.number) };
    }
    Ok((walk, bytes))
}

fn missing(store: &Path, what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} is missing in `{}`", store.display()))
}

fn broken(path: &Path, at: usize) -> StoreError {
    StoreError::Damaged(format!("`{}` is not as it was written, from byte {at} on", path.display()))
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<'_> {
    move |error| StoreError::io(&of_file(path)(error))
}

fn is_there(path: &Path) -> Result<bool, StoreError> {
    there(path).map_err(|error| StoreError::io(&error))
}

/// Compares each list of tables (`v7`) with the checksum beside it (`current`), which fjall writes and never reads. What
/// is wrong in a list is taken for granted by fjall, or makes it panic while it holds a lock that its own cleaning up
/// takes again: that ends the process.
fn check_lists(path: &Path) -> Result<(), StoreError> {
    if !is_there(&path.join("version"))? {
        // Without it the store would be begun anew.
        return Err(missing(path, "the file `version`"));
    }
    for tree in TREES {
        if !is_there(&path.join("keyspaces").join(tree))? {
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
