//! Events go to the journal, and what the journal has taken becomes what the API shows.

use tokio::time::Instant;

use super::Engine;
use crate::{
    event::Position,
    jobs::event::JobEvent,
    journal::{AppendError, Batch, Receipt, Unavailable},
};

/// What to do after the journal has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The events are through; go on.
    Settle,
    /// Append what is in flight again, at once.
    Again,
    /// Append what is in flight again, after a while.
    Later,
}

/// After so many refusals, about a minute, events are given up: a journal that unfinished jobs have filled to the brim
/// would never take their end, nor let go of them before it.
const MAX_FAILURES: u32 = 240;

// === impl Engine ===

impl Engine {
    /// What to append, unless an append is in flight.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let batch = self.outbox.take()?;
        self.starts.sent();
        Some(batch)
    }

    /// What to append after the journal could not take it.
    pub fn batch_again(&self) -> Batch {
        self.outbox.again()
    }

    /// Takes the journal's answer for what is in flight.
    pub fn answered(&mut self, answer: Result<Vec<Receipt>, AppendError>, now: Instant) -> Next {
        match answer {
            Ok(receipts) => {
                self.failures = 0;
                self.through(&receipts, now)
            }
            Err(AppendError::Unavailable(Unavailable::Closed)) => {
                tracing::error!("the journal is closed: events of jobs are lost");
                self.through(&[], now)
            }
            Err(AppendError::Invalid { index, reason }) => self.refused(index, &reason.to_string(), now),
            Err(AppendError::KeyReused { index, key }) => self.refused(index, &key, now),
            Err(error @ (AppendError::Unavailable(_) | AppendError::Conflict(_))) => {
                self.failures += 1;
                if self.failures > MAX_FAILURES {
                    tracing::error!(%error, "events of jobs are lost, so that jobs can end and leave");
                    return self.through(&[], now);
                }
                tracing::warn!(%error, failures = self.failures, "the journal does not take the events of jobs; trying again");
                Next::Later
            }
        }
    }

    /// What was in flight has arrived; without receipts it is lost, and jobs go on without that part of their history.
    fn through(&mut self, receipts: &[Receipt], now: Instant) -> Next {
        for (index, entry) in self.outbox.arrived().into_iter().enumerate() {
            self.fold(&entry.event, receipts.get(index).map(|receipt| receipt.position), now);
        }
        self.starts.arrived();
        Next::Settle
    }

    /// The journal refuses one event for good. It must not hold up the others; that it exists at all is a fault here.
    fn refused(&mut self, index: usize, reason: &str, now: Instant) -> Next {
        if let Some(entry) = self.outbox.give_up(index) {
            let event = entry.event.fact.name();
            tracing::error!(job_id = %entry.event.job_id, event, reason, "the journal refuses an event of a job");
            self.fold(&entry.event, None, now);
        }
        Next::Again
    }

    /// What is in the journal becomes what the API shows.
    fn fold(&mut self, event: &JobEvent, position: Option<Position>, now: Instant) {
        let Some(job) = self.book.get_mut(&event.job_id) else { return };
        job.state.apply(event, position);
        if job.state.status().ended() {
            let Some(live) = job.live.take() else { return };
            if let Some(deadline) = live.deadline {
                self.timers.unset(deadline);
            }
            self.queue.remove(&event.job_id);
            self.room.discharge(&live.owner, live.held);
            self.kept_bytes -= live.kept_bytes;
            self.ended.push_back((now, event.job_id.clone()));
            self.stats.jobs_ended.count(job.state.status());
            self.remember(event.job_id.clone());
        }
    }
}
