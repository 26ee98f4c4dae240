//! The interface of task handlers: `http`, `command`, `sample`, and the handlers of an embedding program.
//!
//! A handler gets its input, a sink for progress, and a token that is cancelled when the result is no longer wanted. It
//! returns a result, or an error that decides whether another attempt can help. Handlers know nothing of jobs, events or
//! the journal. The engine manages attempts, timeouts and retries: one call is one attempt.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use super::memory::Reserve;
use crate::{journal::BoxFuture, json::Json, upstream::Via};

/// Runs tasks of one kind.
///
/// # Requirements
/// - It returns soon after [`Task::cancel`] fires; the engine waits a short while and then drops the future.
/// - Dropping its future stops all work that it began (processes, requests).
/// - It never blocks the thread: heavy computing goes to `tokio::task::spawn_blocking`.
/// - It may be called again for the same task (at-least-once); [`Task::idempotency_key`] is the same each time.
pub trait TaskHandler: Send + Sync + 'static {
    /// Runs one attempt.
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>>;
}

/// One attempt at a task.
#[derive(Debug)]
pub struct Task {
    /// The job that the task belongs to.
    pub job_id: String,
    /// The task's id, unique in its job.
    pub task_id: String,
    /// Name of the task for people.
    pub name: String,
    /// The `input` of the task, or `null`.
    pub input: Json,
    /// The user that submitted the job, with its groups.
    pub submitter: Submitter,
    /// The `Via` of the request that submitted the job; requests of the handler extend it.
    pub via: Via,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The sink for progress.
    pub progress: Progress,
    /// The memory budget; the handler must reserve memory before it reads a response of more than 64 KiB.
    pub reserve: Reserve,
    /// Fires when the job is cancelled, has timed out, or the node stops.
    pub cancel: CancellationToken,
}

/// The user that submitted a job, with its groups at that time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submitter {
    /// `None` for a request without a user.
    pub user: Option<Arc<str>>,
    /// Empty if there is no user.
    pub groups: Arc<[String]>,
}

/// The result of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The result, any JSON.
    pub result: Json,
    /// Status of the response, for HTTP tasks.
    pub http_status: Option<u16>,
    /// `base64` if the result is binary.
    pub encoding: Option<&'static str>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// The reason for people: the fault, its place and the remedy.
    pub message: String,
    /// The reason for programs: `timeout`, `http_status`, `connect_failed`, `exit_status`, …
    pub code: String,
    /// True if another attempt can help.
    pub retryable: bool,
    /// Minimum time before the next attempt.
    pub retry_after: Option<Duration>,
    /// Status of the response, for HTTP tasks.
    pub http_status: Option<u16>,
}

/// One report of progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// 0 to 100.
    pub progress: f64,
    /// A message for people.
    pub message: Option<String>,
    /// Any data that the handler shows.
    pub data: Option<Json>,
}

/// Takes the progress of a handler. Cheap to clone.
///
/// Reports wait for room while the engine is busy (a bounded channel), so a handler cannot flood the node.
#[derive(Clone)]
pub struct Progress {
    sink: Arc<dyn Sink>,
}

/// The receiver of reports; implemented by the engine and by tests.
pub trait Sink: Send + Sync + 'static {
    /// Takes a report. `lossy` reports may be dropped if they come faster than ten per second.
    fn take(&self, report: Report, lossy: bool) -> BoxFuture<'_, ()>;
}

/// The handlers of a node, by the name that a client gives in `run`.
#[derive(Clone, Default)]
pub struct Handlers {
    map: HashMap<String, Registered>,
}

/// A handler and its limits.
#[derive(Clone)]
pub struct Registered {
    /// Runs the tasks.
    pub handler: Arc<dyn TaskHandler>,
    /// Timeout of an attempt if the task has no `timeoutMs`.
    pub timeout: Option<Duration>,
    /// Maximum number of tasks of this handler at once on the node; `None`: no limit of its own.
    pub concurrency: Option<usize>,
}

