//! Topics as JSON: what there is, a page of the past to render before streaming, and purging.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Identity, Problem,
    emitters::page_size,
    identity::Admin,
    permit,
    query::{NoQuery, Query},
};
use crate::{
    app::Node,
    event::{Event, Filter, Meta, Position, Subscriber},
    journal::{Query as JournalQuery, TopicInfo},
    topic::{Pattern, Topic},
};

/// Topics with counts and positions, in name order: those that the caller may hear.
#[utoipa::path(get, path = "/api/topics", tag = "topics", params(
    ("pattern" = Option<String>, Query, max_length = 256, description = "a topic, or a prefix with a trailing `*`", example = "order:*"),
    ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "most rows, default 100"),
    ("after" = Option<String>, Query, min_length = 1, max_length = 255, description = "the `next` of the page before"),
), responses(
    (status = 200, description = "a page of topics", body = TopicPage), (status = 422, description = "this is no topic")))]
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
    Ok(HttpResponse::Ok().json(TopicPage { topics, next }))
}

/// A page of topics, by name.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({
    "topics": [{ "topic": "order:7", "events": 2, "bytes": 512, "first": "9c1f00aa0b77-3", "last": "9c1f00aa0b77-12" }], "next": null,
})))]
struct TopicPage {
    topics: Vec<TopicInfo>,
    /// Give it as `after` for the next page; `null` when this is the last.
    #[schema(value_type = Option<String>)]
    next: Option<Topic>,
}

/// An event as JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventRow<'a> {
    /// Its position, as `id:` has it in a stream.
    #[schema(value_type = String)]
    id: Position,
    /// Where it was published, as far as the caller may hear that.
    #[schema(value_type = Vec<String>)]
    topics: Vec<&'a Topic>,
    /// Its name.
    event: &'a str,
    /// Its data: JSON where they are JSON, else a string.
    data: Value,
    /// When it was appended, in Unix milliseconds.
    timestamp: u64,
    /// Its id at the remote that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    /// The remote that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    /// The id that its publisher gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher_id: Option<&'a str>,
}

/// A page of events, in journal order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({
    "events": [{
        "id": "9c1f00aa0b77-12", "topics": ["order:7"], "event": "paid", "data": { "total": 12 }, "timestamp": 1_790_000_000_000_u64,
    }],
    "lastEventId": "9c1f00aa0b77-12", "gap": false,
})))]
struct EventPage<'a> {
    events: Vec<EventRow<'a>>,
    /// What a stream goes on from, and the `after` of the next page.
    #[schema(value_type = String)]
    last_event_id: Position,
    /// True when events that `after` asks for are no longer kept.
    gap: bool,
}

/// What a purge has taken.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "purged": 17 })))]
struct Purged {
    /// How many events the topic had.
    purged: u64,
}

/// A page of a topic's events, with the `lastEventId` to stream on from: render first, then stream.
#[utoipa::path(get, path = "/api/topics/{topic}/events", tag = "topics", params(
    ("topic" = String, Path, min_length = 1, max_length = 255, description = "the topic", example = "order:7"),
    ("after" = Option<String>, Query, pattern = "^[0-9a-f]+-[0-9]+$", description = "an event id"),
    ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "most rows, default 100"),
), responses(
    (status = 200, description = "a page of events", body = EventPage<'_>), (status = 422, description = "this is no topic")))]
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
    let gap = foreign || (asked.is_some() && !page.trimmed.is_empty());
    let last_event_id = Position { epoch, offset: page.through };
    Ok(HttpResponse::Ok().json(EventPage {
        events: page.events.iter().filter_map(|event| EventRow::of(event, &identity)).collect(),
        last_event_id,
        gap,
    }))
}

/// Purge a topic; who had not seen its events is told of a gap.
#[utoipa::path(delete, path = "/api/topics/{topic}", tag = "topics",
    params(("topic" = String, Path, min_length = 1, max_length = 255, description = "the topic", example = "order:7")),
    responses(
        (status = 200, description = "how many events it had", body = Purged),
        (status = 409, description = "it belongs to a job or a relay"), (status = 422, description = "this is no topic")))]
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
    Ok(HttpResponse::Ok().json(Purged { purged }))
}

// === impl EventRow ===

impl<'a> EventRow<'a> {
    /// The event as this caller may see it: nothing of what is filtered for others, and of its topics those that the caller
    /// may hear.
    fn of(event: &'a Event, identity: &'a Identity) -> Option<Self> {
        let meta = Meta::default();
        let meta = identity.meta.as_ref().unwrap_or(&meta);
        let (user, groups) = (identity.user.as_deref(), &identity.groups[..]);
        let caller = Subscriber { meta, user, groups, emitter_id: "" };
        let passes = |filter: &Filter| identity.is_admin() || filter.matches(&caller).unwrap_or(false);
        if !event.filter.as_ref().is_none_or(passes) {
            return None;
        }
        Some(Self {
            id: event.position,
            topics: event.topics.iter().filter(|topic| identity.may_hear(topic)).collect(),
            event: event.name(),
            data: event.data_value(),
            timestamp: event.timestamp,
            origin: event.origin.as_deref(),
            source: event.source(),
            publisher_id: event.key.as_deref(),
        })
    }
}
