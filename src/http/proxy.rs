//! The transparent proxy: any stream of a configured remote, byte for byte, and the list of open upstream connections.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    guard::GuardContext,
    http::StatusCode,
    web::{Bytes, Data, Path, Payload},
};
use futures::stream;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Code, Identity, Problem, Refusal, accept, address, body,
    flood::InputWatch,
    frame_schemas::RemoteFrame,
    head::is_head,
    identity::Admin,
    limited, permit,
    pull::{self, EndMode},
    query::{NoQuery, Query},
    stream::{only_head, refused_for_now, unavailable_for_now},
    turn::Turn,
};
use crate::{
    node::Node,
    relay::passthrough::{Passthrough, ProxyRequest},
    sse,
    upstream::{
        BadPath, Error, HeaderMap, HeaderName, HeaderValue, Method, OpenStream, Remote, UnknownRemote, Url,
        events::Failure,
    },
};

/// Client header fields that are passed to the remote, besides `Last-Event-ID`. Credentials are never passed on.
const PASSED: [&str; 5] = ["accept", "accept-language", "content-type", "traceparent", "tracestate"];
/// Query parameters of this node, which are not passed on.
const OWN: [&str; 3] = ["access_token", "ticket", "lastEventId"];
/// Common prefix of the routes of this file.
const PREFIX: &str = "/api/sse-proxy/";

/// Read a stream of a remote unchanged: event, data, id, retry and comments.
///
/// The remote gets `Last-Event-ID` (the header, else the query's `lastEventId`), `Accept`, `Accept-Language` and the
/// query without `access_token` and `ticket`. It does not get the caller's credentials, but those of its section
/// `[remotes.NAME]`. Each client has one upstream connection, and the node does not reconnect. When the upstream breaks
/// off, so does this response. When the client leaves, the upstream connection is closed. Comment lines fill silence.
///
/// A remote's status of 400 or more is passed on, with a problem that contains the remote's text. 5xx and failed
/// connections become 502, timeouts 504, and 503 means that the maximum number of streams is open. Any status but 200
/// ends a browser's EventSource permanently. So a caller whose `Accept` names `text/event-stream` gets 200 if the
/// failure may be temporary: with a randomised `retry:` (not below the upstream's `Retry-After`), the frame `disconnect
/// {"reason":"upstream_unavailable","detail"}` and the end.
#[utoipa::path(get, path = "/api/sse-proxy/{remote}/{path}", tag = "proxy", params(
    ("remote" = String, Path, description = "a remote of the settings", example = "reactive"),
    ("path" = String, Path, description = "a path that `remotes.NAME.paths` permits", example = "api/sse/sample-parallel"),
    ("lastEventId" = Option<String>, Query, max_length = 1024, description = "resume after this event; the header `Last-Event-ID` takes precedence"),
), responses(
    (status = 200, description = "the remote's stream", body = RemoteFrame, content_type = "text/event-stream"),
    (status = 204, description = "the remote has no further events: EventSource stops"),
    (status = 403, description = "the path is not permitted"),
    (status = 404, description = "no remote has this name"),
    (status = "4XX", description = "the status of the remote, as a problem"),
    (status = 502, description = "the remote failed, or its response is not a stream"),
    (status = 504, description = "the remote did not respond in time"),
    (status = 508, description = "the request is in a loop: it has passed this node before (`Via`)"),
))]
pub(super) async fn get(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    permit::remote(&identity, &path.0)?;
    let (remote, url) = target(&node, &request, &path.0, &path.1)?;
    pass(&node, &request, &identity, remote, url, reading(&request), Bytes::new()).await
}

/// The transparent proxy for streams that begin with a POST; its body and content type are passed to the remote.
///
/// Other methods, such as QUERY, REPORT or PUT, work in the same way, except CONNECT and TRACE.
#[utoipa::path(post, path = "/api/sse-proxy/{remote}/{path}", tag = "proxy", params(
    ("remote" = String, Path, description = "a remote of the settings", example = "reactive"),
    ("path" = String, Path, description = "a path that `remotes.NAME.paths` permits", example = "api/sse/sample-parallel"),
), request_body(content = Value, description = "any body that the remote accepts", content_type = "*/*", example = json!({ "q": "any" })), responses(
    (status = 200, description = "the remote's stream", body = RemoteFrame, content_type = "text/event-stream"),
    (status = 204, description = "the remote has no further events"),
    (status = 403, description = "the path is not permitted"),
    (status = 404, description = "no remote has this name"),
    (status = "4XX", description = "the status of the remote, as a problem"),
    (status = 502, description = "the remote failed, or its response is not a stream"),
    (status = 504, description = "the remote did not respond in time"),
    (status = 508, description = "the request is in a loop: it has passed this node before (`Via`)"),
))]
pub(super) async fn post(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    path: Path<(String, String)>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    permit::remote(&identity, &path.0)?;
    let (remote, url) = target(&node, &request, &path.0, &path.1)?;
    body::uncoded(&request)?;
    let body = body::read(&request, &mut payload.into_inner()).await?;
    let method = Method::from_bytes(request.method().as_str().as_bytes())
        .map_err(|_| Problem::malformed("the method cannot be passed on"))?;
    pass(&node, &request, &identity, remote, url, method, body).await
}

