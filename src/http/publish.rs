//! Publishing: every route makes drafts, and returns the result of the journal.

use std::{collections::HashSet, fmt};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::json;
use utoipa::{
    ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, OneOfBuilder, Type},
    },
};

use super::{
    Identity, Problem,
    body::Json,
    emitters::gone,
    limited, permit,
    query::{NoQuery, Query},
};
use crate::{
    event::{Draft, Filter, MAX_TOPICS_PER_EVENT, Payload, Position},
    journal::AppendError,
    json,
    node::{self, Node},
    topic::Topic,
};

/// An event as a publisher sends it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = Event)]
pub(super) struct EventBody {
    /// The topic; or `topics`. Absent if the path of the route names the topic.
    #[schema(min_length = 1, max_length = 255)]
    topic: Option<String>,
    /// Several topics for one event.
    #[schema(min_items = 1, max_items = 64)]
    topics: Option<Vec<String>>,
    /// The event's name, default `message`; without CR, LF and NUL.
    #[schema(pattern = r"^[^\r\n\x00]*$")]
    event: Option<String>,
    /// The payload: a string is sent unchanged, any other value as compact JSON.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Value, required = true)]
    data: Option<Payload>,
    /// The publisher's id for the event: a repeat of the id in the same (first) topic appends nothing. At most 255
    /// bytes, without CR, LF and NUL.
    #[schema(pattern = r"^[^\r\n\x00]*$", max_length = 255)]
    id: Option<String>,
    /// Reconnection time for clients, in milliseconds; a longer time is reduced to one hour.
    retry: Option<u64>,
    /// A comment before the event.
    comment: Option<String>,
    /// Milliseconds after which the event is deleted.
    ttl_ms: Option<u64>,
}

/// One event or an array of them.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the OpenAPI document uses it: the handler parses by hand, for better messages")]
#[schema(as = EventOrEvents, examples(
    json!({ "topic": "order:7", "event": "paid", "data": { "total": 12 }, "id": "payment-17" }),
    json!([{ "topic": "order:7", "data": "one" }, { "topics": ["order:7", "group:ops"], "data": "two", "ttlMs": 60_000 }]),
))]
#[serde(untagged)]
pub(super) enum EventsDocument {
    One(EventBody),
    Many(Vec<EventBody>),
}

/// One receipt or an array of receipts, in the order of the events.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only the OpenAPI document uses it: the handler parses by hand, for better messages")]
#[schema(as = PublishedOneOrMany, examples(json!({ "id": "9c1f00aa0b77-12", "topic": "order:7", "delivered": 3 })))]
#[serde(untagged)]
pub(super) enum PublishedDocument {
    One(Published),
    Many(Vec<Published>),
}

/// One event or an array of them, and whether it was an array.
pub(super) struct Events(Vec<EventBody>, bool);

/// An event for emitters that match a filter.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FilteredEvent, examples(json!({ "filter": { "premium": true }, "event": "offer", "data": "for you" })))]
pub(super) struct FilteredBody {
    /// Names and values that the metadata must have; or a CEL expression over `metadata`, `user`, `groups` and
    /// `emitterId`, such as `metadata.level > 3 && "ops" in groups`.
    #[schema(schema_with = filter_schema)]
    filter: json::Json,
    /// The event's name, default `message`; without CR, LF and NUL.
    #[schema(pattern = r"^[^\r\n\x00]*$")]
    event: Option<String>,
    /// The payload.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Value, required = true)]
    data: Option<Payload>,
    /// The publisher's id for the event; at most 255 bytes, without CR, LF and NUL.
    #[schema(pattern = r"^[^\r\n\x00]*$", max_length = 255)]
    id: Option<String>,
}

/// The result of publishing an event.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "id": "9c1f00aa0b77-12", "topic": "order:7", "delivered": 3 })))]
pub(super) struct Published {
    /// Its position; for a duplicate the position of the first one; `null` for an event without journal.
    #[schema(value_type = Option<String>)]
    id: Option<Position>,
    /// The topic of the event.
    #[schema(value_type = String)]
    topic: Topic,
    /// Number of emitters of this node that are subscribed, each counted once; `null` for filtered events.
    delivered: Option<u64>,
    /// True if the same publisher's id was appended before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// Send any JSON to a user; `?event=` sets the event's name.
#[utoipa::path(post, path = "/api/sse/managed/send/user/{user}", tag = "publishing",
    params(
        ("user" = String, Path, min_length = 1, max_length = 250, description = "the user"),
        ("event" = Option<String>, Query, pattern = r"^[^\r\n\x00]*$", description = "name of the event, default `message`")),
    request_body(content = Value, description = "any JSON", example = json!({ "text": "hello" })),
    responses((status = 200, description = "it is in the journal", body = Published)))]
