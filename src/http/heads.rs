//! Request heads: responses to heads that the parser rejects, and the host of a request.

use std::time::SystemTime;

use actix_web::{
    HttpResponse,
    dev::ServiceRequest,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderValue, HttpDate},
    },
};

use super::{Problem, error::MEDIA_TYPE, request_id};
use crate::transport::Refusal;

/// RFC 9112, section 3.2.2: the host of an absolute target replaces `Host`.
pub(super) fn name_host(request: &mut ServiceRequest) {
    let Some(host) = request.uri().host() else { return };
    let host = request.uri().port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    if let Ok(host) = HeaderValue::from_str(&host) {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// The response to a request that does not reach the middleware.
pub(super) fn refusal(problem: &Problem) -> HttpResponse {
    let mut response = problem.response();
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(request_id::NAME, request_id::of(&HeaderMap::new()));
    response
}

/// The field `Date`, as the framework sets it itself.
#[expect(clippy::disallowed_methods, reason = "a label")]
pub(super) fn date() -> HttpDate {
    SystemTime::now().into()
}

/// Renders such a response as HTTP/1.1 bytes; the connection closes after them.
pub(super) fn render(refusal: &Refusal) -> Vec<u8> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    let problem = Problem::new(status, refusal.detail.clone());
    let body = serde_json::to_string(&problem).expect("a problem is plain data");
    let (media, date) = (MEDIA_TYPE, date());
    let id = request_id::of(&HeaderMap::new());
    let id = id.to_str().unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: {media}\r\nx-content-type-options: nosniff\r\n\
         x-request-id: {id}\r\ncontent-length: {}\r\ndate: {date}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
