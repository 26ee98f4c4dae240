//! The reader's end of an emitter: what a response body polls.

use std::{
    cell::RefMut,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{
    Reason,
    emitter::Feed,
    line::{Ended, Line},
    registry::Key,
    shard::{Shard, State},
};
use crate::sse::Encoded;

/// A live connection's frames; dropping it ends the emitter. Lives on the thread that made it.
pub struct Subscription {
    shard: Rc<Shard>,
    key: Key,
    end: Reason,
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn new(shard: Rc<Shard>, key: Key) -> Self {
        Self { shard, key, end: Reason::ClientGone }
    }

    /// The emitter's id.
    pub fn emitter_id(&self) -> Arc<str> {
        self.shard.state.borrow().emitters[self.key].id.clone()
    }

    /// The next frame; `None` when the stream is over.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Encoded>> {
        let mut state = self.shard.state.borrow_mut();
        let emitter = &mut state.emitters[self.key];
        if let Some(frame) = emitter.next_frame(&self.shard.counters, Instant::now()) {
            return Poll::Ready(Some(frame));
        }
        emitter.written();
        if emitter.closing.is_some() {
            return Poll::Ready(None);
        }
        self.wait(state, cx);
        Poll::Pending
    }

    /// From now on the hub writes the frames to this connection.
    pub(super) fn set_line(&self, line: Box<Line>) {
        self.shard.state.borrow_mut().emitters[self.key].line = Some(line);
    }

    /// Reads what the client says; never `Ready` without a line.
    pub(super) fn poll_input(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        let line = &mut self.shard.state.borrow_mut().emitters[self.key].line;
        line.as_mut().map_or(Poll::Pending, |line| line.poll_input(cx))
    }

    /// Writes to the line; `Ready` when stream or connection have ended.
    pub(super) fn poll_output(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shard.state.borrow_mut();
        if state.emitters[self.key].poll_output(&self.shard.counters, cx) == Some(Poll::Ready(())) {
            return Poll::Ready(());
        }
        self.wait(state, cx);
        Poll::Pending
    }

    /// Waits for what the shard has next; one that is behind reads on.
    fn wait(&self, mut state: RefMut<'_, State>, cx: &mut Context<'_>) {
        let emitter = &mut state.emitters[self.key];
        if !emitter.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            emitter.waker = Some(cx.waker().clone());
        }
        let behind = emitter.feed == Feed::CatchUp { reading: false } && emitter.outbox.len() == 0;
        drop(state);
        if behind {
            self.shard.read_on(self.key);
        }
    }

    /// Says why the stream is about to be dropped, where the reader knows better than "the client is gone".
    pub fn set_end(&mut self, reason: Reason) {
        self.end = reason;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shard.remove(self.key, self.end);
    }
}
