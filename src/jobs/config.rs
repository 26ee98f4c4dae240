//! Settings of the jobs component, and its dependencies.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    handler::{Handlers, TaskHandler},
    memory::{self, Memory},
};
use crate::{
    clock::Clock,
    journal,
    shares::Share,
    supervise::Supervisor,
    upstream::{Connections, Remotes, events::Pace},
};

/// Minimum of `max_memory_bytes`: its smallest part must hold a response of one megabyte.
const LEAST_MEMORY: usize = 32 << 20;

/// Settings of section `[jobs]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Maximum number of tasks that run at once on the node; more wait, and jobs take turns.
    pub concurrency: usize,
    /// Maximum number of tasks in one job; larger jobs are rejected.
    pub max_tasks: usize,
    /// Timeout of one attempt in milliseconds if neither the task nor its handler has one.
    pub task_timeout_ms: u64,
    /// Largest result in an event, in bytes of JSON; larger results are read by their URL.
    pub max_result_bytes: usize,
    /// Largest response in bytes; the handlers reject larger ones.
    pub max_response_bytes: usize,
    /// The history of a job is deleted this number of milliseconds after its end.
    pub retention_ms: u64,
    /// Maximum number of jobs that have not ended; more are rejected until some end.
    pub max_running: usize,
    /// Maximum number of ended jobs in the journal; the oldest are deleted early.
    pub max_kept: usize,
    /// Maximum number of tasks of ended jobs in memory; the tasks of older jobs are read back on request.
    pub max_kept_tasks: usize,
    /// Maximum number of tasks of all unfinished jobs; further jobs are rejected until tasks end.
    pub max_running_tasks: usize,
    /// Maximum bytes of specs, inputs and responses in memory; requests and attempts wait for free memory.
    pub max_memory_bytes: usize,
}

/// Dependencies of the jobs component.
#[derive(Clone)]
pub struct Deps {
    /// Stores histories and records.
    pub journal: journal::Shared,
    /// The journal's `max_bytes`. Ended jobs are deleted early when jobs hold more than half of it; above three quarters
    /// new jobs are rejected.
    pub journal_max_bytes: u64,
    /// The journal's `max_event_bytes`: the upper limit of `max_result_bytes`.
    pub max_event_bytes: usize,
    /// The handlers that `run` can name.
    pub handlers: Handlers,
    /// The handler of tasks with `url`. Its input is `{url, method, headers, body}`.
    pub http: Arc<dyn TaskHandler>,
    /// The remotes that `remote` can name.
    pub remotes: Remotes,
    /// Limits the streams by which tasks on remotes are followed.
    pub connections: Connections,
    /// The delays between requests to a remote that fails.
    pub pace: Pace,
    /// The share of the slots, and of the journal space for unfinished jobs, that one owner may hold.
    pub share: Share,
    /// The memory budget for bytes that are not yet in the journal.
    pub memory: Memory,
    /// Ends the node when the engine fails; the journal has all data for the next start.
    pub supervisor: Supervisor,
    /// The clock of timestamps, and of the ages of jobs of an earlier process.
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
    /// Checks rules that the types do not express.
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
            return Err(
                "`jobs.task_timeout_ms` must be at least 1: an attempt without a limit could hold its slot forever"
                    .into(),
            );
        }
        Ok(())
    }

    pub(super) fn task_timeout(&self) -> Duration {
        Duration::from_millis(self.task_timeout_ms)
    }
}

// === impl Deps ===

impl Deps {
    /// Dependencies with the limits of the journal's settings and without remotes.
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

    /// Sets the remotes, the limits of streams to them, and the delays between retries.
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

    /// Sets the clock of the node.
    #[must_use]
    pub fn by_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }
}
