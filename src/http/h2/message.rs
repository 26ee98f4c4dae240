//! Converts requests and responses between HTTP/2 and the framework's types.

use std::io;

use actix_http::{BoxedPayloadStream, Payload, Request, Response, error::PayloadError, header as old};
use actix_web::{
    HttpMessage,
    body::BodySize,
    http::{Method, StatusCode as OldStatus, Uri, Version},
};
use futures::stream;
use h2::RecvStream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};

use super::super::{Problem, connection::Connection, heads::date};
use crate::upstream::HOP_BY_HOP;

/// Maximum size of a request head as HTTP/2 counts it: the fields, plus 32 bytes for each. HTTP/1.1 accepts 128 KiB.
const MOST_HEAD: usize = 64 << 10;
/// The crate reads heads up to this size, so that the node can reject a large head with a problem. The crate itself
/// rejects a head above this size, without a body.
pub(super) const MOST_READ: u32 = 192 << 10;

/// Converts a request to the framework's type; a problem if the node rejects it.
pub(super) fn translate(
    request: http::Request<RecvStream>,
    connection: Connection,
    peer: Option<std::net::SocketAddr>,
) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    check(&parts)?;
    let malformed = |what: &str| Problem::malformed(format!("the request has no {what} that the node can read"));
    let payload = if body.is_end_stream() { Payload::None } else { Payload::Stream { payload: read(body) } };
    let mut request = Request::with_payload(payload);
    request.extensions_mut().insert(connection);
    let head = request.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).map_err(|_| malformed("method"))?;
    // Like HTTP/1.1: the path is the target, the authority is in `Host`.
    let target = parts.uri.path_and_query().ok_or_else(|| malformed("path"))?;
    head.uri = Uri::try_from(target.as_str()).map_err(|_| malformed("path"))?;
    head.version = Version::HTTP_2;
    head.peer_addr = peer;
    for (name, value) in &parts.headers {
        let name = old::HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|_| malformed("header"))?;
        let value = old::HeaderValue::from_bytes(value.as_bytes()).map_err(|_| malformed("header"))?;
        head.headers.append(name, value);
    }
    if let Some(authority) = parts.uri.authority() {
        let value = old::HeaderValue::from_str(authority.as_str()).map_err(|_| malformed("authority"))?;
        head.headers.insert(old::HOST, value);
    }
    Ok(request)
}

/// Rejects requests that HTTP/2 permits and the node does not accept.
fn check(parts: &Parts) -> Result<(), Problem> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if parts.method == http::Method::CONNECT {
        return Err(Problem::new(OldStatus::NOT_IMPLEMENTED, "the node is no proxy: it has no CONNECT"));
    }
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    // Method, scheme, path and authority are fields as well.
    let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
    let size = target + authority + 4 * 32 + fields.sum::<usize>();
    if size > MOST_HEAD && target > MOST_HEAD / 2 {
        let detail =
            format!("the head of the request has {size} bytes, {target} of them in its target; {MOST_HEAD} are taken");
        return Err(Problem::new(OldStatus::URI_TOO_LONG, detail));
    }
    if size > MOST_HEAD {
        let detail = format!("the head of the request has {size} bytes; at most {MOST_HEAD} are taken");
        return Err(Problem::new(OldStatus::REQUEST_HEADER_FIELDS_TOO_LARGE, detail));
    }
    // RFC 9113, section 8.3.1: a request whose `Host` differs from `:authority` is malformed.
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Problem::malformed("the request has more than one `host`"));
    }
    // As with HTTP/1.1: RFC 9110, section 8.6 permits to reject a length that is repeated.
    if parts.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Problem::malformed("the request has more than one `content-length`"));
    }
    if let (Some(host), Some(authority)) = (host, parts.uri.authority())
        && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
    {
        return Err(Problem::malformed("`host` and `:authority` name different servers"));
    }
    Ok(())
}

fn read(body: RecvStream) -> BoxedPayloadStream {
    Box::pin(stream::unfold(body, |mut body| async {
        let chunk = match body.data().await? {
            Ok(chunk) => body.flow_control().release_capacity(chunk.len()).map(|()| chunk),
            Err(error) => Err(error),
        };
        Some((chunk.map_err(|error| PayloadError::Io(io::Error::other(error))), body))
    }))
}

/// The head of a response, without fields that exist only in HTTP/1.1 (RFC 9113, section 8.2.2).
pub(super) fn head(response: &Response<()>, size: BodySize) -> http::Response<()> {
    let mut headers = HeaderMap::with_capacity(response.headers().len() + 2);
    for (name, value) in response.headers() {
        let Ok(name) = HeaderName::from_bytes(name.as_str().as_bytes()) else { continue };
        let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
        if !HOP_BY_HOP.contains(&name) {
            headers.append(name, value);
        }
    }
    match size {
        BodySize::Sized(length) if !matches!(response.status().as_u16(), 204 | 304) => {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        BodySize::Sized(_) | BodySize::None | BodySize::Stream => {}
    }
    if !headers.contains_key(header::DATE)
        && let Ok(now) = HeaderValue::from_str(&date().to_string())
    {
        headers.insert(header::DATE, now);
    }
    let mut head = http::Response::new(());
    *head.status_mut() = StatusCode::from_u16(response.status().as_u16()).expect("a status is one in both");
    *head.headers_mut() = headers;
    head
}
