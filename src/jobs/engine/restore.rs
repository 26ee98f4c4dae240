//! Jobs of the time before: what record and history say becomes a job in the book again.
//!
//! The fold ([`JobState`]) is the one truth: where each task stands is read from it, and what it does not hold of an
//! unfinished job (results and errors for the last two events) is gathered from the same facts on the way.

use std::time::Duration;

use tokio::time::Instant;

use super::{Bounds, Ending, Engine, Id, Job, Live, Phase, Timer, lane, room::FOOTPRINT, tasks::KEPT_PART};
use crate::{
    event::Position,
    jobs::{
        code,
        event::{Fact, JobEvent, TaskProgress, TaskRetry},
        handler::{Handlers, TaskError},
        record::SpecRecord,
        spec::{Kind, Plan},
        state::{JobState, TaskStatus},
    },
    shares::Share,
    topic::{Invalid, Topic},
};

/// Maximum number of unreadable jobs that are listed; further jobs are only counted.
const MAX_UNREADABLE: usize = 1000;
/// A task that was interrupted so often is not run again: it may be what ends the node.
const MAX_RESTARTS: u32 = 3;

/// A job as it is read back: its record first, then its events one by one.
#[derive(Debug)]
pub struct StoredJob {
    state: JobState,
    live: Box<Live>,
    key_record: Option<String>,
    bounds: Bounds,
    /// Size of its record and its events in bytes.
    bytes: u64,
    /// A client has cancelled it.
    pub cancelled: bool,
}

// === impl StoredJob ===

impl StoredJob {
    /// Begins with what the record says.
    pub fn new(record: SpecRecord, bytes: usize, handlers: &Handlers, bounds: Bounds) -> Result<Self, Invalid> {
        let topic = Topic::job(&record.job_id)?;
        let (via, groups) = (record.via.clone(), record.groups.clone());
        let plan = Plan { via, groups, ..Plan::restore(&record.spec, handlers) };
        let state = JobState::new(record.origin(&plan));
        let mut live = Box::new(Live::new(plan, topic, Instant::now()));
        live.record_bytes = bytes;
        Ok(Self { state, live, key_record: record.key_record, bounds, bytes: bytes as u64, cancelled: false })
    }

    pub fn id(&self) -> &Id {
        &self.state.job_id
    }

    pub fn topic(&self) -> &Topic {
        &self.live.topic
    }

    /// The state of the job.
    pub fn into_state(self) -> JobState {
        self.state
    }

    pub fn ended(&self) -> bool {
        self.state.status().ended()
    }

    /// Takes the next event of the topic.
    pub fn take(&mut self, event: &JobEvent, bytes: usize, position: Position) {
        self.bytes += FOOTPRINT * bytes as u64;
        let finished = (self.state.success_count, self.state.error_count);
        self.state.apply(event, Some(position));
        self.live.aggregated |= matches!(event.fact, Fact::AggregatedResult(_));
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
        if let Some(away) = index.and_then(|index| self.live.runs[index].away.as_deref_mut()) {
            away.recall(fact);
        }
    }

