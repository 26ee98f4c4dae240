//! Status of connections: totals, lists, and changing or ending them.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Code, Identity, Problem, Refusal, audit,
    body::Json,
    identity::Admin,
    permit,
    query::{NoQuery, Query},
    turn::Turn,
};
use crate::{
    access::Mode,
    event::Meta,
    hub::{Change, ChangedBy, EmitterStatus, Reason, Selector, Totals},
    jobs, journal,
    node::Node,
    relay,
    topic::{Pattern, Topic},
};

/// Maximum number of rows of a page.
const MAX_PAGE: usize = 1000;

/// Totals of the node.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({
    "totalEmitters": 1, "totalUsers": 1, "totalGroups": 1, "totalTopics": 3, "emittersByUser": { "42": 1 },
    "emittersByGroup": { "ops": 1 }, "droppedEvents": 0, "journal": journal::Stats::default(), "jobs": jobs::Stats::default(),
    "relays": relay::Stats::default(), "upstreamStreams": 0, "uptimeMs": 60_000, "version": "0.2.0",
})))]
struct NodeStatus {
    #[serde(flatten)]
    totals: Totals,
    /// Totals of its journal.
    journal: journal::Stats,
    /// Totals of its jobs.
    jobs: jobs::Stats,
    /// Totals of its relays.
    relays: relay::Stats,
    /// Number of open streams from remotes.
    upstream_streams: u64,
    /// Milliseconds since the start of the node.
    uptime_ms: u64,
    /// Version of the program.
    version: &'static str,
}

/// Connections of a user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({ "userId": "42", "activeConnections": 0, "emitters": [] })))]
struct UserStatus {
    user_id: String,
    /// Number of connections.
    active_connections: usize,
    /// The connections.
    emitters: Vec<EmitterStatus>,
}

/// Connections of a group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({ "groupId": "ops", "activeConnections": 0, "emitters": [] })))]
struct GroupStatus {
    group_id: String,
    /// Number of connections.
    active_connections: usize,
    /// The connections of the caller; all connections for admins.
    emitters: Vec<EmitterStatus>,
}

/// The result of disconnecting.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "disconnected": 1 })))]
struct Disconnected {
    /// Number of connections that were ended.
    disconnected: u64,
}

/// Totals over all connections of the node.
#[utoipa::path(get, path = "/api/sse/managed/status", tag = "connections",
    responses((status = 200, description = "totals, by user and by group", body = NodeStatus)))]
pub(super) async fn status(node: Data<Node>, _: Admin, _: NoQuery, _: Turn) -> HttpResponse {
    HttpResponse::Ok().json(NodeStatus {
        totals: node.hub.totals().await,
        journal: node.journal.stats(),
        jobs: node.jobs.stats(),
        relays: node.relays.stats(),
        upstream_streams: node.connections.figures().open,
        uptime_ms: u64::try_from(node.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// A user's connections.
#[utoipa::path(get, path = "/api/sse/managed/status/user/{user}", tag = "connections",
    params(("user" = String, Path, description = "the user")),
    responses((status = 200, description = "the user's connections", body = UserStatus)))]
pub(super) async fn user_status(
    node: Data<Node>,
    identity: Identity,
    user: Path<String>,
    _: NoQuery,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    let user = user.into_inner();
    permit::user(&identity, &user)?;
    let emitters = node.hub.emitters(Selector::User(user.clone())).await;
    Ok(HttpResponse::Ok().json(UserStatus { user_id: user, active_connections: emitters.len(), emitters }))
}

/// A group's connections: their number, and the caller's own connections; admins see all.
#[utoipa::path(get, path = "/api/sse/managed/status/group/{group}", tag = "connections",
    params(("group" = String, Path, description = "the group")),
    responses((status = 200, description = "the group's connections", body = GroupStatus)))]
pub(super) async fn group_status(
    node: Data<Node>,
    identity: Identity,
    group: Path<String>,
    _: NoQuery,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    let group = group.into_inner();
    permit::group(&identity, &group)?;
    let mut emitters = node.hub.emitters(Selector::Group(group.clone())).await;
    let active = emitters.len();
    emitters.retain(|emitter| identity.is(emitter.user_id.as_deref()));
    Ok(HttpResponse::Ok().json(GroupStatus { group_id: group, active_connections: active, emitters }))
}

