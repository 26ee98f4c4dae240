//! Entries that are due at a time; pure. The actor sleeps until the first one.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Entries by time; entries of the same time are in the order in which they were set.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    entries: BTreeMap<Key, T>,
    set: u64,
}

/// Identifies an entry.
pub(crate) type Key = (Instant, u64);

// === impl Timers ===

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeMap::new(), set: 0 }
    }

    pub(crate) fn set(&mut self, at: Instant, entry: T) -> Key {
        self.set += 1;
        self.entries.insert((at, self.set), entry);
        (at, self.set)
    }

    pub(crate) fn unset(&mut self, key: Key) {
        self.entries.remove(&key);
    }

    /// Takes one entry that is due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<T> {
        let entry = self.entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// The time of the first entry.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }
}
