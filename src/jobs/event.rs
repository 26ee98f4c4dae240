//! The facts of a job's history, as they are stored in its topic: an event name and JSON data, both with types.
//!
//! ```text
//! task_start ─> task_progress* ─> task_retry* ─> task_complete | error      per task
//!                                                └─> progress               after each finished task
//!                                 aggregated_result ─> complete             at the end, appended as one
//! ```
//!
//! An end of the node is a `task_retry`, too (`node_restarted`, `node_stopped`). The attempt after it begins with a
//! `task_progress` of 0, since no other event would show that it has begun.
//!
//! A task has at most one `task_start`, before its first attempt. A task that is cancelled before that has none and
//! only gets its `error`. Each event names its origin (`source`): the remote for events of a task on a remote, and
//! `local` for all others. Numbers without a fraction are written without one.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::status::Status;
use crate::json;

#[cfg(test)]
mod tests;

/// A fact, with the fields that all facts have.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// The job.
    pub job_id: Arc<str>,
    /// Origin: [`LOCAL`], or the name of the remote that runs the task.
    pub source: Arc<str>,
    /// Time of the event in Unix milliseconds.
    pub timestamp: u64,
    /// The fact itself.
    pub fact: Fact,
}

/// The source of events of this node.
pub static LOCAL: LazyLock<Arc<str>> = LazyLock::new(|| "local".into());

/// Usual size in bytes of a fact's data without its variable parts; the text grows if it is larger.
const PLAIN_BYTES: usize = 256;

/// A fact.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// `task_start`: the first attempt begins.
    TaskStart(TaskStart),
    /// `task_progress`.
    TaskProgress(TaskProgress),
    /// `task_retry`: an attempt failed, or an end of the node interrupted it, and another attempt will follow.
    TaskRetry(TaskRetry),
    /// `task_complete`.
    TaskComplete(TaskComplete),
    /// `error`: the task has failed finally. The guide of the API requires this name.
    TaskError(TaskFailed),
    /// `progress`: one more task has finished.
    Progress(Progress),
    /// `aggregated_result`.
    AggregatedResult(AggregatedResult),
    /// `complete`: no event follows.
    Complete(Complete),
}

/// Data of `task_start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStart {
    /// Id of the task.
    pub task_id: String,
    /// Name of the task for people.
    pub task_name: String,
}

/// Data of `task_progress`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskProgress {
    /// Id of the task.
    pub task_id: String,
    /// 0 to 100; does not go down within an attempt.
    #[serde(serialize_with = "number")]
    pub progress: f64,
    /// A message for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Any data that the handler shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// Data of `task_retry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRetry {
    /// Id of the task.
    pub task_id: String,
    /// The number of the attempt that will follow: 2 after the first one failed.
    pub attempt: u32,
    /// Delay in milliseconds before that attempt; longer if the node is busy.
    pub delay_ms: u64,
    /// Why the last attempt failed.
    pub error: String,
    /// The reason for programs.
    pub code: String,
}

/// Data of `task_complete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskComplete {
    /// Id of the task.
    pub task_id: String,
    /// Name of the task for people.
    pub task_name: String,
    /// The result, or `null` with `resultBytes` and `resultUrl` if it is too large for an event.
    pub result: Box<RawValue>,
    /// Size of a result that was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// URL of a result that was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_url: Option<String>,
    /// `base64` for a binary result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Status of the response, for HTTP tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Number of attempts.
    pub attempts: u32,
    /// Milliseconds from the start of the first attempt to the end of the last.
    pub duration_ms: u64,
}

/// Data of `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskFailed {
    /// Id of the task.
    pub task_id: String,
    /// Name of the task for people.
    pub task_name: String,
    /// The reason for people.
    pub error: String,
    /// The reason for programs: `timeout`, `panic`, `cancelled`, `job_timeout`, `shutdown`, `no_room`, `remote_lost`,
    /// `remote_refused`, or a code of the handler.
    pub code: String,
    /// True if the task may succeed when it is repeated.
    pub retryable: bool,
    /// Number of attempts; 0 if the task never began.
    pub attempts: u32,
    /// Status of the response, for HTTP tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Milliseconds from the start of the first attempt to the end of the last.
    pub duration_ms: u64,
}

/// Data of `progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Number of finished tasks.
    pub step: usize,
    /// Number of tasks of the job.
    pub total_steps: usize,
    /// Finished tasks in percent.
    #[serde(serialize_with = "number")]
    pub progress: f64,
}

