//! Retention: deletes by number and bytes at each append, and by age and time to live in the sweep. The limits of the
//! node delete the oldest events.

use super::{
    LastDeleted, Log,
    entries::TopicSet,
    topics::{TopicId, TopicLimits, TopicLog},
};
use crate::{
    journal::{Config, Retention},
    topic::{Pattern, Topic},
};

/// The settings of retention, parsed.
pub(super) struct RetentionRules {
    default: TopicLimits,
    overrides: Vec<(Pattern, TopicLimits)>,
    pub max_bytes: u64,
    pub max_topics: usize,
    pub max_event_bytes: usize,
    pub dedupe_ms: u64,
}

/// Topics in one slice of the sweep, which take about 0.1 ms under the lock.
const SWEEP_SLICE: usize = 512;

// === impl RetentionRules ===

impl RetentionRules {
    pub(super) fn new(config: &Config) -> Self {
        let default = TopicLimits {
            age_ms: bound(config.retention_ms),
            events: bound(config.retention_events),
            bytes: bound(config.retention_bytes),
            pinned: false,
        };
        let limits = |rule: &Retention| TopicLimits {
            age_ms: rule.retention_ms.map_or(default.age_ms, bound),
            events: rule.retention_events.map_or(default.events, bound),
            bytes: rule.retention_bytes.map_or(default.bytes, bound),
            pinned: false,
        };
        let overrides =
            config.retention.iter().filter_map(|rule| Some((Pattern::new(&rule.topic).ok()?, limits(rule)))).collect();
        Self {
            default,
            overrides,
            max_bytes: config.max_bytes,
            max_topics: usize::try_from(config.max_topics).unwrap_or(usize::MAX),
            max_event_bytes: config.max_event_bytes,
            dedupe_ms: config.dedupe_ms,
        }
    }

    pub(super) fn limits(&self, topic: &Topic) -> TopicLimits {
        let own = || self.overrides.iter().find(|(pattern, _)| pattern.matches(topic)).map(|(_, limits)| *limits);
        TopicLimits::pinned(topic).or_else(own).unwrap_or(self.default)
    }
}

fn bound(setting: u64) -> u64 {
    if setting == 0 { u64::MAX } else { setting }
}

// === impl Log ===

impl Log {
    /// Applies the limits of number and bytes to a topic. Its newest event is kept, because it was acknowledged and not
    /// yet delivered.
    pub(super) fn trim_topic(&mut self, id: TopicId, now: u64) {
        let over_limit = |log: &TopicLog| log.live > log.limits.events || log.bytes > log.limits.bytes;
        while self.topics.get(id).is_some_and(|log| log.live > 1 && over_limit(log)) {
            self.trim_front(id, now);
        }
    }

    /// Applies the limits of the node: first deletes whole topics, whose last event is oldest; then the oldest events of
    /// all topics.
    pub(super) fn trim_node(&mut self, now: u64) {
        while self.topics.unpinned_count() > self.rules.max_topics {
            let Some(id) = self.topics.pop_least_recent() else { break };
            self.clear(id, now);
            self.forget(id);
        }
        while self.bytes > self.rules.max_bytes {
            let Some((offset, topics)) = self.oldest_evictable() else { break };
            self.evicted_through = offset;
            for id in topics.ids() {
                self.trim_through(*id, offset, now);
            }
        }
    }

    /// Deletes all events of a topic. Its `trimmed_through` stays, for readers that have not read them.
    pub(crate) fn purge(&mut self, topic: &Topic, now: u64) -> u64 {
        let Some(id) = self.topics.id(topic) else { return 0 };
        self.swept = self.swept.max(now);
        let (live, pinned) = self.topics.get(id).map_or((0, false), |log| (log.live, log.limits.pinned));
        self.clear(id, self.time(now));
        if pinned {
            self.forget(id);
        }
        live
    }

    /// Runs one slice of the sweep. Returns true if there is more to do.
    pub(crate) fn sweep(&mut self, now: u64) -> bool {
        self.swept = self.swept.max(now);
        let expired = self.expire(now);
        let slice = self.topics.after(self.sweep_after.as_ref()).take(SWEEP_SLICE);
        let slice: Vec<(Topic, TopicId)> = slice.map(|(topic, id)| (topic.clone(), id)).collect();
        for (_, id) in &slice {
            while let Some(log) = self.topics.get(*id) {
                let age = log.limits.age_ms;
                let Some(front) = log.offsets.front() else { break };
                let old = self.entries.get(*front).is_none_or(|entry| entry.timestamp.saturating_add(age) <= now);
                if !old || log.limits.pinned {
                    break;
                }
                self.trim_front(*id, now);
            }
        }
        self.sweep_after = if slice.len() < SWEEP_SLICE { None } else { slice.last().map(|(topic, _)| topic.clone()) };
        self.dedupe.expire(now);
        expired || self.sweep_after.is_some()
    }

