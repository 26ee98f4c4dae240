//! Detects failures of kept-alive connections that the server has closed.
//!
//! A server may close an idle connection just as the client sends the next request on it. RFC 9112, section 9.3.1, then
//! permits the client to repeat an idempotent request on a new connection. [`Watched`] records the two conditions on
//! the socket: the connection was used before, and no byte of a response has arrived.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use http::Method;
use hyper_util::client::legacy::{
    Error,
    connect::{Connected, Connection},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::method::is_safe;

/// A connection that records its reads and writes.
pub struct Watched<T> {
    inner: T,
    life: Life,
}

/// The record of a connection; shared with the errors of its requests.
#[derive(Clone, Default)]
struct Life(Arc<Marks>);

#[derive(Default)]
struct Marks {
    /// True if bytes were received after the last write.
    heard: AtomicBool,
    /// True if bytes were received before the last write: an earlier request got a response.
    reused: AtomicBool,
}

/// True if the failed request may be repeated: its kept-alive connection was closed by the server.
pub fn may_repeat(method: &Method, error: &Error) -> bool {
    let idempotent = is_safe(method) || matches!(*method, Method::PUT | Method::DELETE);
    let Some(connected) = error.connect_info().filter(|_| idempotent) else { return false };
    let mut extras = http::Extensions::new();
    connected.get_extras(&mut extras);
    extras.get::<Life>().is_some_and(|Life(marks)| marks.reused.load(Relaxed) && !marks.heard.load(Relaxed))
}

// === impl Watched ===

impl<T> Watched<T> {
    /// Wraps a new connection.
    pub fn new(inner: T) -> Self {
        Self { inner, life: Life::default() }
    }

    fn sending(&self) {
        // A request body that is written after the response has begun counts as another request. The error is harmless,
        // since only idempotent requests are repeated.
        if self.life.0.heard.swap(false, Relaxed) {
            self.life.0.reused.store(true, Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.life.0.heard.store(true, Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.sending();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.sending();
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: Connection> Connection for Watched<T> {
    fn connected(&self) -> Connected {
        self.inner.connected().extra(self.life.clone())
    }
}
