//! Frames that wait for the socket of one emitter: bounded in number and bytes, and honest about what was dropped.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use super::frames;
use crate::sse::Encoded;

/// Frames that wait for the socket. Only events are subject to the bounds and to dropping: control frames are few and
/// small, and a stream without its `connection` or its `disconnect` would be wrong.
pub(super) struct Outbox {
    queue: VecDeque<Waiting>,
    events: usize,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    shared: Option<Shared>,
    /// Since when the frame at the front has been waiting.
    front_since: Option<Instant>,
}

/// A bound over several outboxes, such as those of one user.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The bytes that wait in all of them.
    pub bytes: Arc<AtomicUsize>,
    /// Above so many an outbox that is not empty is full.
    pub max_bytes: usize,
}

/// One thing that waits.
#[derive(Debug)]
pub(super) enum Waiting {
    Event(Encoded),
    Control(Encoded),
    /// So many events were dropped at this place of the stream.
    Dropped(u64),
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn into_frame(self) -> Encoded {
        match self {
            Self::Event(frame) | Self::Control(frame) => frame,
            Self::Dropped(count) => frames::dropped(count),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Event(frame) | Self::Control(frame) => frame.len(),
            Self::Dropped(_) => 0,
        }
    }

    const fn is_event(&self) -> bool {
        matches!(self, Self::Event(_))
    }
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn new(max_events: usize, max_bytes: usize, shared: Option<Shared>) -> Self {
        Self { queue: VecDeque::new(), events: 0, bytes: 0, max_events, max_bytes, shared, front_since: None }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long the socket has not asked for the frame at the front.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        self.front_since
    }

    /// The socket has taken some of what left before the frame at the front.
    pub(super) fn touch(&mut self, now: Instant) {
        if let Some(since) = &mut self.front_since {
            *since = now;
        }
    }

