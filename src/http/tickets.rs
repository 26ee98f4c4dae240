//! Tickets: a client that cannot send header fields opens a stream with one.

use actix_web::{HttpResponse, web::Data};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Identity, Problem, Refusal, query::NoQuery};
use crate::{access::Full, node::Node};

/// A ticket.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "ticket": "Yq3u5cJ0", "expiresInMs": 30_000 })))]
#[serde(rename_all = "camelCase")]
pub(super) struct Ticket {
    /// Value of the query parameter of one GET: `?ticket=…`.
    ticket: String,
    /// Milliseconds until the ticket expires (`access.ticket_ms`).
    expires_in_ms: u64,
}

/// Get a ticket that opens one stream as the caller, without a header.
///
/// `new EventSource("/events?ticket=…")`: the first use sets an `HttpOnly` cookie with which the browser reconnects to
/// the same address (`access.session_ms`). A page of another site gets no cookie: it fetches a new ticket for each
/// connection and passes `lastEventId`. Tickets and their sessions are valid only for GET.
#[utoipa::path(post, path = "/api/tickets", tag = "connections", responses(
    (status = 201, description = "a ticket", body = Ticket),
    (status = 429, description = "this user has too many unused tickets"),
    (status = 503, description = "the node has too many unused tickets"),
))]
pub(super) async fn issue(node: Data<Node>, identity: Identity, _: NoQuery) -> Result<HttpResponse, Problem> {
    let (ticket, life) = node.access.issue(&identity)?;
    let expires_in_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    Ok(HttpResponse::Created().insert_header(("Cache-Control", "no-store")).json(Ticket { ticket, expires_in_ms }))
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        let refusal = match full {
            Full::User => Refusal::TooManyTickets,
            Full::Node => Refusal::TicketsFull,
        };
        Self::refused(refusal, full.to_string())
    }
}
