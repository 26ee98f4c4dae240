//! GET routes that open a stream over topics: `connect`, `connect/group/{group}`, `/events`.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{Data, Path},
};
use serde::de::IntoDeserializer;

use super::{Identity, Problem, Refusal, frame_schemas::TopicFrame, limited, permit, query::Query, stream};
use crate::{
    event::Meta,
    hub::{Connect, Heartbeat, HeartbeatKind, Overflow, Start},
    node::Node,
    topic::{Pattern, Topic},
};

/// Query parameters that shape any stream.
const STREAM_PARAMETERS: &[&str] = &[
    "access_token",
    "ticket",
    "lastEventId",
    "heartbeat",
    "heartbeatMs",
    "timeoutMs",
    "retryMs",
    "overflow",
    "envelope",
];

const TOPIC_PARAMETERS: &[&str] = &["topic", "topics", "group", "groups", "meta.*", "history", "since"];

/// Parameters of any stream: [`STREAM_PARAMETERS`] for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "only the OpenAPI document uses it: the handler parses by hand, for better messages")]
pub(super) struct StreamParameters {
    /// Resume after this event; the header `Last-Event-ID` wins.
    #[param(max_length = 1024, example = "9c1f00aa0b77-12")]
    last_event_id: Option<String>,
    /// Sent when the stream has no events.
    #[param(inline)]
    heartbeat: Option<HeartbeatKind>,
    /// Silence before a heartbeat in milliseconds; `emitter.heartbeat_ms` where it is missing.
    #[param(minimum = 1000)]
    heartbeat_ms: Option<u64>,
    /// Lifetime of the stream in milliseconds, 0 for no limit; at most `emitter.max_timeout_ms`, which is a day by
    /// default.
    #[param(maximum = 86_400_000)]
    timeout_ms: Option<u64>,
    /// Reconnection time for the client in milliseconds. A value above `emitter.max_timeout_ms` is reduced to it.
    retry_ms: Option<u64>,
    /// What happens when the client reads too slowly.
    #[param(inline)]
    overflow: Option<Overflow>,
    /// Wrap data in `{topic, id, event, data, timestamp}`.
    envelope: Option<bool>,
}

/// Topics and start of a stream over topics: [`TOPIC_PARAMETERS`] for the document, which cannot describe
/// `meta.KEY=VALUE`.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only the OpenAPI document uses it: the handler parses by hand, for better messages")]
pub(super) struct TopicParameters {
    /// A topic, or a prefix with a trailing `*`; may be repeated. With groups at most 256. Metadata of the connection are
    /// given as `meta.KEY=VALUE` (scalars, at most 32 keys and 4096 bytes).
    #[param(max_items = 256, example = json!(["order:*"]))]
    topic: Option<Vec<String>>,
    /// Topics and prefixes as a list with commas.
    #[param(example = "alerts,order:*")]
    topics: Option<String>,
    /// A group to join; may be repeated.
    #[param(max_items = 256, example = json!(["ops"]))]
    group: Option<Vec<String>>,
    /// Groups as a list with commas.
    groups: Option<String>,
    /// Begin with the last N events; not together with `since`.
    history: Option<u64>,
    /// Begin with the events since this time in Unix milliseconds; not together with `history`.
    since: Option<u64>,
}

/// Maximum number of topics and groups of one connection.
const MAX_TOPICS: usize = 256;

/// Open a stream of the caller's own topic and of the topics and groups that it names.
#[utoipa::path(get, path = "/api/sse/managed/connect", tag = "connections", params(TopicParameters, StreamParameters), responses(
    (status = 200, description = "an event stream; first frame `connection`", body = TopicFrame, content_type = "text/event-stream"),
    (status = 422, description = "a topic or group name is wrong"),
))]
pub(super) async fn connect(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
) -> Result<HttpResponse, Problem> {
    let connect = managed(&node, &request, &identity, None)?;
    stream::open(&node, &request, &identity, connect).await
}

/// Open a stream as `/connect` does, and join the group of the path.
#[utoipa::path(get, path = "/api/sse/managed/connect/group/{group}", tag = "connections",
    params(("group" = String, Path, min_length = 1, max_length = 249, description = "the group"), TopicParameters, StreamParameters),
    responses(
        (status = 200, description = "an event stream; first frame `connection`", body = TopicFrame, content_type = "text/event-stream"),
        (status = 422, description = "a topic or group name is wrong"),
    ))]
pub(super) async fn connect_group(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    group: Path<String>,
) -> Result<HttpResponse, Problem> {
    let connect = managed(&node, &request, &identity, Some(group.into_inner()))?;
    stream::open(&node, &request, &identity, connect).await
}

/// Open a stream as `/connect` does; without topics and groups it receives everything that the caller may read.
#[utoipa::path(get, path = "/events", tag = "connections", params(TopicParameters, StreamParameters), responses(
    (status = 200, description = "an event stream; first frame `connection`", body = TopicFrame, content_type = "text/event-stream"),
    (status = 422, description = "a topic or group name is wrong"),
))]
pub(super) async fn events(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
) -> Result<HttpResponse, Problem> {
    let mut connect = managed(&node, &request, &identity, None)?;
    if connect.topics.is_empty() && connect.groups.is_empty() {
        connect.topics = identity.readable();
    }
    stream::open(&node, &request, &identity, connect).await
}

