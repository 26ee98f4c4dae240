//! A job that has not ended: its state in the engine beyond its history, and its transitions.
//!
//! `attempts` contains the tasks that run on this node, up to the end of the job; `remote` contains the tasks that
//! remotes run. All methods that make decisions get the shared [`Effects`].

use std::collections::VecDeque;

use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::{
    QuotaGuard,
    aggregate::Outcome,
    effects::{Effects, ResultBounds, Timer},
    outbox::Entry,
    room::FOOTPRINT,
    timers,
};
use crate::{
    jobs::{
        code,
        event::{Complete, ErrorEntry, Fact, JobEvent, LOCAL},
        handler::TaskError,
        spec::{Plan, PlannedTask},
        status::Status,
        work::JobId,
    },
    journal::RecordWrite,
    shares::{Held, Owner},
    spans,
    text::shorten,
    topic::Topic,
};

mod attempts;
mod remote;

use self::remote::RemoteRun;

/// A job that has not ended.
#[derive(Debug)]
pub(crate) struct LiveJob {
    pub id: JobId,
    /// The span of its log lines.
    pub span: Span,
    pub plan: Plan,
    /// The state of each task, in the order of the plan.
    pub runs: Vec<TaskRun>,
    pub topic: Topic,
    pub accepted: Instant,
    pub deadline: Option<timers::Key>,
    /// The parent of the tokens of all attempts.
    pub cancel: CancellationToken,
    /// Cancels the tasks on remotes. Unlike attempts they continue while this node is down.
    pub cancel_remote: CancellationToken,
    /// The reason that ends the job before its tasks do.
    pub ending: Option<Ending>,
    /// Waiting tasks that the ending has stopped and that still need their `error`.
    pub failing: VecDeque<u32>,
    /// Tasks whose interruption by an end of the node is not reported yet.
    pub interrupted: VecDeque<u32>,
    /// True once `aggregated_result` was made.
    pub aggregated_made: bool,
    /// True once `complete` was made.
    pub complete_made: bool,
    pub succeeded: usize,
    pub failed: usize,
    /// The first errors, for `complete`.
    pub errors: Vec<ErrorEntry>,
    /// Bytes of results that are held for `aggregated_result`.
    pub held_bytes: usize,
    /// Dropped when the job has ended.
    pub quota_guard: Option<QuotaGuard>,
    pub owner: Owner,
    /// Its part of `jobs.max_running_tasks`.
    pub task_quota: Option<Held>,
    /// Size of its record in bytes.
    pub record_bytes: usize,
    /// Journal bytes that count against the owner's share until the job ends.
    pub journal_bytes: u64,
}

/// The state of a task of a live job.
#[derive(Debug)]
pub(crate) struct TaskRun {
    pub phase: Phase,
    /// The queue's lane in which it waits.
    pub lane: usize,
    /// Attempts that were begun.
    pub attempts: u32,
    /// Attempts that an end of the node has interrupted; they use no retry.
    pub uncounted: u32,
    /// Times that the node crashed while the task ran.
    pub restarts: u32,
    /// True if the next attempt must make a progress event. Without it no event would show that the attempt has begun,
    /// if the node ends again.
    pub announce_resume: bool,
    /// When the first attempt began.
    pub began: Option<Instant>,
    pub outcome: Option<Outcome>,
    /// The state of a task that a remote runs.
    pub remote: Option<Box<RemoteRun>>,
}

/// The phase of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the queue.
    Waiting,
    /// An attempt runs and holds its slots.
    Running,
    /// Between two attempts.
    Delayed,
    /// An end of the node has interrupted it, which is not reported yet.
    Interrupted,
    /// A remote runs it or will run it.
    Remote,
    /// It will not run again and waits for its `error`.
    Failing,
    /// It has ended.
    Finished,
}

/// The reason that ends a job before its tasks do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A client has cancelled it.
    Cancelled,
    /// Its deadline has passed.
    TimedOut,
    /// A task has failed, and the job has `failFast`.
    FailedFast,
    /// The node stops, and the job does not outlive it.
    Shutdown,
}

/// Records of the same commit as an event, and the memory that both hold of the budget.
type Extra = (Vec<RecordWrite>, Vec<Held>);

/// Approximate bytes of an event beside results and data.
const PLAIN_EVENT_BYTES: usize = 512;
/// Maximum length of an error text in `complete` and `aggregated_result`, which may have thousands of them.
const MAX_BRIEF_BYTES: usize = 256;

