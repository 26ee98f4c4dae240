//! The outbox of one emitter: frames that wait for its client, and the pace at which the client reads them.
//!
//! Owns the queue and its bounds, in number and bytes. Only events are subject to the bounds and to dropping: control frames
//! are few and small, and a stream without its `connection` or its `disconnect` would be wrong. Each dropped event is
//! reported at the place where it would have been.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Config, Counters, frames, pages::PageBytes};
use crate::{
    sse::Encoded,
    unsent::{Pace, least},
};

/// Frames that wait for the client of one emitter.
pub(super) struct Outbox {
    queue: VecDeque<Waiting>,
    events: usize,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    shared: Option<SharedBound>,
    /// Since when the frame at the front has been waiting.
    front_since: Option<Instant>,
    /// Time when the last frame was sent, or the emitter started.
    sent_at: Instant,
    /// The pace at which the socket accepts the bytes that have left.
    pace: Pace,
    /// Minimum number of bytes that the client must read per write deadline.
    least: u64,
    /// Bytes of history that were read from the journal for this emitter.
    page: PageBytes,
}

/// A bound over several outboxes, such as those of one user.
#[derive(Clone, Debug)]
pub struct SharedBound {
    /// Bytes that wait in all of them.
    pub bytes: Arc<AtomicUsize>,
    /// With more bytes than this, each outbox that is not empty is full.
    pub max_bytes: usize,
}

/// An element of the queue.
#[derive(Debug)]
enum Waiting {
    Event(Encoded),
    Control(Encoded),
    /// This number of events was dropped at this place of the stream.
    Dropped(u64),
}

// === impl Waiting ===

impl Waiting {
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
    pub(super) fn new(config: &Config, shared: Option<SharedBound>, page: PageBytes, now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            events: 0,
            bytes: 0,
            max_events: config.outbox_events,
            max_bytes: config.outbox_bytes,
            shared,
            front_since: None,
            sent_at: now,
            pace: Pace::default(),
            least: least(Duration::from_millis(config.write_deadline_ms)),
            page,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of waiting events.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// True if an event of this size fits. An event larger than the whole bound fits if no other event waits.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.events == 0
            || (self.events < self.max_events
                && self.bytes + bytes <= self.max_bytes
                && !self.exceeds_shared_bound(bytes))
    }

