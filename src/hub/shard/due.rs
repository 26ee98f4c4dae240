//! When each emitter has to be looked at next. Apart from the emitters, so that to find those whose time has come reads
//! a few bytes of each and not the whole of it.

use tokio::time::Instant;

use crate::hub::registry::Key;

/// Times by key.
#[derive(Default)]
pub struct Due(Vec<Option<Instant>>);

// === impl Due ===

impl Due {
    /// The emitter is looked at then.
    pub fn at(&mut self, key: Key, at: Instant) {
        if self.0.len() <= key {
            self.0.resize(key + 1, None);
        }
        self.0[key] = Some(at);
    }

    /// It is looked at with the next tick: what it is looked at for may have changed.
    pub fn soon(&mut self, key: Key, now: Instant) {
        self.at(key, now);
    }

    /// There is no such emitter any more.
    pub fn never(&mut self, key: Key) {
        if let Some(at) = self.0.get_mut(key) {
            *at = None;
        }
    }

    /// Whose time has come.
    pub fn reached(&self, now: Instant) -> Vec<Key> {
        let reached = |(key, at): (Key, &Option<Instant>)| at.is_some_and(|at| at <= now).then_some(key);
        self.0.iter().enumerate().filter_map(reached).collect()
    }
}
