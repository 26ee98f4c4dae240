//! Limits over HTTP: the caller that a limit counts, and the response when a limit is exceeded.
//!
//! An exceeded limit is a 429 with `Retry-After`. Any status but 200 ends a browser's EventSource permanently. So a GET
//! of an EventSource gets a stream with the reason and the time to reconnect. Responses to a caller with a rate have
//! the fields `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` of draft-ietf-httpapi-ratelimit-headers up
//! to 06, which clients know. Later drafts combine them into `RateLimit` and `RateLimit-Policy`, and are not final.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
};

use super::{Code, Identity, Problem, Refusal, accept, address, head, identity::identity, operate, stream};
use crate::{
    access::limits::{Allowance, Caller, Exceeded, Limit, StreamPermit, tighter},
    hub::{self, Connect},
    jobs,
    node::Node,
};

/// Counts a request from its address. This comes before authentication, which costs more.
pub(super) fn of_address(node: &Node, request: &ServiceRequest) -> Option<HttpResponse> {
    // A busy client must not make the node look unhealthy.
    if operate::is_probe(request) {
        return None;
    }
    kept(request, node.limits.request_from(|| address::client(node, request.request())))
}

/// Counts a request of its caller, after authentication.
pub(super) fn of_caller(node: &Node, request: &ServiceRequest) -> Option<HttpResponse> {
    if operate::is_probe(request) {
        return None;
    }
    // The path as the routes match it: another spelling is the same path.
    let path = request.match_info().as_str();
    // HEAD counts like GET.
    let method = if head::is_head(request.request()) { "GET" } else { request.method().as_str() };
    kept(request, node.limits.request(|| caller(node, request.request()), method, path))
}

/// Counts events that are about to be published.
pub(super) fn publish(node: &Node, request: &HttpRequest, events: usize) -> Result<(), Problem> {
    Ok(node.limits.take(Limit::Publishes, || caller(node, request), events).map(drop)?)
}

/// Takes the permit of a job that is about to be submitted; the job keeps it until it ends.
pub(super) fn job(node: &Node, request: &HttpRequest) -> Result<Option<jobs::QuotaGuard>, Problem> {
    let permit = node.limits.permit(Limit::Jobs, || caller(node, request))?;
    Ok(permit.map(|permit| -> jobs::QuotaGuard { Arc::new(permit) }))
}

/// Takes the permits of a stream that is about to open; the stream keeps them until it ends.
pub(super) fn stream(node: &Node, request: &HttpRequest) -> Result<Option<StreamPermit>, Problem> {
    Ok(node.limits.stream(|| caller(node, request), || address::client(node, request))?)
}

/// Like [`stream`], for a stream of the hub, which also shares the limit of the caller's waiting bytes.
pub(super) fn hub_stream(node: &Node, request: &HttpRequest, connect: &mut Connect) -> Result<(), Problem> {
    let Some(permit) = stream(node, request)? else { return Ok(()) };
    let queued = node.limits.queued_bytes().zip(permit.queued());
    connect.shared = queued.map(|(max_bytes, bytes)| hub::SharedBound { bytes, max_bytes });
    connect.keep = Some(Box::new(permit));
    Ok(())
}

/// The response in its final form: an exceeded limit in the form that the client understands, and the remaining
/// allowance.
pub(super) fn answer(node: &Node, response: ServiceResponse) -> ServiceResponse {
    let exceeded = response.response().extensions().get::<Exceeded>().copied();
    let allowance = exceeded.and_then(|exceeded| exceeded.allowance);
    let allowance = allowance.or_else(|| response.request().extensions().get::<Allowance>().copied());
    let as_stream = exceeded.and_then(|exceeded| {
        let wait = exceeded.wait.filter(|_| accept::is_event_source(response.request().head()))?;
        let detail = Problem::from(exceeded).detail;
        Some(stream::exceeded_for_now(node, refusal(exceeded.limit), detail, wait))
    });
    let mut response = match as_stream {
        Some(stream) => response.into_response(stream),
        None => response,
    };
    if let Some(allowance) = allowance {
        add_headers(response.headers_mut(), allowance);
    }
    response
}

/// Keeps the remaining allowance for the response; returns the response if a limit was exceeded.
fn kept(request: &ServiceRequest, passed: Result<Option<Allowance>, Exceeded>) -> Option<HttpResponse> {
    match passed {
        Ok(None) => None,
        Ok(allowance) => {
            let mut extensions = request.extensions_mut();
            let before = extensions.remove::<Allowance>();
            extensions.insert(tighter(before, allowance)?);
            None
        }
        Err(exceeded) => Some(Problem::from(exceeded).response()),
    }
}

/// The user, or the address of a request without one.
fn caller(node: &Node, request: &HttpRequest) -> Caller {
    user(request).map_or_else(|| Caller::Address(address::client(node, request)), Caller::User)
}

/// The user's name; `None` if it cannot be read, which the handler reports.
fn user(request: &HttpRequest) -> Option<String> {
    if let Some(identity) = request.extensions().get::<Identity>() {
        return identity.user.clone();
    }
    identity(request).ok()?.user
}

fn add_headers(headers: &mut HeaderMap, allowance: Allowance) {
    let fields = [
        ("ratelimit-limit", u64::from(allowance.limit)),
        ("ratelimit-remaining", u64::from(allowance.remaining)),
        ("ratelimit-reset", seconds(allowance.reset)),
    ];
    for (name, value) in fields {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The reason of refusal for an exceeded limit.
fn refusal(limit: Limit) -> Refusal {
    match limit {
        Limit::Requests | Limit::AddressRequests | Limit::Route | Limit::Publishes | Limit::QueuedBytes => {
            Refusal::RateLimited
        }
        Limit::UserStreams | Limit::AddressStreams => Refusal::TooManyStreams,
        Limit::Jobs => Refusal::TooManyJobs,
    }
}

impl From<Exceeded> for Problem {
    fn from(exceeded: Exceeded) -> Self {
        let (setting, most) = (exceeded.limit.as_str(), exceeded.most);
        let Some(wait) = exceeded.wait else {
            let detail =
                format!("more than {most} events never pass at once (`limits.{setting}`); send them in smaller arrays");
            return Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail).coded(Code::TooManyEvents);
        };
        let detail = format!("{exceeded} (`limits.{setting}`); try again later");
        let problem = Self::refused(refusal(exceeded.limit), detail).after(seconds(wait).max(1));
        Self { exceeded: Some(Box::new(exceeded)), ..problem }
    }
}
