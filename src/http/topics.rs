//! Topics as JSON: the list, a page of events to render before streaming, and purging.

use std::{pin::pin, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Path},
};
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

use super::{
    Identity, Problem,
    connection::Connection,
    emitters::page_size,
    flood::InputWatch,
    frontend::Frontend,
    head::is_head,
    identity::Admin,
    limited, permit,
    query::{NoQuery, Query},
    turn::{Size, Turn},
};
use crate::{
    access::Refused,
    event::{Event, Filter, Meta, Position, SharedEvent, Subscriber},
    journal::{Query as JournalQuery, TopicInfo, Unavailable},
    json::Json,
    node::Node,
    topic::{Pattern, Topic},
};

/// Topics that the caller may subscribe to, with counts and positions, in name order.
#[utoipa::path(get, path = "/api/topics", tag = "topics", params(
    ("pattern" = Option<String>, Query, max_length = 256, description = "a topic, or a prefix with a trailing `*`", example = "order:*"),
    ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "most rows, default 100"),
    ("after" = Option<String>, Query, min_length = 1, max_length = 255, description = "the `next` of the previous page"),
), responses(
    (status = 200, description = "a page of topics", body = TopicPage), (status = 422, description = "the topic is not valid")))]
pub(super) async fn list(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["pattern", "limit", "after", "access_token"])?;
    let limit = page_size(&query)?;
    let pattern = query.first("pattern").map_or(Ok(Pattern::any()), Pattern::new)?;
    let after = query.first("after").map(Topic::new).transpose()?;
    // The part of the requested topics that the caller may subscribe to.
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
    /// Pass it as `after` to get the next page; `null` on the last page.
    #[schema(value_type = Option<String>)]
    next: Option<Topic>,
}

/// An event as JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventRow<'a> {
    /// Its position, equal to `id:` in a stream.
    #[schema(value_type = String)]
    id: Position,
    /// Its topics, as far as the caller may subscribe to them.
    #[schema(value_type = Vec<String>)]
    topics: Vec<&'a Topic>,
    /// Its name.
    event: &'a str,
    /// Its data: JSON if it is JSON, else a string.
    #[schema(value_type = Value)]
    data: Json,
    /// Time of the append in Unix milliseconds.
    timestamp: u64,
    /// Its id at the remote that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    /// The remote that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    /// The publisher's id for the event.
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
    /// The position from which a stream continues, and the `after` of the next page.
    #[schema(value_type = String)]
    last_event_id: Position,
    /// True if requested events were deleted or cannot be read.
    gap: bool,
}

/// The result of a purge.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "purged": 17 })))]
struct Purged {
    /// Number of events that were deleted.
    purged: u64,
}

