//! Floods: clients that send without end behind the request for a stream, or for another response that takes long.
//!
//! The framework reads such input until its buffer is full. Then it polls the response in an endless loop. A client may
//! send [`MOST_INPUT`] bytes behind its request. One place per connection checks the limit:
//!
//! | connection | place |
//! |---|---|
//! | HTTP/1.1, of the node's listener | the [transport](crate::transport), see [`Handover::streams`](crate::transport::Handover::streams) |
//! | the same, taken over by a stream | the task of the stream ([`hub::StreamTask`](crate::hub::StreamTask)) |
//! | HTTP/1.1, of another program's server | this file |
//! | HTTP/2 | the windows of the protocol, see `h2.rs` |
//!
//! This file asks the kernel once per second how much the client has sent. Bytes that came before the handler started are
//! unknown, so polls that the body has not asked for are counted too.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    task::{Context, Poll, Wake},
    time::Duration,
};

use actix_web::{
    HttpRequest,
    body::{BodySize, MessageBody},
    http::Version,
    web::Bytes,
};
use futures::task::AtomicWaker;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::{hub::MOST_INPUT, socket::Socket};

/// Watches the input behind a request. Empty if another place checks the limit.
#[derive(Clone, Default)]
pub(super) struct InputWatch(Option<Rc<Input>>);

/// The input of an HTTP/1.1 connection of another program's server. Exists at most as long as the connection.
#[derive(Default)]
struct Input {
    flooded: CancellationToken,
    /// Polls since the last check, or since the last frame, that the body has not asked for.
    idle_polls: Cell<u32>,
    wakes: Arc<Wakes>,
}

/// Distinguishes polls that the body has asked for from polls that the framework makes without a reason. An upstream may
/// wake a body very often before there is data to send.
#[derive(Default)]
struct Wakes {
    /// The body has been polled, and not woken since.
    waiting: AtomicBool,
    outer: AtomicWaker,
}

/// The body of a stream, with the watch of its connection.
pub(super) struct Guarded<B> {
    body: B,
    watch: InputWatch,
}

/// Maximum number of polls between two checks that the body has not asked for.
const IDLE_POLLS: u32 = 2000;
/// Interval between two checks.
const CHECK_EVERY: Duration = Duration::from_secs(1);

// === impl InputWatch ===

impl InputWatch {
    /// Starts to watch. Call it before the first wait.
    pub(super) fn start(request: &HttpRequest) -> Self {
        let connection = Connection::of(request);
        if let Some((handover, _)) = connection.as_ref().and_then(Connection::handover) {
            handover.streams(MOST_INPUT);
            return Self::default();
        }
        if request.version() == Version::HTTP_2 {
            return Self::default();
        }
        let input = Rc::default();
        let received = connection.and_then(|it| it.socket()).and_then(|socket| Some((socket, socket.received()?)));
        actix_rt::spawn(check(Rc::downgrade(&input), received));
        Self(Some(input))
    }

    /// Resolves after the client has flooded the connection. Pending if another place checks the limit.
    pub(super) async fn flooded(&self) {
        match &self.0 {
            Some(input) => input.flooded.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// True if this watch has detected a flood.
    pub(super) fn has_flooded(&self) -> bool {
        self.0.as_ref().is_some_and(|input| input.flooded.is_cancelled())
    }

    /// Watches the polls of this body too.
    pub(super) fn guard<B>(self, body: B) -> Guarded<B> {
        Guarded { body, watch: self }
    }
}

/// Cuts the connection if the client floods it. `received`: the socket, and the bytes that have come before, if the system
/// counts them. The socket is used only while the handler or the body lives, which the framework drops before the socket.
async fn check(input: Weak<Input>, received: Option<(Socket, u64)>) {
    loop {
        sleep(CHECK_EVERY).await;
        let Some(input) = input.upgrade() else { return };
        input.idle_polls.set(0);
        if let Some((socket, before)) = received
            && socket.received().is_some_and(|now| now.saturating_sub(before) > MOST_INPUT)
        {
            input.flooded.cancel();
            return socket.cut();
        }
    }
}

// === impl Wakes ===

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.waiting.swap(false, AcqRel);
        self.outer.wake();
    }
}

// === impl Guarded ===

impl<B: MessageBody<Error = io::Error> + Unpin> MessageBody for Guarded<B> {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Self { body, watch: InputWatch(input) } = &mut *self;
        let Some(Input { flooded, idle_polls, wakes }) = input.as_deref() else { return Pin::new(body).poll_next(cx) };
        wakes.outer.register(cx.waker());
        if wakes.waiting.swap(true, AcqRel) {
            idle_polls.set(idle_polls.get() + 1);
            if idle_polls.get() <= IDLE_POLLS {
                return Poll::Pending;
            }
            flooded.cancel();
            return Poll::Ready(Some(Err(io::Error::other("the client floods a stream's connection"))));
        }
        idle_polls.set(0);
        let polled = Pin::new(body).poll_next(&mut Context::from_waker(&wakes.clone().into()));
        // The framework polls again after a frame, when the connection has room.
        wakes.waiting.fetch_and(polled.is_pending(), AcqRel);
        polled
    }
}
