//! Admission and start of jobs.

use bytes::Bytes;
use tokio::time::Instant;

use super::{Ending, Engine, Id, Job, Live, Timer, lane};
use crate::{
    jobs::{
        Hold, SubmitError,
        spec::Plan,
        state::{JobState, Origin},
    },
    shares::{Denied, Held, Owner},
    topic::Topic,
};

/// A job whose record is in the journal.
pub struct Accepted {
    pub origin: Origin,
    pub plan: Plan,
    /// The record of its idempotency key.
    pub key_record: Option<String>,
    pub hold: Option<Hold>,
    /// Its encoded record.
    pub record: Bytes,
    /// Its quota of `jobs.max_running_tasks`.
    pub tasks: Held,
}

// === impl Engine ===

impl Engine {
    /// Admits a job: assigns its id, and counts it as unfinished until `accept` or `turn_away`.
    pub fn admit(&mut self, user: Option<&str>, tasks: usize) -> Result<(Id, Held), SubmitError> {
        let owner: Owner = user.map(Into::into);
        if self.stopping {
            return Err(SubmitError::Stopping);
        }
        if self.unfinished() >= self.config.max_running || self.room.tight() {
            return Err(SubmitError::Full);
        }
        if self.room.tight_for(&owner) {
            self.stats.shares_refused += 1;
            return Err(SubmitError::Share);
        }
        let held = self.tasks.take(self.share, &owner, tasks as u64).map_err(|denied| match denied {
            Denied::Pool => SubmitError::Full,
            Denied::Share => SubmitError::Share,
        })?;
        self.admitted += 1;
        // The generator fails after 2^80 ids in one millisecond.
        let id = self.ids.generate().unwrap_or_else(|_| ulid::Ulid::new());
        Ok((id.to_string().into(), held))
    }

    /// Undoes `admit` for a job that was not written.
    pub fn turn_away(&mut self) {
        self.admitted -= 1;
    }

    /// Starts a job whose record is in the journal.
    pub fn accept(&mut self, accepted: Accepted, now: Instant) {
        self.admitted -= 1;
        self.stats.jobs_accepted += 1;
        let Accepted { origin, plan, key_record, hold, record, tasks } = accepted;
        let id = origin.job_id.clone();
        let mut live = Live::new(plan, Topic::job(&id).expect("a ULID is a topic name"), now);
        live.hold = hold;
        live.owner = origin.user.as_deref().map(Into::into);
        live.tasks = Some(tasks);
        live.record_bytes = record.len();
        live.held = self.room.charge(&live.owner, record.len() as u64);
        self.inputs.keep(&id, record);
        self.queue.add(id.clone(), live.owner.clone(), live.plan.concurrency);
        let local = (0..).zip(live.runs.iter_mut().zip(&live.plan.tasks)).filter(|(_, (run, _))| run.away.is_none());
        for (index, (run, task)) in local {
            run.lane = lane(&self.lanes, &task.kind);
            self.queue.push(&id, index, run.lane);
        }
        live.deadline = live.plan.timeout.map(|timeout| self.timers.set(now + timeout, Timer::Deadline(id.clone())));
        let state = JobState::new(origin);
        tracing::info!(job_id = %id, user = state.user.as_deref(), tasks = live.runs.len(), "job accepted");
        self.book.insert(id.clone(), Job { state, key_record, live: Some(Box::new(live)) });
        // The engine may have been suspended while the record was written.
        if self.suspended {
            self.queue.clear(&id);
            return;
        }
        self.begin_away(&id);
        if self.stopping && !self.durable {
            // Its watchers must receive an end event.
            self.end(&id, Ending::Shutdown);
        }
    }
}
