//! What time brings: heartbeats, lifetimes, deadlines; and the drain at a stop. One tick for all emitters of a shard.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{Shard, State};
use crate::hub::{HeartbeatKind, Reason, emitter::Emitter, frames};
use crate::sse::Encoded;

/// How often a shard looks at its emitters; the precision of heartbeats and deadlines.
pub(in crate::hub) const EVERY: Duration = Duration::from_millis(500);

/// A stream that was told to end is cut when it has taken nothing for so long.
pub(in crate::hub) const LAST_WORD: Duration = Duration::from_secs(5);

/// How often it is asked whether a client floods a connection that the hub does not read itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);

// === impl Shard ===

impl Shard {
    pub(super) fn tick(&self, now: Instant) {
        let mut heartbeats: [Option<Encoded>; 2] = [None, None];
        let mut cuts = Vec::new();
        let mut state = self.state.borrow_mut();
        let State { emitters, due, unwritten, .. } = &mut *state;
        if self.jumps.replace(self.clock.jumps()) != self.clock.jumps() {
            for (key, emitter) in emitters.iter_mut() {
                emitter.clock_jumped(now, self.clock.now_ms());
                due.soon(key, now);
            }
        }
        for key in due.reached(now) {
            let Some(emitter) = emitters.get_mut(key) else { continue };
            if self.overdue(emitter, now) {
                cuts.extend(emitter.cut.clone());
            }
            if emitter.is_silent() && emitter.heartbeat_due() <= now + EVERY / 2 {
                let kind = emitter.heartbeat.kind;
                // Encoded once for all whose turn it is.
                let made = &mut heartbeats[usize::from(kind == HeartbeatKind::Event)];
                emitter.active = now;
                emitter.outbox.push_control(made.get_or_insert_with(|| frames::heartbeat(kind)).clone(), now);
                unwritten.add(key, emitter);
                self.counters.heartbeats.fetch_add(1, Relaxed);
            }
            due.at(key, self.next_look(emitter, now));
        }
        drop(state);
        // Nothing is borrowed any more: a cut may well drop the subscription.
        cuts.iter().for_each(|cut| cut());
    }

    /// Ends what has lasted too long; true when the connection is to be cut.
    fn overdue(&self, emitter: &mut Emitter, now: Instant) -> bool {
        if emitter.flooded.as_ref().is_some_and(|flooded| flooded()) {
            emitter.close(Reason::InputFlood, now);
            return true;
        }
        if emitter.closing.is_some() {
            return self.deadline(emitter, now) <= now;
        }
        if self.deadline(emitter, now) <= now {
            emitter.close(Reason::WriteDeadline, now);
            return true;
        }
        if emitter.token_expires.is_some_and(|at| now >= at) {
            emitter.close(Reason::TokenExpired, now);
        }
        if emitter.expires.is_some_and(|at| now >= at) {
            emitter.close(Reason::Lifetime, now);
        }
        false
    }

    /// When it has taken nothing for too long, should it take nothing from now on.
    fn deadline(&self, emitter: &Emitter, now: Instant) -> Instant {
        let write_deadline = Duration::from_millis(self.config.write_deadline_ms);
        match emitter.closing {
            // What ended well may be large at the end, and a slow reader is welcome to it; others resume.
            Some(closing) if closing.reason == Reason::Ended => {
                emitter.stuck_since().unwrap_or(closing.since.max(emitter.active)) + write_deadline
            }
            Some(closing) => closing.since.max(emitter.active) + LAST_WORD,
            None => emitter.stuck_since().unwrap_or(now) + write_deadline,
        }
    }

    /// When something may be due for an emitter that was looked at now. What it is looked at for comes later when frames
    /// pass meanwhile, never sooner, but for its end ([`Due::soon`](super::due::Due::soon)).
    pub(super) fn next_look(&self, emitter: &Emitter, now: Instant) -> Instant {
        let mut next = self.deadline(emitter, now);
        if emitter.closing.is_none() {
            next = [emitter.expires, emitter.token_expires].into_iter().flatten().fold(next, Instant::min);
            if emitter.heartbeat.kind != HeartbeatKind::None {
                next = next.min(emitter.heartbeat_due() - EVERY / 2);
            }
        }
        if emitter.flooded.is_some() {
            next = next.min(now + LOOK_EVERY);
        }
        // What could not be done now is tried again with the next tick.
        next.max(now + EVERY / 2)
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
                let now = Instant::now();
                emitter.close(Reason::Shutdown, now);
                state.due.soon(key, now);
            }
        }
    }
}
