//! Restores an index from the disk, event by event. Also the data that an adapter must store for this.

use std::collections::{BTreeMap, HashMap};

use super::{
    LastDeleted, Log,
    entries::{EventIndex, Extra, IndexEntry, Stored, TopicSet},
    records::{RecordIndex, RecordInfo},
    segments::SegmentItems,
    topics::{TopicId, pinned},
};
use crate::{clock::Moment, journal::Config, topic::Topic};

/// The state of the whole log that an adapter stores. Times are wall-clock times.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogState {
    pub head: u64,
    pub last_timestamp: u64,
    /// The latest time for which retention has deleted events.
    pub swept: u64,
    pub last_topic: TopicId,
    pub revision: u64,
    pub trimmed_through: u64,
    pub last_deleted: LastDeleted,
    pub forgotten_through: u64,
    pub pinned_forgotten_through: u64,
}

/// The metadata of an event that an adapter stores. Times are wall-clock times.
#[derive(Clone, Debug)]
pub(crate) struct EventMeta {
    pub offset: u64,
    pub timestamp: u64,
    pub size: u32,
    pub topics: TopicSet,
    pub expires: Option<u64>,
    pub key: Option<(u128, u128)>,
    pub stored: Stored,
}

/// An index that is being restored. Events, topics and records are added as the adapter finds them: of two with the same
/// offset, id or key the later one counts.
#[derive(Default)]
pub(crate) struct Restore {
    /// Their times are wall-clock times.
    events: EventIndex,
    topics: BTreeMap<TopicId, (Topic, u64)>,
    records: RecordIndex,
    /// For events with a time to live: the latest time for which retention had deleted events before them.
    swept: HashMap<u64, u64>,
}

/// Maximum number of events with timestamps ahead of the clock that wait for an event with an earlier timestamp.
const AHEAD: usize = 1 << 16;

// === impl LogState ===

impl LogState {
    /// The offset after which the history of a new topic begins.
    pub(crate) fn topic_begins_after(&self, topic: &Topic) -> u64 {
        // A name of a pinned topic is never used again, so a new one has no history.
        if pinned(topic) { 0 } else { self.forgotten_through }
    }
}

// === impl Log ===

impl Log {
    pub(crate) fn log_state(&self) -> LogState {
        LogState {
            head: self.head,
            last_timestamp: self.last_wall_timestamp,
            swept: self.to_wall_clock(self.swept),
            last_topic: self.topics.next_id() - 1,
            revision: self.records.revision,
            trimmed_through: self.trimmed_through,
            last_deleted: LastDeleted {
                timestamp: self.to_wall_clock(self.last_deleted.timestamp),
                ..self.last_deleted
            },
            forgotten_through: self.topics.forgotten_through,
            pinned_forgotten_through: self.topics.pinned_forgotten_through,
        }
    }

    /// Name and `trimmed_through` of a topic; `None` if it was removed.
    pub(crate) fn topic(&self, id: TopicId) -> Option<(&Topic, u64)> {
        self.topics.get(id).map(|log| (&log.name, log.trimmed_through))
    }

    /// Metadata of a stored event.
    pub(crate) fn event_meta(&self, offset: u64) -> Option<EventMeta> {
        let entry = self.entries.get(offset)?;
        Some(EventMeta {
            offset,
            timestamp: self.to_wall_clock(entry.timestamp),
            size: entry.size,
            topics: entry.topics.clone(),
            expires: entry.expires().map(|at| self.to_wall_clock(at)),
            key: entry.key(),
            stored: entry.stored,
        })
    }

    /// Offset and location of the stored events after `after`, in order.
    pub(crate) fn stored_after(&self, after: u64) -> impl Iterator<Item = (u64, Stored)> {
        self.entries.after(after).map(|(offset, entry)| (offset, entry.stored))
    }

    /// The records after the key `after`, in the order of their keys.
    pub(crate) fn records_after(&self, after: Option<&str>) -> impl Iterator<Item = (&str, RecordInfo)> {
        self.records.after(after)
    }

