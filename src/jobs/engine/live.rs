//! What the engine knows of a job that has not ended, beyond its history.

use std::collections::VecDeque;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{aggregate::Outcome, timers};
use crate::{
    jobs::{code, event::ErrorEntry, spec::Plan, state::Status},
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
    /// Set once something ends the job before its tasks do.
    pub ending: Option<Ending>,
    /// Tasks that the ending found waiting and that still need their `error`.
    pub doomed: VecDeque<u32>,
    pub succeeded: usize,
    pub failed: usize,
    /// The first errors, for `complete`.
    pub errors: Vec<ErrorEntry>,
    /// Bytes of results that are kept for `aggregated_result`.
    pub kept_bytes: usize,
}

/// A task of such a job.
#[derive(Debug)]
pub struct Run {
    pub phase: Phase,
    pub lane: usize,
    /// Attempts that were begun.
    pub attempts: u32,
    /// When the first attempt began.
    pub began: Option<Instant>,
    pub outcome: Option<Outcome>,
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

// === impl Live ===

impl Live {
    pub fn finished(&self) -> usize {
        self.succeeded + self.failed
    }

    /// True once `complete` was made.
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
    /// The code that unfinished tasks get.
    pub fn code(self) -> &'static str {
        match self {
            Self::Cancelled | Self::FailedFast => code::CANCELLED,
            Self::TimedOut => code::JOB_TIMEOUT,
            Self::Shutdown => code::SHUTDOWN,
        }
    }

    /// The message that unfinished tasks get.
    pub fn message(self) -> &'static str {
        match self {
            Self::Cancelled => "the job was cancelled before the task had ended",
            Self::FailedFast => "cancelled because another task of the job failed (`failFast`)",
            Self::TimedOut => "the job's deadline (`timeoutMs`) passed before the task had ended",
            Self::Shutdown => "the node stopped before the task had ended",
        }
    }
}
