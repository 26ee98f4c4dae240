//! Who is calling: from the credentials of a request to an [`Identity`].
//!
//! In token mode the gate decides before any handler runs ([`authenticate`]); a handler that takes an [`Identity`] is for
//! callers, one that takes an [`Admin`] for admins, and one that takes neither is for everybody. In open mode a token or
//! `X-User-ID` merely names the user. An embedding program puts an [`Identity`] into the request's extensions in a
//! middleware of its own; then nothing else counts.

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

/// Why there is no caller; kept with the request for the handlers that need one.
struct Stranger(Problem);

/// A valid ticket that came with the request.
struct Presented(String);

const USER: HeaderName = HeaderName::from_static("x-user-id");
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// The cookie that carries a token; set by whoever serves the pages.
const COOKIE: &str = "millstream_token";
/// The cookie with which a client that came by ticket reconnects; set by the node.
const SESSION: &str = "millstream_session";
/// Longest value of a cookie that every browser keeps, in bytes.
const MAX_COOKIE: usize = 3800;

/// Decides who is calling and keeps it with the request.
pub(super) async fn authenticate(node: &Node, request: &ServiceRequest) {
    // In open mode only a ticket has to be looked up; a header there names the user, whatever the query says.
    let open = node.access.mode() == Mode::Open;
    let by_header = || [USER, TOKEN, header::AUTHORIZATION].iter().any(|name| request.headers().contains_key(name));
    let asked = if open { names(request, "ticket=") && !by_header() } else { !operate::is_probe(request) };
    // What an embedding program has found out counts.
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
        Err(problem) => drop(request.extensions_mut().insert(Stranger(problem))),
    }
}

/// What a client said about itself beats what its browser sends along; of two credentials only the first one counts.
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
    // Tickets and their sessions open streams, for the sake of clients that can do nothing else.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::refused(Refusal::TicketMethod, "a ticket is good for GET alone; this needs a token"));
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
        tracing::warn!(user = identity.user, "the rights of this user fit no cookie: its EventSource cannot reconnect");
        return Ok(None);
    }
    // A page of another site must not set a session in the browser.
    Ok(same_site(node, request).is_ok().then(|| session_cookie(node, request, session, life)))
}

/// A browser sends cookies along for pages of anybody, so those pages must be ours or listed.
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
        // Also behind a proxy that ends TLS and says so. Who lies about it harms its own cookie alone.
        .secure(node.tls.is_some() || request.connection_info().scheme() == "https")
        .max_age(actix_web::cookie::time::Duration::seconds(seconds))
        .finish();
    HeaderValue::from_str(&cookie.to_string()).expect("a session is base64url and dots")
}

/// The caller of a handler.
pub(super) fn identity(request: &HttpRequest) -> Result<Identity, Problem> {
    if let Some(identity) = request.extensions().get::<Identity>() {
        return Ok(identity.clone());
    }
    if let Some(Stranger(problem)) = request.extensions().get() {
        return Err(problem.clone());
    }
    // Headers before the cookie before the query.
    let named = named(request, &USER)?
        .or(named(request, &TOKEN)?)
        .or(bearer(request)?)
        .or_else(|| cookie(request, COOKIE))
        .or_else(|| Query::of(request).first("access_token").map(str::to_owned));
    let Some(user) = named.filter(|user| !user.is_empty()) else { return Ok(Identity::anybody()) };
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
                // At once: what is asked for happens also where the client does not wait for the answer.
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

/// The cookies of a request are parsed and kept with it at the first question, so it is asked only where there are any.
fn cookie(request: &HttpRequest, name: &str) -> Option<String> {
    request.headers().get(header::COOKIE)?;
    request.cookie(name).map(|cookie| cookie.value().to_owned())
}

/// Whether the query may have this parameter; most queries are not worth decoding.
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
