//! Restores an index from the disk, event by event. Also the data that an adapter must store for this.

use super::{
    LastDeleted, Log,
    entries::{Extra, IndexEntry, TopicSet},
    records::RecordInfo,
    topics::{TopicId, pinned},
};
use crate::{clock::Moment, journal::Stats, topic::Topic};

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
    pub topics: Vec<TopicId>,
    pub expires: Option<u64>,
    pub key: Option<(u128, u128)>,
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

    /// Metadata of the stored events after `after` and up to `through`.
    pub(crate) fn event_metas(&self, after: u64, through: u64) -> impl Iterator<Item = EventMeta> {
        let entries = self.entries.after(after).take_while(move |(offset, _)| *offset <= through);
        entries.map(|(offset, entry)| EventMeta {
            offset,
            timestamp: self.to_wall_clock(entry.timestamp),
            size: entry.size,
            topics: entry.topics.ids().to_vec(),
            expires: entry.expires().map(|at| self.to_wall_clock(at)),
            key: entry.key(),
        })
    }

    /// Step 1: restores the state, and sets the time for expiry.
    pub(crate) fn restore_state(&mut self, log_state: &LogState, now: Moment) {
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

    /// Step 2, for each topic: restores it.
    pub(crate) fn restore_topic(&mut self, id: TopicId, name: &Topic, trimmed_through: u64) {
        let limits = self.rules.limits(name);
        self.changes.topics.extend(self.topics.restore(name, id, trimmed_through, limits));
    }

    /// Step 3, for each event in order: restores it. It is dropped if it has expired or no topic keeps it.
    ///
    /// A timestamp ahead of the clock does not give an age. Such an event gets the age of the next event whose
    /// timestamp is not ahead; without such an event its age starts now.
    pub(crate) fn restore_event(&mut self, mut meta: EventMeta) {
        meta.timestamp = self.to_steady(meta.timestamp);
        meta.expires = meta.expires.map(|at| self.to_steady(at));
        if meta.timestamp > self.last_timestamp {
            self.ahead.push(meta);
            if self.ahead.len() >= AHEAD {
                self.insert_ahead();
            }
            return;
        }
        let timestamp = meta.timestamp;
        self.insert_ahead_with(timestamp);
        self.insert_restored(meta, timestamp);
    }

    /// Inserts the waiting events with the time of the last commit.
    pub(crate) fn insert_ahead(&mut self) {
        self.insert_ahead_with(self.last_timestamp);
    }

    fn insert_ahead_with(&mut self, timestamp: u64) {
        for meta in std::mem::take(&mut self.ahead) {
            self.insert_restored(meta, timestamp);
        }
    }

    /// Inserts an event with this time, or with that of the event before it if that is later.
    fn insert_restored(&mut self, meta: EventMeta, timestamp: u64) {
        let EventMeta { offset, timestamp: own, size, topics, expires, key } = meta;
        let timestamp = self.entries.last().map_or(timestamp, |last| last.timestamp.max(timestamp));
        let expires = expires.map(|at| timestamp.saturating_add(at.saturating_sub(own)));
        let extra = (expires.is_some() || key.is_some()).then(|| Box::new(Extra { expires, key }));
        let Some(topics) = TopicSet::new(topics) else { return };
        let entry = IndexEntry { timestamp, size, kept_by: 0, pinned_by: 0, topics, extra };
        let primary_topic = entry.topics.primary_topic();
        if !entry.expired(self.last_timestamp) {
            self.insert_entry(offset, entry);
        }
        if !self.entries.contains(offset) {
            self.changes.dropped.push((primary_topic, offset));
        }
    }

    /// Restores a record, at any time after step 1.
    pub(crate) fn restore_record(&mut self, key: String, revision: u64, size: u64) {
        self.records.write(key, Some(RecordInfo { revision, size }));
    }

    /// Last step: applies the limits, which may be lower than before.
    pub(crate) fn finish_restore(&mut self) {
        self.insert_ahead();
        let now = self.last_timestamp;
        self.dedupe.expire(now);
        let ids: Vec<TopicId> = self.topics.after(None).map(|(_, id)| id).collect();
        for id in ids {
            self.trim_topic(id, now);
        }
        self.trim_node(now);
    }

    /// Sets the epoch, if a new one began when the journal was opened.
    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Takes over the counters of an earlier index.
    pub(crate) fn inherit_stats(&mut self, earlier: &Self) {
        let Stats { appended, trimmed, duplicates, .. } = earlier.stats;
        self.stats = Stats { appended, trimmed, duplicates, ..self.stats };
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
