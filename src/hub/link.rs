//! A link: one connection, written by the hub itself from the outbox to the socket, with nothing between.
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Reason, Subscription};
use crate::sse::Encoded;

/// A stream on its way into a connection. Resolves when the stream or the client has ended; dropping it ends both.
pub struct Link<IO> {
    // Dropped in this order: an emitter is gone before its socket.
    frames: Subscription,
    io: IO,
    framing: Framing,
    /// Taken from the outbox, not yet by the socket.
    rest: VecDeque<Bytes>,
    /// The stream has ended; `rest` is the last that goes out.
    over: bool,
    /// Bytes that the client has sent.
    input: u64,
}

/// How a client tells the end of the stream from the loss of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1: the last chunk says so.
    Chunked,
    /// HTTP/1.0: it cannot; the body is what comes until the connection ends.
    UntilClosed,
}

/// Most frames, and about most bytes, in one system call.
const WRITE_FRAMES: usize = 64;
const WRITE_BYTES: usize = 64 << 10;
/// Read at once of what nobody asked for.
const READ_BYTES: usize = 1024;
/// So many bytes behind a request for a stream are no accident: a client may send its next requests early, but a stream
/// comes before them.
pub const MOST_INPUT: u64 = 100 << 10;

// === impl Link ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Link<IO> {
    /// Writes these frames into this connection, behind the head of the response.
    pub fn new(frames: Subscription, io: IO, framing: Framing) -> Self {
        Self { frames, io, framing, rest: VecDeque::new(), over: false, input: 0 }
    }

    /// Reads what the client sends, which has no meaning; `Ready` when it is gone, or sends too much.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.input += buffer.filled().len() as u64,
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
            if self.input > MOST_INPUT {
                self.frames.set_end(Reason::InputFlood);
                return Poll::Ready(());
            }
        }
    }

    /// Writes until there is nothing more or the socket takes nothing more.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.rest.is_empty() {
                self.take_frames(cx);
            }
            if self.rest.is_empty() {
                if !self.over {
                    return Poll::Pending;
                }
                return Pin::new(&mut self.io).poll_shutdown(cx);
            }
            let written = self.poll_write(cx);
            self.frames.set_blocked(written.is_pending());
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    /// Takes from the outbox what fits into one system call.
    fn take_frames(&mut self, cx: &mut Context<'_>) {
        let mut bytes = 0;
        while !self.over && self.rest.len() < WRITE_FRAMES && bytes < WRITE_BYTES {
            match self.frames.poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    let frame = self.framed(frame);
                    bytes += frame.len();
                    self.rest.push_back(frame);
                }
                Poll::Ready(None) => {
                    self.over = true;
                    if self.framing == Framing::Chunked {
                        self.rest.push_back(Bytes::from_static(Encoded::LAST_CHUNK));
                    }
                }
                Poll::Pending => return,
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

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Link<IO> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // First what has come: a client that is gone is not written to.
        if this.poll_input(cx).is_ready() {
            return Poll::Ready(());
        }
        this.poll_output(cx).map(drop)
    }
}
