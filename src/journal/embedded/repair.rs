//! Repair: writes everything that can be read into a new log, and exchanges the damaged one for it.
//!
//! ```text
//!  scan ──> index ──> journal.new ──check──> journal.damaged-<ms> <──exchange──> journal
//! ```
//!
//! Nothing is deleted. The new log is complete and on the disk before anything is renamed. Then the two directories are
//! exchanged in one step.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use super::{
    StoreError,
    data_dir::{self, DataDir},
    exchange::{self, NEW},
    items::{self, Restored},
    open,
    segments::{Directory, Draft, Files, JournalState, Scan, Segments},
    verify::Found,
};
use crate::{
    event::Position,
    journal::{Config, SyncMode, Verified, log::EventMeta},
};

/// Result of a repair, or of its dry run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repaired {
    /// The damage that was found.
    pub found: Verified,
    /// Number of events kept.
    pub events: u64,
    /// Number of events that are known to be lost.
    pub lost_events: u64,
    /// Number of topics kept.
    pub topics: u64,
    /// Number of records kept.
    pub records: u64,
    /// Number of records that are known to be lost.
    pub lost_records: u64,
    /// Path of the damaged journal. `None` after a dry run.
    pub damaged_journal: Option<PathBuf>,
}

/// A frame with this number of bytes is written before the next item is added.
const FRAME_BYTES: usize = 1 << 20;
const TOPICS_AT_ONCE: usize = 4096;

/// Repairs the journal in a data directory; `found` is its readable content.
pub(super) fn repair(data_dir: &DataDir, scan: &Scan, found: &Found, dry_run: bool) -> Result<Repaired, StoreError> {
    let stats = found.log.stats();
    let lost_events = found.log.stored_after(0).filter(|(_, stored)| found.is_damaged(*stored)).count() as u64;
    let lost_records = found.log.records_after(None).filter(|(_, known)| found.is_damaged(known.stored)).count() as u64;
    let mut done = Repaired {
        events: stats.events - lost_events,
        lost_events,
        topics: stats.topics,
        records: stats.records - lost_records,
        lost_records,
        damaged_journal: None,
        found: found.verified.clone(),
    };
    if !dry_run {
        let new = data_dir.dir().join(NEW);
        let io = |error: io::Error| StoreError::io(&error);
        remove(&new).map_err(io)?;
        DirBuilder::new().mode(0o700).create(&new).map_err(io)?;
        write(found, &scan.files(), &new)?;
        done.damaged_journal = Some(exchange::exchange(data_dir.dir()).map_err(io)?);
    }
    Ok(done)
}

/// Writes a log with everything that can be read.
fn write(found: &Found, files: &Files, path: &Path) -> Result<(), StoreError> {
    let log = &found.log;
    // One sync at the end is enough.
    let options = || open::options(&Config { sync: SyncMode::Os, ..Config::unlimited() }, data_dir::boot_id());
    let mut segments = Segments::open(Arc::new(Directory::at(path)), options(), log.epoch(), &mut Restored::default())?;
    let state = JournalState::default().with(&log.log_state());
    let mut draft = Draft::default();
    let ids: Vec<u64> = log.topic_ids().collect();
    for part in ids.chunks(TOPICS_AT_ONCE) {
        draft.begin(state, true);
        for id in part {
            if let Some((name, trimmed_through)) = log.topic(*id) {
                items::add_topic(&mut draft, *id, name, trimmed_through);
            }
        }
        segments.commit(&draft)?;
    }
    draft.begin(state, true);
    for (offset, stored) in log.stored_after(0).filter(|(_, stored)| !found.is_damaged(*stored)) {
        let Some(meta) = log.event_meta(offset) else { continue };
        let bytes = files.read(stored)?;
        // A timestamp in the index may be that of a commit that cannot be read.
        let event = items::decode_event(&bytes, Position { epoch: 0, offset });
        let timestamp = event.map_or(meta.timestamp, |event| event.timestamp);
        items::add_event(&mut draft, EventMeta { timestamp, ..meta }, &bytes);
        commit_if_large(&mut segments, &mut draft)?;
    }
    for (key, known) in log.records_after(None).filter(|(_, known)| !found.is_damaged(known.stored)) {
        let value = files.read(known.stored)?;
        items::add_record(&mut draft, key, known.revision, known.stored, &value);
        commit_if_large(&mut segments, &mut draft)?;
    }
    segments.commit(&draft)?;
    segments.close()?;
    // The new log must open before it replaces the old one.
    Segments::open(Arc::new(Directory::at(path)), options(), log.epoch(), &mut Restored::default())?.close()
}

fn commit_if_large(segments: &mut Segments, draft: &mut Draft) -> Result<(), StoreError> {
    if draft.bytes() >= FRAME_BYTES {
        segments.commit(draft)?;
        draft.begin(draft.state(), true);
    }
    Ok(())
}

/// Removes a directory if it exists.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
