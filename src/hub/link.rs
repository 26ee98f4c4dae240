//! A link: the task of an emitter whose connection the hub writes by itself, from the outbox to the socket.
//!
//! The shard writes to the connection in passing, when it has delivered ([`Shard::flush`](super::shard::Shard::flush)); to
//! wake a task for each frame would cost about as much as the system call. What is left to the task is what cannot be
//! foreseen: what the client sends, a socket that takes nothing for a while, pages of a reader that is behind, the end.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Framing, Reason, Subscription, line::Ended, line::Line};

/// A stream on its way into a connection. Resolves when the stream or the client has ended; dropping it ends both.
pub struct Link {
    frames: Subscription,
}

// === impl Link ===

impl Link {
    /// Writes these frames into this connection, behind the head of the response.
    pub fn new(frames: Subscription, io: impl AsyncRead + AsyncWrite + Unpin + 'static, framing: Framing) -> Self {
        frames.set_line(Box::new(Line::new(io, framing)));
        Self { frames }
    }
}

impl Future for Link {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // First what has come: a client that is gone is not written to.
        match self.frames.poll_input(cx) {
            Poll::Ready(Ended::Gone) => return Poll::Ready(()),
            Poll::Ready(Ended::Flood) => {
                self.frames.set_end(Reason::InputFlood);
                return Poll::Ready(());
            }
            Poll::Pending => {}
        }
        self.frames.poll_output(cx)
    }
}