pub(super) async fn to_user(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    user: Path<String>,
    body: Json<Payload>,
) -> Result<HttpResponse, Problem> {
    let event = event_name(&request)?;
    let draft = Draft::new(Topic::user(&user)?, event, body.value.0);
    one(&node, &request, &identity, draft).await
}

/// Send any JSON to one emitter, without the journal: it is the only send without a delivery guarantee.
#[utoipa::path(post, path = "/api/sse/managed/send/emitter/{emitter}", tag = "publishing",
    params(
        ("emitter" = String, Path, description = "its id"),
        ("event" = Option<String>, Query, pattern = r"^[^\r\n\x00]*$", description = "name of the event, default `message`")),
    request_body(content = Value, description = "any JSON", example = json!({ "text": "hello" })), responses(
        (status = 200, description = "sent", body = Published, example = json!({ "id": null, "topic": "emitter:user_42", "delivered": 1 })),
        (status = 404, description = "no emitter has this id")))]
pub(super) async fn to_emitter(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    emitter: Path<String>,
    body: Json<Payload>,
) -> Result<HttpResponse, Problem> {
    let id = emitter.into_inner();
    let topic = Topic::new(format!("emitter:{id}")).map_err(|_| gone(&id))?;
    permit::publish(&identity, [&topic])?;
    let draft = Draft::new(topic.clone(), event_name(&request)?, body.value.0);
    draft.check(node.config.journal.max_event_bytes)?;
    limited::publish(&node, &request, 1)?;
    if !node.hub.send_to_emitter(id.clone(), draft.event, draft.data).await {
        return Err(gone(&id));
    }
    Ok(HttpResponse::Ok().json(Published { id: None, topic, delivered: Some(1), duplicate: false }))
}

/// Send an event to all emitters that match a filter.
#[utoipa::path(post, path = "/api/sse/managed/send/filtered", tag = "publishing", request_body = FilteredBody,
    responses((status = 200, description = "it is in the journal", body = Published)))]
pub(super) async fn filtered(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    _: NoQuery,
    body: Json<FilteredBody>,
) -> Result<HttpResponse, Problem> {
    let FilteredBody { filter, event, data, id } = body.value;
    let mut draft = Draft::new(Topic::all(), event.unwrap_or_default(), data.ok_or_else(no_data)?.0);
    let filter = filter.read().map_err(|error| Problem::field("filter", error.to_string()))?;
    draft.filter = Some(Filter::from_json(filter).map_err(|refused| Problem::field("filter", refused.to_string()))?);
    draft.key = id;
    one(&node, &request, &identity, draft).await
}

/// Send an event to a group.
#[utoipa::path(post, path = "/api/sse/managed/broadcast/group/{group}", tag = "publishing",
    params(("group" = String, Path, min_length = 1, max_length = 249, description = "the group")),
    request_body(content = EventBody, example = json!({ "event": "alarm", "data": "disk full" })),
    responses((status = 200, description = "it is in the journal", body = Published)))]
pub(super) async fn to_group(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    group: Path<String>,
    _: NoQuery,
    body: Json<EventBody>,
) -> Result<HttpResponse, Problem> {
    one(&node, &request, &identity, addressed(body.value, Topic::group(&group)?)?).await
}

/// Send an event to all clients.
#[utoipa::path(post, path = "/api/sse/managed/broadcast", tag = "publishing",
    request_body(content = EventBody, example = json!({ "event": "news", "data": { "version": "1.2" } })),
    responses((status = 200, description = "it is in the journal", body = Published)))]
pub(super) async fn to_all(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    _: NoQuery,
    body: Json<EventBody>,
) -> Result<HttpResponse, Problem> {
    one(&node, &request, &identity, addressed(body.value, Topic::all())?).await
}

/// Publish an event, or an array of them: all or none.
#[utoipa::path(post, path = "/events", tag = "publishing",
    request_body(content = EventsDocument, description = "one event, or an array of events"),
    responses((status = 200, description = "one answer, or an array of answers in order", body = PublishedDocument)))]
pub(super) async fn events(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    _: NoQuery,
    body: Result<Json<Events>, Problem>,
) -> Result<HttpResponse, Problem> {
    let Events(bodies, many) = body.map_err(in_array)?.value;
    let named = |(index, body): (usize, EventBody)| {
        draft(body).map_err(|problem| if many { of_event(index, problem) } else { problem })
    };
    let drafts: Vec<Draft> = bodies.into_iter().enumerate().map(named).collect::<Result<_, _>>()?;
    let published = append(&node, &request, &identity, drafts).await?;
    Ok(match published.as_slice() {
        [one] if !many => HttpResponse::Ok().json(one),
        all => HttpResponse::Ok().json(all),
    })
}

async fn one(node: &Node, request: &HttpRequest, identity: &Identity, draft: Draft) -> Result<HttpResponse, Problem> {
    draft.check(node.config.journal.max_event_bytes)?;
    let published = append(node, request, identity, vec![draft]).await?;
    Ok(HttpResponse::Ok().json(&published[0]))
}