    /// An event larger than the whole bound still passes where no other waits.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.events == 0
            || (self.events < self.max_events && self.bytes + bytes <= self.max_bytes && !self.crowded(bytes))
    }

    /// Whether so many bytes more are too many for those that share a bound.
    pub(super) fn crowded(&self, bytes: usize) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.bytes.load(Relaxed).saturating_add(bytes) > shared.max_bytes)
    }

    /// The bound for control frames that others cause.
    pub(super) fn has_room_for_control(&self, bytes: usize) -> bool {
        self.queue.is_empty() || (self.queue.len() <= self.max_events && self.bytes + bytes <= self.max_bytes)
    }

    /// Puts an event at the end, whether or not there is room.
    pub(super) fn push(&mut self, frame: Encoded, now: Instant) {
        self.events += 1;
        self.put(Waiting::Event(frame), now);
    }

    /// Puts a control frame at the end.
    pub(super) fn push_control(&mut self, frame: Encoded, now: Instant) {
        self.put(Waiting::Control(frame), now);
    }

    /// Remembers that an event was dropped here.
    pub(super) fn drop_new(&mut self, now: Instant) {
        match self.queue.back_mut() {
            Some(Waiting::Dropped(count)) => *count += 1,
            _ => self.put(Waiting::Dropped(1), now),
        }
    }

    /// Drops the oldest events until one of this size fits; answers how many went.
    pub(super) fn make_room(&mut self, bytes: usize) -> u64 {
        let mut lost = 0;
        while !self.has_room(bytes) {
            let Some(at) = self.queue.iter().position(Waiting::is_event) else { break };
            let before = at.checked_sub(1).and_then(|before| self.queue.get_mut(before));
            let gone = if let Some(Waiting::Dropped(count)) = before {
                *count += 1;
                self.queue.remove(at)
            } else {
                Some(std::mem::replace(&mut self.queue[at], Waiting::Dropped(1)))
            };
            self.events -= 1;
            self.less(gone.as_ref().map_or(0, Waiting::bytes));
            lost += 1;
        }
        lost
    }

    /// Drops all events, untold; answers how many went.
    pub(super) fn clear_events(&mut self) -> u64 {
        let lost = self.events as u64;
        self.queue.retain(|waiting| !waiting.is_event());
        self.events = 0;
        self.less(self.bytes - self.queue.iter().map(Waiting::bytes).sum::<usize>());
        if self.queue.is_empty() {
            self.front_since = None;
        }
        lost
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Waiting> {
        let waiting = self.queue.pop_front()?;
        self.events -= usize::from(waiting.is_event());
        self.less(waiting.bytes());
        self.front_since = (!self.queue.is_empty()).then_some(now);
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            // An idle connection does not keep the memory of its worst moment.
            self.queue = VecDeque::new();
        }
        Some(waiting)
    }

    fn put(&mut self, waiting: Waiting, now: Instant) {
        let bytes = waiting.bytes();
        self.bytes += bytes;
        if let Some(shared) = &self.shared {
            shared.bytes.fetch_add(bytes, Relaxed);
        }
        self.queue.push_back(waiting);
        self.front_since.get_or_insert(now);
    }

    fn less(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(shared) = &self.shared {
            shared.bytes.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.less(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox) -> Vec<String> {
        let short = |waiting| match waiting {
            Waiting::Event(frame) | Waiting::Control(frame) => String::from_utf8(frame.frame().to_vec()).unwrap(),
            Waiting::Dropped(count) => format!("-{count}"),
        };
        let drained = std::iter::from_fn(|| outbox.pop(Instant::now())).map(short).collect();
        assert_eq!((outbox.events, outbox.bytes, outbox.stuck_since()), (0, 0, None));
        drained
    }

    fn frame(text: &str) -> Encoded {
        Encoded::of(text)
    }

    /// The first frame of a stream is `connection`, also where the policy drops what is oldest.
    #[test]
    fn dropping_the_oldest_leaves_control_frames_and_tells_the_place() {
        let now = Instant::now();
        let mut outbox = Outbox::new(2, 100, None);
        outbox.push_control(frame("connection"), now);
        outbox.push(frame("a"), now);
        outbox.push_control(frame("told"), now);
        outbox.push(frame("b"), now);
        for text in ["c", "d"] {
            assert_eq!(outbox.make_room(1), 1);
            outbox.push(frame(text), now);
        }
        assert_eq!(drain(&mut outbox), ["connection", "-1", "told", "-1", "c", "d"]);
    }

    #[test]
    fn a_large_event_takes_the_room_of_many_small_ones() {
        let now = Instant::now();
        let mut outbox = Outbox::new(10, 4, None);
        for text in ["a", "b", "c"] {
            outbox.push(frame(text), now);
        }
        assert_eq!(outbox.make_room(3), 2);
        outbox.push(frame("ddd"), now);
        assert_eq!(outbox.make_room(9), 2);
        outbox.push(frame("beyond all"), now);
        assert_eq!(drain(&mut outbox), ["-4", "beyond all"]);
    }

    #[test]
    fn dropped_new_events_are_counted_where_they_would_have_come() {
        let now = Instant::now();
        let mut outbox = Outbox::new(1, 100, None);
        outbox.push(frame("a"), now);
        outbox.drop_new(now);
        outbox.drop_new(now);
        assert!(!outbox.has_room(1));
        outbox.pop(now);
        assert!(outbox.has_room(1));
        outbox.push(frame("b"), now);
        outbox.drop_new(now);
        assert_eq!(drain(&mut outbox), ["-2", "b", "-1"]);
    }

    /// However they end, what they held is given back to those that share the bound.
    #[test]
    fn outboxes_that_share_a_bound_are_full_together() {
        let now = Instant::now();
        let shared = Shared { bytes: Arc::default(), max_bytes: 10 };
        let mut one = Outbox::new(10, 100, Some(shared.clone()));
        let mut other = Outbox::new(10, 100, Some(shared.clone()));
        one.push(frame("12345678"), now);
        assert!(other.has_room(8), "an empty one takes an event all the same");
        other.push(frame("1"), now);
        assert!(other.has_room(1) && !other.has_room(2) && !one.has_room(2));
        assert_eq!(one.pop(now).map(|waiting| waiting.bytes()), Some(8));
        assert!(other.has_room(9));
        other.push(frame("22"), now);
        assert_eq!(other.make_room(50), 2);
        other.push(frame("333"), now);
        one.push_control(frame("4444"), now);
        assert_eq!(shared.bytes.load(Relaxed), 7);
        other.clear_events();
        drop(one);
        assert_eq!(shared.bytes.load(Relaxed), 0);
    }
}
