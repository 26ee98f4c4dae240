//! Who may call which operation, for the document: the ways to say who one is, and the operations that need none.

use utoipa::openapi::{
    Components, RefOr,
    path::Operation,
    security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};

use crate::access::Mode;

/// Ways that all operations take.
const ANY: [&str; 4] = ["token", "bearer", "cookie", "query"];
/// The way that only streams take.
const TICKET: &str = "ticket";
/// The way that only open mode takes.
const USER: &str = "user";

/// Operations that everybody may call: health, pages, what the samples fetch, and webhooks, which prove themselves by a
/// secret or signature of their own.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz")
        || ["/api/webhooks/", "/api/sse/samples/"].iter().any(|prefix| path.starts_with(prefix))
}

/// Describes the ways.
pub(super) fn schemes(components: &mut Components, mode: Mode) {
    let key = |name: &str, description: &str| ApiKeyValue::with_description(name, description);
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("The token, or a JWT.")).build();
    let mut add = |name: &str, scheme: SecurityScheme| {
        components.security_schemes.insert(name.to_owned(), RefOr::T(scheme));
    };
    add("token", SecurityScheme::ApiKey(ApiKey::Header(key("X-Auth-Token", "The token."))));
    add("bearer", SecurityScheme::Http(bearer));
    add("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(key("millstream_token", "The token, for browsers."))));
    let query = "The token in the URL, for clients that can set no header. URLs end up in logs: prefer a ticket.";
    add("query", SecurityScheme::ApiKey(ApiKey::Query(key("access_token", query))));
    let ticket = "A one-time ticket for one stream, for an EventSource, which can set no header.";
    add(TICKET, SecurityScheme::ApiKey(ApiKey::Query(key("ticket", ticket))));
    if mode == Mode::Open {
        let user = "Names the user, who is believed: this node is in open mode.";
        add(USER, SecurityScheme::ApiKey(ApiKey::Header(key("X-User-ID", user))));
    }
}

/// Says how an operation is called: in one of the ways, or in open mode by anybody.
pub(super) fn require(operation: &mut Operation, path: &str, mode: Mode, streams: bool) {
    let way = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    operation.security = Some(if is_public(path) {
        Vec::new()
    } else {
        let open = mode == Mode::Open;
        let anybody = open.then(SecurityRequirement::default);
        let more = [streams.then_some(TICKET), open.then_some(USER)].into_iter().flatten();
        anybody.into_iter().chain(ANY.into_iter().chain(more).map(way)).collect()
    });
}
