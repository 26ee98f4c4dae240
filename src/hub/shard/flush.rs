//! What a shard has put into outboxes, it writes to the connections itself.

use std::{collections::VecDeque, task::Context};

use super::{Shard, State};
use crate::hub::{
    emitter::{Emitter, Feed},
    registry::Key,
};

/// Connections written before others on the thread get a turn: requests, readers that are behind. It takes about a
/// millisecond. Shorter turns let publishers run ahead of what is delivered: with 64, 2.3 times as many deliveries a second
/// came four times as late (`bench fanout --rate 0`).
const TURN: usize = 256;

/// Emitters into whose outboxes something came.
#[derive(Default)]
pub struct Unwritten(VecDeque<Key>);

// === impl Shard ===

impl Shard {
    /// Writes to all connections that have something to write since the last flush.
    pub(super) async fn flush(&self) {
        while self.flush_some() {
            tokio::task::yield_now().await;
        }
    }

    /// One turn; true when there is more.
    fn flush_some(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let State { emitters, unwritten, .. } = &mut *state;
        let turn = unwritten.0.len().min(TURN);
        for key in unwritten.0.drain(..turn) {
            // By now it may be another emitter's key: to write what is there is never wrong.
            let Some(emitter) = emitters.get_mut(key) else { continue };
            emitter.unwritten = false;
            let Some(waker) = emitter.waker.clone() else { continue }; // Its task is about to be polled.
            let written = emitter.poll_output(&self.counters, &mut Context::from_waker(&waker));
            // The rest is for its task: the end of the stream, a page for who is behind, a body that the framework writes.
            let behind = emitter.feed != Feed::Live && emitter.outbox.len() == 0;
            if behind || written.is_none_or(|written| written.is_ready()) {
                emitter.wake();
            }
        }
        !unwritten.0.is_empty()
    }
}

// === impl Unwritten ===

impl Unwritten {
    /// There is something in the outbox of this emitter for the next flush.
    pub(super) fn add(&mut self, key: Key, emitter: &mut Emitter) {
        if !std::mem::replace(&mut emitter.unwritten, true) {
            self.0.push_back(key);
        }
    }
}
