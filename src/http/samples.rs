//! Samples: jobs that do real work on the node itself, and the data that they fetch.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use serde_json::json;

use super::{
    Identity, Problem,
    connect::StreamParameters,
    jobs::{IdempotencyKey, submit_spec},
    openapi::streams::JobFrame,
    query::Query,
    stream,
};
use crate::{
    app::Node,
    hub::Reason,
    jobs::{
        handlers::{self, sample::QuotePage},
        spec::Spec,
    },
};

/// Four tasks of different kinds in parallel.
#[utoipa::path(get, path = "/api/sse/sample-parallel", tag = "samples", params(IdempotencyKey, StreamParameters),
    responses(
        (status = 200, description = "the job's events", body = JobFrame, content_type = "text/event-stream"),
        (status = 422, description = "the `Idempotency-Key` stands for another job")))]
pub(super) async fn parallel(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
) -> Result<HttpResponse, Problem> {
    sample(&node, &request, identity, json!({ "tasks": all_tasks() })).await
}

/// The same tasks one after another.
#[utoipa::path(get, path = "/api/sse/flow-example", tag = "samples", params(IdempotencyKey, StreamParameters),
    responses(
        (status = 200, description = "the job's events", body = JobFrame, content_type = "text/event-stream"),
        (status = 422, description = "the `Idempotency-Key` stands for another job")))]
pub(super) async fn flow(node: Data<Node>, request: HttpRequest, identity: Identity) -> Result<HttpResponse, Problem> {
    sample(&node, &request, identity, json!({ "tasks": all_tasks(), "concurrency": 1 })).await
}

/// A task behind a limit: the shipped configurations let one caller ask 100 times in a minute (`[[limits.routes]]`).
#[utoipa::path(get, path = "/api/sse/rate-limited-sse", tag = "samples", params(IdempotencyKey, StreamParameters),
    responses(
        (status = 200, body = JobFrame, content_type = "text/event-stream",
            description = "the job's events; above the limit, where a stream was asked for, `disconnect` with the reason `rate_limited`"),
        (status = 422, description = "the `Idempotency-Key` stands for another job"),
        (status = 429, description = "above the limit; `Retry-After` and `RateLimit-*` say when to come back")))]
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
        (status = 200, description = "the job's events", body = JobFrame, content_type = "text/event-stream"),
        (status = 422, description = "the `Idempotency-Key` stands for another job")))]
pub(super) async fn progress(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
) -> Result<HttpResponse, Problem> {
    let tasks = json!([{ "run": "Process Image", "name": "Process Image" }, { "run": "Calculate Stats", "name": "Calculate Stats" }]);
    sample(&node, &request, identity, json!({ "tasks": tasks })).await
}

fn all_tasks() -> serde_json::Value {
    let names = ["Process Image", "Calculate Stats", "Fetch External Data", "Call Third-party API"];
    names.iter().map(|name| json!({ "name": name, "run": name })).collect()
}

async fn sample(
    node: &Node,
    request: &HttpRequest,
    identity: Identity,
    spec: serde_json::Value,
) -> Result<HttpResponse, Problem> {
    let spec: Spec = serde_json::from_value(spec).expect("the samples are jobs");
    if node.stopping.is_cancelled() {
        return Ok(stream::refused_for_now(node, Reason::Shutdown.as_str()));
    }
    submit_spec(node, request, identity, spec).await
}

/// The sample table that `Fetch External Data` downloads.
#[utoipa::path(get, path = "/api/sse/samples/orders.csv", tag = "samples",
    responses((status = 200, description = "10,000 orders: `id,date,region,product,quantity,unit_price`", body = String, content_type = "text/csv")))]
pub(super) async fn orders() -> HttpResponse {
    HttpResponse::Ok().content_type("text/csv; charset=utf-8").body(handlers::sample::orders_csv())
}

/// A page of the quotes that `Call Third-party API` collects.
#[utoipa::path(get, path = "/api/sse/samples/quotes", tag = "samples",
    params(("page" = Option<u32>, Query, minimum = 1, description = "its number, default 1")),
    responses((status = 200, description = "a page", body = QuotePage), (status = 404, description = "there is no such page")))]
pub(super) async fn quotes(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["page", "access_token"])?;
    let page = query.get("page", "a number from 1")?.unwrap_or(1);
    let page = handlers::sample::quotes(page)
        .ok_or_else(|| Problem::unknown(format!("there is no page {page} of the quotes")))?;
    Ok(HttpResponse::Ok().json(page))
}
