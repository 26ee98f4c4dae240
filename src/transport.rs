//! The connection below the HTTP framework, and its handover to a stream.
//!
//! The framework serves requests on a [`Transport`]. For a response that lasts for hours it would keep two buffers of
//! of them and poll its whole state machine per write. So a stream requests the connection ([`Handover::take_over`]).
//! The framework writes the head of the response, then reads the end of its input, and frees its memory. A connection
//! that begins with the preface of HTTP/2 is passed to the HTTP/2 server ([`Handover::http2`]). A connection without a
//! complete request is cut (`head.rs`).
//!
//! ```text
//!  accept ─> Transport ──> framework: request, response head ──flush──> take over: Transport is empty
//!                │                                                          │
//!                └── Handover, kept with the connection's data ─────────────┴──> the stream owns the socket
//! ```

use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

mod head;
mod outlet;
mod request;
mod wire;

pub use self::{
    head::{Answering, Heads},
    outlet::{Rest, Room, Shared},
    wire::{Rewound, Wire},
};
use self::{
    head::{Late, RequestState, Watch},
    outlet::Outlet,
    request::Requests,
};
use crate::unsent::Unsent;

/// A connection in the form that the HTTP framework reads and writes.
pub struct Transport {
    stage: Stage,
    watch: Watch,
    /// Received bytes of the preface of HTTP/2; `None` after the protocol is known.
    preface: Option<Vec<u8>>,
    outlet: Outlet,
    requests: Requests,
    render: Render,
    /// The rejection was written. Input is discarded until this time, so that a reset does not destroy the response.
    last: Option<Pin<Box<Sleep>>>,
}

/// A rejected head, which the framework does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the response.
    pub status: u16,
    /// Description of the fault.
    pub detail: String,
}

/// Renders the response to a rejected head, after which the connection closes.
pub type Render = fn(&Refusal) -> Vec<u8>;

/// Requests the connection of a [`Transport`] on the same thread. Cheap to clone.
#[derive(Clone)]
pub struct Handover {
    stage: Stage,
    request: RequestState,
    rest: Rest,
}

type Stage = Rc<RefCell<At>>;

/// The owner of the connection.
enum At {
    /// The framework.
    Served(Wire),
    /// The framework, until it has flushed its output.
    Flushing(TakeOver, Wire),
    /// The HTTP/2 server, which has not taken it yet.
    Http2(Rewound),
    /// A stream or the HTTP/2 server.
    Taken,
}

type TakeOver = Box<dyn FnOnce(Wire)>;

/// The first bytes of an HTTP/2 client with prior knowledge (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Maximum bytes of the target of a request: the limit of the framework.
const MOST_TARGET: usize = 65_534;

/// The interim response for `Expect: 100-continue`.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Time for a client to read the response to a rejected head.
const LAST: Duration = Duration::from_secs(1);

// === impl Transport ===

impl Transport {
    /// A connection that the framework serves.
    pub fn new(connection: Wire, heads: Heads, unsent: Unsent, render: Render) -> Self {
        let preface = matches!(connection, Wire::Plain(_)).then(Vec::new);
        let stage = Rc::new(RefCell::new(At::Served(connection)));
        let (watch, outlet) = (Watch::new(heads), Outlet::new(unsent));
        Self { stage, watch, preface, outlet, requests: Requests::default(), render, last: None }
    }

    /// The handover for a stream.
    pub fn handover(&self) -> Handover {
        Handover { stage: self.stage.clone(), request: self.watch.request().clone(), rest: self.outlet.rest() }
    }

    fn poll<T>(
        &self,
        served: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<T>>,
        taken: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.stage.borrow_mut() {
            At::Served(connection) | At::Flushing(_, connection) => served(Pin::new(connection)),
            At::Http2(_) | At::Taken => Poll::Ready(taken()),
        }
    }

