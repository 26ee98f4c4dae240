//! Jobs: sets of tasks that run in parallel, and whose history is a topic.
//!
//! ```text
//!  http ──submit──> Handle ──> actor ──append(spec record)──> journal        accepted: only now the client hears of it
//!                                │ Queue: who is next
//!                                v
//!                            attempts (TaskHandler: http, command, sample, …) and groups (remote: the job's tasks there)
//!                                │ reports, one bounded channel
//!                                v
//!                             Engine ──append(many events at once)──> journal ──> hub ──> watchers
//!                                                       └─ committed ─> JobState (the same fold as for a reader)
//! ```
//!
//! [`Handle`] is the only door. `engine` decides and does no I/O, `queue` says who is next, `state` folds the history;
//! `actor` is the shell that carries out what the engine decided; attempts run on a thread of their own (`runner`).
//!
//! With a journal that outlives the process so do jobs: at the start `recovery` reads them back, folded like any other
//! history, and unfinished ones go on.
//!
//! Promises: an accepted job reaches `complete`; a task has one end; a task that fails, panics or hangs harms no other;
//! whatever waits (reports, events, tasks) waits in a bounded place, and the bound is felt by the tasks.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    journal,
    shares::Share,
    supervise::Supervisor,
    upstream::{Connections, Remotes, events::Pace},
};

mod actor;
mod door;
mod engine;
mod error;
pub mod event;
mod handle;
pub mod handler;
pub mod handlers;
mod inputs;
pub mod memory;
mod metrics;
mod pump;
mod queue;
mod record;
mod recovery;
mod remote;
mod retry;
mod runner;
pub mod spec;
pub mod state;
mod stats;
#[cfg(test)]
mod tests;
mod urls;
mod watch;

pub use self::{
    actor::start,
    engine::{Filter, Listing, Unreadable},
    error::{Error, SubmitError},
    handle::{Handle, Hold, Submission, Submitted, TaskResult},
    handler::{Handlers, TaskHandler},
    memory::Memory,
    spec::{FieldError, Limits, OnDisconnect, Plan, Spec},
    state::{JobState, Snapshot, Status, Summary},
    stats::Stats,
};

/// Codes of errors that the engine itself gives to tasks.
pub mod code {
    /// An attempt took longer than its timeout.
    pub const TIMEOUT: &str = "timeout";
    /// The handler panicked.
    pub const PANIC: &str = "panic";
    /// The job was cancelled, or another task of a job with `failFast` failed.
    pub const CANCELLED: &str = "cancelled";
    /// The job's deadline passed.
    pub const JOB_TIMEOUT: &str = "job_timeout";
    /// The journal has no room for the result.
    pub const NO_ROOM: &str = "no_room";
    /// The node stopped.
    pub const SHUTDOWN: &str = "shutdown";
    /// In `task_retry`: the node ended without a word while the task ran. Spends no retry.
    pub const NODE_RESTARTED: &str = "node_restarted";
    /// In `task_retry`: the node stopped while the task ran. Spends no retry.
    pub const NODE_STOPPED: &str = "node_stopped";
    /// The node ended without a word each time the task ran.
    pub const CRASHED: &str = "crashed";
    /// The handler that the task names is no longer there.
    pub const UNKNOWN_HANDLER: &str = "unknown_handler";
    /// The remote that ran the task cannot be reached any more, or has forgotten it.
    pub const REMOTE_LOST: &str = "remote_lost";
    /// In `task_retry`: the remote that runs the task, or should run it, cannot be reached now. This uses no retry.
    pub const REMOTE_AWAY: &str = "remote_away";
    /// The remote does not take the task.
    pub const REMOTE_REFUSED: &str = "remote_refused";
    /// The result has a form that cannot be passed on.
    pub const BAD_RESULT: &str = "bad_result";
    /// The input of the task cannot be read back.
    pub const INPUT_LOST: &str = "input_lost";
    /// The result is larger than `jobs.max_response_bytes`.
    pub const RESPONSE_TOO_LARGE: &str = "response_too_large";
}

/// Minimum of `max_memory_bytes`: its smallest part must hold a response of one megabyte.
const LEAST_MEMORY: usize = 32 << 20;

