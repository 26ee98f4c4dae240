//! How slowly a client may take what waits for it.

use std::time::Duration;

use tokio::time::Instant;

use super::LEAST_RATE;

/// Since when a client has not taken enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    since: Option<Instant>,
    taken: u64,
}

/// Bytes that a client takes in each deadline, at the least.
pub fn least(deadline: Duration) -> u64 {
    let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    (millis.saturating_mul(LEAST_RATE) / 1000).max(1)
}

// === impl Pace ===

impl Pace {
    /// Of a client for which something always waits.
    pub fn begin(now: Instant) -> Self {
        Self { since: Some(now), taken: 0 }
    }

    /// The client does not take what there is for it; true when it did before.
    pub fn blocked(&mut self, now: Instant) -> bool {
        let new = self.since.is_none();
        self.since.get_or_insert(now);
        new
    }

    /// The client has taken so many bytes; true when that begins a new deadline.
    pub fn took(&mut self, bytes: usize, least: u64, now: Instant) -> bool {
        if self.since.is_none() {
            return false;
        }
        self.taken += bytes as u64;
        let enough = self.taken >= least;
        if enough {
            *self = Self::begin(now);
        }
        enough
    }

    /// Nothing waits; true when something did.
    pub fn clear(&mut self) -> bool {
        let waited = self.since.is_some();
        *self = Self::default();
        waited
    }

    /// The beginning of the deadline that runs.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }
}
