//! Event streams that are pulled: proxied and merged streams. Nothing is queued for them: a client that does not read
//! slows down the upstreams of its stream.
//!
//! Owns their response body. At a stop each stream ends at a random moment of the drain time, and the node waits for them
//! ([`Frontend::streams_ended`]).

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    web::Bytes,
};
use futures::Stream;
use tokio::time::sleep;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{answer::Holds, flood::InputWatch, frontend::Frontend, stream::respond};
use crate::{
    access::{Identity, limits::StreamPermit},
    hub::Reason,
    node::Node,
};

/// How a stream ends when the node stops.
pub(super) enum EndMode {
    /// The response breaks off: a normal end would mean that the stream is complete.
    Break,
    /// A last frame with the reason, and a normal end.
    LastFrame(Box<dyn FnOnce(Reason) -> Bytes>),
}

/// The body of a pulled stream.
struct Body<S> {
    /// `None` after the end, so that the connections that it reads from are closed.
    stream: Option<S>,
    /// Resolves when a stop ends this stream, or its caller's identity expires.
    end_reason: Pin<Box<dyn Future<Output = Reason>>>,
    end: EndMode,
    /// The error that the next poll returns.
    broken: Option<io::Error>,
    /// Registers the stream with the stop, and counts it for its caller.
    _held: (TaskTrackerToken, Option<StreamPermit>),
}

/// Memory of a pulled stream whose client does not read: its tasks and timers, and for each upstream its connection,
/// its read buffer and one chunk.
const OWN_BYTES: usize = 8 << 10;
const UPSTREAM_BYTES: usize = 32 << 10;

/// Responds with a stream that reads from this number of upstreams. If the stream fails, the response breaks off.
pub(super) fn open<S, E>(
    node: &Node,
    request: &HttpRequest,
    identity: &Identity,
    input: InputWatch,
    (stream, upstreams): (S, usize),
    end: EndMode,
    permit: Option<StreamPermit>,
) -> HttpResponse
where
    S: Stream<Item = Result<Bytes, E>> + Unpin + 'static,
    E: fmt::Display + 'static,
{
    // Each stream has its own token: a check of it does not contend with all other streams.
    let stopping = node.stopping.child_token();
    let drain = Duration::from_millis(node.config.server.drain_ms);
    let refused = identity.end(&node.clock);
    let end_reason = Box::pin(async move {
        let stopped = async {
            stopping.cancelled().await;
            sleep(drain.mul_f64(rand::random_range(0.0..1.0))).await;
        };
        tokio::select! { () = stopped => Reason::Shutdown, () = refused => Reason::TokenExpired }
    });
    let held = (Frontend::of(request).pulled.token(), permit);
    let body = Body { stream: Some(stream), end_reason, end, broken: None, _held: held };
    let mut response = respond(request, input.guard(body));
    response.extensions_mut().insert(Holds::Upstream(OWN_BYTES + upstreams * UPSTREAM_BYTES));
    response
}

// === impl Body ===

impl<S> Body<S> {
    /// The framework discards unsent data when a body fails, so the error is delayed until the data is sent.
    fn break_off(&mut self, error: io::Error, cx: &Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.stream = None;
        self.broken = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S, E> MessageBody for Body<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: fmt::Display,
{
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let body = &mut *self;
        if let Some(error) = body.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(stream) = &mut body.stream else { return Poll::Ready(None) };
        if let Poll::Ready(reason) = body.end_reason.as_mut().poll(cx) {
            return match std::mem::replace(&mut body.end, EndMode::Break) {
                EndMode::Break => body.break_off(io::Error::other(reason.as_str()), cx),
                EndMode::LastFrame(frame) => {
                    let frame = frame(reason);
                    body.stream = None;
                    Poll::Ready(Some(Ok(frame)))
                }
            };
        }
        match Pin::new(stream).poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(Some(Err(error))) => body.break_off(io::Error::other(error.to_string()), cx),
            Poll::Ready(None) => {
                body.stream = None;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
