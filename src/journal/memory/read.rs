//! Reading: pages of some topics, the tail of all, and where to begin.

use std::{
    collections::{BTreeSet, btree_map},
    ops::Bound,
};

use super::{
    log::{Entry, Log},
    topics::TopicLog,
};
use crate::{
    event::{Event, SharedEvent},
    journal::{Page, Query, Since, TopicInfo, Trimmed},
    topic::{Pattern, Topic},
};

/// Up to so many topics a page is merged from their indexes; above, the log itself is scanned.
const MERGE_TOPICS: usize = 64;
/// Entries that one scan may look at, so that a page never holds the lock for long.
const SCAN_BUDGET: usize = 8192;

// === impl Log ===

impl Log {
    pub(super) fn read(&self, query: &Query, now: u64) -> Page {
        let now = self.time(now);
        let trimmed = self.trimmed(&query.patterns, query.after.max(query.floor), now);
        let (offsets, complete_to) = match self.few_topics(&query.patterns) {
            Some(logs) => self.merge(&logs, query),
            None => self.scan(query),
        };
        let mut page = Page { events: Vec::with_capacity(offsets.len()), through: complete_to, trimmed };
        let mut bytes = 0;
        for event in offsets.iter().filter_map(|offset| self.alive(*offset, now)) {
            bytes += event.data.len();
            page.events.push(event.clone());
            if bytes >= query.max_bytes {
                page.through = event.position.offset;
                break;
            }
        }
        page
    }

    pub(super) fn since(&self, after: u64, limit: usize, now: u64) -> Since {
        let now = self.time(now);
        let mut events: Vec<SharedEvent> =
            self.entries_after(after).take(limit).map(|(_, e)| e.event.clone()).collect();
        let through =
            if events.len() < limit { self.head() } else { events.last().map_or(after, |e| e.position.offset) };
        events.retain(|event| !event.expired(now));
        Since { events, through: through.max(after), missed: self.gone.through > after }
    }

    pub(super) fn before_last(&self, patterns: &[Pattern], count: usize, now: u64) -> u64 {
        let now = self.time(now);
        // The last ones of all topics so far: no more are held than are asked for, and of each topic no more are
        // looked at than belong to them.
        let mut last = BTreeSet::new();
        for (_, log) in patterns.iter().flat_map(|pattern| self.topics.matching(pattern, None)) {
            for offset in log.after(0).rev().filter(|offset| self.alive(*offset, now).is_some()).take(count) {
                if last.len() >= count && last.first().is_some_and(|first| offset <= *first) {
                    break;
                }
                last.insert(offset);
                if last.len() > count {
                    last.pop_first();
                }
            }
        }
        last.first().map_or(self.head(), |offset| offset - 1)
    }

    pub(super) fn before_time(&self, timestamp: u64) -> u64 {
        // Timestamps grow with offsets, so the boundary is found by halving. What is gone and was older does not count.
        let (mut low, mut high) = (if self.gone.timestamp < timestamp { self.gone.through } else { 0 }, self.head());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entries_after(middle).next() {
                Some((_, entry)) if entry.event.timestamp < timestamp => low = entry.event.position.offset,
                _ => high = middle,
            }
        }
        low
    }

    pub(super) fn topic_infos(&self, pattern: &Pattern, after: Option<&Topic>, limit: usize) -> Vec<TopicInfo> {
        let alive = |offset: u64| self.entries.contains_key(&offset).then(|| self.position(offset));
        let info = |(topic, log): (&Topic, &TopicLog)| TopicInfo {
            topic: topic.clone(),
            events: log.live,
            bytes: log.bytes,
            first: log.after(0).find_map(alive),
            last: log.after(0).rev().find_map(alive),
        };
        self.topics.matching(pattern, after).filter(|(_, log)| log.live > 0).take(limit).map(info).collect()
    }

    /// Entries with a greater offset, whatever a client made up for one.
    fn entries_after(&self, after: u64) -> btree_map::Range<'_, u64, Entry> {
        self.entries.range((Bound::Excluded(after), Bound::Unbounded))
    }

    fn alive(&self, offset: u64, now: u64) -> Option<&SharedEvent> {
        self.entries.get(&offset).map(|entry| &entry.event).filter(|event| !event.expired(now))
    }

    /// The indexes of the topics that match, unless they are too many to merge.
    fn few_topics<'a>(&'a self, patterns: &'a [Pattern]) -> Option<Vec<&'a TopicLog>> {
        let mut found: Vec<(&Topic, &TopicLog)> = Vec::new();
        for pattern in patterns {
            match pattern {
                Pattern::Exact(topic) => found.extend(self.topics.get(topic).map(|log| (topic, log))),
                Pattern::Prefix(_) => found.extend(self.topics.matching(pattern, None).take(MERGE_TOPICS + 1)),
            }
            if found.len() > MERGE_TOPICS {
                return None;
            }
        }
        Some(found.into_iter().map(|(_, log)| log).collect())
    }

    fn merge(&self, logs: &[&TopicLog], query: &Query) -> (Vec<u64>, u64) {
        let most = query.limit.saturating_add(1);
        let mut offsets: Vec<u64> = logs.iter().flat_map(|log| log.after(query.after).take(most)).collect();
        offsets.sort_unstable();
        offsets.dedup();
        if offsets.len() <= query.limit {
            return (offsets, self.head().max(query.after));
        }
        offsets.truncate(query.limit);
        let through = offsets.last().copied().unwrap_or(query.after);
        (offsets, through)
    }

    fn scan(&self, query: &Query) -> (Vec<u64>, u64) {
        let mut offsets = Vec::new();
        let mut looked_at = query.after;
        for (index, (offset, entry)) in self.entries_after(query.after).enumerate() {
            if offsets.len() == query.limit || index == SCAN_BUDGET {
                return (offsets, looked_at);
            }
            looked_at = *offset;
            if self.concerns(&query.patterns, &entry.event) {
                offsets.push(*offset);
            }
        }
        (offsets, self.head().max(query.after))
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
            let lost = self.topics.matching(pattern, None).filter(|(_, log)| log.trimmed_through > known);
            let lost = lost.map(|(topic, log)| Trimmed {
                topic: topic.to_string(),
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
    fn concerns(&self, patterns: &[Pattern], event: &Event) -> bool {
        let asked_for = |topic: &&Topic| patterns.iter().any(|pattern| pattern.matches(topic));
        let keeps = |topic: &Topic| self.topics.get(topic).is_some_and(|log| log.keeps(event.position.offset));
        event.topics.iter().filter(asked_for).any(keeps)
    }
}
