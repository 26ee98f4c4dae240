//! Event streams as responses: headers, and the body that is polled for frames.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, BodyStream, MessageBody},
    http::{ConnectionType, Method, StatusCode, Version, header},
    web::Bytes,
};
use tokio::time::Duration;

use super::{
    Problem, Refusal,
    answer::Holds,
    connection::{Connection, ConnectionPermit},
    error::Refused,
    flood::InputWatch,
    head::is_head,
};
use crate::{
    access::{self, Identity},
    hub::{Connect, ConnectError, Framing, Reason, StreamTask, Subscription},
    node::Node,
    sse::{self, Frame},
    transport::Handover,
};

/// The body of an event stream.
///
/// On a connection of the node's own listener the body only takes over the connection, and a [`StreamTask`] writes the
/// frames. In another program's server the framework polls the body for frames.
struct Body {
    /// `None` after the frames have taken over the connection.
    frames: Option<Subscription>,
    /// `Some` on the node's own listener. In another program's server it is `None`, and the framework continues to poll
    /// this body.
    takeover: Option<(Handover, Rc<ConnectionPermit>, Framing)>,
    input: InputWatch,
}

/// Marks a stream that replaces a problem response.
struct ReplacesProblem;

/// Maximum reconnection time that is passed on from an upstream: an hour.
const LONGEST_RETRY_MS: u64 = 60 * 60 * 1000;
/// Memory of an emitter whose client does not read, in addition to its history: its entry in the shard, and its task.
const EMITTER_BYTES: usize = 16 << 10;

// === impl Body ===

impl MessageBody for Body {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some((handover, permit, framing)) = self.takeover.take()
            && let Some(frames) = self.frames.take()
        {
            handover.take_over(move |connection| {
                actix_web::rt::spawn(async move {
                    StreamTask::new(frames, connection, framing).await;
                    drop(permit);
                });
            });
        }
        let Some(frames) = &mut self.frames else { return Poll::Pending };
        frames.poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame.frame())))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(frames) = &mut self.frames
            && self.input.has_flooded()
        {
            frames.set_end(Reason::InputFlood);
        }
    }
}

/// Opens a stream and responds with it. If the node stops, the response is a stream with one `disconnect` frame.
///
/// A stream ends at the latest when its caller's identity expires.
pub(super) async fn open(
    node: &Node,
    request: &HttpRequest,
    identity: &Identity,
    mut connect: Connect,
) -> Result<HttpResponse, Problem> {
    if is_head(request) {
        return Ok(only_head(request));
    }
    connect.user.clone_from(&identity.user);
    connect.token = identity.token_name().cloned();
    connect.token_expires = identity.left(&node.clock);
    let connection = Connection::of(request);
    let handover = connection.as_ref().and_then(Connection::handover);
    connect.cut = connection.as_ref().and_then(Connection::cutter);
    // A stream that takes over the connection checks the limit itself.
    let input = if handover.is_some() { InputWatch::default() } else { InputWatch::start(request) };
    let framing = if request.version() < Version::HTTP_11 { Framing::UntilClosed } else { Framing::Chunked };
    let takeover = handover.map(|(handover, permit)| (handover, permit, framing));
    match node.hub.connect(connect).await {
        // A revocation between the authentication and this point did not reach this stream.
        Ok(_) if identity.ended(&node.clock) => Err(access::Refused::Expired.into()),
        Ok(frames) => {
            let taken = takeover.is_some();
            let body = Body { frames: Some(frames), takeover, input: input.clone() };
            let mut response = respond(request, input.guard(body));
            if taken {
                response.head_mut().set_connection_type(ConnectionType::Close);
            }
            response.extensions_mut().insert(Holds::Beside(EMITTER_BYTES));
            Ok(response)
        }
        Err(ConnectError::Stopping) => Ok(refused_for_now(node, Refusal::NodeStopping)),
        Err(error) => Err(error.into()),
    }
}

/// The head of a stream, for HEAD; opens nothing.
pub(super) fn only_head(request: &HttpRequest) -> HttpResponse {
    let mut response = respond(request, BodyStream::new(futures::stream::empty::<io::Result<Bytes>>()));
    if Connection::read(request, |connection| connection.handover().is_some()) == Some(true) {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

/// The response whose body is a stream.
pub(super) fn respond(request: &HttpRequest, body: impl MessageBody + 'static) -> HttpResponse {
    let mut response = headers().body(body);
    if request.version() < Version::HTTP_11 {
        // HTTP/1.0 has no chunks: the stream ends with the connection.
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

/// A refusal for now, as a stream with one `disconnect` frame that contains the reconnection time. Any status but 200
/// would end a browser's EventSource permanently.
pub(super) fn refused_for_now(node: &Node, refusal: Refusal) -> HttpResponse {
    let mut response = one_frame(disconnect(node, refusal.of_stream(), None, Duration::ZERO));
    response.extensions_mut().insert(Refused { refusal, detail: String::new() });
    response
}

/// Like [`refused_for_now`], for a limit: with the text of the problem, and with the time until the limit permits more.
pub(super) fn exceeded_for_now(node: &Node, refusal: Refusal, detail: String, not_before: Duration) -> HttpResponse {
    let mut response = one_frame(disconnect(node, refusal.of_stream(), Some(&detail), not_before));
    response.extensions_mut().insert(Refused { refusal, detail });
    response
}

/// Like [`refused_for_now`], for a failure of an upstream, which is no refusal of this node. `not_before` is the wait that
/// the upstream asks for.
pub(super) fn unavailable_for_now(node: &Node, reason: &str, detail: &str, not_before: Duration) -> HttpResponse {
    one_frame(disconnect(node, reason, Some(detail), not_before))
}

/// The last frame of a stream that does not end by itself; the reconnection time in it is randomised.
pub(super) fn disconnect(node: &Node, reason: &str, detail: Option<&str>, not_before: Duration) -> Bytes {
    let usual = node.config.emitter.reconnect_time_ms;
    let asked = u64::try_from(not_before.as_millis()).unwrap_or(u64::MAX).min(LONGEST_RETRY_MS);
    let least = asked.max(usual / 2);
    let retry = rand::random_range(least..=least.saturating_add(usual));
    let data = match detail {
        Some(detail) => serde_json::json!({ "reason": reason, "detail": detail }),
        None => serde_json::json!({ "reason": reason }),
    };
    let data = data.to_string();
    Frame { event: "disconnect", data: Some(&data), retry: Some(retry), ..Frame::default() }.encode().frame()
}

fn one_frame(frame: Bytes) -> HttpResponse {
    let mut response = headers().body(frame);
    response.extensions_mut().insert(ReplacesProblem);
    // A client that reconnects later must not hold a connection meanwhile.
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

/// True if this response is an open stream, and not a refusal that is sent as a stream.
pub(super) fn is_open<B>(request: &HttpRequest, response: &HttpResponse<B>) -> bool {
    let streams = |kind: &header::HeaderValue| kind.as_bytes().starts_with(sse::MEDIA_TYPE.as_bytes());
    request.method() == Method::GET
        && response.status() == StatusCode::OK
        && response.headers().get(header::CONTENT_TYPE).is_some_and(streams)
        && !response.extensions().contains::<ReplacesProblem>()
}

fn headers() -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, sse::MEDIA_TYPE))
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        // The framework writes `Connection` itself; HTTP/1.1 connections persist by default.
        .insert_header(("X-Accel-Buffering", "no"));
    response
}