// === impl TaskRun ===

impl TaskRun {
    /// A task that has not begun.
    fn of(task: &PlannedTask) -> Self {
        let remote = task.remote.as_ref().map(|_| Box::new(RemoteRun::new()));
        Self {
            phase: if remote.is_some() { Phase::Remote } else { Phase::Waiting },
            lane: 0,
            attempts: 0,
            uncounted: 0,
            restarts: 0,
            announce_resume: false,
            began: None,
            outcome: None,
            remote,
        }
    }

    /// Attempts that count against the task's retries.
    fn counted(&self) -> u32 {
        self.attempts.saturating_sub(self.uncounted)
    }
}

// === impl LiveJob ===

impl LiveJob {
    /// A job that has no events yet.
    pub(crate) fn new(id: JobId, plan: Plan, topic: Topic, accepted: Instant) -> Self {
        let runs = plan.tasks.iter().map(TaskRun::of).collect();
        Self {
            span: spans::job(&id),
            id,
            plan,
            runs,
            topic,
            accepted,
            deadline: None,
            cancel: CancellationToken::new(),
            cancel_remote: CancellationToken::new(),
            ending: None,
            failing: VecDeque::new(),
            interrupted: VecDeque::new(),
            aggregated_made: false,
            complete_made: false,
            succeeded: 0,
            failed: 0,
            errors: Vec::new(),
            held_bytes: 0,
            quota_guard: None,
            owner: None,
            task_quota: None,
            record_bytes: 0,
            journal_bytes: 0,
        }
    }

    /// Adds the waiting tasks to the queue, and hands the others over to their remotes.
    pub(crate) fn enter_queue(&mut self, fx: &mut Effects) {
        fx.queue.add(self.id.clone(), self.owner.clone(), self.plan.concurrency);
        for (index, (run, task)) in (0..).zip(self.runs.iter_mut().zip(&self.plan.tasks)) {
            run.lane = fx.lane(&task.kind);
            match run.phase {
                Phase::Waiting => fx.queue.push(&self.id, index, run.lane),
                Phase::Interrupted => self.interrupted.push_back(index),
                _ => {}
            }
        }
    }

    /// Sets the deadline.
    pub(crate) fn set_deadline(&mut self, at: Instant, fx: &mut Effects) {
        self.deadline = Some(fx.timers.set(at, Timer::Deadline(self.id.clone())));
    }

    /// Releases the job's shared resources after its last event is in the journal.
    pub(crate) fn release(self, fx: &mut Effects) {
        if let Some(deadline) = self.deadline {
            fx.timers.unset(deadline);
        }
        fx.queue.remove(&self.id);
        fx.room.discharge(&self.owner, self.journal_bytes);
        fx.held_bytes -= self.held_bytes;
    }

    /// Ends the job before its tasks have ended: no further task is begun, and running attempts are cancelled.
    pub(crate) fn end(&mut self, ending: Ending, fx: &mut Effects) {
        if self.ending.is_some() || self.all_finished() {
            return;
        }
        self.ending = Some(ending);
        self.cancel.cancel();
        self.cancel_remote.cancel();
        for (index, run) in (0..).zip(&mut self.runs) {
            if matches!(run.phase, Phase::Waiting | Phase::Delayed | Phase::Interrupted) {
                run.phase = Phase::Failing;
                self.failing.push_back(index);
            }
        }
        fx.queue.clear(&self.id);
        fx.failing.push_back(self.id.clone());
    }

    /// Leaves the job unfinished, because the node stops and the job outlives it. Returns false if its ending has
    /// begun: then it comes to its end.
    pub(crate) fn suspend(&mut self, fx: &mut Effects) -> bool {
        if self.ending.is_some() || self.all_finished() {
            return false;
        }
        self.cancel.cancel();
        // Interruptions by the previous end of the node are reported at the next start.
        self.interrupted.clear();
        for (index, run) in (0..).zip(&mut self.runs) {
            if run.phase == Phase::Delayed {
                // Its next attempt was announced. Without a further event a reader would assume that it has begun.
                run.phase = Phase::Interrupted;
                run.attempts += 1;
                self.interrupted.push_back(index);
            }
        }
        if !self.interrupted.is_empty() {
            fx.interrupted.push_back(self.id.clone());
        }
        fx.queue.clear(&self.id);
        true
    }

