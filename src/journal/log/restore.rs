//! The way back: an index that was read from disk, event by event, and what has to be kept beside the events for it.

use super::{
    Gone, Log,
    entries::{Entry, Extra, TopicSet},
    records::Known,
    topics::{TopicId, pinned},
};
use crate::{clock::Moment, journal::Stats, topic::Topic};

/// The state of the whole log that an adapter stores. Times are wall-clock times.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    pub head: u64,
    pub last_timestamp: u64,
    /// The latest time by which events were let go.
    pub swept: u64,
    pub last_topic: TopicId,
    pub revision: u64,
    pub trimmed_through: u64,
    pub gone: Gone,
    pub forgotten_through: u64,
    pub pinned_forgotten_through: u64,
}

/// The metadata of an event that an adapter stores. Times are wall-clock times.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub offset: u64,
    pub timestamp: u64,
    pub size: u32,
    pub topics: Vec<TopicId>,
    pub expires: Option<u64>,
    pub key: Option<(u128, u128)>,
}

/// Maximum number of events ahead of the clock that wait for the next event that is not.
const AHEAD: usize = 1 << 16;

// === impl Marks ===

impl Marks {
    /// Where the known past of a topic begins that is not in the index yet.
    pub(crate) fn topic_begins_after(&self, topic: &Topic) -> u64 {
        // Names of pinned topics are never used again: a new one has no past.
        if pinned(topic) { 0 } else { self.forgotten_through }
    }
}

// === impl Log ===

impl Log {
    pub(crate) fn marks(&self) -> Marks {
        Marks {
            head: self.head,
            last_timestamp: self.last_label,
            swept: self.label(self.swept),
            last_topic: self.topics.next_id() - 1,
            revision: self.records.revision,
            trimmed_through: self.trimmed_through,
            gone: Gone { timestamp: self.label(self.gone.timestamp), ..self.gone },
            forgotten_through: self.topics.forgotten_through,
            pinned_forgotten_through: self.topics.pinned_forgotten_through,
        }
    }

    /// A topic's name and mark; `None` when it was forgotten.
    pub(crate) fn topic(&self, id: TopicId) -> Option<(&Topic, u64)> {
        self.topics.get(id).map(|log| (&log.name, log.trimmed_through))
    }

    /// What is kept of the events after `after` and up to `through`.
    pub(crate) fn metas(&self, after: u64, through: u64) -> impl Iterator<Item = Meta> {
        let entries = self.entries.after(after).take_while(move |(offset, _)| *offset <= through);
        entries.map(|(offset, entry)| Meta {
            offset,
            timestamp: self.label(entry.timestamp),
            size: entry.size,
            topics: entry.topics.ids().to_vec(),
            expires: entry.expires().map(|at| self.label(at)),
            key: entry.key(),
        })
    }

    /// First step: the marks, and the time to judge by.
    pub(crate) fn restore_marks(&mut self, marks: &Marks, now: Moment) {
        self.follow(now);
        self.head = marks.head;
        self.last_timestamp = now.steady;
        self.last_label = marks.last_timestamp;
        self.swept = self.steady(marks.swept);
        self.topics.used(marks.last_topic);
        self.records.revision = marks.revision;
        self.trimmed_through = marks.trimmed_through;
        self.gone = Gone { timestamp: self.steady(marks.gone.timestamp).min(now.steady), ..marks.gone };
        self.topics.forgotten_through = marks.forgotten_through;
        self.topics.pinned_forgotten_through = marks.pinned_forgotten_through;
    }

    /// Second step: each topic.
    pub(crate) fn restore_topic(&mut self, id: TopicId, name: &Topic, trimmed_through: u64) {
        let limits = self.rules.limits(name);
        self.changes.topics.extend(self.topics.restore(name, id, trimmed_through, limits));
    }

    /// Third step: each event, in order. What has expired meanwhile, or has no topic left, is dropped.
    ///
    /// A timestamp ahead of the clock does not give an age. Such an event gets the age of the next event whose
    /// timestamp is not ahead; without such an event its age starts now.
    pub(crate) fn restore_event(&mut self, mut meta: Meta) {
        meta.timestamp = self.steady(meta.timestamp);
        meta.expires = meta.expires.map(|at| self.steady(at));
        if meta.timestamp > self.last_timestamp {
            self.ahead.push(meta);
            if self.ahead.len() >= AHEAD {
                self.settle();
            }
            return;
        }
        let timestamp = meta.timestamp;
        self.settle_by(timestamp);
        self.enter(meta, timestamp);
    }

    /// Adds the events that still wait, after the last event.
    pub(crate) fn settle(&mut self) {
        self.settle_by(self.last_timestamp);
    }

    fn settle_by(&mut self, timestamp: u64) {
        for meta in std::mem::take(&mut self.ahead) {
            self.enter(meta, timestamp);
        }
    }

    /// Adds an event with this time, or with the time of the event before it if that is later.
    fn enter(&mut self, meta: Meta, timestamp: u64) {
        let Meta { offset, timestamp: own, size, topics, expires, key } = meta;
        let timestamp = self.entries.last().map_or(timestamp, |last| last.timestamp.max(timestamp));
        let expires = expires.map(|at| timestamp.saturating_add(at.saturating_sub(own)));
        let extra = (expires.is_some() || key.is_some()).then(|| Box::new(Extra { expires, key }));
        let Some(topics) = TopicSet::new(topics) else { return };
        let entry = Entry { timestamp, size, kept_by: 0, pinned_by: 0, topics, extra };
        let home = entry.topics.home();
        if !entry.expired(self.last_timestamp) {
            self.keep(offset, entry);
        }
        if !self.entries.contains(offset) {
            self.changes.dropped.push((home, offset));
        }
    }

    /// And each record, at any time after the marks.
    pub(crate) fn restore_record(&mut self, key: String, revision: u64, size: u64) {
        self.records.write(key, Some(Known { revision, size }));
    }

    /// Last step: the settings may ask for less than they did before.
    pub(crate) fn restored(&mut self) {
        self.settle();
        let now = self.last_timestamp;
        self.dedupe.expire(now);
        let ids: Vec<TopicId> = self.topics.after(None).map(|(_, id)| id).collect();
        for id in ids {
            self.trim_topic(id, now);
        }
        self.trim_node(now);
    }

    /// The epoch of an index that was read may have ended.
    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Goes on counting where an earlier index stopped.
    pub(crate) fn inherit(&mut self, earlier: &Self) {
        let Stats { appended, trimmed, duplicates, .. } = earlier.stats;
        self.stats = Stats { appended, trimmed, duplicates, ..self.stats };
    }

    /// What the log knows of a record.
    pub(crate) fn record(&self, key: &str) -> Option<Known> {
        self.records.get(key)
    }

    /// Keys that begin with `prefix`, in order.
    pub(crate) fn record_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        self.records.keys(prefix, after, limit)
    }
}