/// A page of connections.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({ "emitters": [], "next": "user_42_0b5e3c6e-7d0b-4a53-8f4e-6a1c1f0c2b11" })))]
struct EmitterPage {
    emitters: Vec<EmitterStatus>,
    /// Pass it as `after` to get the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The live connections in the order of their ids, filtered by user, group, topic and metadata.
#[utoipa::path(get, path = "/api/sse/managed/emitters", tag = "connections", params(
    ("user" = Option<String>, Query, description = "only those of this user"),
    ("group" = Option<String>, Query, description = "only those in this group"),
    ("topic" = Option<String>, Query, min_length = 1, max_length = 255,
        description = "only those that receive this topic; `meta.KEY=VALUE` selects by metadata"),
    ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "most rows, default 100"),
    ("after" = Option<String>, Query, description = "the `next` of the previous page"),
), responses(
    (status = 200, description = "a page of connections", body = EmitterPage), (status = 422, description = "the topic is not valid")))]
pub(super) async fn list(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["user", "group", "topic", "meta.*", "limit", "after", "access_token"])?;
    let limit = page_size(&query)?;
    let selector = match (permit::listed(&identity, query.first("user"))?, query.first("group")) {
        (Some(user), _) => Selector::User(user),
        (None, Some(group)) => Selector::Group(group.to_owned()),
        (None, None) => Selector::All,
    };
    let topic = query.first("topic").map(Topic::new).transpose()?;
    let group = query.first("group");
    let wanted = |emitter: &EmitterStatus| {
        let receives = topic.as_ref().is_none_or(|topic| emitter.topics.iter().any(|pattern| pattern.matches(topic)));
        let joined = group.is_none_or(|group| emitter.groups.iter().any(|own| own == group));
        let like = |(key, value): (&str, &str)| emitter.meta.0.get(key) == Some(&Meta::parse_value(value));
        receives && joined && query.prefixed("meta.").all(like)
    };
    let after = query.first("after").unwrap_or_default();
    let all = node.hub.emitters(selector).await;
    let mut rest = all.into_iter().filter(|emitter| *emitter.emitter_id > *after && wanted(emitter));
    let emitters: Vec<EmitterStatus> = rest.by_ref().take(limit).collect();
    let next = rest.next().and_then(|_| emitters.last().map(|last| last.emitter_id.clone()));
    Ok(HttpResponse::Ok().json(EmitterPage { emitters, next }))
}

/// The changes of a connection; absent fields keep their value.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "groups": ["ops"], "topics": ["order:*"], "meta": { "premium": true } })))]
pub(super) struct ChangeBody {
    /// The new groups; together with the topics at most 256.
    #[schema(max_items = 256)]
    groups: Option<Vec<String>>,
    /// The new topics, in addition to its user's own topic.
    #[schema(max_items = 256)]
    topics: Option<Vec<String>>,
    /// The new metadata: scalars by name, at most 32 keys and 4096 bytes.
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    meta: Option<Meta>,
}

/// Change the topics, groups or metadata of a live connection.
#[utoipa::path(patch, path = "/api/sse/managed/emitters/{emitter}", tag = "connections",
    params(("emitter" = String, Path, description = "its id")), request_body = ChangeBody,
    responses((status = 200, description = "its new state", body = EmitterStatus), (status = 404, description = "it is gone")))]
