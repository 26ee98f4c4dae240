//! Authentication: from the credentials of a request to an [`Identity`].
//!
//! In token mode the gate decides before any handler runs ([`authenticate`]). A handler that takes an [`Identity`]
//! needs a caller, one that takes an [`Admin`] needs an admin, and one that takes neither is public. In open mode a
//! token or `X-User-ID` only names the user. If the middleware of an embedding program puts an [`Identity`] into the
//! request's extensions, credentials are ignored.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    cookie::{Cookie, SameSite},
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{self, HeaderName, HeaderValue},
    },
};

use super::{Problem, Refusal, audit, operate, origins, query::Query, stream};
use crate::{
    access::{Identity, Mode, Refused},
    node::Node,
    topic::Topic,
};

/// A caller who may do everything.
pub(super) struct Admin;

/// The reason why a request has no caller; kept with the request for the handlers that need one.
struct NoCaller(Problem);

/// A valid ticket that came with the request.
struct Presented(String);

const USER: HeaderName = HeaderName::from_static("x-user-id");
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// The cookie that carries a token; set by the server of the pages.
const COOKIE: &str = "millstream_token";
/// The session cookie with which a client reconnects after its ticket was used; set by the node.
const SESSION: &str = "millstream_session";
/// Longest cookie value, in bytes, that every browser stores.
const MAX_COOKIE: usize = 3800;

/// Identifies the caller and keeps the identity with the request.
pub(super) async fn authenticate(node: &Node, request: &ServiceRequest) {
    // In open mode only a ticket is looked up; a header names the user, and the query cannot change it.
    let open = node.access.mode() == Mode::Open;
    let by_header = || [USER, TOKEN, header::AUTHORIZATION].iter().any(|name| request.headers().contains_key(name));
    let asked = if open { names(request, "ticket=") && !by_header() } else { !operate::is_probe(request) };
    // An identity that an embedding program has set takes precedence.
    if !asked || request.extensions().contains::<Identity>() {
        return;
    }
    let found = if open {
        match Query::of(request.request()).first("ticket") {
            Some(ticket) => by_ticket(node, request, ticket).await,
            None => return,
        }
    } else {
        credential(node, request).await
    };
    match found {
        Ok(identity) => drop(request.extensions_mut().insert(identity)),
        Err(problem) => drop(request.extensions_mut().insert(NoCaller(problem))),
    }
}

/// Credentials that the client sets itself take precedence over those that its browser adds. Of two credentials only
/// the first one counts.
async fn credential(node: &Node, request: &ServiceRequest) -> Result<Identity, Problem> {
    let inner = request.request();
    if let Some(token) = named(inner, &TOKEN)?.or(bearer(inner)?) {
        return Ok(node.access.identify(&token).await?);
    }
    if names(request, "ticket")
        && let Some(ticket) = Query::of(inner).first("ticket")
    {
        return by_ticket(node, request, ticket).await;
    }
    if names(request, "access_token")
        && let Some(token) = Query::of(inner).first("access_token")
    {
        return Ok(node.access.identify(token).await?);
    }
    if let Some(token) = cookie(inner, COOKIE) {
        same_site(node, inner)?;
        return Ok(node.access.identify(&token).await?);
    }
    Err(Problem::refused(
        Refusal::NoCredential,
        "this needs a token: `X-Auth-Token`, `Authorization: Bearer`, the cookie `millstream_token`, or a ticket in the query",
    ))
}

/// A client that reconnects sends its used ticket again and is then identified by its session cookie. The cookie is
/// accepted only together with a used ticket of the same user, for any GET that this user may make.
async fn by_ticket(node: &Node, request: &ServiceRequest, ticket: &str) -> Result<Identity, Problem> {
    // Tickets and their sessions open streams, for clients that cannot send header fields.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::refused(Refusal::TicketMethod, "a ticket is valid for GET alone; this needs a token"));
    }
    let refused = match node.access.peek(ticket) {
        Ok(identity) => {
            request.extensions_mut().insert(Presented(ticket.to_owned()));
            return Ok(identity);
        }
        Err(refused) => refused,
    };
    let Some(session) = cookie(request.request(), SESSION) else { return Err(refused.into()) };
    same_site(node, request.request())?;
    Ok(node.access.unseal(&session, ticket).await?)
}

/// Uses up the ticket of a request that opened a stream, and sets the session cookie for reconnects. Of two requests
/// with one ticket the first that opens its stream uses the ticket; the other gets 401. Other responses (HEAD, JSON,
/// any refusal, also one sent as a stream) leave the ticket valid.
pub(super) async fn use_ticket(node: &Node, response: ServiceResponse) -> ServiceResponse {
    let request = response.request().clone();
    let presented = request.extensions_mut().remove::<Presented>();
    let Some(Presented(ticket)) = presented.filter(|_| stream::is_open(&request, response.response())) else {
        return response;
    };
    match begin_session(node, &request, &ticket).await {
        Ok(None) => response,
        Ok(Some(cookie)) => {
            let mut response = response;
            response.headers_mut().append(header::SET_COOKIE, cookie);
            response
        }
        Err(problem) => ServiceResponse::new(request, HttpResponse::from_error(problem)),
    }
}

