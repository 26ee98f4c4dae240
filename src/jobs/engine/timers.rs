//! What is due when; pure. The shell sleeps until the first entry and asks again.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Entries by time; those of the same time in the order in which they were set.
#[derive(Debug)]
pub struct Timers<T> {
    entries: BTreeMap<Key, T>,
    set: u64,
}

/// Names an entry.
pub type Key = (Instant, u64);

// === impl Timers ===

impl<T> Timers<T> {
    pub fn new() -> Self {
        Self { entries: BTreeMap::new(), set: 0 }
    }

    pub fn set(&mut self, at: Instant, what: T) -> Key {
        self.set += 1;
        self.entries.insert((at, self.set), what);
        (at, self.set)
    }

    pub fn unset(&mut self, key: Key) {
        self.entries.remove(&key);
    }

    /// Takes one entry that is due.
    pub fn due(&mut self, now: Instant) -> Option<T> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// When the first entry is due.
    pub fn next(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }
}
