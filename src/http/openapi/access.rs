//! Authentication of the operations in the document: the kinds of credentials, and the operations that need none.

use utoipa::openapi::{
    Components, RefOr,
    path::Operation,
    security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};

use crate::access::Mode;

/// Kinds of credentials that all operations accept.
const ANY: [&str; 4] = ["token", "bearer", "cookie", "query"];
/// The kind of credential that only streams accept.
const TICKET: &str = "ticket";
/// The kind of credential that only open mode accepts.
const USER: &str = "user";

/// True for public operations: health, pages, the data of the samples, and webhooks, which check a secret or signature
/// themselves.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz")
        || ["/api/webhooks/", "/api/sse/samples/"].iter().any(|prefix| path.starts_with(prefix))
}

/// Describes the kinds of credentials.
pub(super) fn schemes(components: &mut Components, mode: Mode) {
    let key = |name: &str, description: &str| ApiKeyValue::with_description(name, description);
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("The token, or a JWT.")).build();
    let mut add = |name: &str, scheme: SecurityScheme| {
        components.security_schemes.insert(name.to_owned(), RefOr::T(scheme));
    };
    add("token", SecurityScheme::ApiKey(ApiKey::Header(key("X-Auth-Token", "The token."))));
    add("bearer", SecurityScheme::Http(bearer));
    add("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(key("millstream_token", "The token, for browsers."))));
    let query =
        "The token in the URL, for clients that cannot set header fields. URLs end up in logs: prefer a ticket.";
    add("query", SecurityScheme::ApiKey(ApiKey::Query(key("access_token", query))));
    let ticket = "A one-time ticket for one stream, for an EventSource, which cannot set header fields.";
    add(TICKET, SecurityScheme::ApiKey(ApiKey::Query(key("ticket", ticket))));
    if mode == Mode::Open {
        let user = "Names the user, without a check: this node is in open mode.";
        add(USER, SecurityScheme::ApiKey(ApiKey::Header(key("X-User-ID", user))));
    }
}

/// Describes the credentials that an operation needs. Open mode needs none.
pub(super) fn require(operation: &mut Operation, path: &str, mode: Mode, streams: bool) {
    let way = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    operation.security = Some(if is_public(path) {
        Vec::new()
    } else {
        let open = mode == Mode::Open;
        let without = open.then(SecurityRequirement::default);
        let more = [streams.then_some(TICKET), open.then_some(USER)].into_iter().flatten();
        without.into_iter().chain(ANY.into_iter().chain(more).map(way)).collect()
    });
}
