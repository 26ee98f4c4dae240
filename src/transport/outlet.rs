//! The outgoing side of a connection: the bytes that its socket does not accept, and the time since then.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::Instant,
};

use super::Rewound;
use crate::unsent::{Account, Pace, Share, Unsent};

/// Memory of an HTTP/1.1 connection whose client does not read, without the bytes of its response: the buffers of the
/// framework and the state of its request.
const HTTP1_BYTES: usize = 16 << 10;
/// Memory of an HTTP/2 connection whose client does not read, without its streams.
const HTTP2_BYTES: usize = 16 << 10;
/// Bytes of all streams of an HTTP/2 connection that wait for its socket.
const HTTP2_BUFFER: usize = 64 << 10;
/// Number of resets within a write deadline that end an HTTP/2 connection, see [`Room::one_stuck`].
const MOST_STUCK: usize = 8;

/// Bytes of a response that the connection has not received yet. The response and its connection share this counter.
#[derive(Clone, Debug, Default)]
pub struct Rest(Rc<Left>);

#[derive(Debug, Default)]
struct Left {
    bytes: Cell<usize>,
    beside: Cell<usize>,
    share: RefCell<Option<Arc<Share>>>,
}

/// Accounts for the writes of one connection.
pub(super) struct Outlet {
    unsent: Unsent,
    rest: Rest,
    account: Option<Box<Account>>,
}

/// The connection below HTTP/2, and the number of bytes that its streams may write.
pub struct Shared {
    io: Rewound,
    outlet: Outlet,
    room: Room,
}

/// The part of a connection that its streams share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Room(Rc<State>);

#[derive(Debug)]
struct State {
    /// Bytes that streams have written since the last complete flush.
    written: Cell<usize>,
    /// Number of complete flushes.
    flushes: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
    /// Streams with bytes that wait for the client.
    waits: Cell<usize>,
    /// Notified when the number of waiting streams decreases.
    fewer: Notify,
    /// The rate of all streams together, while one waits.
    pace: Cell<Pace>,
    /// Start of the current period, of one write deadline, and the streams that were reset in it.
    period: Cell<(Instant, usize)>,
    unsent: Unsent,
}

// === impl Rest ===

impl Rest {
    /// Sets the number of bytes, without those of a shared copy.
    pub fn set(&self, bytes: usize) {
        self.0.bytes.set(bytes);
    }

    /// Sets the memory that the response holds in addition.
    pub fn set_beside(&self, bytes: usize) {
        self.0.beside.set(bytes);
    }

    /// The sum of both.
    pub fn get(&self) -> usize {
        self.0.bytes.get() + self.0.beside.get()
    }

    /// Sets the shared copy that the response sends; `None` after its end.
    pub fn set_share(&self, share: Option<Arc<Share>>) {
        *self.0.share.borrow_mut() = share;
    }

    /// The shared copy that the response sends.
    pub fn share(&self) -> Option<Arc<Share>> {
        self.0.share.borrow().clone()
    }
}

// === impl Outlet ===

impl Outlet {
    pub(super) fn new(unsent: Unsent) -> Self {
        Self { unsent, rest: Rest::default(), account: None }
    }

    pub(super) fn rest(&self) -> Rest {
        self.rest.clone()
    }

    /// The socket accepted none of these bytes. Ready with the error when the connection must end.
    pub(super) fn blocked(&mut self, bytes: usize, own: usize, cx: &mut Context<'_>) -> Poll<io::Error> {
        let account = self.account.get_or_insert_with(|| Box::new(self.unsent.account()));
        account.blocked(Instant::now());
        account.set(bytes + own + self.rest.get(), self.rest.share());
        account.poll_end(cx).map(|why| io::Error::new(io::ErrorKind::TimedOut, why.as_str()))
    }

    pub(super) fn took(&mut self, bytes: usize) {
        if let Some(account) = &mut self.account {
            account.took(bytes, Instant::now());
        }
    }

    /// The socket accepted all bytes.
    pub(super) fn flushed(&mut self) {
        if let Some(account) = &mut self.account {
            account.clear();
            account.set(self.rest.get(), self.rest.share());
        }
    }