    /// What had begun to end the job when the node ended, as far as it can be known.
    fn ending(&self) -> Option<Ending> {
        let failed =
            || {
                self.state.tasks.iter().zip(&self.live.plan.tasks).filter_map(|(task, planned)| {
                    Some((planned.remote.is_none(), task.failure.as_deref()?.code.as_str()))
                })
            };
        // A remote ends tasks for reasons of its own.
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

    /// What is left until the deadline, by the wall clock; never more than the whole, should the clock have been set back.
    fn left(&self, wall: u64) -> Option<Duration> {
        let timeout = self.live.plan.timeout?;
        let gone = Duration::from_millis(wall.saturating_sub(self.state.created_at));
        Some(timeout.saturating_sub(gone))
    }
}

// === impl Engine ===

impl Engine {
    /// Puts a job of the time before into the book; an unfinished one goes on.
    pub fn restore(&mut self, past: StoredJob, now: Instant) {
        let wall = self.clock.now_ms();
        let ago = |at: u64| now.checked_sub(Duration::from_millis(wall.saturating_sub(at))).unwrap_or(now);
        let (ending, left, id) = (past.ending(), past.left(wall), past.id().clone());
        let StoredJob { state, mut live, key_record, bytes, .. } = past;
        if state.status().ended() {
            self.ended.push_back((ago(state.ended_at.unwrap_or(wall)), id.clone()));
            self.book.insert(id.clone(), Job { state, key_record, live: None });
            self.remember(id);
            return;
        }
        live.accepted = ago(state.created_at);
        live.owner = state.user.as_deref().map(Into::into);
        live.held = self.room.charge(&live.owner, bytes);
        self.queue.add(id.clone(), live.owner.clone(), live.plan.concurrency);
        for (index, task) in live.plan.tasks.iter().enumerate() {
            let (run, known) = (&mut live.runs[index], &state.tasks[index]);
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            run.lane = lane(&self.lanes, &task.kind);
            (run.attempts, run.restarts, run.spared) = (known.attempts, known.restarts, known.restarts + known.stops);
            run.began = known.began_at.map(ago);
            run.phase = match known.status {
                _ if known.status.finished() => Phase::Finished,
                _ if task.remote.is_some() => Phase::Away,
                // Its end will say so.
                _ if missing(&task.kind, &self.handlers).is_some() => Phase::Interrupted,
                TaskStatus::Queued => Phase::Waiting,
                // Its next attempt was announced, and has not begun.
                _ if known.interrupted => {
                    run.attempts = run.attempts.saturating_sub(1);
                    run.resumes = true;
                    Phase::Waiting
                }
                _ => Phase::Interrupted,
            };
            match run.phase {
                Phase::Waiting => self.queue.push(&id, number, run.lane),
                Phase::Interrupted => live.interrupted.push_back(number),
                _ => {}
            }
        }
        tracing::info!(job_id = %id, tasks = live.runs.len(), finished = live.finished(), "job taken up");
        self.stats.jobs_taken_up += 1;
        // Accepted jobs continue even if the limit was lowered.
        live.tasks = self.tasks.take(Share::WHOLE, &live.owner, live.runs.len() as u64).ok();
        if self.kept_bytes + live.kept_bytes > self.config.max_memory_bytes / KEPT_PART {
            live.drop_results();
        }
        self.kept_bytes += live.kept_bytes;
        if live.closed() {
            live.ending = ending;
        }
        self.book.insert(id.clone(), Job { state, key_record, live: Some(live) });
        self.interrupted.push_back(id.clone());
        match (ending, left) {
            (Some(ending), _) => self.end(&id, ending),
            (None, Some(Duration::ZERO)) => self.end(&id, Ending::TimedOut),
            (None, Some(left)) => {
                let deadline = self.timers.set(now + left, Timer::Deadline(id.clone()));
                if let Some(live) = self.live(&id) {
                    live.deadline = Some(deadline);
                }
            }
            (None, None) => {}
        }
        self.begin_away(&id);
    }

    /// All jobs of the time before are in the book.
    pub fn restored(&mut self) {
        self.ended.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    /// Records a job whose record or history could not be read.
    pub fn unreadable(&mut self, id: String, reason: String) {
        self.stats.records_unreadable += 1;
        if self.unreadable.len() < MAX_UNREADABLE {
            self.unreadable.insert(id, reason);
        }
    }

    /// Tells of one task that it was interrupted, or closes a job that was not; false when there is nothing to tell. One
    /// by one, since there may be thousands.
    pub(super) fn resume_one(&mut self, now: Instant) -> bool {
        let Some(id) = self.interrupted.front().cloned() else { return false };
        let next = self.live(&id).and_then(|live| live.interrupted.pop_front());
        match next {
            Some(task) => self.resume(&id, task, now),
            None => {
                self.interrupted.pop_front();
                if self.live(&id).is_some_and(|live| live.closed() && !live.told) {
                    self.close(&id, now);
                }
            }
        }
        true
    }

    fn resume(&mut self, id: &Id, index: u32, now: Instant) {
        let Some(job) = self.book.get(id).and_then(|job| job.live.as_deref()) else { return };
        let (task, run) = (&job.plan.tasks[index as usize], &job.runs[index as usize]);
        if run.phase != Phase::Interrupted {
            // An ending came first.
            return;
        }
        if self.suspended {
            return self.interrupt(id, index);
        }
        if let Some(name) = missing(&task.kind, &self.handlers) {
            let message = format!("no handler is called `{name}`, though there was one when the job was accepted");
            return self.fail(id, index, TaskError::fatal(code::UNKNOWN_HANDLER, message), now);
        }
        if run.restarts + 1 >= MAX_RESTARTS {
            let message = format!("the node ended {MAX_RESTARTS} times while this task ran; it is not run again");
            return self.fail(id, index, TaskError::fatal(code::CRASHED, message), now);
        }
        let lane = run.lane;
        self.interrupt(id, index);
        self.queue.push(id, index, lane);
    }
}

/// The name of the handler that a task needs and the node does not have.
fn missing<'k>(kind: &'k Kind, handlers: &Handlers) -> Option<&'k str> {
    match kind {
        Kind::Run(name) if handlers.get(name).is_none() => Some(name),
        _ => None,
    }
}
