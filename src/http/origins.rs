//! Pages of other origins (CORS): which may call the node, and which fields they may send and read.

use actix_web::{
    HttpRequest, HttpResponse,
    dev::ServiceRequest,
    http::{
        Method,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};

use super::{Problem, Refusal, address};
use crate::node::Node;

/// Response fields that pages of listed origins may read, in addition to those of the Fetch standard.
const EXPOSED: &str = "Location, Retry-After, RateLimit, RateLimit-Policy, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id";

/// Header fields that listed origins may send: the fields that the node reads, and those that event stream clients,
/// proxies and tracers send.
const ALLOWED: &str = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, Pragma, traceparent, \
                       tracestate, X-Auth-Token, X-Request-Id, X-Requested-With, X-User-ID";
/// Maximum number of other fields that one preflight may request.
const MOST_ASKED: usize = 32;

/// True if pages of this origin may call the node.
pub(super) fn is_listed(node: &Node, origin: &HeaderValue) -> bool {
    node.config.server.cors_origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
}

/// True if the browser reports a request from a page of another site (Fetch Metadata). Other clients do not send this
/// field.
pub(super) fn is_foreign_fetch(request: &HttpRequest) -> bool {
    let site = request.headers().get("sec-fetch-site");
    site.is_some_and(|site| site != "same-origin" && site != "none")
}

/// True for the node's own origin: scheme, host and port match the request (RFC 6454). With TLS the scheme is `https`.
/// Without TLS a proxy may terminate it: a trusted proxy names the scheme, otherwise both schemes are accepted.
pub(super) fn is_own(node: &Node, request: &HttpRequest, origin: &HeaderValue) -> bool {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((scheme, authority)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
        return false;
    };
    let same_scheme = match node.tls {
        Some(_) => scheme == "https",
        None => address::scheme(node, request).is_none_or(|named| scheme.eq_ignore_ascii_case(&named)),
    };
    same_scheme && authority.eq_ignore_ascii_case(host)
}

/// Adds the header fields that permit a page of a listed origin to read the response.
pub(super) fn add_headers(node: &Node, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
    if node.config.server.cors_origins.is_empty() {
        return;
    }
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin.filter(|origin| is_listed(node, origin)) {
        // The name of the origin, never `*`: browsers send cookies and `Authorization` only then.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

/// The response to a preflight; `None` for any other request.
pub(super) fn preflight(node: &Node, request: &ServiceRequest) -> Option<HttpResponse> {
    if request.method() != Method::OPTIONS || !request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let origin = request.headers().get(header::ORIGIN);
    if !origin.is_some_and(|origin| is_listed(node, origin)) {
        let detail = match origin {
            Some(origin) => {
                format!("pages of {origin:?} must not call the node; add it to `server.cors_origins` if it is yours")
            }
            None => "a preflight names the page's `Origin`, which must be one of `server.cors_origins`".into(),
        };
        return Some(Problem::refused(Refusal::Origin, detail).response());
    }
    let answer = HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, PATCH, DELETE"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, allowed(request.headers())))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, 600))
        .finish();
    Some(answer)
}

/// The usual fields, plus those that the preflight requests. This is safe: a listed origin may use the credentials of
/// its users, and the node ignores fields that it does not read. A webhook's secret may be in a field of any name.
fn allowed(headers: &HeaderMap) -> String {
    let lines = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).filter_map(|line| line.to_str().ok());
    let asked = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
    let usual = |name: &HeaderName| ALLOWED.split(", ").any(|usual| usual.eq_ignore_ascii_case(name.as_str()));
    let mut all = ALLOWED.to_owned();
    for name in asked.filter(|name| !usual(name)).take(MOST_ASKED) {
        all.push_str(", ");
        all.push_str(name.as_str());
    }
    all
}