    /// Number of events and records that are stored in a segment.
    pub(crate) fn items_in(&self, segment: u32) -> u64 {
        self.segments.count(segment)
    }

    /// Ids of all topics.
    pub(crate) fn topic_ids(&self) -> impl Iterator<Item = TopicId> {
        self.topics.after(None).map(|(_, id)| id)
    }

    /// Bytes of all payloads and records, with a flat rate for the metadata of each item.
    pub(crate) fn live_bytes(&self) -> u64 {
        const ITEM_BYTES: u64 = 64;
        let items = self.entries.len() as u64 + self.records.len() + self.topics.len() as u64;
        self.stored_bytes + self.records.bytes() + items * ITEM_BYTES
    }

    /// Records that the payload of an event was moved.
    pub(crate) fn move_event(&mut self, offset: u64, stored: Stored) {
        if let Some(entry) = self.entries.get_mut(offset) {
            let before = std::mem::replace(&mut entry.stored, stored);
            self.segments.remove(before);
            self.segments.add(stored);
        }
    }

    /// Records that the value of a record was moved.
    pub(crate) fn move_record(&mut self, key: &str, stored: Stored) {
        if let Some(known) = self.records.get(key) {
            self.write_record(key.to_owned(), Some(RecordInfo { stored, ..known }));
        }
    }

    /// Records that payloads and values were moved: those for which `moved` returns a location.
    pub(crate) fn move_all(&mut self, moved: impl Fn(Stored) -> Option<Stored>) {
        self.segments = SegmentItems::default();
        let events = self.entries.iter_mut().map(|entry| &mut entry.stored);
        for stored in events.chain(self.records.iter_mut().map(|known| &mut known.stored)) {
            *stored = moved(*stored).unwrap_or(*stored);
            self.segments.add(*stored);
        }
    }

    fn restore_state(&mut self, log_state: &LogState, now: Moment) {
        self.update_clock_offset(now);
        self.head = log_state.head;
        self.last_timestamp = now.steady;
        self.last_wall_timestamp = log_state.last_timestamp;
        self.swept = self.to_steady(log_state.swept);
        self.topics.reserve_id(log_state.last_topic);
        self.records.revision = log_state.revision;
        self.trimmed_through = log_state.trimmed_through;
        self.last_deleted = LastDeleted {
            timestamp: self.to_steady(log_state.last_deleted.timestamp).min(now.steady),
            ..log_state.last_deleted
        };
        self.topics.forgotten_through = log_state.forgotten_through;
        self.topics.pinned_forgotten_through = log_state.pinned_forgotten_through;
    }

    /// Restores an event; its times are wall-clock times. Returns it if it has not expired, a topic keeps it, and it
    /// need not wait.
    ///
    /// A timestamp ahead of the clock does not give an age. Such an event gets the age of the next event whose
    /// timestamp is not ahead; without such an event its age starts now.
    fn restore_event(&mut self, offset: u64, mut entry: IndexEntry) -> Option<IndexEntry> {
        entry.timestamp = self.to_steady(entry.timestamp);
        entry.change_expiry(|at| self.to_steady(at));
        if entry.timestamp > self.last_timestamp {
            self.ahead.push((offset, entry));
            if self.ahead.len() >= AHEAD {
                self.insert_ahead(self.last_timestamp);
            }
            return None;
        }
        let timestamp = entry.timestamp;
        self.insert_ahead(timestamp);
        self.count_restored(offset, entry, timestamp)
    }

    /// Inserts the waiting events with this time.
    fn insert_ahead(&mut self, timestamp: u64) {
        for (offset, entry) in std::mem::take(&mut self.ahead) {
            self.changes.corrected.push(offset);
            if let Some(entry) = self.count_restored(offset, entry, timestamp) {
                self.entries.insert(offset, entry);
            }
        }
    }

