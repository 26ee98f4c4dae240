//! A line: the connection of an emitter that the hub reads and writes itself, with nothing between.
//!
//! It holds no buffer. Frames that wait together leave in one system call, as chunks that were framed when the event was
//! encoded; what the socket does not take at once waits as the shared bytes that it is.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{Counters, emitter::Emitter};
use crate::sse::Encoded;

/// What a connection can do.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A connection, and what is on its way into it.
pub(super) struct Line<T: ?Sized = dyn Io> {
    framing: Framing,
    /// Taken from the outbox, not yet by the socket.
    rest: VecDeque<Bytes>,
    /// The stream has ended; `rest` is the last that goes out.
    over: bool,
    /// Nothing goes out any more.
    done: bool,
    /// Bytes that the client has sent.
    input: u64,
    io: T,
}

/// How a client tells the end of the stream from the loss of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1: the last chunk says so.
    Chunked,
    /// HTTP/1.0: it cannot; the body is what comes until the connection ends.
    UntilClosed,
}

/// How reading has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By the client.
    Gone,
    /// The client sends too much.
    Flood,
}

/// Most frames, and about most bytes, in one system call.
const WRITE_FRAMES: usize = 64;
const WRITE_BYTES: usize = 64 << 10;
/// Read at once of what nobody asked for.
const READ_BYTES: usize = 1024;
/// So many bytes behind a request for a stream are no accident: a client may send its next requests early, but a stream
/// comes before them.
pub const MOST_INPUT: u64 = 100 << 10;

// === impl Line ===

impl<T> Line<T> {
    pub(super) fn new(io: T, framing: Framing) -> Self {
        Self { framing, rest: VecDeque::new(), over: false, done: false, input: 0, io }
    }
}

impl Line {
    /// Reads what the client sends, which has no meaning; `Ready` when it is gone, or sends too much.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.input += buffer.filled().len() as u64,
                Ok(()) | Err(_) => return Poll::Ready(Ended::Gone),
            }
            if self.input > MOST_INPUT {
                return Poll::Ready(Ended::Flood);
            }
        }
    }

    /// Writes what waits for the emitter until there is nothing more or the socket takes nothing more; `Ready` when the
    /// stream or the connection has ended. Whose context it is will be woken when the socket takes more.
    pub(super) fn poll_output(&mut self, emitter: &mut Emitter, counters: &Counters, cx: &mut Context<'_>) -> Poll<()> {
        if !self.done {
            self.done = self.write(emitter, counters, cx).is_ready();
        }
        if self.done { Poll::Ready(()) } else { Poll::Pending }
    }

    fn write(&mut self, emitter: &mut Emitter, counters: &Counters, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        loop {
            if self.rest.is_empty() {
                emitter.written();
                self.take_frames(emitter, counters, now);
            }
            if self.rest.is_empty() {
                if !self.over {
                    // What the socket has taken may still stand in TLS.
                    let flushed = Pin::new(&mut self.io).poll_flush(cx);
                    if flushed.is_pending() {
                        emitter.blocked(now);
                    }
                    ready!(flushed)?;
                    emitter.unblocked(now);
                    return Poll::Pending;
                }
                return Pin::new(&mut self.io).poll_shutdown(cx);
            }
            let written = self.poll_write(cx);
            if written.is_pending() {
                emitter.blocked(now);
            }
            let written = ready!(written)?;
            emitter.took(written, now);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    /// Takes from the outbox what fits into one system call.
    fn take_frames(&mut self, emitter: &mut Emitter, counters: &Counters, now: Instant) {
        let mut bytes = 0;
        while !self.over && self.rest.len() < WRITE_FRAMES && bytes < WRITE_BYTES {
            if let Some(frame) = emitter.next_frame(counters, now) {
                let frame = self.framed(frame);
                bytes += frame.len();
                self.rest.push_back(frame);
            } else if emitter.closing.is_some() {
                self.over = true;
                if self.framing == Framing::Chunked {
                    self.rest.push_back(Bytes::from_static(Encoded::LAST_CHUNK));
                }
            } else {
                return;
            }
        }
    }

    fn framed(&self, frame: Encoded) -> Bytes {
        match self.framing {
            Framing::Chunked => frame.into_chunk(),
            Framing::UntilClosed => frame.frame(),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.io);
        if let (1, Some(one)) = (self.rest.len(), self.rest.front()) {
            return io.poll_write(cx, one);
        }
        let mut slices = [IoSlice::new(&[]); WRITE_FRAMES + 1];
        for (slice, frame) in slices.iter_mut().zip(&self.rest) {
            *slice = IoSlice::new(frame);
        }
        io.poll_write_vectored(cx, &slices[..self.rest.len().min(WRITE_FRAMES + 1)])
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(front) = self.rest.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.rest.pop_front();
        }
        if self.rest.capacity() > 4 {
            // An idle connection does not keep the memory of its worst moment.
            self.rest = VecDeque::new();
        }
    }
}
