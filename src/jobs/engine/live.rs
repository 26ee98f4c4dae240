//! What the engine knows of a job that has not ended, beyond its history.

use std::collections::VecDeque;

use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{EVENT_OVERHEAD, aggregate::Outcome, away::Away, shorten, timers};
use crate::{
    jobs::{
        Config, Hold, code,
        event::{Complete, ErrorEntry},
        handler::TaskError,
        spec::{Plan, PlannedTask},
        state::Status,
    },
    shares::{Held, Owner},
    topic::Topic,
};

/// A job that has not ended.
#[derive(Debug)]
pub struct Live {
    pub plan: Plan,
    pub runs: Vec<Run>,
    pub topic: Topic,
    pub accepted: Instant,
    pub deadline: Option<timers::Key>,
    /// The parent of the tokens of all attempts.
    pub cancel: CancellationToken,
    /// Tells remotes to stop: unlike attempts they go on while this node is away.
    pub far: CancellationToken,
    /// Set once something ends the job before its tasks do.
    pub ending: Option<Ending>,
    /// Tasks that the ending found waiting and that still need their `error`.
    pub doomed: VecDeque<u32>,
    /// Tasks of which an end of the node is still to be told.
    pub interrupted: VecDeque<u32>,
    /// True once `aggregated_result` was made.
    pub aggregated: bool,
    /// True once `complete` was made.
    pub told: bool,
    pub succeeded: usize,
    pub failed: usize,
    /// The first errors, for `complete`.
    pub errors: Vec<ErrorEntry>,
    /// Bytes of results that are kept for `aggregated_result`.
    pub kept_bytes: usize,
    /// Let go when the job has ended.
    pub hold: Option<Hold>,
    /// The owner of the job.
    pub owner: Owner,
    /// Its quota of `jobs.max_running_tasks`.
    pub tasks: Option<Held>,
    /// Size of its record in bytes.
    pub record_bytes: usize,
    /// Journal bytes that count against the owner's share until the job ends.
    pub held: u64,
}

/// A task of such a job.
#[derive(Debug)]
pub struct Run {
    pub phase: Phase,
    pub lane: usize,
    /// Attempts that were begun.
    pub attempts: u32,
    /// Those of them that fell to an end of the node and spend no retry.
    pub spared: u32,
    /// How often the node ended without a word while the task ran.
    pub restarts: u32,
    /// The next attempt is to be told: nothing else shows that it has begun, should the node end again.
    pub resumes: bool,
    /// When the first attempt began.
    pub began: Option<Instant>,
    pub outcome: Option<Outcome>,
    /// Of a task that a remote runs.
    pub away: Option<Box<Away>>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the queue.
    Waiting,
    /// An attempt runs and holds its slots.
    Running,
    /// Between two attempts.
    Delayed,
    /// The node ended, or is about to end, before the task did: that is still to be told.
    Interrupted,
    /// A remote runs it, or is to.
    Away,
    /// It will not run any more and waits for its `error`.
    Doomed,
    /// It had its end.
    Finished,
}

/// What ends a job before its tasks do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A client.
    Cancelled,
    /// Its deadline.
    TimedOut,
    /// A failed task, by `failFast`.
    FailedFast,
    /// The node.
    Shutdown,
}

/// How much of the results a job keeps for `aggregated_result`.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Larger results stand in records of their own.
    pub inline: usize,
    /// More cannot go into one event.
    pub total: usize,
    /// Limit for all jobs together; results beyond it are referenced by URL.
    pub room: usize,
}

/// Longest text of an error in `complete` and `aggregated_result`, of which there may be thousands.
const MAX_BRIEF_BYTES: usize = 256;

// === impl Bounds ===

impl Bounds {
    pub fn new(config: &Config, max_event_bytes: usize) -> Self {
        let inline = config.max_result_bytes.min(max_event_bytes.saturating_sub(EVENT_OVERHEAD));
        Self { inline, total: max_event_bytes, room: usize::MAX }
    }
}

// === impl Run ===

impl Run {
    /// A task that has not begun.
    fn of(task: &PlannedTask) -> Self {
        let away = task.remote.as_ref().map(|_| Box::new(Away::new()));
        let phase = if away.is_some() { Phase::Away } else { Phase::Waiting };
        Self { phase, lane: 0, attempts: 0, spared: 0, restarts: 0, resumes: false, began: None, outcome: None, away }
    }

