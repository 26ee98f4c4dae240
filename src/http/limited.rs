//! Limits as HTTP has them: who is counted, and how a refusal is told.
//!
//! A refusal is a 429 with `Retry-After`. Any status but 200 ends a browser's EventSource for good, so a GET that asked
//! for a stream gets one that says why and when to come back. Whoever a rate is kept for finds it in the fields
//! `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` of each answer: those of
//! draft-ietf-httpapi-ratelimit-headers up to 06, which clients know. Later drafts fold them into `RateLimit` and
//! `RateLimit-Policy`, and have not settled.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
};

use super::{Code, Identity, Problem, accept, address, head, identity::identity, operate, stream};
use crate::{
    access::limits::{Allowance, Caller, Limit, Place, Refusal, StreamPlace, tighter},
    hub::{self, Connect},
    jobs,
    node::Node,
};

/// What is refused to an address, whoever calls; to be asked before it is known who that is.
pub(super) fn of_address(node: &Node, request: &ServiceRequest) -> Option<HttpResponse> {
    // A busy client must not make the node look unhealthy.
    if operate::is_probe(request) {
        return None;
    }
    kept(request, node.limits.request_from(|| address::client(node, request.request())))
}

/// What is refused to a caller, once it is known who that is.
pub(super) fn of_caller(node: &Node, request: &ServiceRequest) -> Option<HttpResponse> {
    // As the routes are matched, so that another spelling of a path is no other path.
    let path = request.match_info().as_str();
    // HEAD counts like GET.
    let method = if head::is_head(request.request()) { "GET" } else { request.method().as_str() };
    if !node.limits.limits_request(method, path) || operate::is_probe(request) {
        return None;
    }
    let user = user(request.request());
    kept(request, node.limits.request(caller(node, request.request(), user.as_deref()), method, path))
}

/// Publishing so many events at once.
pub(super) fn publish(node: &Node, request: &HttpRequest, events: usize) -> Result<(), Problem> {
    if !node.limits.limits_publishing() {
        return Ok(());
    }
    let user = user(request);
    Ok(node.limits.publish(caller(node, request, user.as_deref()), events)?)
}

/// A job that is about to be submitted.
pub(super) fn job(node: &Node, request: &HttpRequest) -> Result<Option<jobs::Hold>, Problem> {
    if !node.limits.limits_jobs() {
        return Ok(None);
    }
    let user = user(request);
    let place: Option<Place> = node.limits.job(caller(node, request, user.as_deref()))?;
    Ok(place.map(|place| -> jobs::Hold { Arc::new(place) }))
}

/// The place of a stream that is about to open, to be kept until it ends.
pub(super) fn stream(node: &Node, request: &HttpRequest) -> Result<Option<StreamPlace>, Problem> {
    if !node.limits.limits_streams() {
        return Ok(None);
    }
    let address = address::client(node, request);
    let user = user(request);
    let caller = user.as_deref().map_or(Caller::Address(address), Caller::User);
    Ok(Some(node.limits.stream(caller, address)?))
}

/// The same for a stream of the hub, which keeps it itself, and shares the bound of what waits for this caller.
pub(super) fn seat(node: &Node, request: &HttpRequest, connect: &mut Connect) -> Result<(), Problem> {
    let Some(place) = stream(node, request)? else { return Ok(()) };
    let queued = node.limits.queued_bytes().zip(place.queued());
    connect.shared = queued.map(|(max_bytes, bytes)| hub::Shared { bytes, max_bytes });
    connect.keep = Some(Box::new(place));
    Ok(())
}

