//! The connection under awc: it reads the head of each response and gives awc a head that says only how the body ends.
//!
//! awc 3.11 reads some responses wrongly without an error (`docs/upstream-reports/`): it takes an interim response (1xx)
//! for the response, a body that ends with its connection for an empty one, and the loss of a connection for the end of
//! the body. So heads are parsed here, once, and awc gets one of three:
//! - `content-length` for a body of known length, or for none (HEAD, 204, 304);
//! - `transfer-encoding: chunked`;
//! - HTTP/1.0 without a length, which awc reads to the end of the connection.
//!
//! In the first two cases awc reads only while bytes are missing, so the end of the connection is given as an error.
//! Heads are bounded. Bodies pass without a copy, and awc decodes them.

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
    head::{Framing, Head, Refused, end_of_head, parse},
};

/// A connection to a server, and its position within a response.
pub struct Wire<Io> {
    io: Io,
    position: Position,
    /// True if the current request is HEAD, whose response has no body.
    head_only: bool,
    /// Bytes that were read and are not handed to awc yet.
    read: BytesMut,
    /// Length of the beginning of `read` that has no end of a head.
    searched: usize,
    /// The head that awc is to read.
    head: Bytes,
    /// The head that the server sent.
    response: Option<Head>,
    /// Why the response is refused; awc would translate it.
    failure: Option<Error>,
    /// True if the server keeps the connection open after this response.
    persistent: bool,
    /// True if bytes arrived since the request was sent.
    answered: bool,
    /// The end of a request whose response began before all of it was sent. It is sent while the response is read.
    unsent: BytesMut,
}

/// Which part of the response comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Head,
    /// A body with a marked end, or the end of the response.
    Marked,
    /// A body that ends with the connection.
    UntilClose,
}

/// Bytes for which there is room before a read.
const READ: usize = 4096;

// === impl Wire ===

impl<Io> Wire<Io> {
    /// Wraps a new connection.
    pub fn new(io: Io) -> Self {
        Self {
            io,
            position: Position::Marked,
            head_only: false,
            read: BytesMut::new(),
            searched: 0,
            head: Bytes::new(),
            response: None,
            failure: None,
            persistent: true,
            answered: false,
            unsent: BytesMut::new(),
        }
    }

    /// The head of the response, once.
    pub fn take_response(&mut self) -> Option<Head> {
        self.response.take()
    }

    /// Why the response was refused, once.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// True if the server has sent anything since the last request.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// True if the connection can serve another request. The caller knows that the body has ended.
    pub fn is_reusable(&self) -> bool {
        self.persistent && self.position == Position::Marked && self.read.is_empty() && self.unsent.is_empty()
    }

    /// Prepares for a request; `head_only` for HEAD.
    pub fn begin(&mut self, head_only: bool) {
        self.position = Position::Head;
        self.head_only = head_only;
        self.answered = false;
    }

    fn refuse(&mut self, refused: Refused) -> io::Result<()> {
        self.failure = Some(refused.into());
        Err(io::ErrorKind::InvalidData.into())
    }

    /// Parses the heads that were read completely. False if more bytes are needed.
    fn parse(&mut self) -> Result<bool, Refused> {
        while self.position == Position::Head {
            let Some(end) = end_of_head(&self.read, &mut self.searched)? else { return Ok(false) };
            let parsed = parse(&self.read[..end], self.head_only)?;
            self.read.advance(end);
            self.searched = 0;
            // An interim response is skipped (RFC 9110, section 15.2).
            let Some((head, persistent)) = parsed else { continue };
            self.position = match head.framing {
                Framing::UntilClose => Position::UntilClose,
                Framing::Length(_) | Framing::Chunked => Position::Marked,
            };
            self.head = head.framing.as_head();
            self.persistent = persistent;
            self.response = Some(head);
        }
        Ok(true)
    }
}

impl<Io: AsyncRead + Unpin> Wire<Io> {
    /// Reads until the head of the response is complete. Ready at once while no head is due.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.parse() {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(refused) => return Poll::Ready(self.refuse(refused)),
            }
            self.read.reserve(READ);
            if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read))? == 0 {
                return Poll::Ready(self.refuse(Refused::Incomplete));
            }
            self.answered = true;
        }
    }

    /// True if the server has neither closed the idle connection nor sent anything on it.
    pub fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        Pin::new(&mut self.io).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_pending()
    }
}

impl<Io: AsyncWrite + Unpin> Wire<Io> {
    /// Sends on what is left of the request. A failure shows in the response, which the server has begun.
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
            hand_over(&mut wire.head, buf);
            hand_over(&mut wire.read, buf);
            if wire.read.is_empty() {
                // A stream that lasts for hours does not keep the buffer of its head.
                wire.read = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut wire.io).poll_read(cx, buf))?;
        if buf.filled().len() == before && wire.position == Position::Marked {
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
        // awc reads no response before all of the request is sent, while a server may refuse a large body (413) or
        // answer while it receives. So a request that cannot be sent now waits here as soon as the response begins.
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

/// Copies as much as there is room for.
fn hand_over(from: &mut impl bytes::Buf, buf: &mut ReadBuf<'_>) {
    let length = from.remaining().min(buf.remaining());
    buf.put_slice(&from.chunk()[..length]);
    from.advance(length);
}

#[cfg(test)]
mod tests;