/// True for methods other than GET and POST that the proxy passes on. HEAD and OPTIONS have their own routes; CONNECT
/// opens a tunnel, not a stream; TRACE reflects credentials.
pub(super) fn passes(context: &GuardContext<'_>) -> bool {
    use actix_web::http::Method;
    !matches!(context.head().method, Method::HEAD | Method::OPTIONS | Method::CONNECT | Method::TRACE)
}

/// The remote's sample, `/api/sse/sample-parallel`, through the transparent proxy.
#[utoipa::path(get, path = "/api/sse-proxy/{remote}/sample-parallel/sse-emitter", tag = "proxy",
    params(("remote" = String, Path, description = "a remote of the settings", example = "reactive")), responses(
        (status = 200, description = "the remote's stream", body = RemoteFrame, content_type = "text/event-stream"),
        (status = 403, description = "`remotes.NAME.paths` does not permit it"),
        (status = 404, description = "no remote has this name"),
        (status = "4XX", description = "the status of the remote, as a problem"),
        (status = 502, description = "the remote failed, or its response is not a stream"),
        (status = 504, description = "the remote did not respond in time"),
        (status = 508, description = "the request is in a loop: it has passed this node before (`Via`)"),
    ))]
pub(super) async fn sample(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    remote: Path<String>,
) -> Result<HttpResponse, Problem> {
    permit::remote(&identity, &remote)?;
    let (remote, url) = ask_for(&node, &request, &remote, "/api/sse/sample-parallel")?;
    pass(&node, &request, &identity, remote, url, reading(&request), Bytes::new()).await
}

/// Open streams of remotes.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "connections": [], "total": 0 })))]
struct UpstreamConnections {
    connections: Vec<OpenStream>,
    /// Number of open streams.
    total: usize,
}

/// The streams that this node reads from remotes, oldest first.
#[utoipa::path(get, path = "/api/sse-proxy/connections", tag = "proxy",
    responses((status = 200, description = "the open streams", body = UpstreamConnections)))]
pub(super) async fn connections(node: Data<Node>, _: Admin, _: NoQuery, _: Turn) -> HttpResponse {
    let open = node.connections.list();
    let total = open.len();
    HttpResponse::Ok().json(UpstreamConnections { connections: open, total })
}

/// Close an upstream connection. A proxied stream then breaks off; merged streams and relays reconnect.
#[utoipa::path(delete, path = "/api/sse-proxy/connections/{id}", tag = "proxy",
    params(("id" = String, Path, description = "the id in the list", example = "7")),
    responses((status = 204, description = "the connection is being ended"), (status = 404, description = "no open connection has this id")))]
pub(super) async fn end(node: Data<Node>, _: Admin, id: Path<String>, _: NoQuery) -> Result<HttpResponse, Problem> {
    if node.connections.end(&id) {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(Problem::unknown(format!("there is no upstream connection `{}`; it may have ended", id.escape_debug())))
}

/// HEAD is passed on as HEAD, since a GET might start work at the remote.
fn reading(request: &HttpRequest) -> Method {
    if is_head(request) { Method::HEAD } else { Method::GET }
}

/// The target of the request's path, in the client's own spelling: a path that is decoded twice may be a different one.
fn target(node: &Node, request: &HttpRequest, remote: &str, decoded: &str) -> Result<(Arc<Remote>, Url), Problem> {
    let raw = request.uri().path();
    let written = raw.find(PREFIX).and_then(|at| raw[at + PREFIX.len()..].split_once('/'));
    let path = written.map_or(decoded, |(_, path)| path);
    ask_for(node, request, remote, &format!("/{path}"))
}

fn ask_for(node: &Node, request: &HttpRequest, remote: &str, path: &str) -> Result<(Arc<Remote>, Url), Problem> {
    let remote = node.remotes.get(remote)?;
    let own = |pair: &&str| {
        let name = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name).unwrap_or_default();
        !OWN.contains(&name.as_ref())
    };
    let query: Vec<&str> = request.query_string().split('&').filter(|pair| !pair.is_empty()).filter(own).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    Ok((remote.clone(), remote.client_url(&format!("{path}{query}"))?))
}

