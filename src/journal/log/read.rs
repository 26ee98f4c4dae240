//! Reads the index: pages of some topics, and the tail of all topics.

use super::{
    Log,
    entries::{IndexEntry, Stored},
    topics::TopicLog,
};
use crate::{
    journal::{Page, Query, TopicInfo, Trimmed},
    topic::{Pattern, Topic},
};

/// An event to fetch from the store of the adapter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventRef {
    pub offset: u64,
    pub stored: Stored,
}

/// The events of a page or of the tail, without payloads.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// The events, in journal order.
    pub selected: Vec<EventRef>,
    /// Complete up to this offset.
    pub through: u64,
    /// As [`Page::trimmed`].
    pub trimmed: Vec<Trimmed>,
    /// As [`crate::journal::Since::missed`].
    pub missed: bool,
}

/// For up to this number of topics a page is merged from their indexes. For more topics the whole log is scanned.
pub(super) const MERGE_TOPICS: usize = 64;
/// Maximum number of entries in one scan, which limits the time under the lock.
const SCAN_LIMIT: usize = 8192;

// === impl Log ===

impl Log {
    /// The next events of a query. The caller limits them by the size of their payloads.
    pub(crate) fn read(&self, query: &Query, now: u64) -> Selection {
        let now = self.time(now);
        let trimmed = self.trimmed(&query.patterns, query.after.max(query.floor), now);
        let (offsets, through) = match self.few_topics(&query.patterns) {
            Some(logs) => self.merge(&logs, query),
            None => self.scan(query),
        };
        let selected =
            offsets.into_iter().filter_map(|offset| Some(event_ref(offset, self.alive(offset, now)?))).collect();
        Selection { selected, through, trimmed, missed: false }
    }

    /// The next events of all topics.
    pub(crate) fn since(&self, after: u64, limit: usize, now: u64) -> Selection {
        let now = self.time(now);
        let entries: Vec<(u64, &IndexEntry)> = self.entries.after(after).take(limit).collect();
        let through =
            if entries.len() < limit { self.head } else { entries.last().map_or(after, |(offset, _)| *offset) };
        let alive = entries.into_iter().filter(|(_, entry)| !entry.expired(now));
        let selected = alive.map(|(offset, entry)| event_ref(offset, entry)).collect();
        Selection {
            selected,
            through: through.max(after),
            trimmed: Vec::new(),
            missed: self.last_deleted.through > after,
        }
    }

    /// Where the payload of an event is stored; `None` if no topic keeps the event.
    pub(crate) fn stored(&self, offset: u64) -> Option<Stored> {
        self.entries.get(offset).map(|entry| entry.stored)
    }

    pub(crate) fn before_time(&self, timestamp: u64) -> u64 {
        let timestamp = self.to_steady(timestamp);
        // Timestamps grow with offsets, so a binary search finds the boundary. Older deleted events are skipped.
        let (mut low, mut high) =
            (if self.last_deleted.timestamp < timestamp { self.last_deleted.through } else { 0 }, self.head);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entries.after(middle).next() {
                Some((offset, entry)) if entry.timestamp < timestamp => low = offset,
                _ => high = middle,
            }
        }
        low
    }

    pub(crate) fn topic_infos(&self, pattern: &Pattern, after: Option<&Topic>, limit: usize) -> Vec<TopicInfo> {
        let alive = |offset: u64| self.entries.contains(offset).then(|| self.position(offset));
        let info = |log: &TopicLog| TopicInfo {
            topic: log.name.clone(),
            events: log.live,
            bytes: log.bytes,
            first: log.after(0).find_map(alive),
            last: log.after(0).rev().find_map(alive),
        };
        self.topics.matching(pattern, after).filter(|log| log.live > 0).take(limit).map(info).collect()
    }

    pub(super) fn alive(&self, offset: u64, now: u64) -> Option<&IndexEntry> {
        self.entries.get(offset).filter(|entry| !entry.expired(now))
    }

    /// The indexes of the topics that match; `None` if they are too many to merge.
    pub(super) fn few_topics<'a>(&'a self, patterns: &'a [Pattern]) -> Option<Vec<&'a TopicLog>> {
        let mut found: Vec<&TopicLog> = Vec::new();
        for pattern in patterns {
            match pattern {
                Pattern::Exact(topic) => found.extend(self.topics.named(topic)),
                Pattern::Prefix(_) => found.extend(self.topics.matching(pattern, None).take(MERGE_TOPICS + 1)),
            }
            if found.len() > MERGE_TOPICS {
                return None;
            }
        }
        Some(found)
    }

    fn merge(&self, logs: &[&TopicLog], query: &Query) -> (Vec<u64>, u64) {
        let most = query.limit.saturating_add(1);
        let mut offsets: Vec<u64> = logs.iter().flat_map(|log| log.after(query.after).take(most)).collect();
        offsets.sort_unstable();
        offsets.dedup();
        if offsets.len() <= query.limit {
            return (offsets, self.head.max(query.after));
        }
        offsets.truncate(query.limit);
        let through = offsets.last().copied().unwrap_or(query.after);
        (offsets, through)
    }

    fn scan(&self, query: &Query) -> (Vec<u64>, u64) {
        let mut offsets = Vec::new();
        let mut scanned = query.after;
        for (index, (offset, entry)) in self.entries.after(query.after).enumerate() {
            if offsets.len() == query.limit || index == SCAN_LIMIT {
                return (offsets, scanned);
            }
            scanned = offset;
            if self.concerns(&query.patterns, offset, entry) {
                offsets.push(offset);
            }
        }
        (offsets, self.head.max(query.after))
    }

    /// The topics of these patterns that lost events after the offset `known`.
    fn trimmed(&self, patterns: &[Pattern], known: u64, now: u64) -> Vec<Trimmed> {
        let mut list: Vec<Trimmed> = Vec::new();
        if self.trimmed_through <= known {
            return list;
        }
        for pattern in patterns {
            let forgotten = (self.topics.forgotten_through(pattern) > known)
                .then(|| Trimmed { topic: pattern.to_string(), earliest: None });
            let lost = self.topics.matching(pattern, None).filter(|log| log.trimmed_through > known);
            let lost = lost.map(|log| Trimmed {
                topic: log.name.to_string(),
                earliest: log.after(0).find(|o| self.alive(*o, now).is_some()).map(|offset| self.position(offset)),
            });
            for trimmed in forgotten.into_iter().chain(lost) {
                if list.iter().all(|listed| listed.topic != trimmed.topic) {
                    list.push(trimmed);
                }
                if list.len() == Page::MAX_TRIMMED {
                    return list;
                }
            }
        }
        list
    }

    /// True if a topic that still keeps the event matches. Its other topics may have deleted it.
    pub(super) fn concerns(&self, patterns: &[Pattern], offset: u64, entry: &IndexEntry) -> bool {
        let logs = entry.topics.ids().iter().filter_map(|id| self.topics.get(*id));
        logs.filter(|log| log.keeps(offset)).any(|log| patterns.iter().any(|pattern| pattern.matches(&log.name)))
    }
}

fn event_ref(offset: u64, entry: &IndexEntry) -> EventRef {
    EventRef { offset, stored: entry.stored }
}
