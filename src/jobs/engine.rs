//! Makes all decisions about jobs and does no I/O: messages come in, and each turn returns the work for the actor.
//!
//! ```text
//!  admit, accept, cancel, report, restore, stop ──> Engine { Registry, Effects } ──turn──> Turn: attempts, batch, …
//!                       answered <── journal <──────────────────────────────────────────── one append at a time
//! ```
//!
//! The engine finds the job of a message in the [`Registry`] and passes it on together with the [`Effects`], which all
//! jobs share; the decisions about one job are methods of [`LiveJob`](live::LiveJob). A job's state is folded from its
//! events when they are in the journal: the API shows the state that a reader of the topic gets.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    attempt::Attempt,
    config::{Config, Deps},
    error::{Error, SubmitError},
    event::JobEvent,
    record::Deletion,
    spec::Plan,
    state::{JobState, Origin},
    stats::Stats,
    status::Status,
    work::{JobId, RemoteTasks, ReportBody, TaskReport},
};
use crate::{
    durable,
    event::Position,
    journal::{AppendError, Batch, Receipt, Unavailable},
    shares::{Denied, Held, Owner, Pool, Share},
    spans,
    topic::Topic,
};

mod aggregate;
mod effects;
mod live;
mod outbox;
mod registry;
mod room;
mod stored;
mod timers;

pub use self::registry::{Filter, Listing, Unreadable};
pub(crate) use self::{
    effects::ResultBounds,
    registry::{Registry, ResultLocation, failed_tasks},
    stored::StoredJob,
};
use self::{
    effects::{Effects, Timer},
    live::{Ending, LiveJob},
    stored::ago,
};

/// A guard that exists as long as an unfinished job, such as the submitter's part of a limit on jobs; dropped when the
/// job has ended.
pub type QuotaGuard = Arc<dyn std::any::Any + Send + Sync>;

/// The jobs of a node.
pub(crate) struct Engine {
    registry: Registry,
    effects: Effects,
    /// Number of jobs that are admitted and not yet in the journal.
    admitted: usize,
    max_running: usize,
    share: Share,
    /// Tasks of unfinished jobs, by owner.
    tasks: Pool,
    ids: ulid::Generator,
    stopping: bool,
    /// True if the journal outlives the process, and so do unfinished jobs.
    durable: bool,
    /// Number of consecutive appends that the journal rejected.
    failures: u32,
}

/// A job whose record is in the journal.
pub(crate) struct Accepted {
    pub origin: Origin,
    pub plan: Plan,
    /// The record of its idempotency key.
    pub key_record: Option<String>,
    pub quota_guard: Option<QuotaGuard>,
    /// Its encoded record.
    pub record: Bytes,
    /// Its part of `jobs.max_running_tasks`.
    pub task_quota: Held,
}

/// The work for the actor after a turn.
pub(crate) struct Turn {
    /// Attempts to start.
    pub attempts: Vec<Attempt>,
    /// Tasks on remotes, each group to be followed by a session.
    pub remote_tasks: Vec<RemoteTasks>,
    /// The batch to append; `None` while an append is in flight.
    pub batch: Option<Batch>,
    /// True while the engine takes more reports.
    pub has_room: bool,
    /// Time of the next turn if nothing happens before.
    pub wake_at: Option<Instant>,
    /// True after a stop, when everything is done and written.
    pub stopped: bool,
}

/// The next step after the journal's answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterAppend {
    /// The batch is done.
    Continue,
    /// Append [`Engine::batch_again`] at once.
    RetryNow,
    /// Append [`Engine::batch_again`] after a pause.
    RetryLater,
}

/// After this number of failures, about a minute, events are given up. A journal that is full of unfinished jobs would
/// never take their end, and without an end they would never be deleted.
const MAX_FAILURES: u32 = 240;

// === impl Engine ===

impl Engine {
    pub(crate) fn new(config: Config, deps: &Deps) -> Self {
        Self {
            registry: Registry::new(&config),
            admitted: 0,
            max_running: config.max_running,
            share: deps.share,
            tasks: Pool::new(config.max_running_tasks as u64),
            effects: Effects::new(config, deps),
            ids: ulid::Generator::new(),
            stopping: false,
            durable: deps.journal.durable(),
            failures: 0,
        }
    }

