//! Cleaning: frees the disk space of deleted data. The oldest segment is removed as soon as nothing in it is live. If the
//! log takes too much space, the live items of the oldest segment are moved to the end of the log first.

use std::time::Instant;

use bytes::Bytes;

use super::{Committer, located};
use crate::journal::{
    Unavailable,
    embedded::{
        EmbeddedState, StoreError, items,
        segments::{Body, Draft},
    },
    log::{Log, RecordInfo, Stored, TopicId},
};

/// The segment that is being cleaned, and the items that are moved next.
#[derive(Debug)]
pub(super) struct Cleaning {
    segment: u32,
    next: Next,
}

#[derive(Debug)]
enum Next {
    /// Events with a greater offset.
    Events(u64),
    /// Records with a greater key.
    Records(Option<String>),
    Topics,
}

/// Maximum number of items in one slice.
const ITEMS_AT_ONCE: usize = 256;
/// Maximum number of entries of the index in one slice.
const SCAN_AT_ONCE: usize = 8192;
/// A frame with this number of bytes is written before the next item is added.
const FRAME_BYTES: usize = 1 << 20;

// === impl Committer ===

impl Committer {
    /// True if there may be something to clean.
    pub(in crate::journal::embedded) fn is_cleaning_due(&self) -> bool {
        self.cleaning_due
    }

    /// Runs one slice of the cleaning.
    pub(in crate::journal::embedded) fn clean(&mut self) -> Result<(), Unavailable> {
        self.cleaning_due = false;
        let (oldest, active) = self.segments.numbers();
        if self.segments.needs_recovery() || oldest == active || self.unreadable == Some(oldest) {
            return Ok(());
        }
        if self.is_empty(oldest) {
            self.cleaning = None;
            // The deletions in it may not be in the log yet, and without the events they could not be determined again.
            self.flush_now()?;
            let known = self.empty_after.filter(|(segment, _)| *segment == oldest);
            let (_, commit) = known.unwrap_or((oldest, self.segments.commit_number()));
            self.empty_after = Some((oldest, commit));
            if self.segments.synced_commit() < commit {
                // The writer thread syncs without the committer, so that callers commit meanwhile.
                self.sync_due = Some(Instant::now());
            } else {
                self.segments.remove_oldest().map_err(|error| self.failed(error))?;
                self.shared.refresh_disk_usage();
            }
        } else if self.cleaning.is_some() || self.takes_too_much() {
            self.clean_slice(oldest)?;
        } else {
            return Ok(());
        }
        self.cleaning_due = true;
        Ok(())
    }

    /// Begins a new segment, so that [`compact`](Self::compact) can clean all segments before it. Returns its number.
    pub(in crate::journal::embedded) fn begin_compaction(&mut self) -> Result<u32, Unavailable> {
        self.flush_now()?;
        self.segments.rotate().map_err(|error| self.failed(error))?;
        let (_, active) = self.segments.numbers();
        self.own_files.follow(active);
        Ok(active)
    }

    /// Runs one slice of a compaction: cleans the segments before `end`. Returns true if there is more to do.
    pub(in crate::journal::embedded) fn compact(&mut self, end: u32) -> Result<bool, Unavailable> {
        let (oldest, _) = self.segments.numbers();
        if oldest >= end || self.unreadable == Some(oldest) {
            return Ok(false);
        }
        self.ready()?;
        self.cleaning.get_or_insert_with(|| Cleaning::of(oldest));
        self.clean()?;
        Ok(true)
    }

    /// True if nothing in the segment is live.
    fn is_empty(&self, segment: u32) -> bool {
        self.shared.log().items_in(segment) == 0 && self.topic_segments.values().all(|own| *own != segment)
    }

    /// True if deleted data take as much space as live ones, and two segments; on a full disk, if they take an eighth of
    /// that.
    fn takes_too_much(&self) -> bool {
        let (live, disk) = (self.shared.log().live_bytes(), self.shared.files.disk_bytes());
        match self.shared.refusal() {
            Some(Unavailable::Full(_)) => disk > live + live / 8 + u64::from(self.segments.active_bytes()),
            _ => disk > 2 * live + 2 * u64::from(self.segments.segment_bytes()),
        }
    }