    /// Counts a result, and holds it if the limits permit it.
    pub(crate) fn keep_result(&mut self, task: usize, result: &RawValue, bounds: ResultBounds) {
        let bytes = result.get().len();
        let keep = bytes <= bounds.inline.min(bounds.room) && self.held_bytes + bytes <= bounds.total;
        let text = keep.then(|| result.to_owned());
        self.held_bytes += text.as_ref().map_or(0, |text| text.get().len());
        self.runs[task].outcome = Some(Outcome::Result { bytes, text });
        self.succeeded += 1;
    }

    /// Drops the held results; `aggregated_result` then refers to them by URL.
    pub(crate) fn drop_results(&mut self) {
        for run in &mut self.runs {
            if let Some(Outcome::Result { text, .. }) = &mut run.outcome {
                *text = None;
            }
        }
        self.held_bytes = 0;
    }

    /// Counts a result that has a record of its own.
    pub(crate) fn count_result(&mut self, task: usize, bytes: usize) {
        self.runs[task].outcome = Some(Outcome::Result { bytes, text: None });
        self.succeeded += 1;
    }

    /// Counts a failed task, and holds the beginning of its error.
    pub(crate) fn keep_error(&mut self, task: usize, error: &str) {
        let brief = shorten(error.to_owned(), MAX_BRIEF_BYTES);
        self.runs[task].outcome = Some(Outcome::Error(brief.as_str().into()));
        if self.errors.len() < Complete::MAX_ERRORS {
            self.errors.push(ErrorEntry { task_id: self.plan.tasks[task].id.clone(), error: brief });
        }
        self.failed += 1;
    }

    pub(crate) fn finished(&self) -> usize {
        self.succeeded + self.failed
    }

    /// True once all tasks have ended.
    pub(crate) fn all_finished(&self) -> bool {
        self.finished() == self.runs.len()
    }

    /// The status of the job, now that all its tasks have ended.
    pub(crate) fn final_status(&self) -> Status {
        match self.ending {
            Some(Ending::Cancelled | Ending::Shutdown) => Status::Cancelled,
            Some(Ending::TimedOut) => Status::TimedOut,
            Some(Ending::FailedFast) => Status::Failed,
            None if self.failed == 0 => Status::Completed,
            None if self.succeeded == 0 => Status::Failed,
            None => Status::Partial,
        }
    }

    /// Makes an event of a task.
    fn push_task(&mut self, index: u32, fact: Fact, bytes: usize, fx: &mut Effects) {
        self.push(Some(index), fact, Extra::default(), bytes, fx);
    }

    /// Makes an event of the job itself.
    fn push_job(&mut self, fact: Fact, bytes: usize, fx: &mut Effects) {
        self.push(None, fact, Extra::default(), bytes, fx);
    }

    fn push(&mut self, index: Option<u32>, fact: Fact, (records, held): Extra, bytes: usize, fx: &mut Effects) {
        let remote = index.and_then(|index| self.plan.tasks[index as usize].remote.clone());
        let source = remote.unwrap_or_else(|| LOCAL.clone());
        let mut topics = vec![self.topic.clone()];
        if fact.notifies() {
            topics.extend(self.plan.notify.iter().cloned());
        }
        let event = JobEvent { job_id: self.id.clone(), source, timestamp: fx.clock.now_ms(), fact };
        fx.room.take(bytes);
        self.journal_bytes += fx.room.charge(&self.owner, FOOTPRINT * bytes as u64);
        fx.outbox.push(Entry { event, topics, records, held, bytes });
    }
}

// === impl Ending ===

impl Ending {
    /// The error of the tasks that have not finished.
    pub(crate) fn error(self, http_status: Option<u16>) -> TaskError {
        let (code, message) = match self {
            Self::Cancelled => (code::CANCELLED, "the job was cancelled before the task had ended"),
            Self::FailedFast => (code::CANCELLED, "cancelled because another task of the job failed (`failFast`)"),
            Self::TimedOut => (code::JOB_TIMEOUT, "the job's deadline (`timeoutMs`) passed before the task had ended"),
            Self::Shutdown => (code::SHUTDOWN, "the node stopped before the task had ended"),
        };
        TaskError { http_status, ..TaskError::fatal(code, message) }
    }
}
