//! HTTP/2: many requests on one connection.
//!
//! Not the framework's, which sets no bound on streams and none below 16 MiB on the head of a request, and notices that a
//! client has left a stream only when it has something for it. Here a request is a task that ends with its client's
//! interest: with a reset of its stream, or with the connection. Requests then go to the same service as those of HTTP/1.1
//! and find their [`Connection`] among their extensions.
//!
//! What bounds a hostile client, and who counts it (`h2` 0.4):
//!
//! | it sends | bound | then |
//! |---|---|---|
//! | nothing, or half a preface | `head_timeout_ms` | cut, counted |
//! | many requests | `http2_max_streams`, told in SETTINGS | `REFUSED_STREAM`; no more is accepted while so many tasks run |
//! | requests and resets at once (rapid reset) | 20 that nobody has accepted yet; the tasks, see above | `ENHANCE_YOUR_CALM` |
//! | frames that are errors of one stream ("made you reset") | 1024 | `ENHANCE_YOUR_CALM` |
//! | a head without end (CONTINUATION) | [`MOST_HEAD`], and so many frames as that needs | 431, then `ENHANCE_YOUR_CALM` |
//! | PING, SETTINGS | each needs its answer written first | not read while it does not read |
//! | small or empty DATA frames | a budget that the window gives | `ENHANCE_YOUR_CALM` |
//! | a body that nobody reads | the windows | it must wait |
//! | no request for [`IDLE`] | | GOAWAY |
//!
//! A reader that takes nothing costs [`SEND_BUFFER`] beside its outbox; at its write deadline its stream is reset, and the
//! other streams of the connection go on.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::{
    BoxedPayloadStream, ConnectionType, Payload, Request, Response,
    error::PayloadError,
    header::{self as old, HttpDate},
};
use actix_service::Service;
use actix_web::{
    HttpMessage, HttpResponse,
    body::{BodySize, MessageBody},
    dev::ServiceResponse,
    http::{Method, Uri, Version},
};
use bytes::Bytes;
use futures_util::stream;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::gate::Connection;
use crate::{app::Node, transport::Rewound};

/// A connection without a request is closed after so long. Longer than with HTTP/1.1: it is the only one of its client.
const IDLE: Duration = Duration::from_secs(60);
/// A client is given so long to take the end of a connection.
const LAST: Duration = Duration::from_secs(1);
/// Largest head of a request, as HTTP/2 counts it: each field, and 32 bytes for each. What HTTP/1.1 takes is 128 KiB.
const MOST_HEAD: u32 = 64 << 10;
/// Bytes of a request's body that may come before they are read, per request and per connection.
const WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Bytes of a response that wait for their client beside what the socket holds.
const SEND_BUFFER: usize = 32 << 10;

/// What a response has for its client, or why there is no more.
enum Next {
    Bytes(Bytes),
    /// The client takes so many bytes.
    Room(usize),
    End,
    Failed,
    /// The client has left the stream, or its connection is gone.
    Gone,
    /// The client takes nothing; it is to be cut.
    Stuck,
}

/// Serves a connection until it ends.
pub(super) async fn serve<A, B>(
    node: &Node,
    wire: Rewound,
    app: Rc<A>,
    connection: &Connection,
    peer: Option<SocketAddr>,
) where
    A: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse> + 'static,
    B: MessageBody + 'static,
{
    let most = node.config.server.http2_max_streams;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(most)
        .max_header_list_size(MOST_HEAD)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let Ok(handshake) = timeout(node.heads.timeout, builder.handshake::<_, Bytes>(wire)).await else {
        node.heads.count();
        return;
    };
    let Ok(mut http2) = handshake else { return };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    // Their end is the connection's: whoever goes takes all its streams along.
    let mut tasks = JoinSet::new();
    let (mut asked, mut leaving) = (false, false);
    // A token of its own: asking it does not contend with all other connections.
    let stopping = node.stopping.child_token();
    let mut idle = pin!(sleep(node.heads.timeout));
    loop {
        let accepting = tasks.len() < most;
        let accepted = poll_fn(|cx| {
            if accepting { http2.poll_accept(cx) } else { http2.poll_closed(cx).map(|closed| closed.err().map(Err)) }
        });
        tokio::select! {
            accepted = accepted => {
                let Some(Ok((request, respond))) = accepted else { return };
                asked = true;
                tasks.spawn_local(answer(app.clone(), request, respond, connection.clone(), peer));
            }
            Some(ended) = tasks.join_next() => {
                // A panic in one is that one's end.
                if ended.unwrap_or(false) && !leaving {
                    leaving = true;
                    http2.graceful_shutdown();
                }
                if tasks.is_empty() {
                    idle.as_mut().reset(Instant::now() + IDLE);
                }
            }
            () = &mut idle, if tasks.is_empty() => {
                if !asked {
                    node.heads.count();
                }
                http2.abrupt_shutdown(Reason::NO_ERROR);
                let _ = timeout(LAST, poll_fn(|cx| http2.poll_closed(cx))).await;
                return;
            }
            () = stopping.cancelled(), if !leaving => {
                leaving = true;
                http2.graceful_shutdown();
            }
        }
    }
}