pub(super) async fn change(
    node: Data<Node>,
    identity: Identity,
    emitter: Path<String>,
    _: NoQuery,
    body: Json<ChangeBody>,
) -> Result<HttpResponse, Problem> {
    let ChangeBody { groups, topics, meta } = body.value;
    let joined = groups.iter().flatten().map(|group| Topic::group(group).map(Pattern::Exact));
    let joined = joined.collect::<Result<Vec<_>, _>>()?;
    let topics =
        topics.map(|topics| topics.iter().map(|text| Pattern::new(text)).collect::<Result<Vec<_>, _>>()).transpose()?;
    if topics.as_ref().map_or(0, Vec::len) + groups.as_ref().map_or(0, Vec::len) > 256 {
        return Err(Problem::wrong("one connection may name at most 256 topics and groups"));
    }
    if meta.as_ref().is_some_and(|meta| !meta.is_small()) {
        return Err(Problem::field("meta", "metadata are scalars, at most 32 keys and 4096 bytes"));
    }
    let id = emitter.into_inner();
    let mut by = None;
    if !identity.is_admin() {
        let expires = identity.left(&node.clock);
        by = Some(ChangedBy { token: identity.token_name().cloned(), expires });
        let known = node.hub.emitters(Selector::Id(id.clone())).await.pop();
        if !known.is_some_and(|known| identity.is(known.user_id.as_deref())) {
            return Err(gone(&id));
        }
        if meta.is_some() && identity.meta.is_some() {
            let detail = "metadata come from the token; to change those of an emitter is for admins";
            return Err(Problem::refused(Refusal::Metadata, detail));
        }
        permit::subscribe(&identity, topics.iter().flatten())?;
        permit::subscribe(&identity, joined.iter())?;
    } else if node.access.mode() == Mode::Token {
        audit::acting_for(&identity, "emitter", &id, None);
    }
    match node.hub.change(id.clone(), Change { groups, topics, meta, by }).await {
        Some(status) => Ok(HttpResponse::Ok().json(status)),
        None => Err(gone(&id)),
    }
}

/// End a connection; its client first gets `disconnect` with the reason.
#[utoipa::path(delete, path = "/api/sse/managed/emitters/{emitter}", tag = "connections",
    params(("emitter" = String, Path, description = "its id")),
    responses((status = 200, description = "ended", body = Disconnected), (status = 404, description = "it is gone")))]
pub(super) async fn disconnect(
    node: Data<Node>,
    _: Admin,
    emitter: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let id = emitter.into_inner();
    match node.hub.disconnect(Selector::Id(id.clone()), Reason::Removed).await {
        0 => Err(gone(&id)),
        disconnected => Ok(HttpResponse::Ok().json(Disconnected { disconnected })),
    }
}

/// End a user's connections.
#[utoipa::path(delete, path = "/api/sse/managed/disconnect/user/{user}", tag = "connections",
    params(("user" = String, Path, description = "the user")),
    responses((status = 200, description = "how many were ended", body = Disconnected)))]
pub(super) async fn disconnect_user(node: Data<Node>, _: Admin, user: Path<String>, _: NoQuery) -> HttpResponse {
    let disconnected = node.hub.disconnect(Selector::User(user.into_inner()), Reason::Removed).await;
    HttpResponse::Ok().json(Disconnected { disconnected })
}

/// End a group's connections.
#[utoipa::path(delete, path = "/api/sse/managed/disconnect/group/{group}", tag = "connections",
    params(("group" = String, Path, description = "the group")),
    responses((status = 200, description = "how many were ended", body = Disconnected)))]
pub(super) async fn disconnect_group(node: Data<Node>, _: Admin, group: Path<String>, _: NoQuery) -> HttpResponse {
    let disconnected = node.hub.disconnect(Selector::Group(group.into_inner()), Reason::Removed).await;
    HttpResponse::Ok().json(Disconnected { disconnected })
}

/// The page size of a query.
pub(super) fn page_size(query: &Query) -> Result<usize, Problem> {
    match query.get::<usize>("limit", "a number from 1 to 1000")? {
        None => Ok(100),
        Some(limit @ 1..=MAX_PAGE) => Ok(limit),
        Some(limit) => Err(Problem::parameter(format!("`limit` = {limit} must be from 1 to {MAX_PAGE}"))),
    }
}

pub(super) fn gone(id: &str) -> Problem {
    let detail = format!("there is no emitter `{}`; it may have disconnected", id.escape_debug());
    Problem::unknown(detail).coded(Code::UnknownEmitter)
}
