//! The request body of a job, as received and as checked.
//!
//! [`Spec`] mirrors the JSON of the HTTP contract, section 3, and rejects unknown fields. [`Plan`] is the result of
//! [`Plan::check`]: ids are unique, every handler exists, every limit holds. A client gets all mistakes in one
//! response.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handlers::{ErrorEvents, HttpInput};
use crate::{
    json::Json,
    topic::Topic,
    upstream::{Via, parse_method},
};

mod check;
#[cfg(test)]
mod tests;

pub use self::check::Limits;

/// The request body of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = JobSpec, examples(json!({
    "tasks": [
        { "id": "image", "name": "Process Image", "run": "Process Image" },
        { "id": "report", "url": "https://reports.example/build", "method": "POST", "body": { "month": 9 }, "timeoutMs": 5000, "retryCount": 2 },
    ],
    "concurrency": 2, "failFast": false, "notify": { "user": "42" },
})))]
pub struct Spec {
    /// The tasks, which run in parallel; at least one, at most `jobs.max_tasks`.
    #[schema(min_items = 1)]
    pub tasks: Vec<TaskSpec>,
    /// Maximum number of tasks of this job at once, on each node that runs some of them. Default: only the limit of the
    /// node.
    #[schema(minimum = 1)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// The whole job's deadline in milliseconds after it was accepted.
    #[schema(minimum = 1, maximum = 86_400_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// True if the first failed task ends the job.
    #[serde(default)]
    pub fail_fast: bool,
    /// What happens to the job when the client that submitted and streams it disconnects.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
    /// Other recipients of the job's `progress`, `error` and `complete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// Reserved; rejected in this version.
    #[schema(ignore)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<Json>,
}

/// One task of a job. Its kind depends on its key: `url` (an HTTP request) or `run` (a named handler). With `remote`
/// that remote runs it, and the handler is one of the remote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskSpec {
    /// Unique in the job; assigned if it is missing.
    #[schema(min_length = 1, max_length = 255)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Name of the task for people; default is the handler's name or the id.
    #[schema(min_length = 1, max_length = 255)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// URL of an HTTP request: `http` or `https`, without user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The request's method, by default `GET`; any method except `CONNECT` and `TRACE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The request's header fields. Their values are never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// The request's body: a string as it is, any other JSON value as its text without white space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub body: Option<Json>,
    /// For a response that is an event stream: the name of its last event, or `[DONE]` if the last event has this data.
    /// A stream that ends without it is an error, `truncated`.
    #[schema(min_length = 1, max_length = 255)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_event: Option<String>,
    /// For such a response: an event `error` is the error of the task (`fail`, the default) or an ordinary event
    /// (`ignore`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_events: Option<ErrorEvents>,
    /// Name of the handler that runs the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Input of the handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Json>,
    /// Timeout of one attempt in milliseconds.
    #[schema(minimum = 1, maximum = 86_400_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Maximum number of repeats of a failed attempt, if a repeat can help; default 0.
    #[schema(minimum = 0, maximum = 20)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<u64>,
    /// The remote that runs it, by its name in the settings; default is this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

/// What happens to a job when the client that streams it disconnects. An end of the node is no disconnect: the job
/// continues at the next start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It continues; later readers get its whole history.
    #[default]
    Continue,
    /// It is cancelled.
    Cancel,
}

/// Topics that also get a job's `progress`, `error` and `complete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Notify {
    /// A user's own topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A group's topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Any topic that clients may publish into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// A spec that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The tasks.
    pub tasks: Vec<PlannedTask>,
    /// Maximum number of tasks of this job at once.
    pub concurrency: Option<usize>,
    /// Time from acceptance to the job's deadline.
    pub timeout: Option<Duration>,
    /// True if the first failed task ends the job.
    pub fail_fast: bool,
    /// Topics that also get `progress`, `error` and `complete`.
    pub notify: Vec<Topic>,
    /// The `Via` of the request that submitted the job; requests of its tasks extend it.
    pub via: Via,
    /// The groups of the user that submitted the job.
    pub groups: Arc<[String]>,
}

/// A task that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTask {
    /// Unique in its job.
    pub id: String,
    /// Name of the task for people.
    pub name: String,
    /// The remote that runs it; `None` for this node.
    pub remote: Option<Arc<str>>,
    /// The handler that runs it.
    pub kind: Kind,
    /// Timeout of one attempt, if the task sets one.
    pub timeout: Option<Duration>,
    /// Maximum number of repeats of a failed attempt.
    pub retries: u32,
}

/// The handler of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The handler for HTTP requests.
    Http,
    /// The handler of this name.
    Run(String),
}

/// Replaces the value of a header field.
const REDACTED: &str = "***";

// === impl Spec ===

impl Spec {
    /// Removes the secrets: the values of header fields, except for `Accept` and `Content-Type`.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut spec = self.clone();
        let fields = spec.tasks.iter_mut().filter_map(|task| task.headers.as_mut()).flatten();
        for (name, value) in fields {
            if !["accept", "content-type"].contains(&name.to_ascii_lowercase().as_str()) {
                REDACTED.clone_into(value);
            }
        }
        spec
    }
}

// === impl TaskSpec ===

impl TaskSpec {
    /// The handler's input: the request of an HTTP task, or the `input` of any other task.
    pub fn into_input(self) -> Json {
        let Some(url) = self.url else { return self.input.unwrap_or_default() };
        let method = self.method.unwrap_or_else(|| "GET".to_owned());
        let input = HttpInput {
            // An invalid method was rejected before.
            method: parse_method(&method).map_or(method, |method| method.to_string()),
            headers: self.headers.unwrap_or_default(),
            body: self.body.unwrap_or_default(),
            end_event: self.end_event,
            error_events: self.error_events.unwrap_or_default(),
            ..HttpInput::get(url)
        };
        Json::of(&input).expect("its keys are texts")
    }
}
