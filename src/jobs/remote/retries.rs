//! The retries of a failed request to a remote; pure.

use std::time::Duration;

use crate::upstream::{
    Backoff, Remote,
    events::{Failure, Pace},
};

/// The remaining retries of one request.
pub(super) struct Retries {
    left: u32,
    backoff: Backoff,
    failures: u32,
}

/// Maximum delay that a remote may request.
const LONGEST_HINT: Duration = Duration::from_mins(5);

// === impl Retries ===

impl Retries {
    pub(super) fn new(remote: &Remote, pace: Pace) -> Self {
        let backoff = Backoff { longest_hint: LONGEST_HINT, ..Backoff::new(pace.initial, pace.max) };
        Self { left: remote.max_retries, backoff, failures: 0 }
    }

    /// The delay before the next request; `None` without a next request. Waiting for a free connection uses no retry.
    pub(super) fn delay(&mut self, failure: &Failure) -> Option<Duration> {
        if !failure.is_transient() {
            return None;
        }
        if !matches!(failure, Failure::Busy(_)) {
            self.left = self.left.checked_sub(1)?;
        }
        let delay = self.backoff.delay(self.failures, failure.retry_after(), &mut rand::rng());
        self.failures = self.failures.saturating_add(1);
        Some(delay)
    }
}
