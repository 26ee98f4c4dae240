//! Jobs: submit, watch, list, cancel, retry, results.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{Data, Path},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Code, Identity, Problem, Refusal, accept, address,
    answer::Shared,
    body::Json,
    connect::{StreamParameters, basics, last_event_id},
    frame_schemas::JobFrame,
    frontend::Frontend,
    head::is_head,
    limited, listing,
    permit::{self, To},
    query::{NoQuery, Query},
    stream,
    turn::Turn,
};
use crate::{
    durable::seen_all,
    event::Position,
    hub::{Connect, Reason, Start},
    jobs::{
        self, Listing, Snapshot, Status, Submission, SubmitError, Submitted, Summary,
        spec::{OnDisconnect, Spec, TaskSpec},
    },
    node::Node,
    topic::{Pattern, Topic},
};

/// The name of a job's last event.
const LAST_EVENT: &str = "complete";

/// Makes a repeated submission return the same job.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only the OpenAPI document uses it: the handler parses by hand, for better messages")]
pub(super) struct IdempotencyKey {
    /// A repeat with the same key, body and user returns the same job. With another body: 422.
    #[param(rename = "Idempotency-Key", nullable = false, pattern = "^[!-~]{1,255}$")]
    key: Option<String>,
}

/// A job that was accepted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobAccepted, examples(json!({
    "jobId": "01JB0000000000000000000000", "status": "queued", "eventsUrl": "/api/jobs/01JB0000000000000000000000/events",
})))]
struct Accepted<'a> {
    #[serde(flatten)]
    submitted: &'a Submitted,
    /// The job whose failed tasks it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_of: Option<&'a str>,
}

/// Submit a job and stream its events until `complete`.
#[utoipa::path(post, path = "/api/sse/emitter/parallel-tasks", tag = "jobs", request_body = Spec,
    params(IdempotencyKey, StreamParameters), responses(
        (status = 200, description = "the job's events; the `connection` frame carries `jobId` and `eventsUrl`", body = JobFrame, content_type = "text/event-stream")))]
pub(super) async fn submit_and_stream(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    body: Json<Spec>,
) -> Result<HttpResponse, Problem> {
    submit_spec(&node, &request, identity, body.value).await
}

/// Submit a job. With `Accept: text/event-stream` its events are streamed.
#[utoipa::path(post, path = "/api/jobs", tag = "jobs", request_body = Spec,
    params(IdempotencyKey, StreamParameters), responses(
        (status = 202, description = "accepted", body = Accepted<'_>, headers(("Location" = String, description = "where the job is"))),
        (status = 200, description = "the job's events, where `Accept` asks for a stream; only then the stream's parameters are taken",
            body = JobFrame, content_type = "text/event-stream")))]
pub(super) async fn submit(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    body: Json<Spec>,
) -> Result<HttpResponse, Problem> {
    if accept::prefers_stream(request.headers()) {
        return submit_spec(&node, &request, identity, body.value).await;
    }
    Query::of(&request).only(&["access_token"])?;
    let submitted = accept_job(&node, &request, identity, body.value).await?;
    Ok(accepted(&submitted, None))
}

/// Submits a spec and streams the job.
pub(super) async fn submit_spec(
    node: &Node,
    request: &HttpRequest,
    identity: Identity,
    spec: Spec,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(request);
    // Errors of the stream are found before the job exists.
    let mut connect = basics(node, request, &query, &[])?;
    connect.start = Start::Beginning;
    if is_head(request) {
        permit::submit(&identity, &spec)?;
        return Ok(stream::only_head(request));
    }
    let cancel_on_leave = spec.on_disconnect == OnDisconnect::Cancel;
    let Submitted { job_id, events_url, .. } = accept_job(node, request, identity.clone(), spec).await?;
    if cancel_on_leave {
        let (jobs, job_id) = (node.jobs.clone(), job_id.clone());
        connect.on_close = Some(Box::new(move |reason| {
            if !matches!(reason, Reason::Ended | Reason::Shutdown) {
                actix_rt::spawn(async move { drop(jobs.cancel(&job_id).await) });
            }
        }));
    }
    watch(node, request, identity, connect, &job_id, &events_url).await
}