/// The answer as it goes out: a refusal in the form that its client understands, and what is left.
pub(super) fn answer(node: &Node, response: ServiceResponse) -> ServiceResponse {
    let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
    let refusal = problem.and_then(|problem| problem.refusal.as_deref().copied());
    // Those that were refused here, before a handler was asked.
    let refusal = refusal.or_else(|| response.request().extensions().get::<Refusal>().copied());
    let allowance = refusal.and_then(|refusal| refusal.allowance);
    let allowance = allowance.or_else(|| response.request().extensions().get::<Allowance>().copied());
    let polite = refusal.and_then(|refusal| {
        let wait = refusal.wait.filter(|_| accept::is_event_source(response.request().head()))?;
        let detail = Problem::from(refusal).detail;
        Some(stream::unavailable_for_now(node, reason(refusal.limit), &detail, wait))
    });
    let mut response = match polite {
        Some(polite) => response.into_response(polite),
        None => response,
    };
    if let Some(allowance) = allowance {
        tell(response.headers_mut(), allowance);
    }
    response
}

/// Keeps what is left for the answer, or makes the refusal one.
fn kept(request: &ServiceRequest, passed: Result<Option<Allowance>, Refusal>) -> Option<HttpResponse> {
    match passed {
        Ok(None) => None,
        Ok(allowance) => {
            let mut extensions = request.extensions_mut();
            let before = extensions.remove::<Allowance>();
            extensions.insert(tighter(before, allowance)?);
            None
        }
        Err(refusal) => {
            request.extensions_mut().insert(refusal);
            Some(Problem::from(refusal).response())
        }
    }
}

fn caller<'a>(node: &Node, request: &HttpRequest, user: Option<&'a str>) -> Caller<'a> {
    user.map_or_else(|| Caller::Address(address::client(node, request)), Caller::User)
}

/// Whose name cannot be read has none; the handler says what is wrong with it.
fn user(request: &HttpRequest) -> Option<String> {
    if let Some(identity) = request.extensions().get::<Identity>() {
        return identity.user.clone();
    }
    identity(request).ok()?.user
}

fn tell(headers: &mut HeaderMap, allowance: Allowance) {
    let fields = [
        ("ratelimit-limit", u64::from(allowance.limit)),
        ("ratelimit-remaining", u64::from(allowance.remaining)),
        ("ratelimit-reset", seconds(allowance.reset)),
    ];
    for (name, value) in fields {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
}

/// Whole seconds, never too few.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What a stream that is refused for now says.
fn reason(limit: Limit) -> &'static str {
    match limit {
        Limit::Requests | Limit::AddressRequests | Limit::Route | Limit::Publishes => "rate_limited",
        Limit::UserStreams | Limit::AddressStreams => "too_many_streams",
        Limit::Jobs => "too_many_jobs",
    }
}

/// The code of the problem for this limit.
fn code(limit: Limit) -> Code {
    match limit {
        Limit::Requests | Limit::AddressRequests | Limit::Route | Limit::Publishes => Code::RateLimited,
        Limit::UserStreams | Limit::AddressStreams => Code::TooManyStreams,
        Limit::Jobs => Code::TooManyJobs,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (setting, most) = (refusal.limit.as_str(), refusal.most);
        let what = match refusal.limit {
            Limit::Requests => format!("you have made the {most} requests that one caller has in a minute"),
            Limit::AddressRequests => format!("your address has made the {most} requests that it has in a minute"),
            Limit::Route => format!("you have asked for this the {most} times that one caller may"),
            Limit::Publishes if refusal.wait.is_none() => {
                let detail = format!(
                    "more than {most} events never pass at once (`limits.{setting}`); send them in smaller arrays"
                );
                return Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail).coded(Code::TooManyEvents);
            }
            Limit::Publishes => format!("you have published the {most} events that one caller has in a second"),
            Limit::UserStreams => format!("you have the {most} open streams that one caller may have; close one"),
            Limit::AddressStreams => format!("your address has the {most} open streams that it may have; close one"),
            Limit::Jobs => format!("you have the {most} unfinished jobs that one caller may have"),
        };
        Self {
            retry_after: refusal.wait.map(|wait| seconds(wait).max(1)),
            refusal: Some(Box::new(refusal)),
            code: code(refusal.limit),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, format!("{what} (`limits.{setting}`); try again later"))
        }
    }
}