    fn clean_slice(&mut self, oldest: u32) -> Result<(), Unavailable> {
        let shared = self.shared.clone();
        let mut cleaning = self.cleaning.take().filter(|cleaning| cleaning.segment == oldest);
        let next = cleaning.take().map_or(Next::Events(0), |cleaning| cleaning.next);
        let (next, moved) = match next {
            Next::Events(after) => {
                let log = shared.log();
                let entries = log.stored_after(after).map(|(offset, stored)| (offset, stored.segment == oldest));
                let (offsets, last) = slice(entries);
                drop(log);
                let next = last.map_or(Next::Records(None), Next::Events);
                (next, self.move_events(&offsets))
            }
            Next::Records(after) => {
                let log = shared.log();
                let entries = log.records_after(after.as_deref());
                let (keys, last) = slice(entries.map(|(key, known)| (key, known.stored.segment == oldest)));
                let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
                let next = last.map_or(Next::Topics, |key| Next::Records(Some(key.to_owned())));
                drop(log);
                (next, self.move_records(&keys))
            }
            Next::Topics => (Next::Events(0), self.move_topics(oldest)),
        };
        self.cleaning = Some(Cleaning { segment: oldest, next });
        match moved {
            Err(error @ StoreError::Unreadable { .. }) => {
                // The segment is kept, and its data stay as readable as they are.
                tracing::error!(segment = oldest, %error, "a segment of the journal cannot be read and is not cleaned");
                self.unreadable = Some(oldest);
                Ok(())
            }
            moved => moved.map_err(|error| self.failed(error)),
        }
    }

    /// Writes these events again, at the end of the log.
    pub(super) fn move_events(&mut self, offsets: &[u64]) -> Result<(), StoreError> {
        let add = |shared: &EmbeddedState, draft: &mut Draft, offset: &u64| {
            let Some(meta) = shared.log().event_meta(*offset) else { return Ok(None) };
            let bytes = read(shared, meta.stored)?;
            Ok(Some(items::add_event(draft, meta, &bytes)))
        };
        self.move_items(offsets, add, |log, offset, stored| log.move_event(*offset, stored))
    }

    fn move_records(&mut self, keys: &[String]) -> Result<(), StoreError> {
        let add = |shared: &EmbeddedState, draft: &mut Draft, key: &String| {
            let Some(RecordInfo { revision, stored }) = shared.log().record(key) else { return Ok(None) };
            let value = read(shared, stored)?;
            Ok(Some(items::add_record(draft, key, revision, stored, &value)))
        };
        self.move_items(keys, add, |log, key, stored| log.move_record(key, stored))
    }

    /// Adds items to frames, writes these, and records the new locations. `add` returns `None` for an item that is not
    /// stored any more.
    fn move_items<T>(
        &mut self,
        items: &[T],
        add: impl Fn(&EmbeddedState, &mut Draft, &T) -> Result<Option<Body>, StoreError>,
        moved: impl Fn(&mut Log, &T, Stored),
    ) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut rest = items.iter();
        while !rest.as_slice().is_empty() {
            self.begin_draft(true);
            let (mut added, mut bodies) = (Vec::new(), Vec::new());
            while let Some(item) = rest.as_slice().first().filter(|_| self.draft.bytes() < FRAME_BYTES) {
                rest.next();
                if let Some(body) = add(&shared, &mut self.draft, item)? {
                    added.push(item);
                    bodies.push(body);
                }
            }
            let location = self.commit()?;
            let mut log = shared.log_mut();
            added.iter().zip(located(location, &bodies)).for_each(|(item, stored)| moved(&mut log, item, stored));
        }
        Ok(())
    }

    fn move_topics(&mut self, segment: u32) -> Result<(), StoreError> {
        let own = self.topic_segments.iter().filter(|(_, own)| **own == segment);
        let ids: Vec<TopicId> = own.map(|(id, _)| *id).collect();
        self.changed_topics.extend(ids);
        self.flush()
    }
}

/// Reads the bytes of an item that is moved. They are not checked and keep their checksum, so that a change of the bytes
/// is still detected.
fn read(shared: &EmbeddedState, stored: Stored) -> Result<Bytes, StoreError> {
    let unreadable = |error: StoreError| StoreError::Unreadable { through: 0, what: error.to_string() };
    shared.files.read_unchecked(stored).map_err(unreadable)
}

/// The next items that are to be moved, and the last one that was looked at; `None` at the end.
fn slice<T: Copy>(entries: impl Iterator<Item = (T, bool)>) -> (Vec<T>, Option<T>) {
    let mut found = Vec::new();
    for (number, (item, wanted)) in (1..).zip(entries) {
        if wanted {
            found.push(item);
        }
        if found.len() == ITEMS_AT_ONCE || number == SCAN_AT_ONCE {
            return (found, Some(item));
        }
    }
    (found, None)
}

// === impl Cleaning ===

impl Cleaning {
    fn of(segment: u32) -> Self {
        Self { segment, next: Next::Events(0) }
    }
}
