//! Reading: pages of some topics, the tail of all, and where to begin.

use super::{
    Log,
    entries::Entry,
    topics::{TopicId, TopicLog},
};
use crate::{
    journal::{Page, Query, TopicInfo, Trimmed},
    topic::{Pattern, Topic},
};

/// An event to be fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    pub offset: u64,
    pub home: TopicId,
}

/// What a reader gets, as far as the index knows.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In journal order.
    pub chosen: Vec<Chosen>,
    /// Complete up to here.
    pub through: u64,
    /// As in [`Page::trimmed`].
    pub trimmed: Vec<Trimmed>,
    /// As in [`crate::journal::Since::missed`].
    pub missed: bool,
}

/// Up to so many topics a page is merged from their indexes; above, the log itself is scanned.
pub(super) const MERGE_TOPICS: usize = 64;
/// Entries that one scan may look at, so that a page never holds the lock for long.
const SCAN_BUDGET: usize = 8192;

// === impl Log ===

impl Log {
    /// The next events of a query; how many of them a page takes, their payloads tell.
    pub(crate) fn read(&self, query: &Query, now: u64) -> Found {
        let now = self.time(now);
        let trimmed = self.trimmed(&query.patterns, query.after.max(query.floor), now);
        let (offsets, through) = match self.few_topics(&query.patterns) {
            Some(logs) => self.merge(&logs, query),
            None => self.scan(query),
        };
        let chosen = offsets.into_iter().filter_map(|offset| Some(choose(offset, self.alive(offset, now)?))).collect();
        Found { chosen, through, trimmed, missed: false }
    }

    /// The next events of all topics.
    pub(crate) fn since(&self, after: u64, limit: usize, now: u64) -> Found {
        let now = self.time(now);
        let entries: Vec<(u64, &Entry)> = self.entries.after(after).take(limit).collect();
        let through =
            if entries.len() < limit { self.head } else { entries.last().map_or(after, |(offset, _)| *offset) };
        let alive = entries.into_iter().filter(|(_, entry)| !entry.expired(now));
        let chosen = alive.map(|(offset, entry)| choose(offset, entry)).collect();
        Found { chosen, through: through.max(after), trimmed: Vec::new(), missed: self.gone.through > after }
    }

    /// True while some topic keeps this event.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.entries.contains(offset)
    }

    pub(crate) fn before_time(&self, timestamp: u64) -> u64 {
        let timestamp = self.steady(timestamp);
        // Timestamps grow with offsets, so the boundary is found by halving. What is gone and was older does not count.
        let (mut low, mut high) = (if self.gone.timestamp < timestamp { self.gone.through } else { 0 }, self.head);
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

    pub(super) fn alive(&self, offset: u64, now: u64) -> Option<&Entry> {
        self.entries.get(offset).filter(|entry| !entry.expired(now))
    }

    /// The indexes of the topics that match, unless they are too many to merge.
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
        let mut looked_at = query.after;
        for (index, (offset, entry)) in self.entries.after(query.after).enumerate() {
            if offsets.len() == query.limit || index == SCAN_BUDGET {
                return (offsets, looked_at);
            }
            looked_at = offset;
            if self.concerns(&query.patterns, offset, entry) {
                offsets.push(offset);
            }
        }
        (offsets, self.head.max(query.after))
    }

    /// Which topics of these lost events that a reader after `known` has not seen.
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

    /// True when one of the topics that still keep the event is asked for; its other topics may have been trimmed.
    pub(super) fn concerns(&self, patterns: &[Pattern], offset: u64, entry: &Entry) -> bool {
        let logs = entry.topics.ids().iter().filter_map(|id| self.topics.get(*id));
        logs.filter(|log| log.keeps(offset)).any(|log| patterns.iter().any(|pattern| pattern.matches(&log.name)))
    }
}

fn choose(offset: u64, entry: &Entry) -> Chosen {
    Chosen { offset, home: entry.topics.home() }
}
