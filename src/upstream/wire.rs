//! The connection below awc. It parses the head of each response, and gives awc a head with nothing but the framing.
//!
//! awc 3.11 misreads some responses without an error (`docs/upstream-reports/`). It takes an interim response (1xx) for
//! the final one, and a lost connection for the end of the body. A body that ends with its connection is empty for it.
//! So heads are parsed here, once, and awc receives one of three:
//! - `content-length` for a body of known length, or for no body (HEAD, 204, 304);
//! - `transfer-encoding: chunked`;
//! - HTTP/1.0 without a length, which awc reads to the end of the connection.
//!
//! In the first two cases awc reads only while bytes are missing, so the end of the connection is reported as an error.
//! The size of heads is limited. Bodies pass without a copy, and awc decodes them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{
    Error,
    head::{Framing, Head, HeadError, end_of_head, parse},
};

/// A connection to a server, and its position within a response.
#[derive(Debug)]
pub(super) struct Wire<Io> {
    io: Io,
    /// How the end of the body is marked; `None` before the head of the response is complete.
    framing: Option<Framing>,
    /// True if the current request is HEAD, whose response has no body.
    head_only: bool,
    /// Bytes that were read and that awc does not have yet.
    read: BytesMut,
    /// Length of the prefix of `read` that contains no end of a head.
    searched: usize,
    /// The head for awc.
    head: Bytes,
    /// The head that the server sent, or why it is rejected. awc's own error would be less specific.
    outcome: Option<Result<Head, Error>>,
    /// True if the server keeps the connection open after this response.
    persistent: bool,
    /// True if bytes arrived after the request was sent.
    answered: bool,
    /// The rest of a request whose response began early. It is sent while the response is read.
    unsent: BytesMut,
}

/// Minimum free space of the buffer before a read, in bytes.
const READ: usize = 4096;

// === impl Wire ===

impl<Io> Wire<Io> {
    /// Wraps a new connection.
    pub(super) fn new(io: Io) -> Self {
        Self {
            io,
            framing: None,
            head_only: false,
            read: BytesMut::new(),
            searched: 0,
            head: Bytes::new(),
            outcome: None,
            persistent: true,
            answered: false,
            unsent: BytesMut::new(),
        }
    }

    /// Takes the head of the response, or the reason why it was rejected.
    pub(super) fn take_outcome(&mut self) -> Option<Result<Head, Error>> {
        self.outcome.take()
    }

    /// True if the server has sent bytes since the last request.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// True if the connection can serve another request. Call it only after the body has ended.
    pub(super) fn is_reusable(&self) -> bool {
        self.persistent && self.framing.is_some() && self.read.is_empty() && self.unsent.is_empty()
    }

    /// Prepares for a request. `head_only`: it is HEAD, so its response has no body.
    pub(super) fn begin(&mut self, head_only: bool) {
        self.framing = None;
        self.head_only = head_only;
        self.answered = false;
    }

    fn reject(&mut self, error: HeadError) -> io::Result<()> {
        self.outcome = Some(Err(error.into()));
        Err(io::ErrorKind::InvalidData.into())
    }

    /// Parses the complete heads in the buffer. Returns false if more bytes are needed.
    fn parse(&mut self) -> Result<bool, HeadError> {
        while self.framing.is_none() {
            let Some(end) = end_of_head(&self.read, &mut self.searched)? else { return Ok(false) };
            let parsed = parse(&self.read[..end], self.head_only)?;
            self.read.advance(end);
            self.searched = 0;
            // An interim response is skipped (RFC 9110, section 15.2).
            let Some((head, persistent)) = parsed else { continue };
            self.framing = Some(head.framing);
            self.head = head.framing.as_head();
            self.persistent = persistent;
            self.outcome = Some(Ok(head));
        }
        Ok(true)
    }
}

impl<Io: AsyncRead + Unpin> Wire<Io> {
    /// Reads until the head of the response is complete. Ready at once if no head is expected.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.parse() {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(error) => return Poll::Ready(self.reject(error)),
            }
            self.read.reserve(READ);
            if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read))? == 0 {
                return Poll::Ready(self.reject(HeadError::Incomplete));
            }
            self.answered = true;
        }
    }

    /// True if the server has neither closed the idle connection nor sent bytes on it.
    pub(super) fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        Pin::new(&mut self.io).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_pending()
    }
}

impl<Io: AsyncWrite + Unpin> Wire<Io> {
    /// Sends the rest of the request. An error is not reported, since the server has already begun its response.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) {
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.unsent) {
                Poll::Ready(Ok(written @ 1..)) => self.unsent.advance(written),
                Poll::Ready(_) => {
                    self.unsent.clear();
                    self.persistent = false;
                }
                Poll::Pending => return,
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        wire.poll_unsent(cx);
        ready!(wire.poll_head(cx))?;
        if !wire.head.is_empty() || !wire.read.is_empty() {
            copy(&mut wire.head, buf);
            copy(&mut wire.read, buf);
            if wire.read.is_empty() {
                // A stream that lasts for hours does not need the buffer of its head.
                wire.read = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut wire.io).poll_read(cx, buf))?;
        if buf.filled().len() == before && wire.framing != Some(Framing::UntilClose) {
            // awc reads a body with a marked end only while bytes are missing.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wire = &mut *self;
        if !wire.unsent.is_empty() {
            wire.unsent.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut wire.io).poll_write(cx, buf);
        // awc reads no response before it has sent the whole request, while a server may reject a large body (413) or
        // respond while it receives. So as soon as the response begins, the rest of the request waits in `unsent`.
        if !matches!(written, Poll::Ready(Ok(_))) && matches!(wire.poll_head(cx), Poll::Ready(Ok(()))) {
            if written.is_pending() {
                wire.unsent.extend_from_slice(buf);
            } else {
                wire.persistent = false;
            }
            return Poll::Ready(Ok(buf.len()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Copies as many bytes as fit.
fn copy(from: &mut impl bytes::Buf, buf: &mut ReadBuf<'_>) {
    let length = from.remaining().min(buf.remaining());
    buf.put_slice(&from.chunk()[..length]);
    from.advance(length);
}

#[cfg(test)]
mod tests;