// === impl Progress ===

impl Progress {
    /// A sink for progress.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink }
    }

    /// Reports the progress of the task (0 to 100). At most ten reports per second become events; of more, the latest
    /// counts.
    pub async fn report(&self, progress: f64, message: impl Into<Option<String>>) {
        self.sink.take(Report { progress, message: message.into(), data: None }, true).await;
    }

    /// Reports data that watchers must not miss, such as an event of a stream that is being forwarded.
    pub async fn forward(&self, progress: f64, data: impl Into<Json>) {
        self.sink.take(Report { progress, message: None, data: Some(data.into()) }, false).await;
    }

    /// Sends a report.
    pub async fn send(&self, report: Report) {
        let lossy = report.data.is_none();
        self.sink.take(report, lossy).await;
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

// === impl Task ===

impl Task {
    /// The key is equal for all attempts at this task. It is sent upstream, so that a repeat does not act twice.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.job_id, self.task_id)
    }

    /// The user that submitted the job; `None` for a request without one. A restart of the node keeps it.
    ///
    /// ```
    /// # use millstream::{app::App, config::Config, jobs::{Submission, handler::*}, journal::{BoxFuture, Kind}};
    /// # use futures::TryStreamExt;
    /// struct Greet;
    ///
    /// impl TaskHandler for Greet {
    ///     fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
    ///         Box::pin(async move {
    ///             let user = task.user().unwrap_or("anonymous");
    ///             let groups = task.groups().join(", ");
    ///             Ok(Output { result: format!("{user} of {groups}").into(), ..Output::default() })
    ///         })
    ///     }
    /// }
    /// # actix_rt::System::new().block_on(async {
    /// # let mut config = Config::default();
    /// # config.journal.kind = Kind::Memory;
    /// # let app = App::with_handlers(config, [("greet".to_owned(), Registered::new(Greet))])?;
    /// # let jobs = &app.node().jobs;
    /// let spec = serde_json::from_str(r#"{"tasks": [{"id": "hello", "run": "greet"}]}"#)?;
    /// let (user, groups) = (Some("alice".to_owned()), vec!["ops".to_owned(), "night".to_owned()]);
    /// let job = jobs.submit(Submission { spec, user, groups, ..Submission::default() }).await?;
    /// # jobs.watch(&job.job_id).try_for_each(async |_| Ok(())).await?;
    /// assert_eq!(jobs.result(&job.job_id, "hello").await?.json, r#""alice of ops, night""#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn user(&self) -> Option<&str> {
        self.submitter.user.as_deref()
    }

    /// The groups of that user when the job was submitted. A restart of the node keeps them.
    pub fn groups(&self) -> &[String] {
        &self.submitter.groups
    }
}

// === impl Output ===

impl From<Json> for Output {
    fn from(result: Json) -> Self {
        Self { result, ..Self::default() }
    }
}

impl From<Value> for Output {
    fn from(result: Value) -> Self {
        Json::from(result).into()
    }
}

// === impl TaskError ===

impl TaskError {
    /// An error that would occur again at another attempt.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { message: message.into(), code: code.into(), retryable: false, retry_after: None, http_status: None }
    }

    /// An error that may not occur at the next attempt.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::fatal(code, message) }
    }
}

// === impl Handlers ===

impl Handlers {
    /// Adds a handler under a name; a later one with the same name replaces it.
    pub fn register(&mut self, name: impl Into<String>, registered: Registered) {
        self.map.insert(name.into(), registered);
    }

    /// Finds a handler.
    pub fn get(&self, name: &str) -> Option<&Registered> {
        self.map.get(name)
    }

    /// The names, sorted, for error messages.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.map.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

// === impl Registered ===

impl Registered {
    /// A handler without limits.
    pub fn new(handler: impl TaskHandler) -> Self {
        Self { handler: Arc::new(handler), timeout: None, concurrency: None }
    }
}
