//! Event streams that are pulled: proxied and merged ones. Nothing is queued for them: who does not read is not asked
//! for, and so slows down what it reads from.
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

/// What a client gets when the node stops in the middle.
pub(super) enum Farewell {
    /// A broken response: a good end would say that all has come.
    Break,
    /// A last frame that tells the reason, and a good end.
    Say(Box<dyn FnOnce(Reason) -> Bytes>),
}

/// The body of a pulled stream.
struct Body<S> {
    /// Gone when it is over; with it go the connections that it reads from.
    stream: Option<S>,
    /// Resolves when a stop has come to this stream, or its caller is none any more.
    leaving: Pin<Box<dyn Future<Output = Reason>>>,
    farewell: Farewell,
    /// What the next poll says.
    broken: Option<io::Error>,
    storm: Storm,
    wakes: Arc<Wakes>,
    /// What the stream and the stop wake, made of `wakes`.
    waker: Waker,
    polls: Rc<Polls>,
    /// Its place among the streams that a stop waits for, and among those of its caller.
    _held: (TaskTrackerToken, Option<StreamPermit>),
}

/// Tells the polls that something has asked for from those that the framework makes for no reason (see [`Storm`]): an
/// upstream may well wake a body very often before there is something to send.
struct Wakes {
    woken: AtomicBool,
    outer: AtomicWaker,
}

/// How a body was polled last, for the watch over its connection.
struct Polls {
    at: Cell<Instant>,
    /// It gave something, so it is polled again as soon as the connection takes more.
    gave: Cell<bool>,
}

/// How often the watch looks at a connection that takes nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many looks apart one that has nothing to take is looked at.
const IDLE_LOOKS: u32 = 10;
/// Memory of a pulled stream whose client does not read: its tasks and timers, and for each upstream its connection,
/// its read buffer and one chunk.
const OWN_BYTES: usize = 8 << 10;
const UPSTREAM_BYTES: usize = 32 << 10;

/// Input of a stream's client from now on. Call this before the first wait.
pub(super) fn input(request: &HttpRequest) -> Option<Input> {
    let connection = Connection::of(request)?;
    if let Some((handover, _)) = connection.handover() {
        handover.streams();
    }
    connection.socket().map(Input::of)
}

/// Resolves once the client has flooded its connection, which is cut then. For handlers that wait long: the framework
/// spins over such a connection meanwhile.
pub(super) async fn flooded(input: Option<Input>) {
    let Some(input) = input else { return std::future::pending().await };
    while input.flooded() != Some(true) {
        sleep(LOOK_EVERY).await;
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
    farewell: Farewell,
    place: Option<StreamPermit>,
) -> HttpResponse
where
    S: Stream<Item = Result<Bytes, E>> + Unpin + 'static,
    E: fmt::Display + 'static,
{
    let polls = Rc::new(Polls { at: Cell::new(Instant::now()), gave: Cell::new(false) });
    if let Some(input) = input {
        actix_rt::spawn(watch(Rc::downgrade(&polls), input));
    }
    // A token of its own: asking it does not contend with all other streams.
    let stopping = node.stopping.child_token();
    let drain = Duration::from_millis(node.config.server.drain_ms);
    let refused = identity.end(&node.clock);
    let leaving = Box::pin(async move {
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
    let held = (counted, place);
    let body = Body { stream, leaving, farewell, broken: None, storm, wakes, waker, polls, _held: held };
    let mut response = respond(request, body);
    response.extensions_mut().insert(Holds::Upstream(OWN_BYTES + upstreams * UPSTREAM_BYTES));
    response
}

/// Cuts a connection whose client sends a flood and reads nothing: its body is not polled then, and cannot notice.
///
/// The descriptor is used only while the body lives, which the framework drops before the socket.
async fn watch(polls: Weak<Polls>, input: Input) {
    for look in 1_u32.. {
        sleep(LOOK_EVERY).await;
        let Some(polls) = polls.upgrade() else { return };
        let stuck = polls.gave.get() && polls.at.get().elapsed() >= LOOK_EVERY;
        if (stuck || look.is_multiple_of(IDLE_LOOKS)) && input.flooded() == Some(true) {
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
    /// The framework throws away what it has not sent yet when a body fails, so it gets the time to send it.
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
            if body.storm.rages() {
                body.stream = None;
                return Poll::Ready(Some(Err(flood())));
            }
            return Poll::Pending;
        }
        body.storm.calm();
        let own = &mut Context::from_waker(&body.waker);
        if let Poll::Ready(reason) = body.leaving.as_mut().poll(own) {
            return match std::mem::replace(&mut body.farewell, Farewell::Break) {
                Farewell::Break => body.break_off(io::Error::other(reason.as_str()), cx),
                Farewell::Say(frame) => {
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
