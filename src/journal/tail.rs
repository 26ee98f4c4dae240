//! The tail: pulls all appended events, without loss.
//!
//! It has no queue: its state is one offset. Therefore a slow tail costs no memory, and a dropped tail leaves nothing
//! behind. If events were deleted before the tail pulled them, it reports that.

use std::sync::Arc;

use super::{Interest, Notifier, Shared, Since, Unavailable};
use crate::event::SharedEvent;

/// Follows the journal from an offset on.
pub struct Tail {
    journal: Shared,
    notifier: Arc<Notifier>,
    after: u64,
}

/// Wakes a tail without an event; can be kept apart from it.
#[derive(Clone)]
pub struct Waker {
    journal: Shared,
    notifier: Arc<Notifier>,
}

/// The result of one pull of a [`Tail`].
#[derive(Debug)]
pub struct Pulled {
    /// The offset after which the events were pulled. All wanted events up to it were in earlier pulls.
    pub after: u64,
    /// New events in journal order; at most [`Tail::BATCH`].
    pub events: Vec<SharedEvent>,
    /// The new position of the tail.
    pub through: u64,
    /// True if events were deleted before they could be pulled.
    pub missed: bool,
}

// === impl Tail ===

impl Tail {
    /// Maximum number of events in one pull. A shard delivers them in one turn, before its thread does other work.
    pub const BATCH: usize = 256;

    /// A tail of all events after the offset `after`.
    pub fn new(journal: Shared, after: u64) -> Self {
        Self::begin(journal, after, None)
    }

    /// A tail of the events after the offset `after` that is woken only for wanted events. It may skip unwanted events.
    pub fn of(journal: Shared, after: u64, interest: Arc<dyn Interest>) -> Self {
        Self::begin(journal, after, Some(interest))
    }

    fn begin(journal: Shared, after: u64, interest: Option<Arc<dyn Interest>>) -> Self {
        let notifier = Notifier::new(after, interest);
        journal.listen(&notifier);
        // For events that were appended after the caller read the head, but before `listen`.
        notifier.notify(*journal.watch_head().borrow());
        Self { journal, notifier, after }
    }

    /// The offset up to which the tail has pulled.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// True if there are events to pull now.
    pub fn is_behind(&self) -> bool {
        self.notifier.has_events_after(self.after)
    }

    /// A handle that wakes the tail after its [`Interest`] was extended.
    pub fn waker(&self) -> Waker {
        Waker { journal: self.journal.clone(), notifier: self.notifier.clone() }
    }

    /// Waits for the next events. Cancelling loses nothing.
    ///
    /// # Errors
    /// When the journal is closed or fails. After a failure the call may be repeated.
    pub async fn next(&mut self) -> Result<Pulled, Unavailable> {
        loop {
            let after = self.notifier.next_start(self.after).await;
            let Since { events, through, missed } = match self.journal.since(after, Self::BATCH).await {
                // Skip the damage: each reader detects and reports it when it reads the journal.
                Err(Unavailable::Unreadable { through, .. }) => Since { events: Vec::new(), through, missed: true },
                since => since?,
            };
            self.after = through;
            self.notifier.advance(through);
            if missed || !events.is_empty() {
                return Ok(Pulled { after, events, through, missed });
            }
        }
    }
}

// === impl Waker ===

impl Waker {
    /// Wakes the tail and returns the head of the journal. Call this after an [`Interest`] was extended.
    ///
    /// From then on the tail delivers newly wanted events that are appended after that head. Events up to
    /// [`position`](Self::position), read after this call, may have been skipped: a new subscriber must read them from the
    /// journal.
    pub fn wake(&self) -> u64 {
        let head = *self.journal.watch_head().borrow();
        self.notifier.wake(head);
        head
    }

    /// The tail will not pull events up to this offset again: it has pulled them, or will skip them as unwanted.
    pub fn position(&self) -> u64 {
        self.notifier.pulled()
    }
}