    /// Counts an event with this time, or with that of the event before it if that is later.
    fn count_restored(&mut self, offset: u64, mut entry: IndexEntry, timestamp: u64) -> Option<IndexEntry> {
        let own = entry.timestamp;
        entry.timestamp = self.restored_until.max(timestamp);
        self.restored_until = entry.timestamp;
        let timestamp = entry.timestamp;
        entry.change_expiry(|at| timestamp.saturating_add(at.saturating_sub(own)));
        if entry.expired(self.last_timestamp) { None } else { self.count_entry(offset, entry) }
    }

    /// Applies the limits, which may be lower than before.
    fn apply_limits(&mut self) {
        let now = self.last_timestamp;
        self.dedupe.expire(now);
        let ids: Vec<TopicId> = self.topic_ids().collect();
        for id in ids {
            self.trim_topic(id, now);
        }
        self.trim_node(now);
    }

    /// Metadata of a record.
    pub(crate) fn record(&self, key: &str) -> Option<RecordInfo> {
        self.records.get(key)
    }

    /// The keys that begin with `prefix`, in order, after the key `after`, at most `limit`.
    pub(crate) fn record_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        self.records.keys(prefix, after, limit)
    }
}

// === impl Restore ===

impl Restore {
    /// Adds an event. `swept` is the latest time for which retention had deleted events before it was written.
    pub(crate) fn event(&mut self, meta: EventMeta, swept: u64) {
        let EventMeta { offset, timestamp, size, topics, expires, key, stored } = meta;
        self.events.insert(offset, IndexEntry::new(timestamp, size, topics, stored, Extra { expires, key }));
        if expires.is_some() {
            self.swept.insert(offset, swept);
        }
    }

    /// Adds a topic.
    pub(crate) fn topic(&mut self, id: TopicId, name: Topic, trimmed_through: u64) {
        self.topics.insert(id, (name, trimmed_through));
    }

    /// Removes a topic.
    pub(crate) fn removed_topic(&mut self, id: TopicId) {
        self.topics.remove(&id);
    }

    /// Events with a topic that was not added: topics and payload, in order.
    pub(crate) fn events_of_unknown_topics(&self) -> impl Iterator<Item = (u64, &[TopicId], Stored)> {
        let events = self.events.after(0).map(|(offset, entry)| (offset, entry.topics.ids(), entry.stored));
        events.filter(|(_, topics, _)| topics.iter().any(|id| !self.topics.contains_key(id)))
    }

    /// The greatest offset that was deleted from a topic.
    pub(crate) fn trimmed_through(&self) -> u64 {
        self.topics.values().map(|(_, trimmed_through)| *trimmed_through).max().unwrap_or(0)
    }

    /// True if the topic was added.
    pub(crate) fn has_topic(&self, id: TopicId) -> bool {
        self.topics.contains_key(&id)
    }

    /// Adds a record, or removes it.
    pub(crate) fn record(&mut self, key: &str, known: Option<RecordInfo>) {
        self.records.write(key.to_owned(), known);
    }

    /// The restored index. Nothing beyond the head of the state may have been added.
    pub(crate) fn finish(self, config: &Config, epoch: u64, log_state: &LogState, now: Moment) -> Log {
        let Self { events, topics, records, swept } = self;
        let mut log = Log::new(config, epoch);
        records.iter().for_each(|known| log.segments.add(known.stored));
        log.records = records;
        log.restore_state(log_state, now);
        for (id, (name, trimmed_through)) in topics {
            let limits = log.rules.limits(&name);
            log.changes.topics.extend(log.topics.restore(&name, id, trimmed_through, limits));
        }
        let mut restored = events.filter_map(|offset, entry| {
            // If the clock was set back, an event that had expired and was deleted must not appear again.
            let deleted = entry.expires().is_some_and(|at| {
                let before = swept.get(&offset).copied().unwrap_or(0);
                now.wall < at && before < at && at <= log_state.swept
            });
            if deleted { None } else { log.restore_event(offset, entry) }
        });
        log.insert_ahead(log.last_timestamp);
        restored.append(std::mem::take(&mut log.entries));
        log.entries = restored;
        log.apply_limits();
        log
    }
}
