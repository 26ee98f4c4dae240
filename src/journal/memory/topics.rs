//! The index by topic: which offsets a topic has, and up to where it was trimmed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque, binary_heap::PeekMut, btree_map},
    ops::Bound,
};

use crate::topic::{Pattern, Topic};

/// One topic of the index.
#[derive(Default)]
pub(super) struct TopicLog {
    /// Offsets in order. Between the first and the last it may name events that have expired meanwhile: husks.
    pub(super) offsets: VecDeque<u64>,
    /// The last event that it ever got.
    pub(super) last: u64,
    /// Events that are still there.
    pub(super) live: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Everything up to here was let go (or never was); 0 while the topic is whole.
    pub(super) trimmed_through: u64,
    pub(super) limits: TopicLimits,
}

/// Retention of one topic; `u64::MAX` is no bound.
#[derive(Clone, Copy)]
pub(super) struct TopicLimits {
    pub(super) age_ms: u64,
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// Leaves only as a whole, when its owner purges it: the history of a job.
    pub(super) pinned: bool,
}

/// All topics, in name order, so that a prefix is a range.
#[derive(Default)]
pub(super) struct Topics {
    map: BTreeMap<Topic, TopicLog>,
    /// Each topic of the map that is not pinned, once, with an offset that its last event is not before.
    silence: BinaryHeap<Reverse<(u64, Topic)>>,
    /// Stands for every topic that is not in the map: history up to here may have existed and is gone.
    forgotten_through: u64,
    /// The same for pinned topics. They come and go all the time, which must not look like a gap to all others.
    pinned_forgotten_through: u64,
}

/// Names that begin so are pinned.
const PINNED: &str = "job:";

// === impl TopicLimits ===

impl TopicLimits {
    /// No bound but its owner; `None` for topics that are not pinned.
    pub(super) fn pinned(topic: &Topic) -> Option<Self> {
        topic.as_str().starts_with(PINNED).then(|| Self { pinned: true, ..Self::default() })
    }
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self { age_ms: u64::MAX, events: u64::MAX, bytes: u64::MAX, pinned: false }
    }
}

// === impl TopicLog ===

impl TopicLog {
    /// True while the topic keeps this event, of which it is known that it exists and was published into the topic.
    pub(super) fn keeps(&self, offset: u64) -> bool {
        self.offsets.front().is_some_and(|front| *front <= offset)
    }

    /// Offsets greater than `after`.
    pub(super) fn after(&self, after: u64) -> impl DoubleEndedIterator<Item = u64> + '_ {
        let start = self.offsets.partition_point(|offset| *offset <= after);
        self.offsets.range(start..).copied()
    }
}

// === impl Topics ===

impl Topics {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, topic: &Topic) -> Option<&TopicLog> {
        self.map.get(topic)
    }

    pub(super) fn get_mut(&mut self, topic: &Topic) -> Option<&mut TopicLog> {
        self.map.get_mut(topic)
    }

    pub(super) fn entry(&mut self, topic: &Topic, limits: impl FnOnce() -> TopicLimits) -> &mut TopicLog {
        // A lookup before the insertion saves a clone of the name on the common path.
        if !self.map.contains_key(topic) {
            let limits = limits();
            // Names of pinned topics are never used again: a new one has no past.
            let trimmed_through = if limits.pinned { 0 } else { self.forgotten_through };
            if !limits.pinned {
                self.silence.push(Reverse((0, topic.clone())));
            }
            self.map.insert(topic.clone(), TopicLog { trimmed_through, limits, ..TopicLog::default() });
        }
        self.map.get_mut(topic).expect("it was there or has just been inserted")
    }

    /// Topics that count against the node's bound: pinned ones do not.
    pub(super) fn bounded(&self) -> usize {
        self.silence.len()
    }

    /// The topic whose last event is the oldest, to be forgotten now; never a pinned one.
    pub(super) fn take_most_silent(&mut self) -> Option<Topic> {
        loop {
            // What is known of a topic's silence is renewed only when it is asked for: appending stays cheap.
            let mut least = self.silence.peek_mut()?;
            let Reverse((known, topic)) = &mut *least;
            match self.map.get(topic) {
                Some(log) if log.last > *known => *known = log.last,
                _ => return Some(PeekMut::pop(least).0.1),
            }
        }
    }

    /// Takes a topic out of the index; from now on a node-wide mark stands for it.
    pub(super) fn forget(&mut self, topic: &Topic) {
        if let Some(log) = self.map.remove(topic) {
            let mark = if log.limits.pinned { &mut self.pinned_forgotten_through } else { &mut self.forgotten_through };
            *mark = log.trimmed_through.max(*mark);
        }
    }

    /// Up to where history may be gone of topics of this pattern that are not in the index.
    pub(super) fn forgotten_through(&self, pattern: &Pattern) -> u64 {
        let (pinned, others) = match pattern {
            Pattern::Exact(topic) if self.map.contains_key(topic) => (false, false),
            Pattern::Exact(topic) => (topic.as_str().starts_with(PINNED), !topic.as_str().starts_with(PINNED)),
            Pattern::Prefix(prefix) => {
                (prefix.starts_with(PINNED) || PINNED.starts_with(&**prefix), !prefix.starts_with(PINNED))
            }
        };
        let mark = |applies: bool, mark: u64| if applies { mark } else { 0 };
        mark(pinned, self.pinned_forgotten_through).max(mark(others, self.forgotten_through))
    }

    /// Topics of a pattern, in name order, after a name.
    pub(super) fn matching<'a>(
        &'a self,
        pattern: &'a Pattern,
        after: Option<&'a Topic>,
    ) -> impl Iterator<Item = (&'a Topic, &'a TopicLog)> {
        let (start, end): (&str, _) = match pattern {
            Pattern::Exact(topic) => (topic.as_str(), Bound::Included(topic.as_str())),
            Pattern::Prefix(prefix) => (prefix, Bound::Unbounded),
        };
        let from = match (after.map(Topic::as_str), end) {
            // From there to the end is nothing, which a range must not be told the other way round.
            (Some(after), Bound::Included(end)) if after >= end => Bound::Excluded(end),
            (Some(after), _) if after >= start => Bound::Excluded(after),
            _ => Bound::Included(start),
        };
        let range: btree_map::Range<'a, Topic, TopicLog> = self.map.range::<str, _>((from, end));
        range.take_while(move |(topic, _)| pattern.matches(topic))
    }

    /// Names in order, after one.
    pub(super) fn names_after(&self, after: Option<&Topic>) -> impl Iterator<Item = &Topic> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.map.range::<Topic, _>((from, Bound::Unbounded)).map(|(topic, _)| topic)
    }
}