/// The common part of streams over topics: the user's own topic, the broadcast topic, and the topics of the query.
fn managed(node: &Node, request: &HttpRequest, identity: &Identity, group: Option<String>) -> Result<Connect, Problem> {
    let query = Query::of(request);
    let mut connect = basics(node, request, &query, TOPIC_PARAMETERS)?;
    if identity.may_receive(&Topic::all()) {
        connect.own.push(Topic::all());
    }
    if let Some(user) = &identity.user {
        connect.own.push(Topic::user(user)?);
    }
    connect.groups = group.into_iter().chain(query.list("group", "groups").map(str::to_owned)).collect();
    connect.groups.sort_unstable();
    connect.groups.dedup();
    for group in &connect.groups {
        permit::subscribe(identity, [&Pattern::Exact(Topic::group(group)?)])?;
    }
    connect.topics = query.list("topic", "topics").map(Pattern::new).collect::<Result<_, _>>()?;
    if connect.topics.len() + connect.groups.len() > MAX_TOPICS {
        return Err(Problem::wrong(format!("one connection may name at most {MAX_TOPICS} topics and groups")));
    }
    permit::subscribe(identity, &connect.topics)?;
    connect.meta = meta(&query)?;
    if let Some(known) = &identity.meta {
        if !connect.meta.0.is_empty() {
            let detail = "metadata come from the token; `meta.` parameters are for open mode";
            return Err(Problem::refused(Refusal::Metadata, detail));
        }
        connect.meta = known.clone();
    }
    start(&mut connect, &query)?;
    Ok(connect)
}

/// Sets where a stream begins that does not resume.
pub(super) fn start(connect: &mut Connect, query: &Query) -> Result<(), Problem> {
    if connect.start == Start::Live {
        connect.start =
            match (query.get("history", "a number of events")?, query.get("since", "a time in Unix milliseconds")?) {
                (Some(_), Some(_)) => return Err(Problem::parameter("`history` and `since` cannot go together")),
                (Some(0) | None, None) => Start::Live,
                (Some(count), None) => Start::History(count),
                (None, Some(timestamp)) => Start::Since(timestamp),
            };
    }
    Ok(())
}

/// Reads the parameters that all streams have: position, heartbeat, lifetime, policy, form. `more` names further
/// parameters that the calling function reads itself.
pub(super) fn basics(node: &Node, request: &HttpRequest, query: &Query, more: &[&str]) -> Result<Connect, Problem> {
    let config = &node.config.emitter;
    let mut connect = Connect::new(config);
    let ignored = query.of_stream(&[STREAM_PARAMETERS, more].concat(), request.headers())?;
    if !ignored.is_empty() {
        connect.greeting.fields.insert("ignored".into(), ignored.into());
    }
    if let Some(id) = last_event_id(request, query)? {
        connect.start = Start::After(id);
    }
    connect.heartbeat = heartbeat(node, query)?;
    if let Some(ms) = query.get::<u64>("timeoutMs", "a number of milliseconds")? {
        if ms > config.max_timeout_ms {
            return Err(Problem::parameter(format!("`timeoutMs` = {ms} must be at most {}", config.max_timeout_ms)));
        }
        connect.lifetime = Some(ms).filter(|ms| *ms > 0).map(Duration::from_millis);
    }
    if let Some(ms) = query.get::<u64>("retryMs", "a number of milliseconds")? {
        connect.retry_ms = ms.min(config.max_timeout_ms);
    }
    let policy: Option<Overflow> = word(query, "overflow", "`catch_up`, `drop_oldest`, `drop_latest` or `disconnect`")?;
    connect.overflow = policy.unwrap_or(config.overflow);
    connect.envelope = query.get("envelope", "`true` or `false`")?.unwrap_or(false);
    limited::hub_stream(node, request, &mut connect)?;
    Ok(connect)
}

/// The heartbeat of a stream: its kind and interval.
pub(super) fn heartbeat(node: &Node, query: &Query) -> Result<Heartbeat, Problem> {
    let kind = word(query, "heartbeat", "`event`, `comment` or `none`")?.unwrap_or_default();
    let every = query.get::<u64>("heartbeatMs", "a number of milliseconds")?;
    match every.unwrap_or(node.config.emitter.heartbeat_ms) {
        ms if ms < Heartbeat::MIN_MS => {
            Err(Problem::parameter(format!("`heartbeatMs` = {ms} must be at least {}", Heartbeat::MIN_MS)))
        }
        ms => Ok(Heartbeat { kind, every: Duration::from_millis(ms) }),
    }
}

/// The header takes precedence: a browser keeps the URL for reconnecting, so the id in it is stale. An empty id counts
/// as absent, as in the HTML standard.
pub(super) fn last_event_id(request: &HttpRequest, query: &Query) -> Result<Option<String>, Problem> {
    let header = request.headers().get(header::HeaderName::from_static("last-event-id"));
    let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let query = query.first("lastEventId").map(str::to_owned);
    let id = header.filter(|id| !id.is_empty()).or(query).filter(|id| !id.is_empty());
    match id {
        Some(id) if id.len() > 1024 => Err(Problem::parameter("the last event id has more than 1024 bytes")),
        id => Ok(id),
    }
}

fn meta(query: &Query) -> Result<Meta, Problem> {
    let pairs = query.prefixed("meta.").map(|(key, value)| (key.to_owned(), Meta::parse_value(value)));
    let meta = Meta(pairs.collect());
    if meta.0.len() > Meta::MAX_KEYS || meta.size() > Meta::MAX_BYTES {
        let (keys, bytes) = (Meta::MAX_KEYS, Meta::MAX_BYTES);
        return Err(Problem::parameter(format!("metadata may have at most {keys} keys and {bytes} bytes")));
    }
    Ok(meta)
}

/// Parses a parameter as one of the words of an enum.
fn word<T: serde::de::DeserializeOwned>(query: &Query, name: &str, form: &str) -> Result<Option<T>, Problem> {
    let Some(text) = query.first(name) else { return Ok(None) };
    let value = T::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(text));
    value.map(Some).map_err(|_| Problem::parameter(format!("query parameter `{name}` = `{text}` must be {form}")))
}
