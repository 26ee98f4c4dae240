//! What time brings: heartbeats, lifetimes, deadlines; and the drain at a stop. One tick for all emitters of a shard.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Shard, State};
use crate::hub::{
    HeartbeatKind, Reason,
    emitter::{Emitter, Feed},
    frames,
};

/// How often a shard looks at its emitters; the precision of heartbeats and deadlines.
pub(in crate::hub) const EVERY: Duration = Duration::from_millis(500);

/// How often a stream is looked at that has nothing to send.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A stream that was told to end is cut when it has taken nothing for so long.
pub(in crate::hub) const LAST_WORD: Duration = Duration::from_secs(5);

// === impl Shard ===

impl Shard {
    pub(super) fn tick(&self, now: Instant) {
        let write_deadline = Duration::from_millis(self.config.write_deadline_ms);
        let mut event = Bytes::new();
        let mut cuts = Vec::new();
        let mut state = self.state.borrow_mut();
        let State { emitters, .. } = &mut *state;
        for (_, emitter) in emitters {
            if unpolled(emitter, now) && emitter.flooded() {
                emitter.close(Reason::InputFlood, now);
                cuts.extend(emitter.cut.clone());
                continue;
            }
            if let Some(closing) = emitter.closing {
                // What ended well may be large at the end, and a slow reader is welcome to it; others resume.
                let patience = if closing.reason == Reason::Ended { write_deadline } else { LAST_WORD };
                if now - closing.since.max(emitter.active) >= patience {
                    cuts.extend(emitter.cut.clone());
                }
                continue;
            }
            if emitter.outbox.stuck_since().is_some_and(|since| now - since >= write_deadline) {
                emitter.close(Reason::WriteDeadline, now);
                cuts.extend(emitter.cut.clone());
                continue;
            }
            if emitter.expires.is_some_and(|at| now >= at) {
                emitter.close(Reason::Lifetime, now);
                continue;
            }
            // What waits already will break the silence.
            let silent = emitter.outbox.is_empty() && now - emitter.active + EVERY / 2 >= emitter.heartbeat.every;
            if silent && emitter.heartbeat.kind != HeartbeatKind::None {
                if event.is_empty() {
                    event = frames::heartbeat(HeartbeatKind::Event);
                }
                let frame = match emitter.heartbeat.kind {
                    HeartbeatKind::Event => event.clone(),
                    kind => frames::heartbeat(kind),
                };
                emitter.active = now;
                emitter.control(frame, now);
                self.counters.heartbeats.fetch_add(1, Relaxed);
            }
        }
        drop(state);
        // Nothing is borrowed any more: a cut may well drop the subscription.
        cuts.iter().for_each(|cut| cut());
    }

    /// Ends all streams, each at its own moment within `over`.
    pub(in crate::hub) async fn drain(self: Rc<Self>, over: Duration) {
        let begin = Instant::now();
        let mut plan: Vec<(Instant, usize, u64)> = {
            let state = self.state.borrow();
            let moment = || begin + over.mul_f64(rand::random_range(0.0..1.0));
            state.emitters.iter().map(|(key, emitter)| (moment(), key, emitter.serial)).collect()
        };
        plan.sort_unstable();
        for (at, key, serial) in plan {
            tokio::time::sleep_until(at).await;
            let mut state = self.state.borrow_mut();
            if let Some(emitter) = state.emitters.get_mut(key).filter(|emitter| emitter.serial == serial) {
                emitter.close(Reason::Shutdown, Instant::now());
            }
        }
    }
}

/// True when it is time to ask whether the client floods its connection: its body may not be polled at all, and the
/// body is what counts how often it is woken for nothing. At each tick where the socket takes nothing, now and then
/// where there is nothing to take.
fn unpolled(emitter: &Emitter, now: Instant) -> bool {
    let stuck = emitter.outbox.stuck_since().is_some_and(|since| now - since >= EVERY);
    let idle = now - emitter.active;
    // It is behind, and does not ask for what it could have.
    let left_behind = emitter.feed != Feed::Live && idle >= EVERY;
    stuck || left_behind || (idle >= LOOK_EVERY && idle.as_millis() % LOOK_EVERY.as_millis() < EVERY.as_millis())
}
