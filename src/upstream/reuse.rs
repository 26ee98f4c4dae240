//! Which failures are those of a kept connection that its server has closed.
//!
//! A server may close an idle connection in the moment in which the client sends the next request on it. RFC 9112, section
//! 9.3.1, lets the client send an idempotent request once more then, on a fresh connection. [`Watched`] notes on the socket
//! what decides this: the connection was used before, and no byte of an answer has come.

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

/// A connection that notes what has happened on it.
pub struct Watched<T> {
    inner: T,
    life: Life,
}

/// What has happened on a connection; shared with the errors of its requests.
#[derive(Clone, Default)]
struct Life(Arc<Marks>);

#[derive(Default)]
struct Marks {
    /// Bytes have come since something was last sent.
    heard: AtomicBool,
    /// Bytes had come before something was last sent: an earlier request was answered.
    reused: AtomicBool,
}

/// True where the failed request may be sent once more: it met a kept connection that its server has closed.
pub fn may_repeat(method: &Method, error: &Error) -> bool {
    let idempotent = is_safe(method) || matches!(*method, Method::PUT | Method::DELETE);
    let Some(connected) = error.connect_info().filter(|_| idempotent) else { return false };
    let mut extras = http::Extensions::new();
    connected.get_extras(&mut extras);
    extras.get::<Life>().is_some_and(|Life(marks)| marks.reused.load(Relaxed) && !marks.heard.load(Relaxed))
}

// === impl Watched ===

impl<T> Watched<T> {
    /// A connection on which nothing has happened yet.
    pub fn new(inner: T) -> Self {
        Self { inner, life: Life::default() }
    }

    fn sending(&self) {
        // The body of a request whose answer has begun counts as another request: it errs only for idempotent ones.
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