    fn exceeds_shared_bound(&self, bytes: usize) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.bytes.load(Relaxed).saturating_add(bytes) > shared.max_bytes)
    }

    /// The bound for control frames that callers of the API cause.
    pub(super) fn has_room_for_control(&self, bytes: usize) -> bool {
        self.queue.is_empty() || (self.queue.len() <= self.max_events && self.bytes + bytes <= self.max_bytes)
    }

    /// Queues an event, even if there is no room.
    pub(super) fn push(&mut self, frame: Encoded, now: Instant) {
        self.events += 1;
        self.put(Waiting::Event(frame), now);
    }

    /// Queues an event of a page that was read from the journal for this emitter.
    pub(super) fn push_from_page(&mut self, frame: Encoded, now: Instant) {
        self.page.add(frame.len());
        self.push(frame, now);
    }

    /// Queues a control frame.
    pub(super) fn push_control(&mut self, frame: Encoded, now: Instant) {
        self.put(Waiting::Control(frame), now);
    }

    /// Queues a heartbeat. It counts as sent: the next one is due after another interval.
    pub(super) fn push_heartbeat(&mut self, frame: Encoded, now: Instant) {
        self.sent_at = now;
        self.push_control(frame, now);
    }

    /// Notes that a new event was dropped.
    pub(super) fn note_dropped(&mut self, now: Instant) {
        match self.queue.back_mut() {
            Some(Waiting::Dropped(count)) => *count += 1,
            _ => self.put(Waiting::Dropped(1), now),
        }
    }

    /// Drops the waiting event with this index among the waiting events, and notes the loss in its place. False if there is
    /// no such event.
    pub(super) fn drop_event(&mut self, index: usize) -> bool {
        let events = self.queue.iter().enumerate().filter(|(_, waiting)| waiting.is_event());
        let Some(at) = events.map(|(at, _)| at).nth(index) else { return false };
        let before = at.checked_sub(1).and_then(|before| self.queue.get_mut(before));
        let gone = if let Some(Waiting::Dropped(count)) = before {
            *count += 1;
            self.queue.remove(at)
        } else {
            Some(std::mem::replace(&mut self.queue[at], Waiting::Dropped(1)))
        };
        self.events -= 1;
        self.release(gone.as_ref().map_or(0, Waiting::bytes));
        true
    }

    /// Drops all events without a report, and returns how many: the client gets them when it resumes.
    pub(super) fn clear_events(&mut self) -> u64 {
        let lost = self.events as u64;
        self.queue.retain(|waiting| !waiting.is_event());
        self.events = 0;
        self.release(self.bytes - self.queue.iter().map(Waiting::bytes).sum::<usize>());
        if self.queue.is_empty() {
            self.front_since = None;
        }
        lost
    }

    /// Takes the frame at the front, which goes to the socket.
    pub(super) fn pop(&mut self, counters: &Counters, now: Instant) -> Option<Encoded> {
        let waiting = self.queue.pop_front()?;
        self.events -= usize::from(waiting.is_event());
        self.release(waiting.bytes());
        self.front_since = (!self.queue.is_empty()).then_some(now);
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            // An idle connection must not keep the memory of its largest burst.
            self.queue = VecDeque::new();
        }
        self.sent_at = now;
        Some(match waiting {
            Waiting::Event(frame) | Waiting::Control(frame) => frame,
            Waiting::Dropped(count) => {
                counters.gaps.fetch_add(1, Relaxed);
                frames::dropped(count)
            }
        })
    }

    /// All bytes that have left the outbox are written.
    pub(super) fn written(&mut self) {
        if self.queue.is_empty() {
            self.page.clear();
        }
    }

    /// The socket accepts no bytes. A client that reads too slowly for too long is disconnected.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.pace.blocked(now);
    }

    /// The socket has accepted this number of bytes.
    pub(super) fn accepted(&mut self, bytes: usize, now: Instant) {
        if self.pace.since().is_some() {
            self.sent_at = now;
        }
        if self.pace.took(bytes, self.least, now) {
            // The client reads fast enough, so the waiting frames are not blocked.
            self.restart_front(now);
        }
    }

    /// The socket has accepted all bytes.
    pub(super) fn flushed(&mut self, now: Instant) {
        if self.pace.clear() {
            self.restart_front(now);
        }
    }

    /// Since when the client has not read the available bytes.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        [self.front_since, self.pace.since()].into_iter().flatten().min()
    }

    /// Time when the last frame was sent, or the emitter started.
    pub(super) fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// Bytes of history that count against the bound of the thread.
    pub(super) fn page_bytes(&self) -> usize {
        self.page.bytes()
    }

    /// Releases the bytes of history before they are written: the emitter is about to end.
    pub(super) fn release_page(&mut self) {
        self.page.clear();
    }

    fn restart_front(&mut self, now: Instant) {
        if let Some(since) = &mut self.front_since {
            *since = now;
        }
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

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(shared) = &self.shared {
            shared.bytes.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

/// Outboxes for tests.
#[cfg(test)]
pub(super) mod testing {
    use std::rc::Rc;

    use super::*;
    use crate::{
        hub::{Bounds, pages::Pages},
        unsent::Unsent,
    };

    pub(in crate::hub) fn outbox(outbox_events: usize, outbox_bytes: usize, shared: Option<SharedBound>) -> Outbox {
        let bounds = Bounds { unsent: Unsent::new(Duration::from_secs(60), usize::MAX), max_page_bytes: 1024 };
        let config = Config { outbox_events, outbox_bytes, ..Config::default() };
        Outbox::new(&config, shared, PageBytes::new(Rc::new(Pages::new(&bounds))), Instant::now())
    }

    pub(in crate::hub) fn frame(text: &str) -> Encoded {
        Encoded::of(text)
    }

    /// The texts of all frames; `-3` for three dropped events.
    pub(in crate::hub) fn drain(outbox: &mut Outbox) -> Vec<String> {
        let short = |frame: Encoded| {
            let text = String::from_utf8(frame.frame().to_vec()).unwrap();
            match text.split_once("\"dropped\":") {
                Some((_, count)) => format!("-{}", count.trim_end().trim_end_matches('}')),
                None => text,
            }
        };
        let counters = Counters::default();
        let drained = std::iter::from_fn(|| outbox.pop(&counters, Instant::now())).map(short).collect();
        assert_eq!((outbox.events, outbox.bytes, outbox.stuck_since()), (0, 0, None));
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{drain, frame, outbox},
        *,
    };

    #[test]
    fn dropped_new_events_are_counted_where_they_would_have_come() {
        let now = Instant::now();
        let mut outbox = outbox(1, 100, None);
        outbox.push(frame("a"), now);
        outbox.note_dropped(now);
        outbox.note_dropped(now);
        assert!(!outbox.has_room(1));
        outbox.pop(&Counters::default(), now);
        assert!(outbox.has_room(1));
        outbox.push(frame("b"), now);
        outbox.note_dropped(now);
        assert_eq!(drain(&mut outbox), ["-2", "b", "-1"]);
    }

    /// Each way in which an outbox loses frames returns their bytes to the shared bound.
    #[test]
    fn outboxes_that_share_a_bound_are_full_together() {
        let now = Instant::now();
        let counters = Counters::default();
        let shared = SharedBound { bytes: Arc::default(), max_bytes: 10 };
        let mut one = outbox(10, 100, Some(shared.clone()));
        let mut other = outbox(10, 100, Some(shared.clone()));
        one.push(frame("12345678"), now);
        assert!(other.has_room(8), "an empty outbox accepts an event even above the bound");
        other.push(frame("1"), now);
        assert!(other.has_room(1) && !other.has_room(2) && !one.has_room(2));
        assert_eq!(one.pop(&counters, now).map(|frame| frame.len()), Some(8));
        assert!(other.has_room(9));
        other.push(frame("22"), now);
        for _ in 0..2 {
            assert!(!other.has_room(50) && other.drop_event(0));
        }
        assert!(other.has_room(50));
        other.push(frame("333"), now);
        one.push_control(frame("4444"), now);
        assert_eq!(shared.bytes.load(Relaxed), 7);
        other.clear_events();
        drop(one);
        assert_eq!(shared.bytes.load(Relaxed), 0);
    }
}
