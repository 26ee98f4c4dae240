//! Relays: create, list, read, stream, restart, delete.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{Data, Path},
};
use serde_json::Value;

use super::{
    Code, Identity, Problem, Refusal,
    body::Json,
    connect::{StreamParameters, basics, last_event_id},
    frame_schemas::RelayFrame,
    listing,
    permit::{self, To},
    query::{NoQuery, Query},
    stream,
    turn::Turn,
};
use crate::{
    durable::seen_all,
    event::Position,
    hub::Start,
    node::Node,
    relay::{self, Created, LAST_EVENT, Listing, Spec, Status, Summary, View},
    topic::{Pattern, Topic},
};

/// Create a relay. It runs without a client until it ends or is deleted.
#[utoipa::path(post, path = "/api/relays", tag = "relays", request_body = Spec, responses(
    (status = 201, description = "the relay is stored and connects", body = Created, headers(("Location" = String, description = "the path of the relay")))))]
pub(super) async fn create(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    body: Json<Spec>,
) -> Result<HttpResponse, Problem> {
    Query::of(&request).only(&["access_token"])?;
    permit::relay_spec(&node, &identity, &body.value)?;
    let created = node.relays.create(body.value, identity.user).await?;
    let location = (header::LOCATION, format!("/api/relays/{}", created.id));
    Ok(HttpResponse::Created().insert_header(location).json(created))
}

/// A page of relays, newest first.
#[utoipa::path(get, path = "/api/relays", tag = "relays", params(
    ("status" = inline(Option<Status>), Query, description = "only those with this status"),
    ("user" = Option<String>, Query, description = "only those of this user; admins may name any user"),
    ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "most rows, default 100"),
    ("after" = Option<String>, Query, description = "the `next` of the previous page"),
), responses((status = 200, description = "a page of relays", body = Listing)))]
pub(super) async fn list(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    let filter = listing::filter(&request, &identity, "relay")?;
    Ok(HttpResponse::Ok().json(node.relays.list(filter).await?))
}

/// A relay with its sources.
#[utoipa::path(get, path = "/api/relays/{relay}", tag = "relays", params(("relay" = String, Path, description = "its id")),
    responses((status = 200, description = "the relay", body = View), (status = 404, description = "no relay has this id")))]
pub(super) async fn get(
    node: Data<Node>,
    identity: Identity,
    relay: Path<String>,
    _: NoQuery,
    _: Turn,
) -> Result<HttpResponse, Problem> {
    permit::relay(&node, &identity, &relay, To::Read).await?;
    Ok(HttpResponse::Ok().json(node.relays.get(&relay).await?))
}

/// End a relay and delete it; its upstream connections are closed at once, its events remain.
#[utoipa::path(delete, path = "/api/relays/{relay}", tag = "relays", params(("relay" = String, Path, description = "its id")), responses(
    (status = 204, description = "it was deleted"), (status = 404, description = "no relay has this id")))]
pub(super) async fn delete(
    node: Data<Node>,
    identity: Identity,
    relay: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    permit::relay(&node, &identity, &relay, To::Change).await?;
    node.relays.delete(&relay).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Reconnect all sources of a relay, each from its position; sources that have ended start again.
#[utoipa::path(post, path = "/api/relays/{relay}/restart", tag = "relays", params(("relay" = String, Path, description = "its id")), responses(
    (status = 202, description = "the sources are being connected", body = Summary), (status = 404, description = "no relay has this id")))]
pub(super) async fn restart(
    node: Data<Node>,
    identity: Identity,
    relay: Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    permit::relay(&node, &identity, &relay, To::Change).await?;
    permit::relay_spec(&node, &identity, &node.relays.get(&relay).await?.spec)?;
    node.relays.restart(&relay).await?;
    Ok(HttpResponse::Accepted().json(node.relays.summary(&relay).await?))
}

/// A relay's history as far as it exists, then its new events, until `relay_end`. 204 if the client has already
/// received the last event.
#[utoipa::path(get, path = "/api/relays/{relay}/events", tag = "relays", params(
    ("relay" = String, Path, description = "its id"), StreamParameters,
), responses(
    (status = 200, description = "the relay's events", body = RelayFrame, content_type = "text/event-stream"),
    (status = 204, description = "the relay has ended and the client has all events: EventSource stops"),
    (status = 404, description = "no relay has this id")))]
pub(super) async fn events(
    node: Data<Node>,
    request: HttpRequest,
    identity: Identity,
    relay: Path<String>,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    let mut connect = basics(&node, &request, &query, &[])?;
    permit::relay(&node, &identity, &relay, To::Read).await?;
    // Read before the state of the relay: an end that comes later has a position after this head.
    let head = *node.journal.watch_head().borrow();
    let summary = node.relays.summary(&relay).await?;
    let topic = Topic::relay(&summary.id)?;
    let seen = last_event_id(&request, &query)?.and_then(|id| id.parse::<Position>().ok());
    if summary.status.ended() && seen_all(&node.journal, &topic, LAST_EVENT, true, seen).await? {
        return Ok(HttpResponse::NoContent().finish());
    }
    if connect.start == Start::Live {
        // Not `Beginning`: retention may have deleted the first events, which must be reported as a gap.
        connect.start = Start::After(Position::start(node.journal.epoch()).to_string());
    }
    connect.topics = vec![Pattern::Exact(topic)];
    connect.until = Some(LAST_EVENT);
    if !summary.status.ended() {
        connect.until_after = head;
    }
    connect.greeting.fields.extend([
        ("relayId".to_owned(), Value::from(summary.id)),
        ("eventsUrl".to_owned(), Value::from(summary.events_url)),
    ]);
    stream::open(&node, &request, &identity, connect).await
}

impl From<relay::Error> for Problem {
    fn from(error: relay::Error) -> Self {
        use relay::Error as E;
        match error {
            E::Invalid(errors) => Self::fields(errors),
            E::Unknown(_) => Self::unknown(error.to_string()).coded(Code::UnknownRelay),
            E::Full(_) => Self::refused(Refusal::RelaysFull, error.to_string()),
            E::Starting => Self::refused(Refusal::NodeStarting, error.to_string()),
            E::Stopping => Self::refused(Refusal::NodeStopping, error.to_string()),
            E::Share => Self::refused(Refusal::Share, error.to_string()),
            E::Journal(error) => error.into(),
        }
    }
}