async fn accept_job(node: &Node, request: &HttpRequest, identity: Identity, spec: Spec) -> Result<Submitted, Problem> {
    permit::submit(&identity, &spec)?;
    let key = match request.headers().get("Idempotency-Key").map(|value| value.to_str()) {
        None => None,
        Some(Ok(key)) if !key.is_empty() && key.len() <= 255 => Some(key.to_owned()),
        Some(_) => {
            return Err(Problem::malformed("the header `Idempotency-Key` must have 1 to 255 visible ASCII characters"));
        }
    };
    let quota_guard = limited::job(node, request)?;
    let via = address::via(request);
    let goes_on = |task: &TaskSpec| task.url.is_some() || task.remote.is_some();
    if spec.tasks.iter().any(goes_on) {
        node.upstream.permits(&via).map_err(|error| Problem::looped(error.to_string()))?;
    }
    let submission = Submission { spec, user: identity.user, groups: identity.groups, key, via, quota_guard };
    node.jobs.submit(submission).await.map_err(Problem::from)
}

fn accepted(submitted: &Submitted, retry_of: Option<&str>) -> HttpResponse {
    let location = (header::LOCATION, format!("/api/jobs/{}", submitted.job_id));
    HttpResponse::Accepted().insert_header(location).json(Accepted { submitted, retry_of })
}

/// A page of jobs, newest first.
#[utoipa::path(get, path = "/api/jobs", tag = "jobs", params(
    ("status" = inline(Option<Status>), Query, description = "only those with this status"),
    ("user" = Option<String>, Query, description = "only those of this user"),
    ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "most rows, default 100"),
    ("after" = Option<String>, Query, description = "the `next` of the previous page"),
), responses((status = 200, description = "a page of jobs", body = Listing)))]
pub(super) async fn list(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    let filter = listing::filter(&request, &identity, "job")?;
    let page = node.jobs.list(filter).await?;
    Ok(HttpResponse::Ok().json(page))
}

/// A job with its tasks, and the `lastEventId` from which a stream continues.
#[utoipa::path(get, path = "/api/jobs/{job}", tag = "jobs", params(("job" = String, Path, description = "its id")),
    responses((status = 200, description = "the job", body = Snapshot), (status = 404, description = "no job has this id")))]
pub(super) async fn get(
    node: Data<Node>,
    identity: Identity,
    job: Path<String>,
    _: NoQuery,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    permit::job(&node, &identity, &job, To::Read).await?;
    Ok(HttpResponse::Ok().json(node.jobs.get(&job).await?))
}

/// Cancel a job; its `complete` has the status `cancelled`.
#[utoipa::path(delete, path = "/api/jobs/{job}", tag = "jobs", params(("job" = String, Path, description = "its id")), responses(
    (status = 202, description = "the job is being cancelled", body = Accepted<'_>),
    (status = 404, description = "no job has this id"), (status = 409, description = "the job has ended")))]
pub(super) async fn cancel(
    node: Data<Node>,
    identity: Identity,
    job: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    permit::job(&node, &identity, &job, To::Change).await?;
    node.jobs.cancel(&job).await?;
    let Summary { job_id, status, events_url, .. } = node.jobs.summary(&job).await?;
    let submitted = &Submitted { job_id: job_id.as_ref().to_owned(), status, events_url, existing: true };
    Ok(HttpResponse::Accepted().json(Accepted { submitted, retry_of: None }))
}

/// Run the failed tasks of an ended job again, as a new job.
#[utoipa::path(post, path = "/api/jobs/{job}/retry", tag = "jobs", params(("job" = String, Path, description = "its id")), responses(
    (status = 202, description = "accepted", body = Accepted<'_>, headers(("Location" = String, description = "where the new job is"))),
    (status = 404, description = "no job has this id"), (status = 409, description = "the job has not ended, or no task failed"),
    (status = 422, description = "a handler of the job no longer exists")))]
pub(super) async fn retry(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    job: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    permit::job(&node, &identity, &job, To::Change).await?;
    permit::submit(&identity, &node.jobs.spec(&job).await?)?;
    let quota_guard = limited::job(&node, &request)?;
    let submitted = node.jobs.retry(&job, identity.user, identity.groups, address::via(&request), quota_guard).await?;
    Ok(accepted(&submitted, Some(&job)))
}

/// A job's whole history, then its new events, until `complete`. 204 if the client has already received the last event.
#[utoipa::path(get, path = "/api/jobs/{job}/events", tag = "jobs", params(
    ("job" = String, Path, description = "its id"), StreamParameters,
), responses(
    (status = 200, description = "the job's events", body = JobFrame, content_type = "text/event-stream"),
    (status = 204, description = "the job has ended and the client has all events: EventSource stops"),
    (status = 404, description = "no job has this id")))]