/// A page of a topic's events, with the `lastEventId` from which a stream continues: render first, then stream.
#[utoipa::path(get, path = "/api/topics/{topic}/events", tag = "topics", params(
    ("topic" = String, Path, min_length = 1, max_length = 255, description = "the topic", example = "order:7"),
    ("after" = Option<String>, Query, pattern = "^[0-9a-f]+-[0-9]+$", description = "an event id"),
    ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "most rows, default 100"),
    ("wait" = Option<u64>, Query, minimum = 0, description = "if the page is empty, wait this number of milliseconds for an event; at most \
        `server.max_wait_ms`", example = 30_000),
), responses(
    (status = 200, description = "a page of events; after `wait` an empty one with the same `lastEventId`", body = EventPage<'_>), (status = 422, description = "the topic is not valid")))]
pub(super) async fn events(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    topic: Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["after", "limit", "wait", "access_token"])?;
    let limit = page_size(&query)?;
    let wait = query.get("wait", "a number of milliseconds")?.unwrap_or(0).min(node.config.server.max_wait_ms);
    let topic = Topic::new(topic.into_inner())?;
    permit::subscribe(&identity, [&Pattern::Exact(topic.clone())])?;
    let asked: Option<Position> = query.get("after", "an event id")?;
    let reading = Reading { topic, asked, limit, cursor: None };
    let page = if wait > 0 && !is_head(&request) {
        reading.awaited(&node, &identity, &request, Duration::from_millis(wait)).await?
    } else {
        reading.page(&node, &request).await?
    };
    let bytes: usize = page.events.iter().map(|event| event.data.len()).sum();
    let text = move || {
        // With its full capacity at once: a growing buffer would leave copies of more than a megabyte.
        let mut text = Vec::with_capacity(bytes + bytes / 16 + page.events.len() * ROW_BYTES);
        serde_json::to_writer(&mut text, &EventPage::of(&page, &identity)).expect("plain data serialises");
        text
    };
    // A large page would delay the other connections of the thread.
    let text = match bytes > SMALL_PAGE {
        true => web::block(text).await.map_err(|_| Problem::unavailable("the page cannot be written"))?,
        false => text(),
    };
    Ok(HttpResponse::Ok().content_type("application/json").body(text))
}

/// Sizes of a page, in bytes of its events: a page above the first waits for its turn.
const SMALL_PAGE: usize = 16 << 10;
const LARGE_PAGE: usize = 4 << 20;
/// Usual size of a row in addition to its data.
const ROW_BYTES: usize = 192;

/// The parameters of a page request.
struct Reading {
    topic: Topic,
    asked: Option<Position>,
    limit: usize,
    /// Offset after events that were read but that this caller may not see.
    cursor: Option<u64>,
}

/// The result of a page request.
struct Found {
    events: Vec<SharedEvent>,
    last_event_id: Position,
    gap: bool,
}

// === impl Reading ===

impl Reading {
    /// The page, read in the turn of the request; most are small.
    async fn page(&self, node: &Node, request: &HttpRequest) -> Result<Found, Problem> {
        Turn::take(node, request, Size::Small).await?;
        let (found, whole) = self.read(node, SMALL_PAGE).await?;
        if whole {
            return Ok(found);
        }
        drop(found);
        Turn::end(request);
        Turn::take(node, request, Size::Large).await?;
        Ok(self.read(node, LARGE_PAGE).await?.0)
    }

    /// Reads a page of at most this size. The flag is true if a larger size would not give more events.
    async fn read(&self, node: &Node, max_bytes: usize) -> Result<(Found, bool), Problem> {
        let epoch = node.journal.epoch();
        // A position of another epoch, or after the head, is not usable: begin with the earliest event and report a
        // gap.
        let strange = |asked: Position| asked.epoch != epoch || asked.offset > *node.journal.watch_head().borrow();
        let known = self.asked.filter(|asked| !strange(*asked));
        let patterns: Arc<[Pattern]> = [Pattern::Exact(self.topic.clone())].into();
        let mut after = self.cursor.or(known.map(|asked| asked.offset)).unwrap_or(0);
        let head = *node.journal.watch_head().borrow();
        let (mut trimmed, mut unreadable) = (false, false);
        // An empty page may not be the last one.
        let page = loop {
            let (patterns, limit) = (patterns.clone(), self.limit);
            let query = JournalQuery { patterns, after, floor: 0, limit, max_bytes };
            let page = match node.journal.read(query).await {
                Err(Unavailable::Unreadable { through, .. }) if through > after => {
                    (unreadable, after) = (true, through);
                    continue;
                }
                page => page?,
            };
            trimmed |= !page.trimmed.is_empty();
            if !page.events.is_empty() || page.through >= head || page.through <= after {
                break page;
            }
            after = page.through;
        };
        let gap = unreadable || (self.asked.is_some() && (known.is_none() || trimmed));
        // Without new events the client's position stays the same.
        let same = known.filter(|_| page.events.is_empty() && !gap && self.cursor.is_none());
        let last_event_id = same.unwrap_or(Position { epoch, offset: page.through });
        let whole = page.events.len() >= self.limit || page.through >= head;
        Ok((Found { events: page.events, last_event_id, gap }, whole))
    }

    /// Like [`page`](Self::page), but waits for an event that this caller may see. The request counts as an open stream
    /// of its caller.
    async fn awaited(
        mut self,
        node: &Node,
        identity: &Identity,
        request: &HttpRequest,
        wait: Duration,
    ) -> Result<Found, Problem> {
        let _permit = limited::stream(node, request)?;
        let stopping = node.stopping.child_token();
        let mut late = pin!(sleep(wait));
        let mut ended = pin!(identity.end(&node.clock));
        let input = InputWatch::start(request);
        let mut flooded = pin!(input.flooded());
        let mut poll = tokio::select! {
            poll = Frontend::of(request).polls.register(self.topic.clone()) => poll,
            () = &mut late => return self.page(node, request).await,
        };
        loop {
            let found = self.page(node, request).await?;
            if found.gap || !EventPage::of(&found, identity).events.is_empty() {
                return Ok(found);
            }
            if !found.events.is_empty() {
                self.cursor = Some(found.last_event_id.offset);
                continue;
            }
            Turn::end(request);
            Connection::read(request, Connection::waits);
            tokio::select! {
                () = poll.changed() => {}
                () = &mut late => return Ok(found),
                () = stopping.cancelled() => return Ok(found),
                () = &mut ended => return Err(Refused::Expired.into()),
                () = &mut flooded => return Err(Problem::malformed("nothing may follow a request that waits")),
            }
        }
    }
}

/// Purge a topic; clients that had not received its events get a gap.
#[utoipa::path(delete, path = "/api/topics/{topic}", tag = "topics",
    params(("topic" = String, Path, min_length = 1, max_length = 255, description = "the topic", example = "order:7")),
    responses(
        (status = 200, description = "how many events it had", body = Purged),
        (status = 409, description = "the topic belongs to a job or a relay"), (status = 422, description = "the topic is not valid")))]
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

// === impl EventPage ===

impl<'a> EventPage<'a> {
    /// The page, with only the events that this caller may see.
    fn of(found: &'a Found, identity: &'a Identity) -> Self {
        let events = found.events.iter().filter_map(|event| EventRow::of(event, identity)).collect();
        Self { events, last_event_id: found.last_event_id, gap: found.gap }
    }
}

// === impl EventRow ===

impl<'a> EventRow<'a> {
    /// The event as this caller may see it: without events that are filtered for others, and with only the topics that
    /// the caller may subscribe to.
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
            topics: event.topics.iter().filter(|topic| identity.may_receive(topic)).collect(),
            event: event.name(),
            data: event.data_json(),
            timestamp: event.timestamp,
            origin: event.origin.as_deref(),
            source: event.source(),
            publisher_id: event.key.as_deref(),
        })
    }
}
