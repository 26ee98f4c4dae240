//! The index by topic: the offsets of each topic, and the offset up to which it was trimmed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque, binary_heap::PeekMut, btree_map},
    hash::{BuildHasherDefault, Hasher},
    ops::Bound,
};

use crate::topic::{Pattern, Topic};

/// Id of a topic. An id is never used again, also not if a topic of this name is created again.
pub(crate) type TopicId = u64;

/// The index of one topic.
pub(super) struct TopicLog {
    pub name: Topic,
    /// Offsets in order. Between the first and last one there may be tombstones: offsets of expired events.
    pub offsets: VecDeque<u64>,
    /// The last event that was published into the topic.
    pub last: u64,
    /// Number of stored events.
    pub live: u64,
    /// Bytes of the stored events.
    pub bytes: u64,
    /// All events up to this offset were deleted, or never existed. 0 if nothing was deleted.
    pub trimmed_through: u64,
    pub limits: TopicLimits,
}

/// Retention of one topic; `u64::MAX` means no limit.
#[derive(Clone, Copy)]
pub(super) struct TopicLimits {
    pub age_ms: u64,
    pub events: u64,
    pub bytes: u64,
    /// Retention does not delete events of this topic, only its owner, by a purge: the history of a job.
    pub pinned: bool,
}

/// The index of all topics.
#[derive(Default)]
pub(super) struct TopicIndex {
    /// In name order, so that a prefix is a range.
    ids: BTreeMap<Topic, TopicId>,
    logs: HashMap<TopicId, TopicLog, BuildHasherDefault<IdHasher>>,
    /// All topics that are not pinned. The offset is a lower bound of the last event of the topic.
    by_last_event: BinaryHeap<Reverse<(u64, TopicId)>>,
    last_id: TopicId,
    /// For topics that are not in the index: their events up to this offset may have existed and were deleted.
    pub forgotten_through: u64,
    /// For pinned topics that are not in the index. It is separate because jobs are purged often, and this must not be
    /// a gap for all other topics.
    pub pinned_forgotten_through: u64,
}

/// Spreads ids. They are counted by the journal, so no client can choose ones that collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Prefix of the names of pinned topics.
const PINNED: &str = "job:";

/// True for topics whose events retention does not delete.
pub(super) fn pinned(topic: &Topic) -> bool {
    topic.as_str().starts_with(PINNED)
}

// === impl TopicLimits ===

impl TopicLimits {
    /// The limits of a pinned topic, all unlimited; `None` for other topics.
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
    /// True while the topic keeps this event. The event must exist and must have been published into the topic.
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

// === impl TopicIndex ===

impl TopicIndex {
    pub(super) fn len(&self) -> usize {
        self.logs.len()
    }

    /// The id of the next new topic.
    pub(super) fn next_id(&self) -> TopicId {
        self.last_id + 1
    }

    /// Reserves all ids up to this one.
    pub(super) fn reserve_id(&mut self, id: TopicId) {
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

    /// Adds a topic to the index unless it is there.
    pub(super) fn ensure(&mut self, topic: &Topic, id: TopicId, limits: impl FnOnce() -> TopicLimits) {
        if !self.logs.contains_key(&id) {
            let limits = limits();
            // A name of a pinned topic is never used again, so a new one has no history.
            let trimmed_through = if limits.pinned { 0 } else { self.forgotten_through };
            let _ = self.restore(topic, id, trimmed_through, limits);
        }
    }

    /// Restores a topic. Returns an earlier id of this name, which the caller must delete: it is left when the process
    /// ended before the removal was stored. Two ids of one name would hide events of each other.
    pub(super) fn restore(
        &mut self,
        topic: &Topic,
        id: TopicId,
        trimmed_through: u64,
        limits: TopicLimits,
    ) -> Option<TopicId> {
        self.reserve_id(id);
        if !limits.pinned {
            self.by_last_event.push(Reverse((0, id)));
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

    /// Number of topics that count for `max_topics`: all that are not pinned.
    pub(super) fn unpinned_count(&self) -> usize {
        self.by_last_event.len()
    }

    /// Removes and returns the topic whose last event is oldest; never a pinned one.
    pub(super) fn pop_least_recent(&mut self) -> Option<TopicId> {
        loop {
            // The offsets in the heap are updated only here, so that appends stay cheap.
            let mut least = self.by_last_event.peek_mut()?;
            let Reverse((known, id)) = &mut *least;
            match self.logs.get(id) {
                Some(log) if log.last > *known => *known = log.last,
                _ => return Some(PeekMut::pop(least).0.1),
            }
        }
    }

    /// Removes a topic from the index. From now on `forgotten_through` applies to it.
    pub(super) fn forget(&mut self, id: TopicId) {
        if let Some(log) = self.logs.remove(&id) {
            self.ids.remove(&log.name);
            let through =
                if log.limits.pinned { &mut self.pinned_forgotten_through } else { &mut self.forgotten_through };
            *through = log.trimmed_through.max(*through);
        }
    }

    /// The offset up to which topics of this pattern that are not in the index may have lost events.
    pub(super) fn forgotten_through(&self, pattern: &Pattern) -> u64 {
        let (of_pinned, of_others) = match pattern {
            Pattern::Exact(topic) if self.ids.contains_key(topic) => (false, false),
            Pattern::Exact(topic) => (pinned(topic), !pinned(topic)),
            Pattern::Prefix(prefix) => {
                (prefix.starts_with(PINNED) || PINNED.starts_with(&**prefix), !prefix.starts_with(PINNED))
            }
        };
        let through = |applies: bool, offset: u64| if applies { offset } else { 0 };
        through(of_pinned, self.pinned_forgotten_through).max(through(of_others, self.forgotten_through))
    }

    /// The topics of a pattern, in name order, after a name.
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
            // This range is empty. `BTreeMap::range` panics if a range ends before it begins.
            (Some(after), Bound::Included(end)) if after >= end => Bound::Excluded(end),
            (Some(after), _) if after >= start => Bound::Excluded(after),
            _ => Bound::Included(start),
        };
        let range: btree_map::Range<'a, Topic, TopicId> = self.ids.range::<str, _>((from, end));
        range.take_while(move |(topic, _)| pattern.matches(topic)).filter_map(|(_, id)| self.logs.get(id))
    }

    /// Topics in name order, after a name.
    pub(super) fn after(&self, after: Option<&Topic>) -> impl Iterator<Item = (&Topic, TopicId)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.ids.range::<Topic, _>((from, Bound::Unbounded)).map(|(topic, id)| (topic, *id))
    }
}
