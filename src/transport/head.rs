//! The time limit of request heads: a client that sends one byte now and then must not keep a connection.
//!
//! The framework limits the first head of a connection and the time between two requests. It would wait without end for
//! a slow second head. So the [`Transport`](super::Transport) reports received bytes and flushes, and the middleware
//! reports complete requests and their responses. Usually a head arrives in one read, and only a state is set. A timer
//! is created if a head is still incomplete after the framework has read it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
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

/// The time limits for heads, and the number of connections that exceeded them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Heads {
    /// Time from the first byte of a head (or the start of the connection) to its last byte.
    pub timeout: Duration,
    /// Maximum time between two requests; equal to the framework's limit.
    pub idle: Duration,
    cut: Arc<AtomicU64>,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Between two requests.
    Nothing,
    /// A head is arriving.
    Head,
    /// A request is being answered; true if bytes arrived meanwhile: of its body, or of the next head.
    Answer(bool),
    /// The response was sent, and the bytes that arrived meanwhile may be the beginning of a head.
    Rest,
}

/// The state of a connection's requests, which the transport shares with the middleware.
#[derive(Clone, Debug)]
pub(super) struct RequestState(Rc<StateCells>);

#[derive(Debug)]
struct StateCells {
    doing: Cell<Doing>,
    /// Number of requests whose responses were begun.
    begun: Cell<u64>,
    /// The number of the request whose client waits for `100 Continue`, from 1.
    expects: Cell<u64>,
    /// True if `100 Continue` must be sent.
    asks: Cell<bool>,
    /// Received bytes.
    came: Cell<u64>,
    /// For each request without a response yet: the received bytes before the read that completed its head.
    waiting: RefCell<VecDeque<u64>>,
    /// `Some` for a stream: its connection ends after this number of received bytes, or when the client closes its sending
    /// side.
    stream_limit: Cell<Option<u64>>,
    /// True if the client has closed its sending side.
    ended: Cell<bool>,
}

/// A request is being answered until this is dropped.
#[derive(Debug)]
pub struct Answering(RequestState);

/// The transport's part of the time limit.
pub(super) struct Watch {
    heads: Heads,
    request: RequestState,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The reason for cutting a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// A head did not arrive in time.
    Head,
    /// No further request arrived in time.
    Idle,
}

// === impl Heads ===

impl Heads {
    /// Time limits, without exceeded ones yet.
    pub fn new(timeout: Duration, idle: Duration) -> Self {
        Self { timeout, idle, cut: Arc::default() }
    }

    /// Counts a connection that was cut.
    pub fn count(&self) {
        self.cut.fetch_add(1, Relaxed);
    }

    /// Number of connections that were cut.
    pub fn cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }
}

// === impl StateCells ===

impl StateCells {
    fn new() -> Self {
        Self {
            doing: Cell::new(Doing::Head),
            begun: Cell::new(0),
            expects: Cell::new(0),
            asks: Cell::new(false),
            came: Cell::new(0),
            waiting: RefCell::default(),
            stream_limit: Cell::new(None),
            ended: Cell::new(false),
        }
    }
}

// === impl RequestState ===

impl RequestState {
    /// A request is complete enough to be answered.
    pub(super) fn answering(&self) -> Answering {
        self.0.doing.set(Doing::Answer(false));
        self.0.begun.set(self.0.begun.get() + 1);
        self.0.waiting.borrow_mut().pop_front();
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

    /// Counts received bytes, and the requests whose heads have become complete with them.
    pub(super) fn count_input(&self, bytes: usize, requests: u64) {
        let came = self.0.came.get();
        self.0.waiting.borrow_mut().extend((0..requests).map(|_| came));
        self.0.came.set(came + bytes as u64);
    }

    /// The response is a stream. Its client may send at most this number of bytes after the request.
    pub(super) fn set_streams(&self, most_input: u64) {
        let end = self.0.waiting.borrow().front().copied().unwrap_or(self.0.came.get());
        self.0.stream_limit.set(Some(end + most_input));
    }

    /// The client has closed its sending side.
    pub(super) fn set_ended(&self) {
        self.0.ended.set(true);
    }

    /// True if the response is a stream. An error if its client has closed its sending side, or has sent too much.
    pub(super) fn check_stream(&self) -> io::Result<bool> {
        match self.0.stream_limit.get() {
            Some(_) if self.0.ended.get() => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(limit) if self.0.came.get() > limit => {
                Err(io::Error::other("the client floods a stream's connection"))
            }
            limit => Ok(limit.is_some()),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.stream_limit.set(None);
        let doing = &self.0.0.doing;
        doing.set(if doing.get() == Doing::Answer(true) { Doing::Rest } else { Doing::Nothing });
    }
}

// === impl Watch ===

impl Watch {
    /// A connection has begun: the time of its first head starts.
    pub(super) fn new(heads: Heads) -> Self {
        Self { heads, request: RequestState(Rc::new(StateCells::new())), timer: None }
    }

    pub(super) fn request(&self) -> &RequestState {
        &self.request
    }

    /// Bytes have arrived.
    pub(super) fn came(&self) {
        let doing = &self.request.0.doing;
        match doing.get() {
            Doing::Nothing => doing.set(Doing::Head),
            Doing::Answer(false) => doing.set(Doing::Answer(true)),
            Doing::Head | Doing::Answer(true) | Doing::Rest => {}
        }
    }

    /// The framework has processed the received bytes. `Ready` if the connection must be cut.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let (limit, late) = match self.request.0.doing.get() {
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
