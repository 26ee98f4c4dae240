//! The tail: a lossless pull of what is appended.
//!
//! It holds no queue: the puller's own offset is all its state, so a slow puller costs nothing and one that is gone
//! leaves nothing behind. Should the journal have let events go before they were pulled, it says so.

use tokio::sync::watch;

use super::{Shared, Since, Unavailable};
use crate::event::SharedEvent;

/// Follows the journal from an offset on.
pub struct Tail {
    journal: Shared,
    head: watch::Receiver<u64>,
    after: u64,
}

/// One pull.
#[derive(Debug)]
pub struct Pulled {
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
        let head = journal.watch_head();
        Self { journal, head, after }
    }

    /// Where the tail stands.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// Waits for the next events. Cancelling loses nothing.
    ///
    /// # Errors
    /// When the journal is closed or fails; the tail may be asked again after a failure.
    pub async fn next(&mut self) -> Result<Pulled, Unavailable> {
        loop {
            let after = self.after;
            self.head.wait_for(|head| *head > after).await.map_err(|_| Unavailable::Closed)?;
            let Since { events, through, missed } = self.journal.since(after, Self::BATCH).await?;
            self.after = through;
            if missed || !events.is_empty() {
                return Ok(Pulled { events, through, missed });
            }
        }
    }
}