    /// Attempts that count against the task's retries.
    pub fn spent(&self) -> u32 {
        self.attempts.saturating_sub(self.spared)
    }
}

// === impl Live ===

impl Live {
    /// A job of which nothing has happened yet.
    pub fn new(plan: Plan, topic: Topic, accepted: Instant) -> Self {
        let runs = plan.tasks.iter().map(Run::of).collect();
        Self {
            plan,
            runs,
            topic,
            accepted,
            deadline: None,
            cancel: CancellationToken::new(),
            far: CancellationToken::new(),
            ending: None,
            doomed: VecDeque::new(),
            interrupted: VecDeque::new(),
            aggregated: false,
            told: false,
            succeeded: 0,
            failed: 0,
            errors: Vec::new(),
            kept_bytes: 0,
            hold: None,
            owner: None,
            tasks: None,
            record_bytes: 0,
            held: 0,
        }
    }

    /// A task has a result: counts it, and keeps it as far as the bounds allow.
    pub fn keep_result(&mut self, task: usize, result: &RawValue, bounds: Bounds) {
        let bytes = result.get().len();
        let keep = bytes <= bounds.inline.min(bounds.room) && self.kept_bytes + bytes <= bounds.total;
        let kept = keep.then(|| result.to_owned());
        self.kept_bytes += kept.as_ref().map_or(0, |kept| kept.get().len());
        self.runs[task].outcome = Some(Outcome::Result { bytes, kept });
        self.succeeded += 1;
    }

    /// Drops the kept results; `aggregated_result` then refers to them by URL.
    pub fn drop_results(&mut self) {
        for run in &mut self.runs {
            if let Some(Outcome::Result { kept, .. }) = &mut run.outcome {
                *kept = None;
            }
        }
        self.kept_bytes = 0;
    }

    /// A task has a result that stands in a record of its own.
    pub fn count_result(&mut self, task: usize, bytes: usize) {
        self.runs[task].outcome = Some(Outcome::Result { bytes, kept: None });
        self.succeeded += 1;
    }

    /// A task has failed: counts it, and keeps the beginning of its error.
    pub fn keep_error(&mut self, task: usize, error: &str) {
        let brief = shorten(error.to_owned(), MAX_BRIEF_BYTES);
        self.runs[task].outcome = Some(Outcome::Error(brief.as_str().into()));
        if self.errors.len() < Complete::MAX_ERRORS {
            self.errors.push(ErrorEntry { task_id: self.plan.tasks[task].id.clone(), error: brief });
        }
        self.failed += 1;
    }

    pub fn finished(&self) -> usize {
        self.succeeded + self.failed
    }

    /// True once all tasks have ended.
    pub fn closed(&self) -> bool {
        self.finished() == self.runs.len()
    }

    /// What the job came to, now that all its tasks have ended.
    pub fn verdict(&self) -> Status {
        match self.ending {
            Some(Ending::Cancelled | Ending::Shutdown) => Status::Cancelled,
            Some(Ending::TimedOut) => Status::TimedOut,
            Some(Ending::FailedFast) => Status::Failed,
            None if self.failed == 0 => Status::Completed,
            None if self.succeeded == 0 => Status::Failed,
            None => Status::Partial,
        }
    }
}

// === impl Ending ===

impl Ending {
    /// The error that unfinished tasks get.
    pub fn error(self, http_status: Option<u16>) -> TaskError {
        TaskError { http_status, ..TaskError::fatal(self.code(), self.message()) }
    }

    /// The code of that.
    fn code(self) -> &'static str {
        match self {
            Self::Cancelled | Self::FailedFast => code::CANCELLED,
            Self::TimedOut => code::JOB_TIMEOUT,
            Self::Shutdown => code::SHUTDOWN,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Cancelled => "the job was cancelled before the task had ended",
            Self::FailedFast => "cancelled because another task of the job failed (`failFast`)",
            Self::TimedOut => "the job's deadline (`timeoutMs`) passed before the task had ended",
            Self::Shutdown => "the node stopped before the task had ended",
        }
    }
}