/// Data of `aggregated_result`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AggregatedResult {
    /// By task id: the result, `{"error"}`, or `{"result": null, "resultBytes", "resultUrl"}` if the result is too
    /// large; `null` with `resultsUrl` if these do not fit into an event either.
    pub results: Box<RawValue>,
    /// URL of the job, whose tasks have the URLs of their results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results_url: Option<String>,
}

/// Data of `complete`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Complete {
    /// Final status of the job.
    pub status: Status,
    /// Number of tasks of the job.
    pub total_tasks: usize,
    /// Number of tasks with a result.
    pub success_count: usize,
    /// Number of failed tasks.
    pub error_count: usize,
    /// The first errors, at most [`Complete::MAX_ERRORS`].
    pub errors: Vec<ErrorEntry>,
    /// Number of further errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_omitted: Option<usize>,
    /// Milliseconds from acceptance to the end.
    pub duration_ms: u64,
}

/// One entry of `complete.errors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorEntry {
    /// Id of the task.
    pub task_id: String,
    /// The reason for people.
    pub error: String,
}

/// Why an event of a job's topic cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The name belongs to no fact.
    #[error("`{0}` is not an event of a job")]
    Name(String),
    /// The data have another form.
    #[error("the data of a job's event have the wrong form: {0}")]
    Data(#[from] serde_json::Error),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    job_id: &'a str,
    #[serde(flatten)]
    fact: &'a Fact,
    source: &'a str,
    timestamp: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stamp {
    job_id: Arc<str>,
    /// Older versions wrote it only in `task_start`.
    #[serde(default = "local")]
    source: Arc<str>,
    timestamp: u64,
}

fn local() -> Arc<str> {
    LOCAL.clone()
}

// === impl JobEvent ===

impl JobEvent {
    /// The data as they go into the topic.
    pub fn encode(&self) -> String {
        let Self { job_id, source, timestamp, fact } = self;
        let wire = Wire { job_id, fact, source, timestamp: *timestamp };
        let mut text = Vec::with_capacity(PLAIN_BYTES + fact.payload_bytes());
        serde_json::to_writer(&mut text, &wire).expect("plain data serialises");
        String::from_utf8(text).expect("JSON is text")
    }

    /// Reads an event of a job's topic.
    ///
    /// # Errors
    /// If the name or the data are not those of a job's event.
    pub fn decode(name: &str, data: &str) -> Result<Self, Unreadable> {
        let data = data.as_bytes();
        let fact = match name {
            "task_start" => Fact::TaskStart(json::from_slice(data)?),
            "task_progress" => Fact::TaskProgress(json::from_slice(data)?),
            "task_retry" => Fact::TaskRetry(json::from_slice(data)?),
            "task_complete" => Fact::TaskComplete(json::from_slice(data)?),
            "error" => Fact::TaskError(json::from_slice(data)?),
            "progress" => Fact::Progress(json::from_slice(data)?),
            "aggregated_result" => Fact::AggregatedResult(json::from_slice(data)?),
            "complete" => Fact::Complete(json::from_slice(data)?),
            other => return Err(Unreadable::Name(other.to_owned())),
        };
        let Stamp { job_id, source, timestamp } = json::from_slice(data)?;
        Ok(Self { job_id, source, timestamp, fact })
    }
}

// === impl Fact ===

impl Fact {
    /// The name of the event.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TaskStart(_) => "task_start",
            Self::TaskProgress(_) => "task_progress",
            Self::TaskRetry(_) => "task_retry",
            Self::TaskComplete(_) => "task_complete",
            Self::TaskError(_) => "error",
            Self::Progress(_) => "progress",
            Self::AggregatedResult(_) => "aggregated_result",
            Self::Complete(_) => "complete",
        }
    }

    /// Bytes of JSON that came from outside.
    fn payload_bytes(&self) -> usize {
        match self {
            Self::TaskComplete(done) => done.result.get().len(),
            Self::AggregatedResult(results) => results.results.get().len(),
            _ => 0,
        }
    }

    /// True for events that `notify` also sends to other topics.
    pub fn notifies(&self) -> bool {
        matches!(self, Self::TaskError(_) | Self::Progress(_) | Self::Complete(_))
    }
}

// === impl Complete ===

impl Complete {
    /// Maximum number of entries of `errors`. The `error` events contain all errors.
    pub const MAX_ERRORS: usize = 100;
}

/// Writes `50`, not `50.0`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e9 {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small, as the line above checks")]
        return serializer.serialize_i64(*value as i64);
    }
    serializer.serialize_f64(*value)
}
