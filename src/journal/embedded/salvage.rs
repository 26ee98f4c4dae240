//! Reads the write-ahead log of the store, also after damaged parts.
//!
//! When the store opens, it cuts its log at the first entry that it cannot read, or fails. Either way all later commits are
//! lost. This module copies a log without its damaged parts. Each commit has a checksum, so the copied ones are intact.
//!
//! ```text
//!  commit = 1, items u32, sequence u64; items; 3, XXH3 of the items u64, "FJL" 3      (little endian)
//!  item   = 2, kind u8, compression u8, keyspace u64, key u16, value u32, stored u32; key, stored value
//!         | 4, keyspace u64
//! ```

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use xxhash_rust::xxh3::xxh3_64;

use super::rows::{self, STATE_KEY, StateRow};

/// Result of reading a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    /// Number of commits copied.
    pub commits: u64,
    /// Number of damaged parts that are followed by commits.
    pub damaged: u64,
    /// Bytes after the last commit that are neither a commit nor empty: a commit that was incomplete when the process
    /// ended, or damage.
    pub tail: u64,
}

/// A commit in a log.
pub(super) struct LogCommit {
    /// Length in bytes.
    pub length: usize,
    /// Sequence number of the store, which no checksum covers.
    pub sequence: u64,
    /// Number of the commit in the state row, if it has one.
    pub number: Option<u64>,
}

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Maximum difference of two consecutive sequence numbers.
const MAX_SEQUENCE_STEP: u64 = 1 << 32;
pub(super) const MAGIC: &[u8] = b"FJL\x03";

/// Copies the readable commits of a log into a new file.
pub(super) fn copy_log(from: &Path, to: &Path) -> io::Result<Salvaged> {
    let mut copy = File::create_new(to)?;
    copy_commits(&read_written(from)?, |commit| copy.write_all(commit))
}

pub(super) fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "jnl")
}

fn copy_commits(bytes: &[u8], mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Salvaged> {
    let mut found = Salvaged::default();
    // End of the last commit, where to search for the next, and its sequence number as read and as written.
    let (mut end, mut at, mut last) = (0, 0, None);
    while let Some(begin) = memchr::memchr(START, &bytes[at..]).map(|index| at + index) {
        let Some(LogCommit { length, sequence, .. }) = commit(&bytes[begin..]) else {
            at = begin + 1;
            continue;
        };
        // No checksum covers the sequence numbers, but they decide which commit is valid. They increase in small steps.
        let in_order = last.is_none_or(|(read, _)| sequence > read && sequence - read < MAX_SEQUENCE_STEP);
        let number =
            last.map_or(sequence, |(_, taken)| if in_order && sequence > taken { sequence } else { taken + 1 });
        take(&[&bytes[begin..begin + 5], &number.to_le_bytes(), &bytes[begin + 13..begin + length]].concat())?;
        found.commits += 1;
        found.damaged += u64::from(begin > end || !in_order);
        (end, at, last) = (begin + length, begin + length, Some((sequence, number)));
    }
    found.tail = bytes[end..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    Ok(found)
}

/// The written content of a file. Logs are allocated in advance; the rest, which was never written, is not read.
pub(super) fn read_written(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    loop {
        let begin = match seek(&file, SeekFrom::Data(bytes.len() as u64)) {
            Err(Errno::NXIO) => return Ok(bytes),
            begin => begin?,
        };
        let end = seek(&file, SeekFrom::Hole(begin))?;
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let (begin, end) = (usize::try_from(begin).map_err(too_large)?, usize::try_from(end).map_err(too_large)?);
        bytes.resize(end, 0);
        file.read_exact_at(&mut bytes[begin..], begin as u64)?;
    }
}

/// Decodes the commit at the beginning of `bytes`; `None` if the bytes are not a commit, or have changed.
pub(super) fn commit(bytes: &[u8]) -> Option<LogCommit> {
    let mut rest = bytes;
    tag(&mut rest, START)?;
    let count = u32::from_le_bytes(take(&mut rest)?);
    let sequence = u64::from_le_bytes(take(&mut rest)?);
    let items = rest;
    let mut state: &[u8] = &[];
    for _ in 0..count {
        let found = item(&mut rest)?;
        state = if found.is_empty() { state } else { found };
    }
    let items = &items[..items.len() - rest.len()];
    tag(&mut rest, END)?;
    let checksum = u64::from_le_bytes(take(&mut rest)?);
    rest = rest.strip_prefix(MAGIC)?;
    let number = || rows::decode::<StateRow>(state).ok().map(|state| state.commit);
    (xxh3_64(items) == checksum).then(|| LogCommit { length: bytes.len() - rest.len(), sequence, number: number() })
}

/// Skips an item. Returns its value if it is the state row, else nothing.
fn item<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    Some(match take::<1>(rest)? {
        [ITEM] => {
            let [_kind, compression] = take(rest)?;
            let _keyspace: [u8; 8] = take(rest)?;
            let key = u16::from_le_bytes(take(rest)?);
            let _value: [u8; 4] = take(rest)?;
            let stored = u32::from_le_bytes(take(rest)?);
            let (key, after) = rest.split_at_checked(usize::from(key))?;
            let (value, after) = after.split_at_checked(stored as usize)?;
            *rest = after;
            if key == STATE_KEY && compression == 0 { value } else { &[] }
        }
        [CLEAR] => {
            take::<8>(rest)?;
            &[]
        }
        _ => return None,
    })
}

fn tag(rest: &mut &[u8], expected: u8) -> Option<()> {
    (take::<1>(rest)? == [expected]).then_some(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

impl std::ops::AddAssign for Salvaged {
    fn add_assign(&mut self, other: Self) {
        self.commits += other.commits;
        self.damaged += other.damaged;
        self.tail += other.tail;
    }
}
