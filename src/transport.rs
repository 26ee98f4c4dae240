//! The connection under the HTTP framework, and how a stream takes it over.
//!
//! The framework serves requests on a [`Transport`]. For a response that goes on for hours it would keep two buffers of
//! 8 KiB per connection (actix-http, `h1/dispatcher.rs`: `HW_BUFFER_SIZE`, no setting), copy each frame into one of them
//! and poll its whole state machine per write. So a stream asks for the connection ([`Handover::take_over`]): the
//! framework writes the head of the response, is then told that the client is gone, and frees what it held.
//! A client that begins with the preface of HTTP/2 is left to whoever speaks that ([`Handover::left`]), and one whose
//! request does not come is cut (`head.rs`).
//!
//! ```text
//!  accept ─> Transport ──> framework: request, response head ──flush──> take over: Transport is an empty husk
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
    head::{Late, Mark, Watch},
    outlet::Outlet,
    request::Requests,
};
use crate::unsent::Unsent;

/// A connection as the HTTP framework reads and writes it.
pub struct Transport {
    stage: Stage,
    watch: Watch,
    /// What has come of the preface of HTTP/2; `None` once it is known that it is something else.
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
    /// What is wrong.
    pub detail: String,
}

/// Renders the response to a rejected head, after which the connection closes.
pub type Render = fn(&Refusal) -> Vec<u8>;

/// Asks for the connection of a [`Transport`] on the same thread. Cheap to clone.
#[derive(Clone)]
pub struct Handover {
    stage: Stage,
    mark: Mark,
    rest: Rest,
}

type Stage = Rc<RefCell<At>>;

/// Who has the connection.
enum At {
    /// The framework.
    Served(Wire),
    /// The framework, until it has flushed what it has written.
    Leaving(TakeOver, Wire),
    /// Nobody: it speaks HTTP/2.
    Left(Rewound),
    /// Somebody else.
    Taken,
}

type TakeOver = Box<dyn FnOnce(Wire)>;

/// What a client of HTTP/2 says first when it knows that it is understood (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most bytes of the target of a request: what the framework can hold.
const MOST_TARGET: usize = 65_534;

/// The interim response for `Expect: 100-continue`.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Time for a client to read the response to a rejected head.
const LAST: Duration = Duration::from_secs(1);

// === impl Transport ===

impl Transport {
    /// A connection for the framework to serve.
    pub fn new(connection: Wire, heads: Heads, unsent: Unsent, render: Render) -> Self {
        let preface = matches!(connection, Wire::Plain(_)).then(Vec::new);
        let stage = Rc::new(RefCell::new(At::Served(connection)));
        let (watch, outlet) = (Watch::new(heads), Outlet::new(unsent));
        Self { stage, watch, preface, outlet, requests: Requests::default(), render, last: None }
    }

    /// What a stream takes it over with.
    pub fn handover(&self) -> Handover {
        Handover { stage: self.stage.clone(), mark: self.watch.mark().clone(), rest: self.outlet.rest() }
    }

    fn poll<T>(
        &self,
        served: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<T>>,
        taken: impl FnOnce() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.stage.borrow_mut() {
            At::Served(connection) | At::Leaving(_, connection) => served(Pin::new(connection)),
            At::Left(_) | At::Taken => Poll::Ready(taken()),
        }
    }

    /// The first bytes decide which HTTP it is. In the usual case that is one look at what has come with the first read.
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
                // What has come before must still find room.
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
                    At::Served(connection) => At::Left(Rewound::new(early, connection)),
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

    /// The head did not come: says so where nothing else is on its way out, and ends the framework's part.
    fn cut(&mut self, late: Late, cx: &mut Context<'_>) -> io::Error {
        if late == Late::Head {
            let detail = "the head of the request did not come in time (`server.head_timeout_ms`)".to_owned();
            self.say(&(self.render)(&Refusal { status: 408, detail }), cx);
        }
        io::ErrorKind::TimedOut.into()
    }

    /// As much of this as the socket takes at once.
    fn say(&mut self, bytes: &[u8], cx: &mut Context<'_>) {
        let said = self.poll(|mut io| io.as_mut().poll_write(cx, bytes), || Ok(0));
        if said.is_ready() {
            let _ = self.poll(|io| io.poll_flush(cx), || Ok(()));
        }
    }

    /// Answers a rejected head after all earlier requests.
    fn refuse(&mut self, cx: &mut Context<'_>) {
        let Some(refusal) = self.requests.refused() else { return };
        if self.last.is_none() && self.watch.mark().answered(self.requests.passed()) {
            self.say(&(self.render)(refusal), cx);
            let _ = self.poll(|io| io.poll_shutdown(cx), || Ok(()));
            self.last = Some(Box::pin(sleep(LAST)));
            // The framework has to read on.
            cx.waker().wake_by_ref();
        }
    }

