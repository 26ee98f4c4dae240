//! The slowest permitted rate of a client.

use std::time::Duration;

use tokio::time::Instant;

use super::LEAST_RATE;

/// The period in which a client has read too little.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    since: Option<Instant>,
    taken: u64,
}

/// Bytes that a client must read in each deadline.
pub fn least(deadline: Duration) -> u64 {
    let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    (millis.saturating_mul(LEAST_RATE) / 1000).max(1)
}

// === impl Pace ===

impl Pace {
    /// The pace of a client with waiting bytes from this time on.
    pub fn begin(now: Instant) -> Self {
        Self { since: Some(now), taken: 0 }
    }

    /// The client reads nothing; true if it did before.
    pub fn blocked(&mut self, now: Instant) -> bool {
        let new = self.since.is_none();
        self.since.get_or_insert(now);
        new
    }

    /// The client has read this number of bytes; true if that starts a new deadline.
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

    /// No bytes wait; true if some did.
    pub fn clear(&mut self) -> bool {
        let waited = self.since.is_some();
        *self = Self::default();
        waited
    }

    /// Start of the running deadline.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }
}
