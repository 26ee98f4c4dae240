//! Topics as JSON: what there is, a page of the past to render before streaming, and purging.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Identity, Problem,
    emitters::page_size,
    identity::Admin,
    permit,
    query::{NoQuery, Query},
};
use crate::{
    app::Node,
    event::{Event, Position},
    journal::Query as JournalQuery,
    topic::{Pattern, Topic},
};

/// Topics with counts and positions, in name order: those that the caller may hear.
#[utoipa::path(get, path = "/api/topics", tag = "topics", params(
    ("pattern" = Option<String>, Query, description = "a prefix with a trailing `*`"),
    ("limit" = Option<u64>, Query, description = "1 to 1000, default 100"),
    ("after" = Option<String>, Query, description = "the `next` of the page before"),
), responses((status = 200, description = "a page of topics"), (status = 400, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn list(node: Data<Node>, identity: Identity, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["pattern", "limit", "after", "access_token"])?;
    let limit = page_size(&query)?;
    let pattern = query.first("pattern").map_or(Ok(Pattern::any()), Pattern::new)?;
    let after = query.first("after").map(Topic::new).transpose()?;
    // Of what was asked for, what the caller may hear.
    let mut topics = Vec::new();
    for readable in identity.readable().iter().filter_map(|readable| readable.meet(&pattern)) {
        topics.extend(node.journal.topics(readable, after.clone(), limit + 1).await?);
    }
    topics.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    topics.dedup_by(|a, b| a.topic == b.topic);
    let more = topics.len() > limit;
    topics.truncate(limit);
    let next = topics.last().filter(|_| more).map(|last| last.topic.clone());
    Ok(HttpResponse::Ok().json(json!({ "topics": topics, "next": next })))
}

/// An event as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventRow<'a> {
    id: Position,
    topics: &'a [Topic],
    event: &'a str,
    data: Value,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

/// A page of a topic's events, with the `lastEventId` to stream on from: render first, then stream.
#[utoipa::path(get, path = "/api/topics/{topic}/events", tag = "topics", params(
    ("topic" = String, Path), ("after" = Option<String>, Query, description = "an event id"),
    ("limit" = Option<u64>, Query, description = "1 to 1000, default 100"),
), responses((status = 200, description = "a page of events"), (status = 400, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn events(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    topic: Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["after", "limit", "access_token"])?;
    let limit = page_size(&query)?;
    let topic = Topic::new(topic.into_inner())?;
    permit::subscribe(&identity, [&Pattern::Exact(topic.clone())])?;
    let epoch = node.journal.epoch();
    let asked: Option<Position> = query.get("after", "an event id")?;
    // A position of another life of the journal says nothing: begin with what is kept, and say so.
    let foreign = asked.is_some_and(|position| position.epoch != epoch);
    let after = asked.filter(|_| !foreign).map_or(0, |position| position.offset);
    let page = node
        .journal
        .read(JournalQuery { patterns: vec![Pattern::Exact(topic)].into(), after, floor: 0, limit, max_bytes: 4 << 20 })
        .await?;
    let row = |event: &std::sync::Arc<Event>| {
        serde_json::to_value(EventRow {
            id: event.position,
            topics: &event.topics,
            event: event.name(),
            data: event.data_value(),
            timestamp: event.timestamp,
            origin: event.origin.as_deref(),
            source: event.source(),
        })
        .unwrap_or_default()
    };
    let rows: Vec<Value> = page.events.iter().map(row).collect();
    let gap = foreign || (asked.is_some() && !page.trimmed.is_empty());
    let last = Position { epoch, offset: page.through };
    Ok(HttpResponse::Ok().json(json!({ "events": rows, "lastEventId": last, "gap": gap })))
}

/// Purge a topic; who had not seen its events is told of a gap.
#[utoipa::path(delete, path = "/api/topics/{topic}", tag = "topics", params(("topic" = String, Path)),
    responses((status = 200, description = "how many events it had"), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn purge(
    node: Data<Node>,
    _: Admin,
    topic: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let topic = Topic::new(topic.into_inner())?;
    if topic.internal() {
        return Err(Problem::new(
            actix_web::http::StatusCode::CONFLICT,
            format!(
                "`{topic}` belongs to a job or a relay; it leaves with it (`retention_ms` of `[jobs]` and `[relay]`)"
            ),
        ));
    }
    let purged = node.journal.purge(topic).await?;
    Ok(HttpResponse::Ok().json(json!({ "purged": purged })))
}
