//! The core of both adapters: the index of all events, topics and records, and the rules of retention. Pure, without I/O.
//! The adapters store payloads and values of records, in memory or on disk.
//!
//! ```text
//!  Batch ──begin, add──> CommitGroup ──commit by the adapter──> apply ──> entries, topics, records, dedupe
//!                                                                 └─────> Changes: what the adapter must delete and store
//! ```

use std::collections::BTreeSet;

use crate::{
    clock::Moment,
    event::{Event, Position},
    journal::{Config, Stats},
    topic::Topic,
};

mod changes;
mod dedupe;
mod entries;
mod group;
mod read;
mod records;
mod restore;
mod retention;
mod search;
mod segments;
mod topics;

#[cfg(test)]
mod tests;

pub(super) use self::{
    changes::Changes,
    entries::{Stored, TopicSet},
    group::{CommitGroup, PlannedEvent, PlannedWrite},
    read::{EventRef, Selection},
    records::RecordInfo,
    restore::{EventMeta, LogState, Restore},
    search::BackwardSearch,
    topics::TopicId,
};
use self::{
    dedupe::Dedupe,
    entries::{EventIndex, Extra, IndexEntry},
    records::RecordIndex,
    retention::RetentionRules,
    segments::SegmentItems,
    topics::TopicIndex,
};

/// The newest event that was deleted from all its topics. After it the log as a whole is complete.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastDeleted {
    pub through: u64,
    pub timestamp: u64,
}

/// The index of a journal.
pub(super) struct Log {
    epoch: u64,
    head: u64,
    /// Monotonic time of the last commit. All times in the log are monotonic, so that no jump of the wall clock changes
    /// an age. They never decrease, so that a search by time is a search by offset.
    last_timestamp: u64,
    /// Wall-clock timestamp of the last commit.
    last_wall_timestamp: u64,
    /// Difference of the wall clock to the monotonic clock.
    shift: i64,
    /// The latest time for which retention has deleted events.
    swept: u64,
    /// Restored events whose timestamps are ahead of the clock; they get the age of the next event that is not.
    ahead: Vec<(u64, IndexEntry)>,
    /// The time of the last restored event.
    restored_until: u64,
    entries: EventIndex,
    topics: TopicIndex,
    records: RecordIndex,
    dedupe: Dedupe,
    rules: RetentionRules,
    bytes: u64,
    /// Bytes of the payloads that the adapter has stored.
    stored_bytes: u64,
    segments: SegmentItems,
    /// The greatest offset that retention or a purge deleted from any topic. `trimmed_through` of a topic is never greater.
    trimmed_through: u64,
    last_deleted: LastDeleted,
    /// Expiry times of events with a time to live, soonest first.
    expiring: BTreeSet<(u64, u64)>,
    /// `max_bytes` was applied to the events up to here.
    evicted_through: u64,
    /// The topic after which the next slice of the sweep begins.
    sweep_after: Option<Topic>,
    stats: Stats,
    changes: Changes,
}

// === impl Log ===

impl Log {
    pub(super) fn new(config: &Config, epoch: u64) -> Self {
        Self {
            epoch,
            head: 0,
            last_timestamp: 0,
            last_wall_timestamp: 0,
            shift: 0,
            swept: 0,
            ahead: Vec::new(),
            restored_until: 0,
            entries: EventIndex::default(),
            topics: TopicIndex::default(),
            records: RecordIndex::default(),
            dedupe: Dedupe::default(),
            rules: RetentionRules::new(config),
            bytes: 0,
            stored_bytes: 0,
            segments: SegmentItems::default(),
            trimmed_through: 0,
            last_deleted: LastDeleted::default(),
            expiring: BTreeSet::new(),
            evicted_through: 0,
            sweep_after: None,
            stats: Stats::default(),
            changes: Changes::default(),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// The time for expiry checks. Not before the last commit, so that an expired event stays expired.
    pub(super) fn time(&self, now: u64) -> u64 {
        now.max(self.last_timestamp)
    }

    /// Updates the difference between wall clock and monotonic clock.
    pub(super) fn update_clock_offset(&mut self, now: Moment) {
        self.shift = now.shift();
    }

    /// Converts monotonic time to wall-clock time.
    fn to_wall_clock(&self, steady: u64) -> u64 {
        steady.saturating_add_signed(self.shift)
    }

    /// Converts wall-clock time to monotonic time.
    fn to_steady(&self, wall: u64) -> u64 {
        wall.saturating_add_signed(self.shift.saturating_neg())
    }

    /// The changes since the last call, except those of groups.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            events: self.entries.len() as u64,
            bytes: self.bytes,
            topics: self.topics.len() as u64,
            records: self.records.len(),
            record_bytes: self.records.bytes(),
            ..self.stats
        }
    }

    fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch, offset }
    }

    /// The event with this key, and the hash of its content. A key is forgotten with its event.
    fn find_duplicate(&self, key: u128, now: u64) -> Option<(Position, u128)> {
        let offset = self.dedupe.find(key)?;
        let entry = self.entries.get(offset).filter(|entry| !entry.expired(now))?;
        Some((self.position(offset), entry.key()?.1))
    }

    fn push(&mut self, planned: &PlannedEvent, stored: Stored) {
        let event = &planned.event;
        let (now, topics) = (self.last_timestamp, &planned.topics);
        for (topic, id) in event.topics.iter().zip(topics) {
            self.topics.ensure(topic, *id, || self.rules.limits(topic));
        }
        let ttl = event.expires.map(|at| at.saturating_sub(event.timestamp));
        let extra = Extra { expires: ttl.map(|ttl| now.saturating_add(ttl)), key: planned.key };
        self.insert_entry(
            event.position.offset,
            IndexEntry::new(now, size(event), TopicSet::of(topics), stored, extra),
        );
        self.stats.appended += 1;
        for id in topics {
            self.trim_topic(*id, now);
        }
        self.trim_node(now);
    }

    /// Adds an event to the index.
    fn insert_entry(&mut self, offset: u64, entry: IndexEntry) {
        if let Some(entry) = self.count_entry(offset, entry) {
            self.entries.insert(offset, entry);
        }
    }

    /// Adds an event to those of its topics that exist and have not deleted it. Returns it if any topic keeps it.
    fn count_entry(&mut self, offset: u64, mut entry: IndexEntry) -> Option<IndexEntry> {
        let size = u64::from(entry.size);
        for id in entry.topics.ids() {
            let Some(log) = self.topics.get_mut(*id).filter(|log| log.trimmed_through < offset) else { continue };
            log.offsets.push_back(offset);
            log.last = offset;
            log.live += 1;
            log.bytes += size;
            entry.kept_by += 1;
            entry.pinned_by += u8::from(log.limits.pinned);
        }
        self.head = self.head.max(offset);
        if entry.kept_by == 0 {
            return None;
        }
        if entry.pinned_by > 0 {
            self.stats.pinned_bytes += size;
        }
        if let Some((key, _)) = entry.key() {
            self.dedupe.remember(key, offset, entry.timestamp.saturating_add(self.rules.dedupe_ms));
        }
        if let Some(expires) = entry.expires() {
            self.expiring.insert((expires, offset));
        }
        self.stored_bytes += u64::from(entry.stored.length);
        self.segments.add(entry.stored);
        self.bytes += size;
        Some(entry)
    }

    /// Adds, replaces or, with `None`, removes a record.
    fn write_record(&mut self, key: String, known: Option<RecordInfo>) {
        if let Some(before) = self.records.get(&key) {
            self.segments.remove(before.stored);
        }
        if let Some(known) = known {
            self.segments.add(known.stored);
        }
        self.records.write(key, known);
    }
}

/// The size of an event as retention counts it, in bytes.
pub(super) fn size(event: &Event) -> u32 {
    u32::try_from(event.footprint()).unwrap_or(u32::MAX)
}
