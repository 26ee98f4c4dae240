//! Samples: jobs that do real work on the node itself, and the data that they fetch.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use serde_json::json;

use super::{
    Code, Identity, Problem, Refusal,
    connect::{StreamParameters, last_event_id},
    frame_schemas::JobFrame,
    jobs::{IdempotencyKey, follow, submit_spec},
    permit::{self, To},
    query::Query,
    stream,
};
use crate::{
    event::{Position, SharedEvent},
    jobs::{
        Filter, Status, Summary,
        handlers::{self, HandlerConfig, sample::QuotePage},
        spec::Spec,
    },
    journal,
    node::Node,
    topic::{Pattern, Topic},
};

/// Prefix of the topics of jobs.
const JOB_TOPIC: &str = "job:";
/// Maximum number of events after a position, and of jobs, that are searched for the caller's job.
const MOST_EVENTS: usize = 256;
const MOST_JOBS: usize = 32;

/// Four tasks of different kinds in parallel.
#[utoipa::path(get, path = "/api/sse/sample-parallel", tag = "samples", params(IdempotencyKey, StreamParameters),
    responses(
        (status = 200, description = "the job's events; with the id of one of its events, the later events", body = JobFrame, content_type = "text/event-stream"),
        (status = 204, description = "the job of this id has ended, or is no longer known; an EventSource stops"),
        (status = 404, description = "the samples are disabled"),
        (status = 422, description = "the `Idempotency-Key` belongs to another job")))]
pub(super) async fn parallel(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
) -> Result<HttpResponse, Problem> {
    sample(&node, &request, identity, json!({ "tasks": all_tasks() })).await
}

/// The tasks of `sample-parallel`, one after another.
#[utoipa::path(get, path = "/api/sse/flow-example", tag = "samples", params(IdempotencyKey, StreamParameters),
    responses(
        (status = 200, description = "the job's events; with the id of one of its events, the later events", body = JobFrame, content_type = "text/event-stream"),
        (status = 204, description = "the job of this id has ended, or is no longer known; an EventSource stops"),
        (status = 404, description = "the samples are disabled"),
        (status = 422, description = "the `Idempotency-Key` belongs to another job")))]
pub(super) async fn flow(node: Data<Node>, request: HttpRequest, identity: Identity) -> Result<HttpResponse, Problem> {
    sample(&node, &request, identity, json!({ "tasks": all_tasks(), "concurrency": 1 })).await
}

/// A task with a rate limit: the shipped configurations permit 100 requests per minute and caller
/// (`[[limits.routes]]`).
#[utoipa::path(get, path = "/api/sse/rate-limited-sse", tag = "samples", params(IdempotencyKey, StreamParameters),
    responses(
        (status = 200, body = JobFrame, content_type = "text/event-stream",
            description = "the job's events; with the id of one of its events, the later events; above the limit, a stream request gets `disconnect` with the reason `rate_limited`"),
        (status = 204, description = "the job of this id has ended, or is no longer known; an EventSource stops"),
        (status = 404, description = "the samples are disabled"),
        (status = 422, description = "the `Idempotency-Key` belongs to another job"),
        (status = 429, description = "above the limit; `Retry-After` and `RateLimit-*` give the time to try again")))]
pub(super) async fn rate_limited(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
) -> Result<HttpResponse, Problem> {
    let tasks = json!([{ "run": "Calculate Stats", "name": "Calculate Stats" }]);
    sample(&node, &request, identity, json!({ "tasks": tasks })).await
}

/// Two tasks that show their progress in many steps.
#[utoipa::path(get, path = "/api/sse/parallel-tasks-progress", tag = "samples", params(IdempotencyKey, StreamParameters),
    responses(
        (status = 200, description = "the job's events; with the id of one of its events, the later events", body = JobFrame, content_type = "text/event-stream"),
        (status = 204, description = "the job of this id has ended, or is no longer known; an EventSource stops"),
        (status = 404, description = "the samples are disabled"),
        (status = 422, description = "the `Idempotency-Key` belongs to another job")))]
pub(super) async fn progress(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
) -> Result<HttpResponse, Problem> {
    let tasks = json!([{ "run": "Process Image", "name": "Process Image" }, { "run": "Calculate Stats", "name": "Calculate Stats" }]);
    sample(&node, &request, identity, json!({ "tasks": tasks })).await
}

fn all_tasks() -> serde_json::Value {
    handlers::sample::HANDLERS.iter().map(|(name, _)| json!({ "name": name, "run": name })).collect()
}

async fn sample(
    node: &Node,
    request: &HttpRequest,
    identity: Identity,
    spec: serde_json::Value,
) -> Result<HttpResponse, Problem> {
    enabled(node)?;
    let spec: Spec = serde_json::from_value(spec).expect("the samples are jobs");
    if node.stopping.is_cancelled() {
        return Ok(stream::refused_for_now(node, Refusal::NodeStopping));
    }
    let is_key = |key: &[u8]| (1..=255).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if request.headers().get("idempotency-key").is_some_and(|key| !is_key(key.as_bytes())) {
        return Err(Problem::field("Idempotency-Key", "must have 1 to 255 visible ASCII characters"));
    }
    match last_event_id(request, &Query::of(request))? {
        Some(seen) => again(node, request, identity, &spec, &seen).await,
        None => submit_spec(node, request, identity, spec).await,
    }
}

