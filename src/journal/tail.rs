//! The tail: a lossless pull of what is appended.
//!
//! It holds no queue: the puller's own offset is all its state, so a slow puller costs nothing and one that is gone
//! leaves nothing behind. Should the journal have let events go before they were pulled, it says so.

use std::sync::Arc;

use super::{Bell, Interest, Shared, Since, Unavailable};
use crate::event::SharedEvent;

/// Follows the journal from an offset on.
pub struct Tail {
    journal: Shared,
    bell: Arc<Bell>,
    after: u64,
}

/// Wakes a tail without an event; can be kept apart from it.
#[derive(Clone)]
pub struct Waker {
    journal: Shared,
    bell: Arc<Bell>,
}

/// One pull.
#[derive(Debug)]
pub struct Pulled {
    /// What stands behind this was pulled; all that was wanted before it had come.
    pub after: u64,
    /// New events in journal order; at most [`Tail::BATCH`].
    pub events: Vec<SharedEvent>,
    /// The tail stands here now.
    pub through: u64,
    /// True when some events were gone before they could be pulled.
    pub missed: bool,
}

// === impl Tail ===

impl Tail {
    /// Most events in one pull: what a shard delivers in one turn before other work of its thread gets one.
    pub const BATCH: usize = 256;

    /// Begins after the offset `after`.
    pub fn new(journal: Shared, after: u64) -> Self {
        Self::begin(journal, after, None)
    }

    /// The same, but sleeps while nobody wants what is appended, and passes over it.
    pub fn of(journal: Shared, after: u64, interest: Arc<dyn Interest>) -> Self {
        Self::begin(journal, after, Some(interest))
    }

    fn begin(journal: Shared, after: u64, interest: Option<Arc<dyn Interest>>) -> Self {
        let bell = Bell::new(after, interest);
        journal.listen(&bell);
        // What was appended between the caller's look at the head and now.
        bell.ring(*journal.watch_head().borrow());
        Self { journal, bell, after }
    }

    /// Where the tail stands.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// True when there is more to pull already.
    pub fn is_behind(&self) -> bool {
        self.bell.is_rung(self.after)
    }

    /// What wakes it when somebody has begun to want events.
    pub fn waker(&self) -> Waker {
        Waker { journal: self.journal.clone(), bell: self.bell.clone() }
    }

    /// Waits for the next events. Cancelling loses nothing.
    ///
    /// # Errors
    /// When the journal is closed or fails; the tail may be asked again after a failure.
    pub async fn next(&mut self) -> Result<Pulled, Unavailable> {
        loop {
            let after = self.bell.after(self.after).await;
            let Since { events, through, missed } = match self.journal.since(after, Self::BATCH).await {
                // Skip the damage: each reader detects and reports it when it reads the journal.
                Err(Unavailable::Unreadable { through, .. }) => Since { events: Vec::new(), through, missed: true },
                since => since?,
            };
            self.after = through;
            self.bell.stands(through);
            if missed || !events.is_empty() {
                return Ok(Pulled { after, events, through, missed });
            }
        }
    }
}

// === impl Waker ===

impl Waker {
    /// Lets the tail come up to the head, which is answered. To be called when an [`Interest`] has begun to want more: what
    /// is appended behind that head comes as it wants it. What nobody wanted until now is passed over up to
    /// [`position`](Self::position), which who begins to listen has to look at after this call.
    pub fn wake(&self) -> u64 {
        let head = *self.journal.watch_head().borrow();
        self.bell.wake(head);
        head
    }

    /// Up to here the tail has pulled, or is about to pass over what nobody wanted.
    pub fn position(&self) -> u64 {
        self.bell.pulled()
    }
}
