//! The watch over the heads of requests: a client that sends one byte now and then must not keep a connection.
//!
//! The framework bounds the first head of a connection and the time between two requests; a second head that dribbles
//! would be waited for without end. So the [`Transport`](super::Transport) says when bytes come and when it was flushed,
//! and whoever answers says when a request is complete and when it was answered. In the usual case a head comes in one
//! read and nothing is done but to set a mark: a timer is made when a head is still not whole after the framework has
//! looked at it.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// How long is waited for heads, and how many connections were cut because theirs did not come. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Heads {
    /// From the first byte of a head (or the beginning of the connection) to its last.
    pub timeout: Duration,
    /// The longest time between two requests; where that is the framework's business, the same as there.
    pub idle: Duration,
    cut: Arc<AtomicU64>,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Between two requests.
    Nothing,
    /// A head comes.
    Head,
    /// A request is answered; true when bytes came meanwhile: of its body, or of the next head.
    Answer(bool),
    /// It was answered, and what came meanwhile was perhaps the beginning of a head.
    Rest,
}

/// The mark, which is shared with those who answer.
#[derive(Clone, Debug)]
pub(super) struct Mark(Rc<Marked>);

#[derive(Debug)]
struct Marked {
    doing: Cell<Doing>,
    /// Requests whose answers were begun.
    begun: Cell<u64>,
    /// The number of the request whose client waits for `100 Continue`, from 1.
    expects: Cell<u64>,
    /// `100 Continue` must be sent.
    asks: Cell<bool>,
    /// The response is a stream, which ends when its client closes its sending side.
    streams: Cell<bool>,
    /// The client has closed its sending side.
    ended: Cell<bool>,
}

/// A request of a connection is being answered, until this is dropped.
#[derive(Debug)]
pub struct Answering(Mark);

/// The transport's end.
pub(super) struct Watch {
    heads: Heads,
    mark: Mark,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What has become of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// It did not come in time.
    Head,
    /// Nothing more came.
    Idle,
}

// === impl Heads ===

impl Heads {
    /// With nothing cut yet.
    pub fn new(timeout: Duration, idle: Duration) -> Self {
        Self { timeout, idle, cut: Arc::default() }
    }

    /// One more connection was cut.
    pub fn count(&self) {
        self.cut.fetch_add(1, Relaxed);
    }

    /// Connections that were cut.
    pub fn cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }
}

// === impl Marked ===

impl Marked {
    fn new() -> Self {
        Self {
            doing: Cell::new(Doing::Head),
            begun: Cell::new(0),
            expects: Cell::new(0),
            asks: Cell::new(false),
            streams: Cell::new(false),
            ended: Cell::new(false),
        }
    }
}

// === impl Mark ===

impl Mark {
    /// A request is complete, as far as it must be to answer it.
    pub(super) fn answering(&self) -> Answering {
        self.0.doing.set(Doing::Answer(false));
        self.0.begun.set(self.0.begun.get() + 1);
        Answering(self.clone())
    }

    /// True if all of the `requests` requests were answered.
    pub(super) fn answered(&self, requests: u64) -> bool {
        self.0.begun.get() >= requests && !matches!(self.0.doing.get(), Doing::Answer(_))
    }

    /// The client of this request waits for `100 Continue`.
    pub(super) fn set_expects(&self, request: u64) {
        self.0.expects.set(request);
    }

    /// True if the client of the current request waits for `100 Continue`.
    pub(super) fn expects(&self) -> bool {
        self.0.begun.get() > 0 && self.0.expects.get() == self.0.begun.get()
    }

    /// True if `100 Continue` must be sent.
    pub(super) fn set_asks(&self, asks: bool) -> bool {
        self.0.asks.replace(asks)
    }

    /// The response is a stream.
    pub(super) fn set_streams(&self) {
        self.0.streams.set(true);
    }

    /// The client has closed its sending side.
    pub(super) fn set_ended(&self) {
        self.0.ended.set(true);
    }

    /// True for a stream whose client has closed its sending side.
    pub(super) fn is_over(&self) -> bool {
        self.0.streams.get() && self.0.ended.get()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mark = &self.0.0.doing;
        mark.set(if mark.get() == Doing::Answer(true) { Doing::Rest } else { Doing::Nothing });
    }
}

// === impl Watch ===

impl Watch {
    /// A connection has begun: its first head is waited for from now on.
    pub(super) fn new(heads: Heads) -> Self {
        Self { heads, mark: Mark(Rc::new(Marked::new())), timer: None }
    }

    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// True for a stream whose client has closed its sending side.
    pub(super) fn is_over(&self) -> bool {
        self.mark.is_over()
    }

    /// Bytes have come.
    pub(super) fn came(&self) {
        let mark = &self.mark.0.doing;
        match mark.get() {
            Doing::Nothing => mark.set(Doing::Head),
            Doing::Answer(false) => mark.set(Doing::Answer(true)),
            Doing::Head | Doing::Answer(true) | Doing::Rest => {}
        }
    }

    /// The framework has done what it could with what has come. `Ready` when the connection is to be cut.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let (limit, late) = match self.mark.0.doing.get() {
            Doing::Nothing | Doing::Answer(_) => {
                self.timer = None;
                return Poll::Pending;
            }
            Doing::Head => (self.heads.timeout, Late::Head),
            Doing::Rest => (self.heads.timeout.max(self.heads.idle), Late::Idle),
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        std::task::ready!(timer.as_mut().poll(cx));
        if late == Late::Head {
            self.heads.count();
        }
        Poll::Ready(late)
    }
}