    /// Discards input until the client ends or the time is over.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match read(&self.stage, cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
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

    /// An error for a stream whose client has closed its sending side.
    fn check_over(&self) -> io::Result<()> {
        if self.watch.is_over() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn is_served(&self) -> bool {
        matches!(&*self.stage.borrow(), At::Served(_) | At::Leaving(..))
    }
}

/// Reads; a connection that was taken over looks like one whose client is gone.
fn read(stage: &Stage, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    match &mut *stage.borrow_mut() {
        At::Served(connection) | At::Leaving(_, connection) => Pin::new(connection).poll_read(cx, buffer),
        At::Left(_) | At::Taken => Poll::Ready(Ok(())),
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
                    // A complete request is answered; a stream has lost its reader.
                    self.watch.mark().set_ended();
                    self.check_over()?;
                }
                return Poll::Ready(Ok(()));
            }
            let passed = self.requests.take(&buffer.filled()[before..]);
            buffer.set_filled(before + passed);
            self.watch.mark().set_expects(self.requests.expects());
            if passed > 0 || self.give(buffer) {
                return Poll::Ready(Ok(()));
            }
        }
        // The answer goes out with the next flush.
        Poll::Pending
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || Err(io::ErrorKind::BrokenPipe.into());
        self.check_over()?;
        if !bytes.is_empty() {
            // The answer begins.
            self.watch.mark().set_asks(false);
        }
        let done = self.poll(|connection| connection.poll_write(cx, bytes), gone);
        if let Poll::Ready(Ok(written)) = done {
            self.outlet.took(written);
        }
        self.outlet.watch(done, bytes.len(), cx)
    }

    /// The framework flushes when it has written all that it had: the moment in which a connection changes hands. Each
    /// flush after it fails, which ends the framework's part for good: with much input behind the request it would not
    /// come to read that the client is gone, and be polled without end (`h1/dispatcher.rs`: `read_available`).
    ///
    /// It flushes at the end of each of its turns, also when it has written nothing: the moment in which a head is whole
    /// or is still waited for.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gone = || Err(io::ErrorKind::BrokenPipe.into());
        let done = self.poll(|connection| connection.poll_flush(cx), gone);
        ready!(self.outlet.watch(done, 0, cx))?;
        self.outlet.flushed();
        self.check_over()?;
        if self.watch.mark().set_asks(false) {
            self.say(CONTINUE, cx);
        }
        self.refuse(cx);
        if let Poll::Ready(late) = self.watch.poll(cx) {
            return Poll::Ready(Err(self.cut(late, cx)));
        }
        let left = match &mut *self.stage.borrow_mut() {
            stage @ At::Leaving(..) => std::mem::replace(stage, At::Taken),
            At::Served(_) | At::Left(_) | At::Taken => return Poll::Ready(Ok(())),
        };
        if let At::Leaving(take_over, connection) = left {
            take_over(connection);
            // So that the framework notices, and lets go.
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
    /// Gives the connection away as soon as the framework has flushed what it has written. Whoever takes it must not wait
    /// in `take_over`. If the framework gives the connection up before, `take_over` is dropped.
    pub fn take_over(&self, take_over: impl FnOnce(Wire) + 'static) {
        let mut stage = self.stage.borrow_mut();
        *stage = match std::mem::replace(&mut *stage, At::Taken) {
            At::Served(connection) | At::Leaving(_, connection) => At::Leaving(Box::new(take_over), connection),
            other => other,
        };
    }

    /// A request has come whole, and is being answered until what this returns is dropped.
    pub fn answering(&self) -> Answering {
        self.mark.answering()
    }

    /// The response is a stream: it ends when its client closes its sending side.
    pub fn streams(&self) {
        self.mark.set_streams();
    }

    /// True if the client of the current request waits for `100 Continue`.
    pub fn expects(&self) -> bool {
        self.mark.expects()
    }

    /// Sends `100 Continue`, unless the response has begun.
    pub fn ask(&self) {
        self.mark.set_asks(true);
    }

    /// The bytes of the response that the connection does not have yet.
    pub fn rest(&self) -> Rest {
        self.rest.clone()
    }

    /// The connection, once it has turned out to speak HTTP/2.
    pub fn left(&self) -> Option<Rewound> {
        let mut stage = self.stage.borrow_mut();
        match std::mem::replace(&mut *stage, At::Taken) {
            At::Left(connection) => Some(connection),
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