/// Settings of section `[jobs]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most tasks that run at once on the node; more wait, and jobs take turns.
    pub concurrency: usize,
    /// Most tasks in one job; more are refused.
    pub max_tasks: usize,
    /// Bounds one attempt in milliseconds where neither the task nor its handler has a timeout.
    pub task_timeout_ms: u64,
    /// Larger results, in bytes of JSON, are left out of events and are had by their URL.
    pub max_result_bytes: usize,
    /// Larger responses, in bytes, are errors; heeded by the handlers.
    pub max_response_bytes: usize,
    /// The history of a job leaves so many milliseconds after its end.
    pub retention_ms: u64,
    /// Most jobs that have not ended; more are refused until some end.
    pub max_running: usize,
    /// Most jobs that have ended and are kept; the oldest leave early.
    pub max_kept: usize,
    /// Maximum number of tasks of ended jobs in memory; the tasks of older jobs are read back on request.
    pub max_kept_tasks: usize,
    /// Maximum number of tasks of all unfinished jobs; further jobs are rejected until tasks end.
    pub max_running_tasks: usize,
    /// Maximum bytes of specs, inputs and responses in memory; requests and attempts wait for free memory.
    pub max_memory_bytes: usize,
}

/// What the jobs of a node work with.
#[derive(Clone)]
pub struct Deps {
    /// Where histories and records go.
    pub journal: journal::Shared,
    /// The journal's `max_bytes`: ended jobs leave early when jobs hold more than half of it, and above three quarters
    /// no more jobs are let in.
    pub journal_max_bytes: u64,
    /// The journal's `max_event_bytes`: larger results are left out of events whatever `max_result_bytes` says.
    pub max_event_bytes: usize,
    /// What `run` can name.
    pub handlers: Handlers,
    /// What runs tasks with `url`. Its input is `{url, method, headers, body}`.
    pub http: Arc<dyn TaskHandler>,
    /// What `remote` can name.
    pub remotes: Remotes,
    /// Places for the streams by which tasks on remotes are followed.
    pub connections: Connections,
    /// How fast a remote is asked again that has failed.
    pub pace: Pace,
    /// The share of the slots, and of the journal space for unfinished jobs, that one owner may hold.
    pub share: Share,
    /// The memory budget for bytes that are not yet in the journal.
    pub memory: Memory,
    /// Ends the node when the engine fails; the journal has all data for the next start.
    pub supervisor: Supervisor,
    /// What timestamps, and the ages of what an earlier start has left, are taken from.
    pub clock: Clock,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 256,
            max_tasks: 10_000,
            task_timeout_ms: 300_000,
            max_result_bytes: 256 << 10,
            max_response_bytes: 10 << 20,
            retention_ms: 24 * 60 * 60 * 1000,
            max_running: 10_000,
            max_kept: 10_000,
            max_kept_tasks: 50_000,
            max_running_tasks: 100_000,
            max_memory_bytes: memory::DEFAULT,
        }
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key and the accepted form.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("concurrency", self.concurrency),
            ("max_tasks", self.max_tasks),
            ("max_running", self.max_running),
            ("max_result_bytes", self.max_result_bytes),
            ("max_response_bytes", self.max_response_bytes),
            ("max_running_tasks", self.max_running_tasks),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`jobs.{key}` must be at least 1"));
        }
        if self.max_memory_bytes < LEAST_MEMORY {
            return Err(format!("`jobs.max_memory_bytes` must be at least {LEAST_MEMORY}"));
        }
        if self.task_timeout_ms == 0 {
            return Err("`jobs.task_timeout_ms` must be at least 1: an attempt without end would hold its slot".into());
        }
        Ok(())
    }

    fn task_timeout(&self) -> Duration {
        Duration::from_millis(self.task_timeout_ms)
    }
}

// === impl Deps ===

impl Deps {
    /// Takes the limits from the journal's settings. Without remotes.
    pub fn new(
        journal: journal::Shared,
        limits: &journal::Config,
        handlers: Handlers,
        http: Arc<dyn TaskHandler>,
    ) -> Self {
        Self {
            journal,
            journal_max_bytes: limits.max_bytes,
            max_event_bytes: limits.max_event_bytes,
            handlers,
            http,
            remotes: Remotes::default(),
            connections: Connections::new(0),
            pace: Pace::default(),
            share: Share::WHOLE,
            memory: Memory::default(),
            supervisor: Supervisor::default(),
            clock: Clock::system(),
        }
    }

    /// The same with these remotes.
    #[must_use]
    pub fn with_remotes(self, remotes: Remotes, connections: Connections, pace: Pace) -> Self {
        Self { remotes, connections, pace, ..self }
    }

    /// Sets the share of one owner and the memory budget.
    #[must_use]
    pub fn with_bounds(self, share: Share, memory: Memory) -> Self {
        Self { share, memory, ..self }
    }

    /// Sets the supervisor that ends the node when the engine fails.
    #[must_use]
    pub fn supervised(self, supervisor: Supervisor) -> Self {
        Self { supervisor, ..self }
    }

    /// The same with the clock of the node.
    #[must_use]
    pub fn by_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }
}
