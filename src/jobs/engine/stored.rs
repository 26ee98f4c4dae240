//! Jobs of an earlier process: the record and the history of a job become a job of the registry again; pure.
//!
//! The fold ([`JobState`]) is the only source: the phase of each task is read from it. For an unfinished job it lacks
//! the results and errors for the last two events, which are gathered from the same events.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    effects::{Effects, ResultBounds},
    live::{Ending, LiveJob, Phase},
    room::FOOTPRINT,
};
use crate::{
    event::Position,
    jobs::{
        code,
        event::{Fact, JobEvent, TaskProgress, TaskRetry},
        handler::Handlers,
        record::SpecRecord,
        spec::Plan,
        state::JobState,
        status::TaskStatus,
        work::JobId,
    },
    topic::{Invalid, Topic},
};

/// A job that is being read back: its record first, then its events one by one.
#[derive(Debug)]
pub(crate) struct StoredJob {
    pub state: JobState,
    /// The record of its idempotency key.
    pub key_record: Option<String>,
    /// True if a client has cancelled it.
    pub cancelled: bool,
    live: Box<LiveJob>,
    bounds: ResultBounds,
    /// Size of its record and its events in bytes.
    bytes: u64,
}

// === impl StoredJob ===

impl StoredJob {
    /// A job without events.
    pub(crate) fn new(
        record: SpecRecord,
        bytes: usize,
        handlers: &Handlers,
        bounds: ResultBounds,
    ) -> Result<Self, Invalid> {
        let topic = Topic::job(&record.job_id)?;
        let (via, groups) = (record.via.clone(), record.groups.clone());
        let plan = Plan { via, groups, ..Plan::restore(&record.spec, handlers) };
        let state = JobState::new(record.origin(&plan));
        let mut live = Box::new(LiveJob::new(record.job_id.clone(), plan, topic, Instant::now()));
        live.record_bytes = bytes;
        Ok(Self { state, key_record: record.key_record, cancelled: false, live, bounds, bytes: bytes as u64 })
    }

    pub(crate) fn id(&self) -> &JobId {
        &self.state.job_id
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.live.topic
    }

    pub(crate) fn ended(&self) -> bool {
        self.state.status().ended()
    }

    /// Takes the next event of the topic.
    pub(crate) fn take(&mut self, event: &JobEvent, bytes: usize, position: Position) {
        self.bytes += FOOTPRINT * bytes as u64;
        let finished = (self.state.success_count, self.state.error_count);
        self.state.apply(event, Some(position));
        self.live.aggregated_made |= matches!(event.fact, Fact::AggregatedResult(_));
        self.recall(&event.fact);
        if finished == (self.state.success_count, self.state.error_count) {
            return;
        }
        match &event.fact {
            Fact::TaskComplete(done) => {
                let Some(index) = self.state.index(&done.task_id) else { return };
                match done.result_bytes {
                    Some(bytes) => {
                        self.bytes += bytes;
                        self.live.count_result(index, usize::try_from(bytes).unwrap_or(usize::MAX));
                    }
                    None => self.live.keep_result(index, &done.result, self.bounds),
                }
            }
            Fact::TaskError(failed) => {
                let Some(index) = self.state.index(&failed.task_id) else { return };
                self.live.keep_error(index, &failed.error);
            }
            _ => {}
        }
    }

    fn recall(&mut self, fact: &Fact) {
        let (Fact::TaskProgress(TaskProgress { task_id, .. }) | Fact::TaskRetry(TaskRetry { task_id, .. })) = fact
        else {
            return;
        };
        let index = self.state.index(task_id);
        if let Some(remote) = index.and_then(|index| self.live.runs[index].remote.as_deref_mut()) {
            remote.recall(fact);
        }
    }

    /// The reason that had begun to end the job when the node ended, as far as its events show.
    fn ending(&self) -> Option<Ending> {
        let failed =
            || {
                self.state.tasks.iter().zip(&self.live.plan.tasks).filter_map(|(task, planned)| {
                    Some((planned.remote.is_none(), task.failure.as_deref()?.code.as_str()))
                })
            };
        // A remote may end tasks for its own reasons.
        let codes = || failed().filter_map(|(local, code)| local.then_some(code));
        let of_task = |code: &str| ![code::CANCELLED, code::SHUTDOWN].contains(&code);
        if codes().any(|code| code == code::JOB_TIMEOUT) {
            Some(Ending::TimedOut)
        } else if self.cancelled {
            Some(Ending::Cancelled)
        } else if self.live.plan.fail_fast && failed().any(|(local, code)| !local || of_task(code)) {
            Some(Ending::FailedFast)
        } else if codes().any(|code| code == code::SHUTDOWN) {
            Some(Ending::Shutdown)
        } else if codes().any(|code| code == code::CANCELLED) {
            Some(Ending::Cancelled)
        } else {
            None
        }
    }

    /// The time until the deadline by the wall clock. It is never more than the timeout, even if the clock was set
    /// back.
    fn left(&self, wall: u64) -> Option<Duration> {
        let timeout = self.live.plan.timeout?;
        let gone = Duration::from_millis(wall.saturating_sub(self.state.created_at));
        Some(timeout.saturating_sub(gone))
    }

    /// Turns it into a live job: its tasks are queued or handed over, and its ending or its deadline is set.
    pub(crate) fn into_live(self, fx: &mut Effects, now: Instant) -> (JobState, Option<String>, Box<LiveJob>) {
        let wall = fx.clock.now_ms();
        let (ending, left) = (self.ending(), self.left(wall));
        let Self { state, key_record, mut live, bytes, .. } = self;
        live.accepted = ago(now, wall, state.created_at);
        live.owner = state.user.as_deref().map(Into::into);
        live.journal_bytes = fx.room.charge(&live.owner, bytes);
        for ((run, known), task) in live.runs.iter_mut().zip(&state.tasks).zip(&live.plan.tasks) {
            run.attempts = known.attempts;
            run.restarts = known.restarts;
            run.uncounted = known.restarts + known.stops;
            run.began = known.began_at.map(|at| ago(now, wall, at));
            run.phase = match known.status {
                _ if known.status.finished() => Phase::Finished,
                _ if task.remote.is_some() => Phase::Remote,
                // It fails when its interruption is reported.
                _ if fx.missing(&task.kind).is_some() => Phase::Interrupted,
                TaskStatus::Queued => Phase::Waiting,
                // Its next attempt was announced, and has not begun.
                _ if known.interrupted => {
                    run.attempts = run.attempts.saturating_sub(1);
                    run.announce_resume = true;
                    Phase::Waiting
                }
                _ => Phase::Interrupted,
            };
        }
        live.enter_queue(fx);
        if fx.held_bytes + live.held_bytes > fx.max_held_bytes() {
            live.drop_results();
        }
        fx.held_bytes += live.held_bytes;
        fx.interrupted.push_back(live.id.clone());
        match (ending, left) {
            // `end` would change nothing now, but the status of the job depends on its ending.
            (ending, _) if live.all_finished() => live.ending = ending,
            (Some(ending), _) => live.end(ending, fx),
            (None, Some(Duration::ZERO)) => live.end(Ending::TimedOut, fx),
            (None, Some(left)) => live.set_deadline(now + left, fx),
            (None, None) => {}
        }
        live.hand_over(fx);
        (state, key_record, live)
    }
}

/// The moment at which the wall clock showed `at`, if it shows `wall` now.
pub(crate) fn ago(now: Instant, wall: u64, at: u64) -> Instant {
    now.checked_sub(Duration::from_millis(wall.saturating_sub(at))).unwrap_or(now)
}