/// One request and its response; true when the connection is to take no more of them.
async fn answer<A, B>(
    app: Rc<A>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: Connection,
    peer: Option<SocketAddr>,
) -> bool
where
    A: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse>,
    B: MessageBody,
{
    let cut = CancellationToken::new();
    let is_head = request.method() == http::Method::HEAD;
    let Some(request) = translate(request, connection.for_one(cut.clone()), peer) else {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return false;
    };
    let response = tokio::select! {
        biased;
        // It does not wait for the answer any more; with a flood of resets nothing is even begun.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return false,
        response = app.call(request) => response,
    };
    match response {
        Ok(response) => send(Response::from(response), respond, is_head, &cut).await,
        Err(refusal) => send(Response::from(refusal), respond, is_head, &cut).await,
    }
}

async fn send<B: MessageBody>(
    response: Response<B>,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    cut: &CancellationToken,
) -> bool {
    let (response, body) = response.into_parts();
    let last = response.head().connection_type() == ConnectionType::Close;
    let size = body.size();
    let ends = is_head || size.is_eof();
    let Ok(mut stream) = respond.send_response(head(&response, size), ends) else { return last };
    if ends {
        return last;
    }
    let mut body = pin!(body);
    let mut cut = pin!(cut.cancelled());
    let mut chunk = Bytes::new();
    loop {
        match poll_fn(|cx| poll_next(&mut stream, body.as_mut(), &chunk, cut.as_mut(), cx)).await {
            Next::Bytes(bytes) => {
                chunk = bytes;
                stream.reserve_capacity(chunk.len());
            }
            Next::Room(room) => {
                let bytes = chunk.split_to(room.min(chunk.len()));
                if stream.send_data(bytes, false).is_err() {
                    return last;
                }
            }
            Next::End => {
                let _ = stream.send_data(Bytes::new(), true);
                return last;
            }
            Next::Failed => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return last;
            }
            Next::Stuck => {
                stream.send_reset(Reason::CANCEL);
                return last;
            }
            Next::Gone => return last,
        }
    }
}

/// The body is asked for more only when the client has taken what there was: who does not read slows down what it reads.
fn poll_next<B: MessageBody>(
    stream: &mut SendStream<Bytes>,
    body: Pin<&mut B>,
    chunk: &Bytes,
    cut: Pin<&mut impl Future<Output = ()>>,
    cx: &mut Context<'_>,
) -> Poll<Next> {
    if stream.poll_reset(cx).is_ready() {
        return Poll::Ready(Next::Gone);
    }
    if cut.poll(cx).is_ready() {
        return Poll::Ready(Next::Stuck);
    }
    if chunk.is_empty() {
        return Poll::Ready(match ready!(body.poll_next(cx)) {
            Some(Ok(bytes)) => Next::Bytes(bytes),
            Some(Err(_)) => Next::Failed,
            None => Next::End,
        });
    }
    let room = stream.capacity();
    if room > 0 {
        return Poll::Ready(Next::Room(room));
    }
    Poll::Ready(match ready!(stream.poll_capacity(cx)) {
        Some(Ok(room)) => Next::Room(room),
        Some(Err(_)) | None => Next::Gone,
    })
}

/// A request in the framework's words; `None` for one that has none there.
fn translate(request: http::Request<RecvStream>, connection: Connection, peer: Option<SocketAddr>) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let payload = if body.is_end_stream() { Payload::None } else { Payload::Stream { payload: read(body) } };
    let mut request = Request::with_payload(payload);
    request.extensions_mut().insert(connection);
    let head = request.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    // As HTTP/1.1 has it: the path in the first line, the authority in `Host`.
    head.uri = Uri::try_from(parts.uri.path_and_query()?.as_str()).ok()?;
    head.version = Version::HTTP_2;
    head.peer_addr = peer;
    for (name, value) in &parts.headers {
        let name = old::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers.append(name, old::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if let Some(authority) = parts.uri.authority() {
        head.headers.insert(old::HOST, old::HeaderValue::from_str(authority.as_str()).ok()?);
    }
    Some(request)
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

/// The head of a response, without what only HTTP/1.1 has (RFC 9113, section 8.2.2).
fn head(response: &Response<()>, size: BodySize) -> http::Response<()> {
    let mut headers = HeaderMap::with_capacity(response.headers().len() + 2);
    for (name, value) in response.headers() {
        let hop = [old::CONNECTION, old::TRANSFER_ENCODING, old::UPGRADE].contains(name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection");
        let Ok(name) = HeaderName::from_bytes(name.as_str().as_bytes()) else { continue };
        let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
        if !hop {
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
        && let Ok(now) = HeaderValue::from_str(&HttpDate::from(std::time::SystemTime::now()).to_string())
    {
        headers.insert(header::DATE, now);
    }
    let mut head = http::Response::new(());
    *head.status_mut() = StatusCode::from_u16(response.status().as_u16()).expect("a status is one in both");
    *head.headers_mut() = headers;
    head
}
