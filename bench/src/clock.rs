//! The clock of a measurement: nanoseconds since its start, never going back.

use std::time::{Duration, Instant};

/// Copies count from the same moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

// === impl Clock ===

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start; enough for 500 years.
    pub(crate) fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }

    /// Sleeps until a moment, unless it has passed.
    pub(crate) fn sleep_until(self, at: u64) {
        let left = at.saturating_sub(self.now());
        if left > 0 {
            pause(Duration::from_nanos(left));
        }
    }
}

/// Sleeps. Only for threads without streams; the timer of a runtime is too coarse for planned times.
#[expect(clippy::disallowed_methods, reason = "no stream lives on these threads")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