pub(super) async fn events(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    job: Path<String>,
) -> Result<HttpResponse, Problem> {
    follow(&node, &request, identity, &job).await
}

/// Streams a job from the client's position.
pub(super) async fn follow(
    node: &Node,
    request: &HttpRequest,
    identity: Identity,
    job: &str,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(request);
    let mut connect = basics(node, request, &query, &[])?;
    permit::job(node, &identity, job, To::Read).await?;
    let summary = node.jobs.summary(job).await?;
    let seen = last_event_id(request, &query)?.and_then(|id| id.parse::<Position>().ok());
    if let Some(seen) = seen {
        let ended = summary.status.ended();
        // The last event may be another one than `complete`, if the journal was full for too long and rejected it.
        let has_end = ended && summary.last_event_id == Some(seen);
        if has_end || seen_all(&node.journal, &Topic::job(job)?, LAST_EVENT, ended, Some(seen)).await? {
            return Ok(HttpResponse::NoContent().finish());
        }
    }
    if connect.start == Start::Live {
        connect.start = Start::Beginning;
    }
    watch(node, request, identity, connect, job, &summary.events_url).await
}

/// A task's result as JSON, also if it was too large for an event.
#[utoipa::path(get, path = "/api/jobs/{job}/tasks/{task}/result", tag = "jobs",
    params(("job" = String, Path, description = "the job's id"), ("task" = String, Path, description = "the task's id")),
    responses(
        (status = 200, description = "the result", body = Value, content_type = "application/json", example = json!({ "rows": 10_000 })),
        (status = 404, description = "there is no such job or task, or it has no result")))]
pub(super) async fn result(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    path: Path<(String, String)>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let (job, task) = path.into_inner();
    permit::job(&node, &identity, &job, To::Read).await?;
    let result = Frontend::of(&request).results.get(&node, &request, &job, &task).await?;
    let mut response = HttpResponse::Ok().content_type("application/json").body(result.bytes().clone());
    response.extensions_mut().insert(Shared(result));
    Ok(response)
}

async fn watch(
    node: &Node,
    request: &HttpRequest,
    identity: Identity,
    mut connect: Connect,
    job_id: &str,
    events_url: &str,
) -> Result<HttpResponse, Problem> {
    connect.topics = vec![Pattern::Exact(Topic::job(job_id)?)];
    connect.until = Some(LAST_EVENT);
    let own = [("jobId".to_owned(), Value::from(job_id)), ("eventsUrl".to_owned(), Value::from(events_url))];
    connect.greeting.fields.extend(own);
    stream::open(node, request, &identity, connect).await
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(errors) => Self::fields(errors),
            SubmitError::KeyReused => Self::wrong(error.to_string()).coded(Code::KeyReused),
            SubmitError::Full => Self::refused(Refusal::JobsFull, error.to_string()),
            SubmitError::Starting => Self::refused(Refusal::NodeStarting, error.to_string()),
            SubmitError::Stopping => Self::refused(Refusal::NodeStopping, error.to_string()),
            SubmitError::Share => Self::refused(Refusal::Share, error.to_string()),
            SubmitError::Journal(error) => error.into(),
        }
    }
}

impl From<jobs::Error> for Problem {
    fn from(error: jobs::Error) -> Self {
        use jobs::Error as E;
        match error {
            E::UnknownJob(_) => Self::unknown(error.to_string()).coded(Code::UnknownJob),
            E::UnknownTask { .. } | E::NoResult(_) => Self::unknown(error.to_string()).coded(Code::UnknownResult),
            E::Ended(_) => Self::new(StatusCode::CONFLICT, error.to_string()).coded(Code::JobEnded),
            E::NotEnded(_) => Self::new(StatusCode::CONFLICT, error.to_string()).coded(Code::JobNotEnded),
            E::NothingFailed => Self::new(StatusCode::CONFLICT, error.to_string()).coded(Code::NothingFailed),
            E::Starting => Self::refused(Refusal::NodeStarting, error.to_string()),
            E::Stopping => Self::refused(Refusal::NodeStopping, error.to_string()),
            E::Unreadable { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            E::Journal(error) => error.into(),
            E::Submit(error) => error.into(),
        }
    }
}
