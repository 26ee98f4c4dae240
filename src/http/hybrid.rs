//! Jobs whose tasks run on remotes, in part or all. Each is one local job, whose events name their source.

use std::fmt;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::ToSchema;

use super::{
    Identity, Problem,
    body::Json,
    connect::StreamParameters,
    frame_schemas::JobFrame,
    jobs::{IdempotencyKey, submit_spec},
    permit,
};
use crate::{
    jobs::spec::{Notify, OnDisconnect, Spec, TaskSpec},
    json::FieldError,
    node::Node,
    upstream::Remotes,
};

/// The request body of a hybrid job: at least one task, local or remote.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(examples(json!({
    "localTasks": ["Process Image", "Calculate Stats"], "remoteTasks": ["Fetch External Data", "Call Third-party API"],
    "remote": "reactive",
})))]
pub(super) struct HybridSpec {
    /// Tasks that this node runs.
    #[serde(default)]
    local_tasks: Vec<Entry>,
    /// Tasks that the remote runs.
    #[serde(default)]
    remote_tasks: Vec<Entry>,
    /// Name of the remote; default is `[relay] default_remote`. A task may name another one.
    #[serde(default)]
    remote: Option<String>,
    /// Maximum number of tasks that run at the same time, as in a job.
    #[serde(default)]
    #[schema(minimum = 1)]
    concurrency: Option<u64>,
    /// Time limit of the job in milliseconds.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    timeout_ms: Option<u64>,
    /// Cancels the other tasks after the first failure.
    #[serde(default)]
    fail_fast: bool,
    /// Behaviour when the client disconnects.
    #[serde(default)]
    on_disconnect: OnDisconnect,
    /// Recipients of a notification at the end.
    #[serde(default)]
    notify: Option<Notify>,
}

/// A task, or the name of a handler that runs without input.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Entry {
    /// The handler's name.
    Name(String),
    /// A whole task.
    Task(Box<TaskSpec>),
}

/// Run some tasks on this node and some on a remote, as one job, and stream its events.
#[utoipa::path(post, path = "/api/sse-integration/hybrid-execution/sse-emitter", tag = "jobs", request_body = HybridSpec,
    params(IdempotencyKey, StreamParameters), responses(
        (status = 200, description = "the job's events; `source` names the node or remote of each event", body = JobFrame, content_type = "text/event-stream")))]
pub(super) async fn execute(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    body: Json<HybridSpec>,
) -> Result<HttpResponse, Problem> {
    if let Some(remote) = &body.value.remote {
        permit::remote(&identity, remote)?;
    }
    let local = body.value.local_tasks.len();
    let spec = body.value.lay_out(&node.remotes, node.config.relay.default_remote.as_deref())?;
    submit_spec(&node, &request, identity, spec).await.map_err(|problem| by_list(problem, local))
}

/// Run a job on a remote and stream its events.
#[utoipa::path(post, path = "/api/sse-proxy/{remote}/parallel-tasks/sse-emitter", tag = "jobs", request_body = Spec,
    params(("remote" = String, Path, description = "a remote of the settings", example = "reactive"), IdempotencyKey, StreamParameters),
    responses(
        (status = 200, description = "the job's events; `source` is the remote", body = JobFrame, content_type = "text/event-stream"),
        (status = 404, description = "no remote has this name")))]
pub(super) async fn parallel_tasks(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    remote: Path<String>,
    body: Json<Spec>,
) -> Result<HttpResponse, Problem> {
    let remote = remote.into_inner();
    permit::remote(&identity, &remote)?;
    node.remotes.get(&remote).map_err(Problem::from)?;
    let mut spec = body.value;
    let mut strangers = Vec::new();
    for (index, task) in spec.tasks.iter_mut().enumerate() {
        if task.remote.get_or_insert_with(|| remote.clone()) != &remote {
            let detail = format!("the URL names remote `{remote}`; leave this out, or submit to `/api/jobs`");
            strangers.push(FieldError::new(format!("tasks[{index}].remote"), detail));
        }
    }
    if !strangers.is_empty() {
        return Err(Problem::fields(strangers));
    }
    submit_spec(&node, &request, identity, spec).await
}

// === impl HybridSpec ===