/// A reconnecting client, such as an EventSource after each end, gets the rest of its job and never starts a second
/// job. 204 stops its reconnects: the job has ended, or is no longer known.
async fn again(
    node: &Node,
    request: &HttpRequest,
    identity: Identity,
    spec: &Spec,
    seen: &str,
) -> Result<HttpResponse, Problem> {
    if let Ok(seen) = seen.parse::<Position>()
        && seen.epoch == node.journal.epoch()
        && let Some(job) = job_of(node, &identity, spec, seen).await?
    {
        return follow(node, request, identity, &job).await;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// The job of the event at this position. The `id:` of a first frame belongs to no job: then the result is the caller's
/// first job of this sample after the position, or one that has no event yet.
async fn job_of(node: &Node, identity: &Identity, sample: &Spec, seen: Position) -> Result<Option<String>, Problem> {
    let here = node.journal.since(seen.offset.saturating_sub(1), 1).await?.events.pop();
    if let Some(job) = here.as_ref().filter(|event| event.position == seen).and_then(|event| job_in(event)) {
        let permitted = permit::job(node, identity, job, To::Read).await.is_ok();
        return Ok(permitted.then(|| job.to_owned()));
    }
    let patterns = vec![Pattern::new(&format!("{JOB_TOPIC}*"))?].into();
    let (after, floor) = (seen.offset, seen.offset);
    let behind = journal::Query { patterns, after, floor, limit: MOST_EVENTS, max_bytes: 1 << 20 };
    let page = node.journal.read(behind).await?;
    let mut tried: Vec<&str> = Vec::new();
    for job in page.events.iter().filter_map(|event| job_in(event)) {
        if tried.contains(&job) {
            continue;
        }
        if tried.len() == MOST_JOBS {
            break;
        }
        tried.push(job);
        let first = node.journal.topics(Pattern::Exact(Topic::job(job)?), None, 1).await?.pop();
        let begins = first.and_then(|info| info.first).is_some_and(|first| first.offset > seen.offset);
        if begins && is_own(node, identity, sample, job).await {
            return Ok(Some(job.to_owned()));
        }
    }
    let user = identity.user.clone();
    let queued = Filter { status: Some(Status::Queued), user, limit: MOST_JOBS, ..Filter::default() };
    for job in node.jobs.list(queued).await?.jobs.iter().rev() {
        if is_own(node, identity, sample, &job.job_id).await {
            return Ok(Some(job.job_id.as_ref().to_owned()));
        }
    }
    Ok(None)
}

/// The job whose history the event belongs to.
fn job_in(event: &SharedEvent) -> Option<&str> {
    event.topics.iter().find_map(|topic| topic.as_str().strip_prefix(JOB_TOPIC))
}

/// True if the caller submitted this job from the sample.
async fn is_own(node: &Node, identity: &Identity, sample: &Spec, job: &str) -> bool {
    let of_caller = |summary: &Summary| summary.user == identity.user && summary.total_tasks == sample.tasks.len();
    node.jobs.summary(job).await.is_ok_and(|summary| of_caller(&summary))
        && node.jobs.spec(job).await.is_ok_and(|spec| is_same(&spec, sample))
}

/// True if the job was made from this sample. Task ids are not compared, since they are assigned on acceptance.
fn is_same(job: &Spec, sample: &Spec) -> bool {
    let runs = |spec: &Spec| spec.tasks.iter().map(|task| task.run.clone()).collect::<Vec<_>>();
    job.concurrency == sample.concurrency && runs(job) == runs(sample)
}

fn enabled(node: &Node) -> Result<(), Problem> {
    if node.config.samples.enabled {
        return Ok(());
    }
    Err(Problem::unknown("this node has no samples (`samples.enabled` in the settings)").coded(Code::SamplesDisabled))
}

/// The data are also served if the settings have a handler of the kind `sample`.
fn has_data(node: &Node) -> Result<(), Problem> {
    let named = node.config.handlers.values().any(|handler| matches!(handler, HandlerConfig::Sample { .. }));
    if named { Ok(()) } else { enabled(node) }
}

/// The sample table that `Fetch External Data` downloads.
#[utoipa::path(get, path = "/api/sse/samples/orders.csv", tag = "samples",
    responses(
        (status = 200, description = "10,000 orders: `id,date,region,product,quantity,unit_price`", body = String, content_type = "text/csv"),
        (status = 404, description = "the samples are disabled")))]
pub(super) async fn orders(node: Data<Node>) -> Result<HttpResponse, Problem> {
    has_data(&node)?;
    Ok(HttpResponse::Ok().content_type("text/csv; charset=utf-8").body(handlers::sample::orders_csv()))
}

/// A page of the quotes that `Call Third-party API` collects.
#[utoipa::path(get, path = "/api/sse/samples/quotes", tag = "samples",
    params(("page" = Option<u32>, Query, minimum = 1, description = "its number, default 1")),
    responses((status = 200, description = "a page", body = QuotePage), (status = 404, description = "no page has this number, or the samples are disabled")))]
pub(super) async fn quotes(node: Data<Node>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    has_data(&node)?;
    let query = Query::of(&request);
    query.only(&["page", "access_token"])?;
    let page = query.get("page", "a number from 1")?.unwrap_or(1);
    let page = handlers::sample::quotes(page)
        .ok_or_else(|| Problem::unknown(format!("there is no page {page} of the quotes")))?;
    Ok(HttpResponse::Ok().json(page))
}
