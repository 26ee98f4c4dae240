//! Event streams that are pulled: proxied and merged streams. Nothing is queued for them: a client that does not read
//! slows down the upstreams of its stream.
//!
//! Owns their response body, which guards its connection as the body of every stream does (`stream.rs`). At a stop each
//! stream ends at a random moment of the drain time, and the node waits for them ([`Frontend::streams_ended`]).

use std::{
    cell::Cell,
    fmt, io,
    pin::Pin,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    web::Bytes,
};
use futures::{Stream, task::AtomicWaker};
use tokio::time::{Instant, sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    answer::Holds,
    connection::Connection,
    frontend::Frontend,
    stream::{Input, Storm, flood, respond},
};
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
    storm: Storm,
    wakes: Arc<Wakes>,
    /// Made of `wakes`; the stream and the stop wake it.
    waker: Waker,
    polls: Rc<Polls>,
    /// Registers the stream with the stop, and counts it for its caller.
    _held: (TaskTrackerToken, Option<StreamPermit>),
}

/// Distinguishes polls after a wake from polls that the framework makes without a reason (see [`Storm`]). An upstream
/// may wake a body very often before there is data to send.
struct Wakes {
    woken: AtomicBool,
    outer: AtomicWaker,
}

/// The last poll of a body, for the watch over its connection.
struct Polls {
    at: Cell<Instant>,
    /// True if it returned data; then it is polled again as soon as the connection has room.
    gave: Cell<bool>,
}

/// Interval at which the watch checks a connection that does not accept data.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Number of intervals between two checks of a connection without data to send.
const IDLE_CHECKS: u32 = 10;
/// Memory of a pulled stream whose client does not read: its tasks and timers, and for each upstream its connection,
/// its read buffer and one chunk.
const OWN_BYTES: usize = 8 << 10;
const UPSTREAM_BYTES: usize = 32 << 10;

/// Counts the input of a stream's client from this moment. Call it before the first wait.
pub(super) fn input(request: &HttpRequest) -> Option<Input> {
    let connection = Connection::of(request)?;
    if let Some((handover, _)) = connection.handover() {
        handover.streams();
    }
    connection.socket().map(Input::of)
}

/// Resolves after the client has flooded its connection, and cuts the connection. For handlers that wait long: the
/// framework polls such a connection without end meanwhile.
pub(super) async fn flooded(input: Option<Input>) {
    let Some(input) = input else { return std::future::pending().await };
    while input.flooded() != Some(true) {
        sleep(CHECK_EVERY).await;
    }
    input.cut();
}

/// Responds with a stream that reads from this number of upstreams. If the stream fails, the response breaks off.
pub(super) fn open<S, E>(
    node: &Node,
    request: &HttpRequest,
    identity: &Identity,
    input: Option<Input>,
    (stream, upstreams): (S, usize),
    end: EndMode,
    permit: Option<StreamPermit>,
) -> HttpResponse
where
    S: Stream<Item = Result<Bytes, E>> + Unpin + 'static,
    E: fmt::Display + 'static,
{
    let polls = Rc::new(Polls { at: Cell::new(Instant::now()), gave: Cell::new(false) });
    if let Some(input) = input {
        actix_rt::spawn(watch(Rc::downgrade(&polls), input));
    }
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
    let counted = Frontend::of(request).pulled.token();
    let storm = Storm::new();
    let wakes = Arc::new(Wakes { woken: AtomicBool::new(true), outer: AtomicWaker::new() });
    let waker = Waker::from(wakes.clone());
    let stream = Some(stream);
    let held = (counted, permit);
    let body = Body { stream, end_reason, end, broken: None, storm, wakes, waker, polls, _held: held };
    let mut response = respond(request, body);
    response.extensions_mut().insert(Holds::Upstream(OWN_BYTES + upstreams * UPSTREAM_BYTES));
    response
}

/// Cuts a connection whose client sends a flood and does not read: its body is not polled and cannot detect it.
///
/// The descriptor is used only while the body lives, which the framework drops before the socket.
async fn watch(polls: Weak<Polls>, input: Input) {
    for check in 1_u32.. {
        sleep(CHECK_EVERY).await;
        let Some(polls) = polls.upgrade() else { return };
        let stuck = polls.gave.get() && polls.at.get().elapsed() >= CHECK_EVERY;
        if (stuck || check.is_multiple_of(IDLE_CHECKS)) && input.flooded() == Some(true) {
            input.cut();
            return;
        }
    }
}

// === impl Wakes ===

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Release);
        self.outer.wake();
    }
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
        body.polls.at.set(Instant::now());
        let gave = body.polls.gave.replace(true);
        if let Some(error) = body.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(stream) = &mut body.stream else { return Poll::Ready(None) };
        body.wakes.outer.register(cx.waker());
        if !body.wakes.woken.swap(false, AcqRel) && !gave {
            body.polls.gave.set(false);
            if body.storm.is_flood() {
                body.stream = None;
                return Poll::Ready(Some(Err(flood())));
            }
            return Poll::Pending;
        }
        body.storm.reset();
        let own = &mut Context::from_waker(&body.waker);
        if let Poll::Ready(reason) = body.end_reason.as_mut().poll(own) {
            return match std::mem::replace(&mut body.end, EndMode::Break) {
                EndMode::Break => body.break_off(io::Error::other(reason.as_str()), cx),
                EndMode::LastFrame(frame) => {
                    let frame = frame(reason);
                    body.stream = None;
                    Poll::Ready(Some(Ok(frame)))
                }
            };
        }
        match Pin::new(stream).poll_next(own) {
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(Some(Err(error))) => body.break_off(io::Error::other(error.to_string()), cx),
            Poll::Ready(None) => {
                body.stream = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                body.polls.gave.set(false);
                Poll::Pending
            }
        }
    }
}