impl HybridSpec {
    fn lay_out(self, remotes: &Remotes, default: Option<&str>) -> Result<Spec, Problem> {
        let Self { local_tasks, remote_tasks, remote, .. } = self;
        if local_tasks.is_empty() && remote_tasks.is_empty() {
            let detail = "a job has at least one task, in `localTasks` or in `remoteTasks`";
            return Err(Problem::field("localTasks", detail));
        }
        if let Some(Err(unknown)) = remote.as_deref().map(|name| remotes.get(name)) {
            return Err(Problem::field("remote", unknown.to_string()));
        }
        let remote = remote.or_else(|| default.map(str::to_owned));
        let (mut tasks, mut errors) = (Vec::new(), Vec::new());
        for (index, task) in local_tasks.into_iter().map(Entry::into_task).enumerate() {
            if task.remote.is_some() {
                let detail = "this node runs the tasks in `localTasks`; move this one to `remoteTasks`";
                errors.push(FieldError::new(format!("localTasks[{index}].remote"), detail));
            }
            tasks.push(task);
        }
        for (index, mut task) in remote_tasks.into_iter().map(Entry::into_task).enumerate() {
            task.remote = task.remote.or_else(|| remote.clone());
            if task.remote.is_none() {
                let detail = "no remote is named here, and the settings have no `default_remote` in `[relay]`";
                let field = if index == 0 { "remote".to_owned() } else { format!("remoteTasks[{index}].remote") };
                errors.push(FieldError::new(field, detail));
            }
            tasks.push(task);
        }
        // More errors of the same kind give no further information.
        errors.truncate(100);
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        let Self { concurrency, timeout_ms, fail_fast, on_disconnect, notify, .. } = self;
        Ok(Spec { tasks, concurrency, timeout_ms, fail_fast, on_disconnect, notify, callback_url: None })
    }
}

// === impl Entry ===

impl Entry {
    fn into_task(self) -> TaskSpec {
        match self {
            Self::Name(name) => TaskSpec { name: Some(name.clone()), run: Some(name), ..TaskSpec::default() },
            Self::Task(task) => *task,
        }
    }
}

impl<'de> Deserialize<'de> for Entry {
    /// The variants are not tried one after the other, so that an error names the wrong field of a task.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a handler or a task")
    }

    fn visit_str<E>(self, name: &str) -> Result<Entry, E> {
        Ok(Entry::Name(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        TaskSpec::deserialize(MapAccessDeserializer::new(map)).map(|task| Entry::Task(Box::new(task)))
    }
}

/// Renames the fields in errors to the two lists that the client has sent.
fn by_list(problem: Problem, local: usize) -> Problem {
    if problem.errors.is_empty() {
        return problem;
    }
    let named = |FieldError { field, detail }| {
        let path = field.strip_prefix("tasks[").and_then(|rest| {
            let (number, behind) = rest.split_once(']')?;
            let index: usize = number.parse().ok()?;
            Some(match index.checked_sub(local) {
                Some(index) => format!("remoteTasks[{index}]{behind}"),
                None => format!("localTasks[{index}]{behind}"),
            })
        });
        FieldError { field: path.unwrap_or(field), detail }
    };
    Problem::fields(problem.errors.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lay_out(body: serde_json::Value, default: Option<&str>) -> Result<Spec, Problem> {
        serde_json::from_value::<HybridSpec>(body).unwrap().lay_out(&Remotes::default(), default)
    }

    #[test]
    fn without_a_default_the_remote_must_be_named() {
        let body = json!({ "localTasks": ["a"], "remoteTasks": ["b", { "run": "c", "remote": "far" }] });
        let error = lay_out(body.clone(), None).unwrap_err();
        assert_eq!((error.status, error.errors[0].field.as_str()), (422, "remote"));
        assert!(error.detail.contains("default_remote"), "{}", error.detail);
        let spec = lay_out(body, Some("near")).unwrap();
        let remotes: Vec<_> = spec.tasks.iter().map(|task| task.remote.as_deref()).collect();
        assert_eq!(remotes, [None, Some("near"), Some("far")]);
        assert!(lay_out(json!({ "localTasks": ["a"] }), None).is_ok(), "no remote is needed");
    }
}