    /// The first bytes decide the protocol. Usually one check of the first read is enough.
    fn poll_first(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let begin = buffer.filled().len();
        loop {
            let Some(early) = &mut self.preface else { return Poll::Ready(Ok(())) };
            let mut ended = false;
            if early.is_empty() {
                ready!(read(&self.stage, cx, buffer))?;
                let new = &buffer.filled()[begin..];
                if new.is_empty() || !(new.starts_with(PREFACE) || PREFACE.starts_with(new)) {
                    self.preface = None;
                    return Poll::Ready(Ok(()));
                }
                early.extend_from_slice(new);
                buffer.set_filled(begin);
            } else {
                // The bytes received before must also fit.
                let mut rest = buffer.take(buffer.remaining() - PREFACE.len());
                ready!(read(&self.stage, cx, &mut rest))?;
                ended = rest.filled().is_empty();
                early.extend_from_slice(rest.filled());
            }
            if early.starts_with(PREFACE) {
                let early = std::mem::take(early);
                self.preface = None;
                let mut stage = self.stage.borrow_mut();
                *stage = match std::mem::replace(&mut *stage, At::Taken) {
                    At::Served(connection) => At::Http2(Rewound::new(early, connection)),
                    other => other,
                };
                return Poll::Ready(Ok(()));
            }
            if ended || !PREFACE.starts_with(early) {
                buffer.put_slice(early);
                self.preface = None;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The head did not arrive in time: sends a 408, and ends the framework's part.
    fn cut(&mut self, late: Late, cx: &mut Context<'_>) -> io::Error {
        if late == Late::Head {
            let detail = "the head of the request did not come in time (`server.head_timeout_ms`)".to_owned();
            self.write_now(&(self.render)(&Refusal { status: 408, detail }), cx);
        }
        io::ErrorKind::TimedOut.into()
    }

    /// Writes the bytes that the socket accepts at once.
    fn write_now(&mut self, bytes: &[u8], cx: &mut Context<'_>) {
        let written = self.poll(|mut io| io.as_mut().poll_write(cx, bytes), || Ok(0));
        if written.is_ready() {
            let _ = self.poll(|io| io.poll_flush(cx), || Ok(()));
        }
    }

    /// Responds to a rejected head after all earlier requests.
    fn refuse(&mut self, cx: &mut Context<'_>) {
        let Some(refusal) = self.requests.refused() else { return };
        if self.last.is_none() && self.watch.request().answered(self.requests.passed()) {
            self.write_now(&(self.render)(refusal), cx);
            let _ = self.poll(|io| io.poll_shutdown(cx), || Ok(()));
            self.last = Some(Box::pin(sleep(LAST)));
            // The framework must continue to read.
            cx.waker().wake_by_ref();
        }
    }

    /// Discards input until the client ends, or floods a stream's connection, or the time is over.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut bytes = [0; 4096];
        loop {
            if let Err(error) = self.watch.request().check_stream() {
                return Poll::Ready(error);
            }
            let mut buffer = ReadBuf::new(&mut bytes);
            match read(&self.stage, cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.watch.request().count_input(buffer.filled().len(), 0);
                }
                Poll::Ready(_) => return Poll::Ready(io::ErrorKind::ConnectionAborted.into()),
                Poll::Pending => break,
            }
        }
        let Some(last) = &mut self.last else { return Poll::Pending };
        ready!(last.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Bytes that wait for the framework.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let ready = self.requests.ready();
        let count = ready.len().min(buffer.remaining());
        buffer.put_slice(&ready[..count]);
        self.requests.gave(count);
        count > 0
    }

    fn is_served(&self) -> bool {
        matches!(&*self.stage.borrow(), At::Served(_) | At::Flushing(..))
    }
}

/// Reads. A connection that was taken over looks like one whose client has disconnected.
fn read(stage: &Stage, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    match &mut *stage.borrow_mut() {
        At::Served(connection) | At::Flushing(_, connection) => Pin::new(connection).poll_read(cx, buffer),
        At::Http2(_) | At::Taken => Poll::Ready(Ok(())),
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let streams = self.watch.request().check_stream()?;
        if self.last.is_some() {
            return self.poll_last(cx).map(Err);
        }
        if self.give(buffer) {
            return Poll::Ready(Ok(()));
        }
        while self.requests.refused().is_none() {
            let before = buffer.filled().len();
            let done = if self.preface.is_some() { self.poll_first(cx, buffer) } else { read(&self.stage, cx, buffer) };
            if buffer.filled().len() > before {
                self.watch.came();
            }
            ready!(done)?;
            if buffer.filled().len() == before {
                if self.is_served() {
                    // A complete request gets its response; a stream has lost its reader.
                    self.watch.request().set_ended();
                    self.watch.request().check_stream()?;
                }
                return Poll::Ready(Ok(()));
            }
            let (came, requests) = (buffer.filled().len() - before, self.requests.passed());
            let passed = self.requests.take(&buffer.filled()[before..]);
            self.watch.request().count_input(came, self.requests.passed() - requests);
            buffer.set_filled(before + passed);
            self.watch.request().set_expects(self.requests.expects());
            if passed > 0 || self.give(buffer) {
                return Poll::Ready(Ok(()));
            }
        }
        // The rejection is sent with the next flush, but a stream continues until its client ends.
        if streams { self.poll_last(cx).map(Err) } else { Poll::Pending }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || Err(io::ErrorKind::BrokenPipe.into());
        self.watch.request().check_stream()?;
        if !bytes.is_empty() {
            // The response begins.
            self.watch.request().set_asks(false);
        }
        let done = self.poll(|connection| connection.poll_write(cx, bytes), gone);
        if let Poll::Ready(Ok(written)) = done {
            self.outlet.took(written);
        }
        self.outlet.watch(done, bytes.len(), cx)
    }

    /// The framework flushes after it has written all its output: at this moment the connection is handed over. Every
    /// later flush fails, which ends the framework's part. With much input after the request it would not read the end
    /// of its input, and would be polled without end (`h1/dispatcher.rs`: `read_available`).
    ///
    /// It flushes at the end of each of its turns, also without output: at this moment a head is complete or still
    /// incomplete.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gone = || Err(io::ErrorKind::BrokenPipe.into());
        let done = self.poll(|connection| connection.poll_flush(cx), gone);
        ready!(self.outlet.watch(done, 0, cx))?;
        self.outlet.flushed();
        self.watch.request().check_stream()?;
        if self.watch.request().set_asks(false) {
            self.write_now(CONTINUE, cx);
        }
        self.refuse(cx);
        if let Poll::Ready(late) = self.watch.poll(cx) {
            return Poll::Ready(Err(self.cut(late, cx)));
        }
        let left = match &mut *self.stage.borrow_mut() {
            stage @ At::Flushing(..) => std::mem::replace(stage, At::Taken),
            At::Served(_) | At::Http2(_) | At::Taken => return Poll::Ready(Ok(())),
        };
        if let At::Flushing(take_over, connection) = left {
            take_over(connection);
            // Woken, so that the framework notices the handover and drops the connection.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|connection| connection.poll_shutdown(cx), || Ok(()))
    }
}

// === impl Handover ===

impl Handover {
    /// Hands the connection over as soon as the framework has flushed its output. `take_over` must not block. If the
    /// framework drops the connection before, `take_over` is dropped.
    pub fn take_over(&self, take_over: impl FnOnce(Wire) + 'static) {
        let mut stage = self.stage.borrow_mut();
        *stage = match std::mem::replace(&mut *stage, At::Taken) {
            At::Served(connection) | At::Flushing(_, connection) => At::Flushing(Box::new(take_over), connection),
            other => other,
        };
    }

    /// A complete request has arrived. It is being answered until the result of this function is dropped.
    pub fn answering(&self) -> Answering {
        self.request.answering()
    }

    /// The response is a stream, or takes long. Until it is complete, the connection ends when its client closes its
    /// sending side, or sends more than this number of bytes after the request.
    pub fn streams(&self, most_input: u64) {
        self.request.set_streams(most_input);
    }

    /// True if the client of the current request waits for `100 Continue`.
    pub fn expects(&self) -> bool {
        self.request.expects()
    }

    /// Sends `100 Continue`, unless the response has begun.
    pub fn ask(&self) {
        self.request.set_asks(true);
    }

    /// The bytes of the response that the connection has not received yet.
    pub fn rest(&self) -> Rest {
        self.rest.clone()
    }

    /// The connection, if it speaks HTTP/2.
    pub fn http2(&self) -> Option<Rewound> {
        let mut stage = self.stage.borrow_mut();
        match std::mem::replace(&mut *stage, At::Taken) {
            At::Http2(connection) => Some(connection),
            other => {
                *stage = other;
                None
            }
        }
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