/// Appends the drafts as one batch.
async fn append(
    node: &Node,
    request: &HttpRequest,
    identity: &Identity,
    mut drafts: Vec<Draft>,
) -> Result<Vec<Published>, Problem> {
    for (index, draft) in drafts.iter().enumerate() {
        permit::publish(identity, &draft.topics)?;
        // Checked before `publisher` is set, so that no user name can pass for a relay of the node.
        draft.check_name().map_err(|reason| AppendError::Invalid { index, reason })?;
    }
    limited::publish(node, request, drafts.len())?;
    let publisher = identity.publisher();
    for draft in &mut drafts {
        draft.publisher.clone_from(&publisher);
    }
    let published = |done: node::Published| {
        let node::Published { id, topic, delivered, duplicate } = done;
        tracing::info!(%topic, %id, delivered, duplicate, "event published");
        Published { id: Some(id), topic, delivered, duplicate }
    };
    Ok(node.publish_drafts(drafts).await?.into_iter().map(published).collect())
}

/// Makes a draft for a route whose path names the topic.
fn addressed(body: EventBody, topic: Topic) -> Result<Draft, Problem> {
    if body.topic.is_some() || body.topics.is_some() {
        return Err(Problem::field("topic", "the route names the topic already; to name others use POST /events"));
    }
    fill(body, vec![topic])
}

fn draft(mut body: EventBody) -> Result<Draft, Problem> {
    let names = match (body.topic.take(), body.topics.take()) {
        (Some(one), None) => vec![one],
        (None, Some(many)) => many,
        (Some(_), Some(_)) => return Err(Problem::field("topic", "give `topic` or `topics`, not both")),
        (None, None) => return Err(Problem::field("topic", "an event needs a `topic` or `topics`")),
    };
    if names.is_empty() || names.len() > MAX_TOPICS_PER_EVENT {
        return Err(Problem::field("topics", format!("an event has 1 to {MAX_TOPICS_PER_EVENT} topics")));
    }
    // Equal names count as one topic.
    let mut seen = HashSet::new();
    let names = names.iter().filter(|name| seen.insert(name.as_str()));
    let topics: Vec<Topic> = names.map(Topic::new).collect::<Result<_, _>>()?;
    if let Some(internal) = topics.iter().find(|topic| topic.internal()) {
        return Err(Problem::field("topic", format!("only the node itself publishes into `{internal}`")));
    }
    fill(body, topics)
}

fn fill(body: EventBody, topics: Vec<Topic>) -> Result<Draft, Problem> {
    Ok(Draft {
        topics,
        event: body.event.unwrap_or_default(),
        data: body.data.ok_or_else(no_data)?.0,
        retry: body.retry,
        comment: body.comment,
        key: body.id,
        ttl_ms: body.ttl_ms,
        ..Draft::default()
    })
}

fn no_data() -> Problem {
    Problem::field("data", "an event needs `data`; use \"\" for an empty one")
}

fn event_name(request: &HttpRequest) -> Result<String, Problem> {
    let query = Query::of(request);
    query.only(&["event", "access_token"])?;
    Ok(query.first("event").unwrap_or_default().to_owned())
}

fn filter_schema() -> RefOr<Schema> {
    let pairs = ObjectBuilder::new().schema_type(Type::Object).description(Some("names and values that must match"));
    let expression = ObjectBuilder::new().schema_type(Type::String).max_length(Some(1024));
    let expression = expression.description(Some(
        "a CEL expression; filters.md has its bounds/docs/filters.md has its limits/filters.md has its bounds",
    ));
    let example = json!("metadata.level > 3 && \"ops\" in groups");
    OneOfBuilder::new().item(pairs).item(expression).examples([example]).into()
}

/// Distinguishes `"data": null` from absent data.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Payload>, D::Error> {
    Payload::deserialize(deserializer).map(Some)
}

/// Adds the index of the wrong event in an array to the problem.
fn of_event(index: usize, problem: Problem) -> Problem {
    Problem { detail: format!("event {index}: {}", problem.detail), ..problem }
}

/// Adds the array to the paths of a parse error, which already contain the index.
fn in_array(problem: Problem) -> Problem {
    let path = problem.errors.first().and_then(|wrong| wrong.field.strip_prefix('[')?.split_once(']'));
    match path.and_then(|(index, _)| index.parse().ok()) {
        Some(index) => of_event(index, problem),
        None => problem,
    }
}

impl<'de> Deserialize<'de> for Events {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany)
    }
}

/// A visitor, so that an error names the field of the event and not "no variant matched".
struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Events;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event or an array of events")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Events, A::Error> {
        let event = EventBody::deserialize(MapAccessDeserializer::new(fields))?;
        Ok(Events(vec![event], false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Events, A::Error> {
        let mut events = Vec::new();
        while let Some(event) = items.next_element()? {
            events.push(event);
        }
        Ok(Events(events, true))
    }
}
