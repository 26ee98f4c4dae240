//! The two ends of a stream on the side of its connection: a [`Subscription`] is polled for frames by the HTTP framework, a
//! [`StreamTask`] writes them to a connection that it owns.
//!
//! The shard writes to such a connection itself after each delivery: to wake a task for each frame costs about as much as
//! the system call. The task handles unpredictable events: input of the client, a socket that accepts nothing for a while,
//! pages of a reader that is behind, and the end.

use std::{
    cell::RefMut,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    Reason,
    registry::Key,
    shard::{Shard, State},
    socket_writer::{Framing, InputEnd, SocketWriter},
};
use crate::sse::Encoded;

/// The frames of a live stream. To drop it ends the emitter. It stays on the thread that made it.
pub struct Subscription {
    shard: Rc<Shard>,
    key: Key,
    end: Reason,
}

/// A stream that writes its own connection. It resolves when the stream or the client has ended; to drop it ends both.
pub struct StreamTask {
    frames: Subscription,
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn new(shard: Rc<Shard>, key: Key) -> Self {
        Self { shard, key, end: Reason::ClientGone }
    }

    /// The id of the emitter.
    pub fn emitter_id(&self) -> Arc<str> {
        self.shard.state.borrow().emitters[self.key].id.clone()
    }

    /// The next frame; `None` at the end of the stream.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Encoded>> {
        let mut state = self.shard.state.borrow_mut();
        let emitter = &mut state.emitters[self.key];
        if let Some(frame) = emitter.outbox.pop(&self.shard.counters, Instant::now()) {
            return Poll::Ready(Some(frame));
        }
        emitter.outbox.written();
        if emitter.is_ending() {
            return Poll::Ready(None);
        }
        self.wait(state, cx);
        Poll::Pending
    }

    /// Reads the input of the client. Pending without a connection of its own.
    fn poll_input(&self, cx: &mut Context<'_>) -> Poll<InputEnd> {
        let socket = &mut self.shard.state.borrow_mut().emitters[self.key].socket;
        socket.as_mut().map_or(Poll::Pending, |socket| socket.poll_input(cx))
    }

    /// Writes to the connection. Ready if the stream or the connection has ended.
    fn poll_output(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shard.state.borrow_mut();
        if state.emitters[self.key].poll_output(&self.shard.counters, cx) == Some(Poll::Ready(())) {
            return Poll::Ready(());
        }
        self.wait(state, cx);
        Poll::Pending
    }

    /// Waits for the next frames of the shard. An emitter that is behind reads its next page.
    fn wait(&self, mut state: RefMut<'_, State>, cx: &mut Context<'_>) {
        let emitter = &mut state.emitters[self.key];
        if !emitter.task.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            emitter.task = Some(cx.waker().clone());
        }
        let needs_page = emitter.needs_page();
        drop(state);
        if needs_page {
            self.shard.read_page(self.key);
        }
    }

    /// Sets the reason with which the stream ends when it is dropped, instead of [`Reason::ClientGone`].
    pub fn set_end(&mut self, reason: Reason) {
        self.end = reason;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shard.remove(self.key, self.end);
    }
}

// === impl StreamTask ===

impl StreamTask {
    /// Writes these frames to this connection, after the head of the response.
    pub fn new(frames: Subscription, io: impl AsyncRead + AsyncWrite + Unpin + 'static, framing: Framing) -> Self {
        frames.shard.state.borrow_mut().emitters[frames.key].socket = Some(Box::new(SocketWriter::new(io, framing)));
        Self { frames }
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Input first: nothing is written to a client that is gone.
        match self.frames.poll_input(cx) {
            Poll::Ready(InputEnd::ClientGone) => return Poll::Ready(()),
            Poll::Ready(InputEnd::Flood) => {
                self.frames.set_end(Reason::InputFlood);
                return Poll::Ready(());
            }
            Poll::Pending => {}
        }
        self.frames.poll_output(cx)
    }
}
