//! The facts of a job's life, as they stand in its topic: an event name and JSON data, typed both ways.
//!
//! ```text
//! task_start ─> task_progress* ─> task_retry* ─> task_complete | error      per task
//!                                                └─> progress               after each finished task
//!                                 aggregated_result ─> complete             at the end, appended as one
//! ```
//!
//! An end of the node is a `task_retry`, too (`node_restarted`, `node_stopped`); the attempt after it begins with a
//! `task_progress` of 0, since nothing else would show that it has begun.
//!
//! A task has at most one `task_start`, before its first attempt; one that is cancelled while it still waits has none
//! and only gets its `error`. Each event says where it comes from (`source`): those of a task on a remote name the
//! remote, all others say `local`. Numbers without a fraction are written without one.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::status::Status;
use crate::json;

#[cfg(test)]
mod tests;

/// One fact with what all facts carry.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// The job.
    pub job_id: Arc<str>,
    /// Where: [`LOCAL`], or the name of the remote that runs the task.
    pub source: Arc<str>,
    /// When it happened, in Unix milliseconds.
    pub timestamp: u64,
    /// What happened.
    pub fact: Fact,
}

/// The source of what happens on this node.
pub static LOCAL: LazyLock<Arc<str>> = LazyLock::new(|| "local".into());

/// Bytes of a fact's data beside what varies much, as a rule; where it is more, the text grows.
const PLAIN_BYTES: usize = 256;

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// `task_start`: the first attempt begins.
    TaskStart(TaskStart),
    /// `task_progress`.
    TaskProgress(TaskProgress),
    /// `task_retry`: an attempt failed, or fell to an end of the node, and another will follow.
    TaskRetry(TaskRetry),
    /// `task_complete`.
    TaskComplete(TaskComplete),
    /// `error`: the task has failed for good. The name is the guide's.
    TaskError(TaskFailed),
    /// `progress`: one more task has finished.
    Progress(Progress),
    /// `aggregated_result`.
    AggregatedResult(AggregatedResult),
    /// `complete`: nothing follows.
    Complete(Complete),
}

/// Data of `task_start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStart {
    /// Which task.
    pub task_id: String,
    /// What people call it.
    pub task_name: String,
}

/// Data of `task_progress`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskProgress {
    /// Which task.
    pub task_id: String,
    /// 0 to 100; does not go down within an attempt.
    #[serde(serialize_with = "number")]
    pub progress: f64,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whatever the handler shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// Data of `task_retry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRetry {
    /// Which task.
    pub task_id: String,
    /// The number of the attempt that will follow: 2 after the first one failed.
    pub attempt: u32,
    /// It follows after so many milliseconds, or later if the node is busy.
    pub delay_ms: u64,
    /// Why the last attempt failed.
    pub error: String,
    /// The same for programs.
    pub code: String,
}

/// Data of `task_complete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskComplete {
    /// Which task.
    pub task_id: String,
    /// What people call it.
    pub task_name: String,
    /// The result, or `null` with `resultBytes` and `resultUrl` where it is too large for an event.
    pub result: Box<RawValue>,
    /// Size of a result that was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// Where a result that was left out is to be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_url: Option<String>,
    /// `base64` for a binary result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Status of the response, for HTTP tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// How many attempts it took.
    pub attempts: u32,
    /// From the start of the first attempt to the end of the last.
    pub duration_ms: u64,
}

/// Data of `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskFailed {
    /// Which task.
    pub task_id: String,
    /// What people call it.
    pub task_name: String,
    /// For people.
    pub error: String,
    /// For programs: `timeout`, `panic`, `cancelled`, `job_timeout`,
    /// `shutdown`, `no_room`, `remote_lost`, `remote_refused`, or the handler's own.
    pub code: String,
    /// True when the same task may succeed another time.
    pub retryable: bool,
    /// How many attempts were made; 0 when the task never began.
    pub attempts: u32,
    /// Status of the response, for HTTP tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// From the start of the first attempt to the end of the last.
    pub duration_ms: u64,
}

/// Data of `progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Tasks that have finished.
    pub step: usize,
    /// All tasks of the job.
    pub total_steps: usize,
    /// The same in percent.
    #[serde(serialize_with = "number")]
    pub progress: f64,
}

/// Data of `aggregated_result`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AggregatedResult {
    /// By task id: the result, `{"error"}`, or `{"result": null, "resultBytes", "resultUrl"}` where it is too large;
    /// `null` with `resultsUrl` where not even that fits into an event.
    pub results: Box<RawValue>,
    /// The job, whose tasks name their results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results_url: Option<String>,
}

/// Data of `complete`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Complete {
    /// What the job came to.
    pub status: Status,
    /// All tasks of the job.
    pub total_tasks: usize,
    /// Those with a result.
    pub success_count: usize,
    /// Those without.
    pub error_count: usize,
    /// The first errors, at most [`Complete::MAX_ERRORS`].
    pub errors: Vec<ErrorEntry>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_omitted: Option<usize>,
    /// From acceptance to the end.
    pub duration_ms: u64,
}

/// One entry of `complete.errors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorEntry {
    /// Which task.
    pub task_id: String,
    /// For people.
    pub error: String,
}

/// Why an event of a job's topic is none that this module knows.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The name belongs to no fact.
    #[error("`{0}` is no event of a job")]
    Name(String),
    /// The data have another form.
    #[error("the data of a job's event are not as they should be: {0}")]
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
    /// Once only `task_start` had it.
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
    /// When name or data are not of a job's event.
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

    /// Bytes of JSON that came from elsewhere.
    fn payload_bytes(&self) -> usize {
        match self {
            Self::TaskComplete(done) => done.result.get().len(),
            Self::AggregatedResult(results) => results.results.get().len(),
            _ => 0,
        }
    }

    /// True for what `notify` also sends elsewhere.
    pub fn notifies(&self) -> bool {
        matches!(self, Self::TaskError(_) | Self::Progress(_) | Self::Complete(_))
    }
}

// === impl Complete ===

impl Complete {
    /// Most entries of `errors`: whoever needs all of them has the `error` events.
    pub const MAX_ERRORS: usize = 100;
}

/// Writes `50`, not `50.0`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e9 {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small, as the line above says")]
        return serializer.serialize_i64(*value as i64);
    }
    serializer.serialize_f64(*value)
}
