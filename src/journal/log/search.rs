//! Finds the position before the last N events of some topics, searching backwards in small steps.
//!
//! A client may request any number of events. One step checks a limited number of entries, so that the lock is never
//! held for long: appends, reads and deliveries run between two steps.

use std::sync::Arc;

use super::{Log, entries::IndexEntry, read::MERGE_TOPICS, topics::TopicLog};
use crate::topic::Pattern;

/// Entries per step, which take some tens of microseconds.
const STEP: usize = 1024;

/// The state of a backward search from the head.
pub(crate) struct BackwardSearch {
    patterns: Arc<[Pattern]>,
    /// Number of events that are not found yet.
    missing: usize,
    /// All offsets from here on were searched; `None` before the first step.
    below: Option<u64>,
    /// The result so far: the head, then the position before the earliest event found.
    answer: u64,
}

// === impl BackwardSearch ===

impl BackwardSearch {
    /// A search for the position before the last `count` events.
    pub(crate) fn new(patterns: Arc<[Pattern]>, count: usize) -> Self {
        Self { patterns, missing: count, below: None, answer: 0 }
    }

    /// Counts a found event; true if it was the last missing one.
    fn take(&mut self, offset: u64) -> bool {
        self.answer = offset - 1;
        self.missing -= 1;
        self.missing == 0
    }
}

// === impl Log ===

impl Log {
    /// Runs one step; returns the position if the search has finished.
    pub(crate) fn search_step(&self, search: &mut BackwardSearch, now: u64) -> Option<u64> {
        if search.below.is_none() {
            search.answer = self.head;
        }
        let below = search.below.unwrap_or(u64::MAX);
        if search.missing == 0 {
            return Some(search.answer);
        }
        let now = self.time(now);
        let patterns = search.patterns.clone();
        match self.few_topics(&patterns) {
            Some(logs) => self.search_step_by_topics(search, &logs, below, now),
            None => self.search_step_by_entries(search, &patterns, below, now),
        }
    }

    /// Searches the last entries of each topic, back to the offset that all topics have reached.
    fn search_step_by_topics(
        &self,
        search: &mut BackwardSearch,
        logs: &[&TopicLog],
        below: u64,
        now: u64,
    ) -> Option<u64> {
        let each = STEP / logs.len().max(1) + 1;
        let (mut offsets, mut reached) = (Vec::with_capacity(STEP + MERGE_TOPICS), 0);
        for log in logs {
            let before = offsets.len();
            offsets.extend(log.before(below).rev().take(each));
            if offsets.len() - before == each {
                reached = reached.max(offsets.last().copied().unwrap_or(0));
            }
        }
        offsets.retain(|offset| *offset >= reached);
        // Latest first.
        offsets.sort_unstable_by(|a, b| b.cmp(a));
        offsets.dedup();
        for offset in offsets {
            if self.alive(offset, now).is_some() && search.take(offset) {
                return Some(search.answer);
            }
        }
        search.below = Some(reached);
        // All topics were searched to their beginning.
        (reached == 0).then_some(search.answer)
    }

    /// Searches the last entries of the whole log.
    fn search_step_by_entries(
        &self,
        search: &mut BackwardSearch,
        patterns: &[Pattern],
        below: u64,
        now: u64,
    ) -> Option<u64> {
        let concerned = |offset, entry: &IndexEntry| !entry.expired(now) && self.concerns(patterns, offset, entry);
        let mut searched = 0;
        for (offset, entry) in self.entries.before(below).take(STEP) {
            searched += 1;
            search.below = Some(offset);
            if concerned(offset, entry) && search.take(offset) {
                return Some(search.answer);
            }
        }
        (searched < STEP).then_some(search.answer)
    }
}
