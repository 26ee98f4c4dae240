//! The reader's end of an emitter: what a response body polls.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{Reason, emitter::Feed, outbox::Waiting, registry::Key, shard::Shard};
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
        let now = Instant::now();
        let mut state = self.shard.state.borrow_mut();
        let emitter = &mut state.emitters[self.key];
        if let Some(waiting) = emitter.outbox.pop(now) {
            emitter.active = now;
            if let Waiting::Dropped(_) = waiting {
                self.shard.counters.gaps.fetch_add(1, Relaxed);
            }
            return Poll::Ready(Some(waiting.into_frame()));
        }
        if emitter.closing.is_some() {
            return Poll::Ready(None);
        }
        if !emitter.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            emitter.waker = Some(cx.waker().clone());
        }
        let behind = emitter.feed == Feed::CatchUp { reading: false };
        drop(state);
        if behind {
            self.shard.read_on(self.key);
        }
        Poll::Pending
    }

    /// Says whether the socket refuses what was taken; a reader that takes nothing for too long is disconnected.
    pub(super) fn set_blocked(&mut self, blocked: bool) {
        let mut state = self.shard.state.borrow_mut();
        let emitter = &mut state.emitters[self.key];
        if !blocked && emitter.blocked_since.is_none() {
            // As with nearly every write.
            return;
        }
        let now = Instant::now();
        if blocked {
            emitter.blocked_since.get_or_insert(now);
        } else {
            // However slowly, it takes something: what waits behind that is not stuck.
            emitter.blocked_since = None;
            emitter.active = now;
            emitter.outbox.touch(now);
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