    /// The jobs, for queries.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The time of day by the node's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.effects.clock.now_ms()
    }

    /// True after [`stop`](Self::stop).
    pub(crate) fn stopping(&self) -> bool {
        self.stopping
    }

    /// Figures for metrics and status.
    pub(crate) fn stats(&self) -> Stats {
        let fx = &self.effects;
        Stats {
            jobs_running: self.unfinished() as u64,
            jobs_kept: self.registry.ended() as u64,
            tasks_running: fx.queue.running() as u64,
            tasks_queued: fx.queue.waiting() as u64,
            events_pending: fx.outbox.len() as u64,
            remote_jobs: fx.sessions as u64,
            shares_refused: fx.stats.shares_refused + fx.queue.skipped() + self.tasks.figures().refused,
            unfinished_tasks: self.tasks.figures().held,
            ..fx.stats
        }
    }

    // --- messages ---

    /// Admits a job: assigns its id, and counts it as unfinished until `accept` or `cancel_admission`.
    pub(crate) fn admit(&mut self, user: Option<&str>, tasks: usize) -> Result<(JobId, Held), SubmitError> {
        let owner: Owner = user.map(Into::into);
        if self.stopping {
            return Err(SubmitError::Stopping);
        }
        if self.unfinished() >= self.max_running || self.effects.room.tight() {
            return Err(SubmitError::Full);
        }
        if self.effects.room.tight_for(&owner) {
            self.effects.stats.shares_refused += 1;
            return Err(SubmitError::Share);
        }
        let task_quota = self.tasks.take(self.share, &owner, tasks as u64).map_err(|denied| match denied {
            Denied::Pool => SubmitError::Full,
            Denied::Share => SubmitError::Share,
        })?;
        self.admitted += 1;
        Ok((durable::new_id(&mut self.ids).to_string().into(), task_quota))
    }

    /// Undoes `admit` for a job that was not written.
    pub(crate) fn cancel_admission(&mut self) {
        self.admitted -= 1;
    }

    /// Starts a job whose record is in the journal.
    pub(crate) fn accept(&mut self, accepted: Accepted, now: Instant) {
        self.admitted -= 1;
        let fx = &mut self.effects;
        fx.stats.jobs_accepted += 1;
        let Accepted { origin, plan, key_record, quota_guard, record, task_quota } = accepted;
        let id = origin.job_id.clone();
        let topic = Topic::job(&id).expect("a ULID is a topic name");
        let mut live = Box::new(LiveJob::new(id.clone(), plan, topic, now));
        live.quota_guard = quota_guard;
        live.owner = origin.user.as_deref().map(Into::into);
        live.task_quota = Some(task_quota);
        live.record_bytes = record.len();
        live.journal_bytes = fx.room.charge(&live.owner, record.len() as u64);
        fx.inputs.keep(&id, record);
        live.enter_queue(fx);
        if let Some(timeout) = live.plan.timeout {
            live.set_deadline(now + timeout, fx);
        }
        live.span.in_scope(|| {
            tracing::info!(job_id = %id, user = origin.user.as_deref(), tasks = live.runs.len(), "job accepted");
        });
        if fx.suspended {
            // The engine was suspended while the record was written.
            fx.queue.clear(&id);
        } else {
            live.hand_over(fx);
            if self.stopping && !self.durable {
                // Its watchers must receive an end event.
                live.end(Ending::Shutdown, fx);
            }
        }
        self.registry.insert(JobState::new(origin), key_record, live);
    }

    /// Ends a job before its tasks have ended. A second cancel of the same job succeeds too.
    pub(crate) fn cancel(&mut self, id: &str) -> Result<(), Error> {
        let Some(job) = self.registry.get_mut(id) else { return Err(Error::UnknownJob(id.to_owned())) };
        match &mut job.live {
            Some(live) if live.all_finished() => Err(Error::Ended(live.final_status())),
            Some(live) => {
                live.end(Ending::Cancelled, &mut self.effects);
                Ok(())
            }
            None if job.state.status() == Status::Cancelled => Ok(()),
            None => Err(Error::Ended(job.state.status())),
        }
    }

    /// True if a cancel of this job must be written before it is acknowledged.
    pub(crate) fn records_cancel(&self, id: &str) -> bool {
        let live = self.registry.job(id).ok().and_then(|job| job.live.as_deref());
        self.durable && live.is_some_and(|live| !live.all_finished())
    }

    /// Takes a report of a worker.
    pub(crate) fn report(&mut self, report: TaskReport, now: Instant) {
        let TaskReport { job, task, attempt, body } = report;
        if matches!(body, ReportBody::SessionEnded) {
            self.effects.sessions -= 1;
        } else if let Some(live) = self.registry.live(&job) {
            live.report(task, attempt, body, &mut self.effects, now);
        }
    }

    /// Accepts no more jobs. If jobs outlive the process, those that have not ended after `grace` stay unfinished;
    /// otherwise they are ended.
    pub(crate) fn stop(&mut self, grace: Duration, now: Instant) {
        self.stopping = true;
        self.effects.timers.set(now + grace, Timer::StopGrace);
    }

    // --- recovery ---

    /// Takes a job of an earlier process; an unfinished job continues.
    pub(crate) fn restore(&mut self, stored: StoredJob, now: Instant) {
        if stored.ended() {
            let wall = self.effects.clock.now_ms();
            let at = ago(now, wall, stored.state.ended_at.unwrap_or(wall));
            return self.registry.insert_ended(stored.state, stored.key_record, at);
        }
        let (state, key_record, mut live) = stored.into_live(&mut self.effects, now);
        // Accepted jobs continue even if the limit was lowered.
        live.task_quota = self.tasks.take(Share::WHOLE, &live.owner, live.runs.len() as u64).ok();
        live.span.in_scope(|| {
            tracing::info!(job_id = %live.id, tasks = live.runs.len(), finished = live.finished(), "job restored");
        });
        self.effects.stats.jobs_taken_up += 1;
        self.registry.insert(state, key_record, live);
    }

    /// All jobs of an earlier process are restored.
    pub(crate) fn restored(&mut self) {
        self.registry.sort_ended();
    }

    /// Records a job whose record or history cannot be read.
    pub(crate) fn unreadable(&mut self, id: String, reason: String) {
        self.effects.stats.records_unreadable += 1;
        self.registry.unreadable(id, reason);
    }

    // --- turns ---

    /// One turn: handles all due work, and begins as many tasks as there is room for.
    pub(crate) fn turn(&mut self, now: Instant) -> Turn {
        while let Some(timer) = self.effects.timers.due(now) {
            self.timer(timer);
        }
        // One by one, since there may be thousands.
        while self.effects.outbox.has_room() && (self.fail_next(now) || self.resume_next(now)) {}
        while self.effects.outbox.has_room() {
            let Some((id, task)) = self.effects.queue.next() else { break };
            let live = self.registry.live(&id).expect("the queue holds live jobs only");
            live.begin(task, &mut self.effects, now);
        }
        let fx = &mut self.effects;
        Turn {
            attempts: fx.outbox.attempts(),
            remote_tasks: std::mem::take(&mut fx.remote_tasks),
            batch: fx.outbox.take(),
            has_room: fx.outbox.has_room(),
            wake_at: fx.timers.next(),
            stopped: self.stopped(),
        }
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Retry(id, task) => {
                if let Some(live) = self.registry.live(&id) {
                    live.retry_now(task, &mut self.effects);
                }
            }
            Timer::Deadline(id) => {
                if let Some(live) = self.registry.live(&id) {
                    live.end(Ending::TimedOut, &mut self.effects);
                }
            }
            Timer::StopGrace if self.durable => self.suspend(),
            Timer::StopGrace => self.registry.all_live().for_each(|live| live.end(Ending::Shutdown, &mut self.effects)),
        }
    }

    /// Leaves unfinished jobs as they are. Jobs whose ending has begun come to their end, and a result counts if an
    /// attempt returns it within the last two seconds.
    fn suspend(&mut self) {
        self.effects.suspended = true;
        // Remotes continue their tasks, and no event is made.
        self.effects.leave.cancel();
        let suspend = |live: &mut LiveJob| usize::from(live.suspend(&mut self.effects));
        let suspended: usize = self.registry.all_live().map(suspend).sum();
        tracing::info!(jobs = suspended, "unfinished jobs continue when the node starts again");
    }

    /// Gives one task of an ending job its `error`; false if no such task is left.
    fn fail_next(&mut self, now: Instant) -> bool {
        let Some(id) = self.effects.failing.front().cloned() else { return false };
        if !self.registry.live(&id).is_some_and(|live| live.fail_next(&mut self.effects, now)) {
            self.effects.failing.pop_front();
        }
        true
    }

    /// Reports one task that an end of the node has interrupted; false if no such task is left.
    fn resume_next(&mut self, now: Instant) -> bool {
        let Some(id) = self.effects.interrupted.front().cloned() else { return false };
        if !self.registry.live(&id).is_some_and(|live| live.resume_next(&mut self.effects, now)) {
            self.effects.interrupted.pop_front();
        }
        true
    }

    /// Number of jobs that have not ended, including admitted ones.
    fn unfinished(&self) -> usize {
        self.registry.unfinished() + self.admitted
    }

    fn stopped(&self) -> bool {
        let fx = &self.effects;
        let idle = match fx.suspended {
            true => self.admitted == 0 && fx.queue.running() == 0 && fx.failing.is_empty() && fx.interrupted.is_empty(),
            false => self.unfinished() == 0,
        };
        self.stopping && idle && fx.sessions == 0 && fx.outbox.len() == 0
    }

    // --- the journal ---

    /// The batch in flight, for another try.
    pub(crate) fn batch_again(&self) -> Batch {
        self.effects.outbox.again()
    }

    /// Takes the journal's answer for the batch in flight.
    pub(crate) fn answered(&mut self, answer: Result<Vec<Receipt>, AppendError>, now: Instant) -> AfterAppend {
        match answer {
            Ok(receipts) => {
                self.failures = 0;
                self.arrived(&receipts, now)
            }
            Err(AppendError::Unavailable(Unavailable::Closed)) => {
                tracing::error!("the journal is closed: events of jobs are lost");
                self.arrived(&[], now)
            }
            Err(AppendError::Invalid { index, reason }) => self.refused(index, &reason.to_string(), now),
            Err(AppendError::KeyReused { index, key }) => self.refused(index, &key, now),
            Err(error @ (AppendError::Unavailable(_) | AppendError::Conflict(_))) => {
                self.failures += 1;
                if self.failures > MAX_FAILURES {
                    tracing::error!(%error, "events of jobs are lost, so that jobs can end and be deleted");
                    return self.arrived(&[], now);
                }
                tracing::warn!(%error, failures = self.failures, "the journal rejects the events of jobs; trying again");
                AfterAppend::RetryLater
            }
        }
    }

    /// Folds the batch in flight. Without receipts it is lost, and the jobs continue without that part of their history.
    fn arrived(&mut self, receipts: &[Receipt], now: Instant) -> AfterAppend {
        for (index, entry) in self.effects.outbox.arrived().into_iter().enumerate() {
            self.fold(&entry.event, receipts.get(index).map(|receipt| receipt.position), now);
        }
        AfterAppend::Continue
    }

    /// The journal rejects one event permanently, which is a fault of this program. The other events must not wait for
    /// it.
    fn refused(&mut self, index: usize, reason: &str, now: Instant) -> AfterAppend {
        if let Some(entry) = self.effects.outbox.give_up(index) {
            let event = entry.event.fact.name();
            spans::job(&entry.event.job_id).in_scope(|| {
                tracing::error!(job_id = %entry.event.job_id, event, reason, "the journal rejects an event of a job");
            });
            self.fold(&entry.event, None, now);
        }
        AfterAppend::RetryNow
    }

    /// An event that is in the journal becomes part of the state that the API shows.
    fn fold(&mut self, event: &JobEvent, position: Option<Position>, now: Instant) {
        let Some(job) = self.registry.get_mut(&event.job_id) else { return };
        job.state.apply(event, position);
        let status = job.state.status();
        if status.ended()
            && let Some(live) = job.live.take()
        {
            live.release(&mut self.effects);
            self.effects.stats.jobs_ended.count(status);
            self.registry.end(event.job_id.clone(), now);
        }
    }

    // --- retention ---

    /// Removes jobs whose retention is over from the registry, at most `limit`.
    pub(crate) fn expired(&mut self, now: Instant, limit: usize) -> Vec<Deletion> {
        self.registry.expired(now, limit)
    }

    /// Removes the job that ended first, if jobs hold more of the journal than they may.
    pub(crate) fn evict(&mut self) -> Option<Deletion> {
        if self.effects.room.above_half() { self.registry.oldest() } else { None }
    }

    /// Sets the number of bytes that jobs hold in the journal, events and records.
    pub(crate) fn set_usage(&mut self, bytes: u64) {
        self.effects.room.set_used(bytes, self.effects.outbox.bytes());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Attempts run on tasks of their own, which must not outlive the engine.
        self.registry.all_live().for_each(|live| live.cancel.cancel());
        if self.durable {
            self.effects.leave.cancel();
        } else {
            self.registry.all_live().for_each(|live| live.cancel_remote.cancel());
        }
    }
}
