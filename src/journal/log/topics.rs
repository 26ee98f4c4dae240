//! The index by topic: which offsets a topic has, and up to where it was trimmed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque, binary_heap::PeekMut, btree_map},
    ops::Bound,
};

use crate::topic::{Pattern, Topic};

/// Names a topic for as long as the journal lives; never used again for another, nor for the same when it comes back.
pub(crate) type TopicId = u64;

/// One topic of the index.
pub(super) struct TopicLog {
    pub name: Topic,
    /// Offsets in order. Between the first and the last it may name events that have expired meanwhile: husks.
    pub offsets: VecDeque<u64>,
    /// The last event that it ever got.
    pub last: u64,
    /// Events that are still there.
    pub live: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Everything up to here was let go (or never was); 0 while the topic is whole.
    pub trimmed_through: u64,
    pub limits: TopicLimits,
}

/// Retention of one topic; `u64::MAX` is no bound.
#[derive(Clone, Copy)]
pub(super) struct TopicLimits {
    pub age_ms: u64,
    pub events: u64,
    pub bytes: u64,
    /// Leaves only as a whole, when its owner purges it: the history of a job.
    pub pinned: bool,
}

/// All topics.
#[derive(Default)]
pub(super) struct Topics {
    /// In name order, so that a prefix is a range.
    ids: BTreeMap<Topic, TopicId>,
    logs: HashMap<TopicId, TopicLog>,
    /// Each topic that is not pinned, once, with an offset that its last event is not before.
    silence: BinaryHeap<Reverse<(u64, TopicId)>>,
    last_id: TopicId,
    /// Stands for every topic that is not in the index: history up to here may have existed and is gone.
    pub forgotten_through: u64,
    /// The same for pinned topics. They come and go all the time, which must not look like a gap to all others.
    pub pinned_forgotten_through: u64,
}

/// Names that begin so are pinned.
const PINNED: &str = "job:";

/// True for topics that leave only as a whole.
pub(super) fn pinned(topic: &Topic) -> bool {
    topic.as_str().starts_with(PINNED)
}

// === impl TopicLimits ===

impl TopicLimits {
    /// No bound but its owner; `None` for topics that are not pinned.
    pub(super) fn pinned(topic: &Topic) -> Option<Self> {
        pinned(topic).then(|| Self { pinned: true, ..Self::default() })
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

    /// Offsets smaller than `below`.
    pub(super) fn before(&self, below: u64) -> impl DoubleEndedIterator<Item = u64> + '_ {
        let end = self.offsets.partition_point(|offset| *offset < below);
        self.offsets.range(..end).copied()
    }
}

// === impl Topics ===

impl Topics {
    pub(super) fn len(&self) -> usize {
        self.logs.len()
    }

    /// The id that the next new topic gets.
    pub(super) fn next_id(&self) -> TopicId {
        self.last_id + 1
    }

    /// Ids up to this one were used.
    pub(super) fn used(&mut self, id: TopicId) {
        self.last_id = self.last_id.max(id);
    }

    pub(super) fn id(&self, topic: &Topic) -> Option<TopicId> {
        self.ids.get(topic).copied()
    }

    pub(super) fn get(&self, id: TopicId) -> Option<&TopicLog> {
        self.logs.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: TopicId) -> Option<&mut TopicLog> {
        self.logs.get_mut(&id)
    }

    pub(super) fn named(&self, topic: &Topic) -> Option<&TopicLog> {
        self.logs.get(self.ids.get(topic)?)
    }

    /// Makes sure that a topic is in the index.
    pub(super) fn enter(&mut self, topic: &Topic, id: TopicId, limits: impl FnOnce() -> TopicLimits) {
        if !self.logs.contains_key(&id) {
            let limits = limits();
            // Names of pinned topics are never used again: a new one has no past.
            let trimmed_through = if limits.pinned { 0 } else { self.forgotten_through };
            let _ = self.restore(topic, id, trimmed_through, limits);
        }
    }

    /// Puts a topic into the index as it was. Answers the id which it had before it was forgotten, if the node died before
    /// that was noted: two ids of one name would each hide the events of the other.
    pub(super) fn restore(
        &mut self,
        topic: &Topic,
        id: TopicId,
        trimmed_through: u64,
        limits: TopicLimits,
    ) -> Option<TopicId> {
        self.used(id);
        if !limits.pinned {
            self.silence.push(Reverse((0, id)));
        }
        let name = topic.clone();
        let log = TopicLog {
            name,
            offsets: VecDeque::new(),
            last: trimmed_through,
            live: 0,
            bytes: 0,
            trimmed_through,
            limits,
        };
        self.logs.insert(id, log);
        let earlier = self.ids.insert(topic.clone(), id).filter(|earlier| *earlier != id);
        earlier.filter(|earlier| self.logs.remove(earlier).is_some())
    }

    /// Topics that count against the node's bound: pinned ones do not.
    pub(super) fn bounded(&self) -> usize {
        self.silence.len()
    }

    /// The topic whose last event is the oldest, to be forgotten now; never a pinned one.
    pub(super) fn take_most_silent(&mut self) -> Option<TopicId> {
        loop {
            // What is known of a topic's silence is renewed only when it is asked for: appending stays cheap.
            let mut least = self.silence.peek_mut()?;
            let Reverse((known, id)) = &mut *least;
            match self.logs.get(id) {
                Some(log) if log.last > *known => *known = log.last,
                _ => return Some(PeekMut::pop(least).0.1),
            }
        }
    }

    /// Takes a topic out of the index; from now on a node-wide mark stands for it.
    pub(super) fn forget(&mut self, id: TopicId) {
        if let Some(log) = self.logs.remove(&id) {
            self.ids.remove(&log.name);
            let mark = if log.limits.pinned { &mut self.pinned_forgotten_through } else { &mut self.forgotten_through };
            *mark = log.trimmed_through.max(*mark);
        }
    }

    /// Up to where history may be gone of topics of this pattern that are not in the index.
    pub(super) fn forgotten_through(&self, pattern: &Pattern) -> u64 {
        let (of_pinned, of_others) = match pattern {
            Pattern::Exact(topic) if self.ids.contains_key(topic) => (false, false),
            Pattern::Exact(topic) => (pinned(topic), !pinned(topic)),
            Pattern::Prefix(prefix) => {
                (prefix.starts_with(PINNED) || PINNED.starts_with(&**prefix), !prefix.starts_with(PINNED))
            }
        };
        let mark = |applies: bool, mark: u64| if applies { mark } else { 0 };
        mark(of_pinned, self.pinned_forgotten_through).max(mark(of_others, self.forgotten_through))
    }

    /// Topics of a pattern, in name order, after a name.
    pub(super) fn matching<'a>(
        &'a self,
        pattern: &'a Pattern,
        after: Option<&'a Topic>,
    ) -> impl Iterator<Item = &'a TopicLog> {
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
        let range: btree_map::Range<'a, Topic, TopicId> = self.ids.range::<str, _>((from, end));
        range.take_while(move |(topic, _)| pattern.matches(topic)).filter_map(|(_, id)| self.logs.get(id))
    }

    /// Ids in the order of names, after a name.
    pub(super) fn after(&self, after: Option<&Topic>) -> impl Iterator<Item = (&Topic, TopicId)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.ids.range::<Topic, _>((from, Bound::Unbounded)).map(|(topic, id)| (topic, *id))
    }
}
