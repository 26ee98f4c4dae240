//! The socket writer: reads and writes the connection of an emitter itself, without the HTTP framework.
//!
//! It owns the connection and holds no buffer. Frames that wait together leave in one system call, as chunks that were
//! framed when the event was encoded. Bytes that the socket does not accept at once wait as the shared bytes that they are.

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

use super::{Counters, outbox::Outbox};
use crate::sse::Encoded;

/// A connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Writes the frames of one emitter to its connection.
pub(super) struct SocketWriter<T: ?Sized = dyn Io> {
    framing: Framing,
    /// Bytes that have left the outbox and that the socket has not accepted.
    rest: VecDeque<Bytes>,
    stage: Stage,
    /// Bytes that the client has sent.
    input: u64,
    io: T,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// More frames may come.
    Open,
    /// The stream has ended; `rest` is the end of it.
    LastFrames,
    /// The connection is shut down, or has failed.
    Closed,
}

/// How a client distinguishes the end of the stream from a lost connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1: by the last chunk.
    Chunked,
    /// HTTP/1.0: not at all; the body ends with the connection.
    UntilClosed,
}

/// How the input of a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// The client has closed the connection.
    ClientGone,
    /// The client has sent more than [`MOST_INPUT`].
    Flood,
}

/// Maximum number of frames, and about the maximum number of bytes, in one system call.
const WRITE_FRAMES: usize = 64;
const WRITE_BYTES: usize = 64 << 10;
/// Bytes that are read at once from the input, which has no meaning.
const READ_BYTES: usize = 1024;
/// Maximum number of bytes that a client may send after the request for a stream. A client may send its next requests early;
/// more input than this is a flood.
pub const MOST_INPUT: u64 = 100 << 10;

// === impl SocketWriter ===

impl<T> SocketWriter<T> {
    pub(super) fn new(io: T, framing: Framing) -> Self {
        Self { framing, rest: VecDeque::new(), stage: Stage::Open, input: 0, io }
    }
}

impl SocketWriter {
    /// Reads and discards the input. Ready if the client is gone or sends too much.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<InputEnd> {
        let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.input += buffer.filled().len() as u64,
                Ok(()) | Err(_) => return Poll::Ready(InputEnd::ClientGone),
            }
            if self.input > MOST_INPUT {
                return Poll::Ready(InputEnd::Flood);
            }
        }
    }

    /// Writes waiting frames until there are no more, or the socket accepts no more. Ready if the stream or the connection
    /// has ended; otherwise the task of `cx` is woken when the socket accepts more. `ending`: no frames come after those in
    /// the outbox.
    pub(super) fn poll_output(
        &mut self,
        outbox: &mut Outbox,
        ending: bool,
        counters: &Counters,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.stage != Stage::Closed {
            // An error is the end of the connection.
            let _ = ready!(self.write(outbox, ending, counters, cx));
            self.stage = Stage::Closed;
        }
        Poll::Ready(())
    }

    fn write(
        &mut self,
        outbox: &mut Outbox,
        ending: bool,
        counters: &Counters,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let now = Instant::now();
        loop {
            if self.rest.is_empty() {
                outbox.written();
                self.take_frames(outbox, ending, counters, now);
            }
            if self.rest.is_empty() {
                if self.stage == Stage::Open {
                    // TLS may still hold bytes that it has accepted.
                    let flushed = Pin::new(&mut self.io).poll_flush(cx);
                    if flushed.is_pending() {
                        outbox.blocked(now);
                    }
                    ready!(flushed)?;
                    outbox.flushed(now);
                    return Poll::Pending;
                }
                return Pin::new(&mut self.io).poll_shutdown(cx);
            }
            let written = self.poll_write(cx);
            if written.is_pending() {
                outbox.blocked(now);
            }
            let written = ready!(written)?;
            outbox.accepted(written, now);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    /// Takes as many frames from the outbox as fit into one system call.
    fn take_frames(&mut self, outbox: &mut Outbox, ending: bool, counters: &Counters, now: Instant) {
        let mut bytes = 0;
        while self.stage == Stage::Open && self.rest.len() < WRITE_FRAMES && bytes < WRITE_BYTES {
            if let Some(frame) = outbox.pop(counters, now) {
                let frame = self.framed(frame);
                bytes += frame.len();
                self.rest.push_back(frame);
            } else if ending {
                self.stage = Stage::LastFrames;
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
            // An idle connection must not keep the memory of its largest burst.
            self.rest = VecDeque::new();
        }
    }
}