/// The session cookie that follows a ticket; `None` if the browser must not or cannot store it.
async fn begin_session(node: &Node, request: &HttpRequest, ticket: &str) -> Result<Option<HeaderValue>, Problem> {
    let identity = node.access.redeem(ticket)?;
    let (session, life) = node.access.seal(&identity, ticket).await?;
    if session.len() > MAX_COOKIE {
        tracing::warn!(
            user = identity.user,
            "the rights of this user are too large for a cookie: its EventSource cannot reconnect"
        );
        return Ok(None);
    }
    // A page of another site must not set a session in the browser.
    Ok(same_site(node, request).is_ok().then(|| session_cookie(node, request, session, life)))
}

/// A browser also sends cookies for pages of other sites, so the page must be the node's own or listed.
fn same_site(node: &Node, request: &HttpRequest) -> Result<(), Problem> {
    let foreign = match request.headers().get(header::ORIGIN) {
        Some(origin) => !origins::is_own(node, request, origin) && !origins::is_listed(node, origin),
        None => origins::is_foreign_fetch(request),
    };
    if foreign {
        let detail = "a page of another site called with this site's cookie; add its origin to `server.cors_origins` if it is \
                      yours";
        return Err(Problem::refused(Refusal::Origin, detail));
    }
    Ok(())
}

fn session_cookie(node: &Node, request: &HttpRequest, session: String, life: Duration) -> HeaderValue {
    let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let cookie = Cookie::build(SESSION, session)
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        // Also behind a proxy that ends TLS and reports it. A client that sends a false report harms only its own
        // cookie.
        .secure(node.tls.is_some() || request.connection_info().scheme() == "https")
        .max_age(actix_web::cookie::time::Duration::seconds(seconds))
        .finish();
    HeaderValue::from_str(&cookie.to_string()).expect("a session is base64url and dots")
}

/// The caller of a request, for its handler.
pub(super) fn identity(request: &HttpRequest) -> Result<Identity, Problem> {
    if let Some(identity) = request.extensions().get::<Identity>() {
        return Ok(identity.clone());
    }
    if let Some(NoCaller(problem)) = request.extensions().get() {
        return Err(problem.clone());
    }
    // Order: header fields, cookie, query.
    let named = named(request, &USER)?
        .or(named(request, &TOKEN)?)
        .or(bearer(request)?)
        .or_else(|| cookie(request, COOKIE))
        .or_else(|| Query::of(request).first("access_token").map(str::to_owned));
    let Some(user) = named.filter(|user| !user.is_empty()) else { return Ok(Identity::anonymous()) };
    Topic::user(&user)
        .map_err(|invalid| Problem::malformed(format!("the user or token cannot name a user: {invalid}")))?;
    Ok(Identity::user(user))
}

impl FromRequest for Identity {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(identity(request))
    }
}

impl FromRequest for Admin {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let admin = identity(request).and_then(|identity| match identity.is_admin() {
            true => {
                // Recorded before the handler runs: the action happens even if the client does not wait for the
                // response.
                audit::acting(request, &identity);
                Ok(Self)
            }
            false => Err(Problem::refused(Refusal::AdminOnly, "this is for admins")),
        });
        ready(admin)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let refusal = match refused {
            Refused::Unknown => Refusal::UnknownToken,
            Refused::Expired => Refusal::ExpiredToken,
            Refused::NotYet => Refusal::EarlyToken,
            Refused::Unacceptable(_) => Refusal::UnacceptableToken,
            Refused::Ticket => Refusal::UsedTicket,
            Refused::Unavailable(_) => Refusal::KeysUnavailable,
        };
        Self::refused(refusal, refused.to_string())
    }
}

/// The framework parses and keeps the cookies at the first access, so requests without cookies are not asked.
fn cookie(request: &HttpRequest, name: &str) -> Option<String> {
    request.headers().get(header::COOKIE)?;
    request.cookie(name).map(|cookie| cookie.value().to_owned())
}

/// True if the query may have this parameter. Most queries need not be decoded.
fn names(request: &ServiceRequest, parameter: &str) -> bool {
    request.query_string().contains(parameter)
}

fn named(request: &HttpRequest, header: &HeaderName) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get(header) else { return Ok(None) };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(_) => Err(Problem::malformed(format!("the header `{header}` is not UTF-8"))),
    }
}

fn bearer(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let value = named(request, &header::AUTHORIZATION)?;
    Ok(value.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    }))
}