    /// Limits the time of a write.
    pub(super) fn watch<T>(
        &mut self,
        done: Poll<io::Result<T>>,
        waiting: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match done {
            Poll::Pending => self.blocked(waiting, HTTP1_BYTES, cx).map(Err),
            done @ Poll::Ready(_) => done,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The HTTP/2 side of this connection.
    pub fn new(io: Rewound, unsent: Unsent) -> Self {
        let room = Room::new(unsent.clone());
        Self { io, outlet: Outlet::new(unsent), room }
    }

    /// The part of the connection that its streams share.
    pub fn room(&self) -> Room {
        self.room.clone()
    }

    fn write(&mut self, done: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match done {
            Poll::Ready(Ok(bytes)) => {
                self.outlet.took(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Pending => self.outlet.blocked(self.room.0.written.get(), HTTP2_BYTES, cx).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl AsyncRead for Shared {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.write(done, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.write(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                this.outlet.flushed();
                this.room.flushed();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => this.outlet.blocked(this.room.0.written.get(), HTTP2_BYTES, cx).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

// === impl Room ===

impl Room {
    pub(super) fn new(unsent: Unsent) -> Self {
        Self(Rc::new(State {
            written: Cell::new(0),
            flushes: Cell::new(0),
            waiting: RefCell::default(),
            waits: Cell::new(0),
            fewer: Notify::new(),
            pace: Cell::default(),
            period: Cell::new((Instant::now(), 0)),
            unsent,
        }))
    }

    /// Number of bytes that a stream may write now; at 0 the stream is woken when there is room.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let room = HTTP2_BUFFER.saturating_sub(self.0.written.get());
        if room > 0 {
            return Poll::Ready(room);
        }
        self.wake_with_flush(cx);
        Poll::Pending
    }

    /// Wakes the stream at the next complete flush.
    pub fn wake_with_flush(&self, cx: &mut Context<'_>) {
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    /// A stream has written this number of bytes within its client's window.
    pub fn wrote(&self, bytes: usize) {
        self.0.written.set(self.0.written.get() + bytes);
        let least = self.0.unsent.least().saturating_mul(self.0.waits.get().max(1) as u64);
        let mut pace = self.0.pace.get();
        pace.took(bytes, least, Instant::now());
        self.0.pace.set(pace);
    }

    /// Counts one more stream with bytes that wait for the client.
    pub fn waits(&self) {
        self.0.waits.set(self.0.waits.get() + 1);
        let mut pace = self.0.pace.get();
        pace.blocked(Instant::now());
        self.0.pace.set(pace);
    }

    /// Number of streams with bytes that wait for the client.
    pub fn waiting(&self) -> usize {
        self.0.waits.get()
    }

    /// Ready when fewer streams wait.
    pub async fn fewer(&self) {
        self.0.fewer.notified().await;
    }

    /// A stream no longer waits: its client has read everything, or it has ended. After a reset because its client does
    /// not read (`stuck`), the period of the connection continues.
    pub fn waits_no_longer(&self, stuck: bool) {
        self.0.waits.set(self.0.waits.get() - 1);
        self.0.fewer.notify_one();
        if self.0.waits.get() == 0 && !stuck {
            self.0.pace.set(Pace::default());
        }
    }

    /// Counts a stream that was reset because its client does not read. True if the connection must end too, for one of
    /// two reasons. The client reads too little of all `others` together for a whole deadline. Or many streams were
    /// reset within a deadline: at least 8, and as many as the healthy ones of the `others`.
    pub fn one_stuck(&self, others: usize) -> bool {
        let (began, stuck) = self.0.period.get();
        let (now, deadline) = (Instant::now(), self.0.unsent.deadline());
        let over = now.saturating_duration_since(began) > deadline;
        let (began, stuck) = if over { (now, 1) } else { (began, stuck + 1) };
        self.0.period.set((began, stuck));
        let healthy = others.saturating_sub(self.0.waits.get());
        let slow = self.0.pace.get().since().is_some_and(|since| now.saturating_duration_since(since) >= deadline);
        (slow && healthy == 0) || (stuck >= MOST_STUCK && stuck >= healthy)
    }

    /// A counter that changes at each complete flush.
    pub fn flushes(&self) -> u64 {
        self.0.flushes.get()
    }

    fn flushed(&self) {
        self.0.flushes.set(self.0.flushes.get() + 1);
        self.0.written.set(0);
        let mut waiting = self.0.waiting.take();
        if waiting.len() > 1 {
            // The first streams take the room, so the order starts at a random one.
            let first = rand::random_range(0..waiting.len());
            waiting.rotate_left(first);
        }
        waiting.into_iter().for_each(Waker::wake);
    }
}
