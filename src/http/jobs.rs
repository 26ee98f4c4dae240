//! Jobs: submit, watch, list, cancel, retry, results.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{Data, Path},
};
use serde_json::{Map, Value, json};

use super::{
    Identity, Problem,
    body::Json,
    connect::{STREAM_PARAMETERS, basics, last_event_id},
    emitters::page_size,
    error::Field,
    limited,
    permit::{self, To},
    query::{NoQuery, Query},
    stream, wants_stream,
};
use crate::{
    app::Node,
    event::Position,
    hub::{Connect, Reason, Start},
    jobs::{
        self, Filter, Snapshot, Submission, SubmitError, Submitted, Summary,
        spec::{OnDisconnect, Spec},
    },
    journal,
    topic::{Pattern, Topic},
};

/// The name of a job's last event.
const LAST_EVENT: &str = "complete";

/// Submit a job and stream its events until `complete`.
#[utoipa::path(post, path = "/api/sse/emitter/parallel-tasks", tag = "jobs", request_body = Spec, responses(
    (status = 200, description = "the job's events; the `connection` frame carries `jobId` and `eventsUrl`", content_type = "text/event-stream"),
    (status = 400, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
    (status = 422, body = Problem), (status = 503, body = Problem)))]
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
    params(("Idempotency-Key" = Option<String>, Header, description = "the same key and body again: the same job")),
    responses(
        (status = 202, description = "accepted: `{jobId, status, eventsUrl}` and `Location`"),
        (status = 200, description = "the job's events, where a stream was asked for", content_type = "text/event-stream"),
        (status = 400, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn submit(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    body: Json<Spec>,
) -> Result<HttpResponse, Problem> {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if wants_stream(accept) {
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
    query.only(STREAM_PARAMETERS)?;
    // What could be wrong with the stream is found before there is a job.
    let mut connect = basics(node, request, &query)?;
    connect.start = Start::Beginning;
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
    let hold = limited::job(node, request)?;
    let submission = Submission { spec, user: identity.user, key, hold };
    node.jobs.submit(submission).await.map_err(Problem::from)
}

fn accepted(submitted: &Submitted, retry_of: Option<&str>) -> HttpResponse {
    let Submitted { job_id, status, events_url, .. } = submitted;
    let mut body = json!({ "jobId": job_id, "status": status, "eventsUrl": events_url });
    if let (Some(body), Some(of)) = (body.as_object_mut(), retry_of) {
        body.insert("retryOf".into(), json!(of));
    }
    HttpResponse::Accepted().insert_header((header::LOCATION, format!("/api/jobs/{job_id}"))).json(body)
}

/// A page of jobs, newest first.
#[utoipa::path(get, path = "/api/jobs", tag = "jobs", params(
    ("status" = Option<String>, Query, description = "`queued`, `running`, `completed`, `partial`, `failed`, `cancelled`, `timed_out`"),
    ("user" = Option<String>, Query), ("limit" = Option<u64>, Query, description = "1 to 1000, default 100"),
    ("after" = Option<String>, Query, description = "the `next` of the page before"),
), responses((status = 200, description = "a page of jobs"), (status = 400, body = Problem)))]
pub(super) async fn list(node: Data<Node>, identity: Identity, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["status", "user", "limit", "after", "access_token"])?;
    let limit = page_size(&query)?;
    let status = match query.first("status") {
        None => None,
        Some(word) => Some(
            serde_json::from_value(json!(word))
                .map_err(|_| Problem::malformed(format!("`{word}` is no status of a job")))?,
        ),
    };
    let filter = Filter {
        status,
        user: permit::listed(&identity, query.first("user"))?,
        after: query.first("after").map(str::to_owned),
        limit,
    };
    let page = node.jobs.list(filter).await?;
    Ok(HttpResponse::Ok().json(page))
}

/// A job with its tasks, and the `lastEventId` to stream on from.
#[utoipa::path(get, path = "/api/jobs/{job}", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = Snapshot), (status = 404, body = Problem)))]
pub(super) async fn get(
    node: Data<Node>,
    identity: Identity,
    job: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    permit::job(&node, &identity, &job, To::Read).await?;
    Ok(HttpResponse::Ok().json(node.jobs.get(&job).await?))
}

/// Cancel a job; its `complete` says `cancelled`.
#[utoipa::path(delete, path = "/api/jobs/{job}", tag = "jobs", params(("job" = String, Path)), responses(
    (status = 202, description = "it is being cancelled"), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn cancel(
    node: Data<Node>,
    identity: Identity,
    job: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    permit::job(&node, &identity, &job, To::Change).await?;
    node.jobs.cancel(&job).await?;
    let summary = node.jobs.summary(&job).await?;
    Ok(HttpResponse::Accepted()
        .json(json!({ "jobId": summary.job_id, "status": summary.status, "eventsUrl": summary.events_url })))
}

