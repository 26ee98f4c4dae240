//! The time of the next check of each emitter. The times are separate from the emitters: the search for due emitters
//! reads a few bytes of each, not the whole emitter.

use tokio::time::Instant;

use super::registry::Key;

/// Times by key.
#[derive(Default)]
pub(super) struct Due(Vec<Option<Instant>>);

// === impl Due ===

impl Due {
    /// Sets the time of the next check. A time that has passed means the next tick.
    pub(super) fn set(&mut self, key: Key, at: Instant) {
        if self.0.len() <= key {
            self.0.resize(key + 1, None);
        }
        self.0[key] = Some(at);
    }

    /// Removes an emitter.
    pub(super) fn remove(&mut self, key: Key) {
        if let Some(at) = self.0.get_mut(key) {
            *at = None;
        }
    }

    /// The emitters whose time has come.
    pub(super) fn reached(&self, now: Instant) -> Vec<Key> {
        let reached = |(key, at): (Key, &Option<Instant>)| at.is_some_and(|at| at <= now).then_some(key);
        self.0.iter().enumerate().filter_map(reached).collect()
    }
}
