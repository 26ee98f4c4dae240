//! The gate: every request passes it before its handler, and every response after it.
//!
//! Connections above the limit get a response; they are not left in the backlog. In open mode a request must carry a
//! `Host` of this machine and an `Origin` of the node itself: otherwise any web page could run handlers on a
//! developer's machine (DNS rebinding, cross-site requests).

use actix_web::{
    Error, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use tracing::Instrument;

use super::{
    Problem, Refusal, accept,
    answer::{Answer, Holds, Shared},
    audit, compress,
    connection::Connection,
    frontend::Frontend,
    head, heads, identity, limited, operate, origins, pages, request_id, stream,
    unread::{self, Unread},
};
use crate::{access::Mode, node::Node, spans};

/// The middleware. All log lines of a request have its span.
pub(super) async fn pass(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<Answer<BoxBody>>, Error> {
    let id = request_id::of(request.headers());
    let span = spans::request(id.to_str().unwrap_or_default(), request.method().as_str(), request.path());
    answer(request, next, id).instrument(span).await
}

async fn answer(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
    id: HeaderValue,
) -> Result<ServiceResponse<Answer<BoxBody>>, Error> {
    let node = request.app_data::<Data<Node>>().expect("the routes are mounted with their node").clone();
    let frontend = Frontend::of(request.request()).clone();
    heads::name_host(&mut request);
    let answering = Connection::answering(&request);
    let rest = Connection::read(request.request(), |connection| connection.rest.clone()).flatten();
    let origin = request.headers().get(header::ORIGIN).cloned();
    unread::ask_first(&mut request);
    let only_head = head::is_head(request.request());
    let unread = Unread::of(&mut request);
    let mut refusal = limited::of_address(&node, &request).or_else(|| refuse(&node, &frontend, &request));
    if refusal.is_none() {
        identity::authenticate(&node, &request).await;
        refusal = limited::of_caller(&node, &request);
    }
    let answered = match refusal {
        Some(refusal) => Ok(ServiceResponse::new(request.into_parts().0, refusal)),
        None => next.call(request).await.map(ServiceResponse::map_into_boxed_body),
    };
    let (request, mut response) = match answered {
        Ok(response) => {
            let mut response = identity::use_ticket(&node, limited::answer(&node, response)).await;
            if node.config.server.compress {
                response = compress::pack(&node, response).await;
            }
            audit::note(&node, &response);
            let (request, response) = response.into_parts();
            (Some(request), response)
        }
        // The handler panicked, and its request is gone. The panic hook has written the log line.
        Err(_) => (None, panicked()),
    };
    if only_head {
        response = response.map_body(|_, body| head::without_body(&body));
    }
    frontend.requests.count(&response);
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in &node.config.server.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
        }
    }
    pages::guard(headers);
    origins::add_headers(&node, origin, headers);
    headers.insert(request_id::NAME, id);
    let extensions = response.extensions();
    let costs = (extensions.get::<Shared>().cloned(), extensions.get::<Holds>().copied());
    drop(extensions);
    let response = response.map_body(|_, body| Answer::new(body, rest, costs, answering, unread));
    match request {
        Some(request) => Ok(ServiceResponse::new(request, response)),
        // Without a request there can be no `ServiceResponse`. The framework sends the response of an error as it is.
        None => Err(InternalError::from_response("a handler panicked", response.map_into_boxed_body()).into()),
    }
}

/// The response to a request whose handler panicked.
fn panicked() -> HttpResponse {
    let detail = "an error in the node prevents a response to this request; the node's log names the request by its id";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).response()
}