/// Run the failed tasks of an ended job again, as a new job.
#[utoipa::path(post, path = "/api/jobs/{job}/retry", tag = "jobs", params(("job" = String, Path)), responses(
    (status = 202, description = "accepted"), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn retry(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    job: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    permit::job(&node, &identity, &job, To::Change).await?;
    permit::submit(&identity, &node.jobs.spec(&job).await?)?;
    let hold = limited::job(&node, &request)?;
    let submitted = node.jobs.retry(&job, identity.user, hold).await?;
    Ok(accepted(&submitted, Some(&job)))
}

/// A job's whole history, then what comes, until `complete`. 204 for one who has seen it all.
#[utoipa::path(get, path = "/api/jobs/{job}/events", tag = "jobs", params(
    ("job" = String, Path), ("lastEventId" = Option<String>, Query, description = "resume after this event; the header `Last-Event-ID` wins"),
), responses(
    (status = 200, description = "the job's events", content_type = "text/event-stream"),
    (status = 204, description = "the job has ended and nothing follows: EventSource stops"),
    (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn events(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    job: Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(STREAM_PARAMETERS)?;
    let mut connect = basics(&node, &request, &query)?;
    permit::job(&node, &identity, &job, To::Read).await?;
    let summary = node.jobs.summary(&job).await?;
    let seen = last_event_id(&request, &query)?.and_then(|id| id.parse::<Position>().ok());
    if let Some(seen) = seen
        && seen_all(&node, &job, &summary, seen).await?
    {
        return Ok(HttpResponse::NoContent().finish());
    }
    if connect.start == Start::Live {
        connect.start = Start::Beginning;
    }
    watch(&node, &request, identity, connect, &job, &summary.events_url).await
}

/// A task's result as JSON, also one that was too large for an event.
#[utoipa::path(get, path = "/api/jobs/{job}/tasks/{task}/result", tag = "jobs",
    params(("job" = String, Path), ("task" = String, Path)),
    responses((status = 200, description = "the result", content_type = "application/json"), (status = 404, body = Problem)))]
pub(super) async fn result(
    node: Data<Node>,
    identity: Identity,
    path: Path<(String, String)>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let (job, task) = path.into_inner();
    permit::job(&node, &identity, &job, To::Read).await?;
    let result = node.jobs.result(&job, &task).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(result.json))
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
    connect.greeting.fields =
        Map::from_iter([("jobId".to_owned(), Value::from(job_id)), ("eventsUrl".to_owned(), Value::from(events_url))]);
    stream::open(node, request, &identity, connect).await
}

/// True when nothing follows the position. The summary comes a moment after the journal, so an unfinished one is not
/// believed when the position is that of the job's last event.
async fn seen_all(node: &Node, job: &str, summary: &Summary, seen: Position) -> Result<bool, Problem> {
    if seen.epoch != node.journal.epoch() {
        return Ok(false);
    }
    if summary.status.ended() {
        return Ok(summary.last_event_id.is_some_and(|last| seen.offset >= last.offset));
    }
    let patterns = vec![Pattern::Exact(Topic::job(job)?)].into();
    let after = seen.offset.saturating_sub(1);
    let page = node.journal.read(journal::Query { patterns, after, floor: after, limit: 1, max_bytes: 1 }).await?;
    Ok(page.events.first().is_some_and(|event| event.position == seen && event.name() == LAST_EVENT))
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(errors) => {
                let field = |error: jobs::spec::FieldError| Field { field: error.field, detail: error.detail };
                Self::fields(errors.into_iter().map(field).collect())
            }
            SubmitError::KeyReused => Self::wrong(error.to_string()),
            SubmitError::Full | SubmitError::Starting | SubmitError::Stopping => {
                Self::unavailable(error.to_string(), 5)
            }
            SubmitError::Journal(error) => error.into(),
        }
    }
}

impl From<jobs::Error> for Problem {
    fn from(error: jobs::Error) -> Self {
        use jobs::Error as E;
        match error {
            E::UnknownJob(_) | E::UnknownTask { .. } | E::NoResult(_) => Self::unknown(error.to_string()),
            E::Ended(_) | E::NotEnded(_) | E::NothingFailed => Self::new(StatusCode::CONFLICT, error.to_string()),
            E::Starting | E::Stopping => Self::unavailable(error.to_string(), 5),
            E::Journal(error) => error.into(),
            E::Submit(error) => error.into(),
        }
    }
}