    /// Deletes events whose time to live has ended. Returns true if there may be more.
    fn expire(&mut self, now: u64) -> bool {
        for _ in 0..SWEEP_SLICE {
            if self.expiring.first().is_none_or(|(at, _)| *at > now) {
                return false;
            }
            let (_, offset) = self.expiring.pop_first().expect("`first` returned it");
            let Some(entry) = self.entries.get(offset) else { continue };
            let (size, topics) = (entry.size, entry.topics.clone());
            self.drop_entry(offset);
            for id in topics.ids() {
                let Some(log) = self.topics.get_mut(*id).filter(|log| log.keeps(offset)) else { continue };
                subtract(log, size);
                // The offset stays as a tombstone until it is the first of the topic, or tombstones are the majority.
                while log.offsets.front().is_some_and(|front| !self.entries.contains(*front)) {
                    log.offsets.pop_front();
                }
                if log.offsets.len() as u64 > 2 * log.live + 64 {
                    log.offsets.retain(|kept| self.entries.contains(*kept));
                }
            }
        }
        true
    }

    fn oldest_evictable(&self) -> Option<(u64, TopicSet)> {
        let mut oldest = self.entries.after(self.evicted_through);
        let found = oldest.find(|(_, entry)| entry.pinned_by < entry.kept_by);
        found.map(|(offset, entry)| (offset, entry.topics.clone()))
    }

    fn forget(&mut self, id: TopicId) {
        self.topics.forget(id);
        self.changes.topics.insert(id);
    }

    fn clear(&mut self, id: TopicId, now: u64) {
        while self.topics.get(id).is_some_and(|log| !log.offsets.is_empty()) {
            self.trim_front(id, now);
        }
    }

    fn trim_through(&mut self, id: TopicId, offset: u64, now: u64) {
        while self
            .topics
            .get(id)
            .is_some_and(|log| !log.limits.pinned && log.offsets.front().is_some_and(|front| *front <= offset))
        {
            self.trim_front(id, now);
        }
    }

    /// Removes the oldest event from a topic. If no other topic keeps the event, it is deleted.
    fn trim_front(&mut self, id: TopicId, now: u64) {
        let Some(log) = self.topics.get_mut(id) else { return };
        let Some(offset) = log.offsets.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(offset) else { return };
        subtract(log, entry.size);
        // An event that has expired by its own time to live is not a gap, also if the sweep has not deleted it yet.
        let missed = !entry.expired(now);
        if missed {
            log.trimmed_through = offset;
            self.trimmed_through = self.trimmed_through.max(offset);
            self.changes.topics.insert(id);
        }
        if log.limits.pinned {
            entry.pinned_by -= 1;
            if entry.pinned_by == 0 {
                self.stats.pinned_bytes -= u64::from(entry.size);
            }
        }
        entry.kept_by -= 1;
        if entry.kept_by == 0 {
            if missed {
                self.stats.trimmed += 1;
                if offset > self.last_deleted.through {
                    self.last_deleted = LastDeleted { through: offset, timestamp: entry.timestamp };
                }
            }
            self.drop_entry(offset);
        }
    }

    fn drop_entry(&mut self, offset: u64) {
        let Some(entry) = self.entries.remove(offset) else { return };
        self.bytes -= u64::from(entry.size);
        if entry.pinned_by > 0 {
            self.stats.pinned_bytes -= u64::from(entry.size);
        }
        if let Some((key, _)) = entry.key() {
            self.dedupe.forget(key, offset);
        }
        if let Some(expires) = entry.expires() {
            self.expiring.remove(&(expires, offset));
        }
        self.stored_bytes -= u64::from(entry.stored.length);
        self.segments.remove(entry.stored);
        self.changes.dropped.push(offset);
    }
}

fn subtract(log: &mut TopicLog, size: u32) {
    log.live -= 1;
    log.bytes -= u64::from(size);
}