/// The response to requests that must not reach their handler.
fn refuse(node: &Node, frontend: &Frontend, request: &ServiceRequest) -> Option<HttpResponse> {
    if Connection::read(request.request(), |connection| connection.over) == Some(true) {
        return Some(full(node, request));
    }
    if node.config.access.mode == Mode::Open
        && !frontend.embedded
        // Health checks use an IP address or no `Host`; their responses contain no secret.
        && !operate::is_probe(request)
        && let Err(problem) = local(node, request)
    {
        return Some(problem.response());
    }
    if !is_readable(request.uri().path()) || !is_readable(request.query_string()) {
        return Some(Problem::malformed("path and query must be UTF-8 in percent-encoding").response());
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if node.stopping.is_cancelled() && !reads {
        return Some(Problem::refused(Refusal::NodeStopping, "the node is stopping and takes no new work").response());
    }
    if node.stopping.is_cancelled() && accept::is_event_source(request.head()) {
        return Some(stream::refused_for_now(node, Refusal::NodeStopping));
    }
    origins::preflight(node, request)
}

fn full(node: &Node, request: &ServiceRequest) -> HttpResponse {
    let mut response = if accept::is_event_source(request.head()) {
        stream::refused_for_now(node, Refusal::NodeFull)
    } else {
        let detail = "the node has as many connections as it takes (max_connections)";
        Problem::refused(Refusal::NodeFull, detail).response()
    };
    // The connection must not stay open: it is above the limit.
    response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    response
}

/// Applies the rule of open mode: `Host` and `Origin` must be local or listed.
fn local(node: &Node, request: &ServiceRequest) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host_name(host);
    let known = is_loopback(name) || node.config.server.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
    if !known {
        let detail = format!(
            "in open mode the node answers only to names of this machine, not to `{}`; add it to `server.hosts` if it is yours",
            name.escape_debug()
        );
        return Err(Problem::refused(Refusal::Host, detail));
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        // An image or a form of another site's page sends no `Origin`, but would run a sample. Links to pages are
        // permitted.
        if origins::is_foreign_fetch(request.request()) && !pages::is_page(request.path()) {
            let detail = "in open mode pages of other sites must not call the node";
            return Err(Problem::refused(Refusal::Origin, detail));
        }
        return Ok(());
    };
    if origins::is_own(node, request.request(), origin) || origins::is_listed(node, origin) {
        return Ok(());
    }
    let detail = format!(
        "in open mode web pages of other origins must not call the node; add {origin:?} to `server.cors_origins` if it is yours"
    );
    Err(Problem::refused(Refusal::Origin, detail))
}

/// True if a path or query decodes to exactly one text. For other input the decoders insert replacement characters, and
/// an event for one user would go to another.
fn is_readable(text: &str) -> bool {
    if !text.contains('%') {
        return true;
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |bytes: &mut std::str::Bytes<'_>| char::from(bytes.next()?).to_digit(16)?.try_into().ok();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits: (Option<u8>, Option<u8>) = (digit(&mut bytes), digit(&mut bytes));
        let (Some(high), Some(low)) = digits else { return false };
        decoded.push(high * 16 + low);
    }
    std::str::from_utf8(&decoded).is_ok()
}

/// The host without its port; brackets of an IPv6 address stay.
fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_readable_when_it_is_utf_8_in_percent_encoding() {
        for path in ["/", "/a/%00", "/caf%c3%a9", "/caf%C3%A9%20", "/%25zz"] {
            assert!(is_readable(path), "{path}");
        }
        for path in ["/%", "/%4", "/%zz", "/%+1", "/%ff", "/a%e2%82", "/%c3/%a9"] {
            assert!(!is_readable(path), "{path}");
        }
    }

    #[test]
    fn loopback_names_are_known_with_and_without_port() {
        for host in [
            "localhost",
            "localhost:8090",
            "127.0.0.1:1",
            "127.1.2.3",
            "[::1]",
            "[::1]:80",
            "LocalHost:1",
            "a.localhost",
        ] {
            assert!(is_loopback(host_name(host)), "{host}");
        }
        for host in [
            "",
            "example.com",
            "127.0.0.1.nip.io",
            "10.0.0.1:80",
            "[::2]:80",
            "localhost.evil.com",
            "evil.com:127.0.0.1",
        ] {
            assert!(!is_loopback(host_name(host)), "{host}");
        }
    }
}