async fn pass(
    node: &Node,
    request: &HttpRequest,
    identity: &Identity,
    remote: Arc<Remote>,
    url: Url,
    method: Method,
    body: Bytes,
) -> Result<HttpResponse, Problem> {
    let permit = limited::stream(node, request)?;
    let (name, path) = (remote.name().to_owned(), url.path().to_owned());
    let patient = matches!(method, Method::GET | Method::HEAD) && accept::takes_stream(request.headers());
    let proxied = ProxyRequest { remote, method, url, headers: fields(request), body, via: address::via(request) };
    let heartbeat = Duration::from_millis(node.config.emitter.heartbeat_ms);
    let input = InputWatch::start(request);
    let connections = node.connections.of(&identity.user.as_deref().map(Into::into));
    let answer = tokio::select! {
        answer = proxied.open(&connections, heartbeat) => answer,
        () = input.flooded() => return Err(Problem::malformed("nothing may follow the request for a stream")),
        () = node.stopping.cancelled() => {
            return match patient {
                true => Ok(refused_for_now(node, Refusal::NodeStopping)),
                false => Err(Problem::refused(Refusal::NodeStopping, "the node is stopping")),
            };
        }
    };
    match answer {
        Ok(Some(_)) if is_head(request) => Ok(only_head(request)),
        Ok(Some(bytes)) => {
            let chunks = chunks(bytes, name, path);
            Ok(pull::open(node, request, identity, input, (chunks, 1), EndMode::Break, permit))
        }
        Ok(None) => Ok(HttpResponse::NoContent().finish()),
        Err(failure) => {
            tracing::info!(remote = name, path, code = failure.code(), error = %failure, "the remote has no stream");
            let detail = format!("remote `{name}`: {failure}");
            if patient && failure.is_transient() {
                let not_before = failure.retry_after().unwrap_or_default();
                return Ok(unavailable_for_now(node, "upstream_unavailable", &detail, not_before));
            }
            Err(problem(&failure, detail))
        }
    }
}

fn chunks(
    bytes: Passthrough,
    remote: String,
    path: String,
) -> impl stream::Stream<Item = Result<Bytes, Failure>> + Unpin {
    Box::pin(stream::unfold(Some(bytes), move |bytes| {
        let (remote, path) = (remote.clone(), path.clone());
        async move {
            let mut bytes = bytes?;
            match bytes.next().await? {
                Ok(chunk) => Some((Ok(chunk), Some(bytes))),
                Err(failure) => {
                    tracing::info!(remote, path, code = failure.code(), error = %failure, "a proxied stream broke off");
                    Some((Err(failure), None))
                }
            }
        }
    }))
}

/// The header fields for the remote.
fn fields(request: &HttpRequest) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).ok();
    for (name, sent) in PASSED.iter().filter_map(|name| Some((*name, request.headers().get(*name)?))) {
        fields.extend(value(sent.as_bytes()).map(|sent| (HeaderName::from_static(name), sent)));
    }
    fields.entry("accept").or_insert(HeaderValue::from_static(sse::MEDIA_TYPE));
    let id = request.headers().get("last-event-id").map(|id| id.as_bytes().to_vec()).filter(|id| !id.is_empty());
    let id = id.or_else(|| Query::of(request).first("lastEventId").map(|id| id.as_bytes().to_vec()));
    // An empty id counts as absent, as in the standard. So does an id that no header can hold.
    let id = id.filter(|id| !id.is_empty()).and_then(|id| value(&id));
    fields.extend(id.map(|id| (HeaderName::from_static("last-event-id"), id)));
    fields
}

/// True if this node or a later one has detected that the request is in a loop.
fn looped(failure: &Failure) -> bool {
    failure.status().is_some_and(|status| status.as_u16() == 508)
        || matches!(failure, Failure::Transport(Error::Loop { .. }))
}

fn problem(failure: &Failure, detail: String) -> Problem {
    if looped(failure) {
        return Problem::looped(detail);
    }
    let asked = failure.retry_after().map(|asked| asked.as_secs().max(1));
    let status = match failure {
        Failure::Busy(_) | Failure::Ended => {
            return Problem::refused(Refusal::UpstreamBusy, detail);
        }
        Failure::Status { status, .. } if status.is_client_error() => {
            let status = StatusCode::from_u16(status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
            return Problem { retry_after: asked, ..Problem::new(status, detail).coded(Code::UpstreamRefused) };
        }
        Failure::Transport(Error::HeadTimeout { .. } | Error::ConnectTimeout { .. } | Error::IdleTimeout { .. }) => {
            StatusCode::GATEWAY_TIMEOUT
        }
        _ => StatusCode::BAD_GATEWAY,
    };
    Problem { retry_after: asked, ..Problem::new(status, detail) }
}

impl From<UnknownRemote> for Problem {
    fn from(unknown: UnknownRemote) -> Self {
        Self::unknown(unknown.to_string()).coded(Code::UnknownRemote)
    }
}

impl From<BadPath> for Problem {
    fn from(bad: BadPath) -> Self {
        match bad {
            BadPath::Malformed { .. } => Self::malformed(bad.to_string()),
            BadPath::Refused { .. } => Self::refused(Refusal::Path, bad.to_string()),
        }
    }
}
