//! When a lost stream is opened again, and when it is given up; pure.
//!
//! The delay grows exponentially with jitter, never below what the upstream asked for (`retry:`, `Retry-After`), and
//! starts anew after a connection that held for a healthy while. A stream that was closed in good order after it had
//! brought events is no failure: it is opened again at its own pace, as one that polls would have it.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::{Failure, Nature};
use crate::upstream::Backoff;

/// How fast lost streams are opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The first delay, until the upstream names one with `retry:`.
    pub initial: Duration,
    /// The longest delay that growth reaches.
    pub max: Duration,
}

/// Decides about one stream.
#[derive(Debug)]
pub struct Policy {
    pace: Pace,
    /// Failures in a row without a new event, after which it is given up; `None`: never for passing failures.
    max_retries: Option<u32>,
    hint: Option<Duration>,
    growth: u32,
    failures: u32,
    opened: Option<Instant>,
    progressed: bool,
    ever_open: bool,
}

/// What comes of a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again.
    Retry { attempt: u32, delay: Duration },
    /// Leave it.
    GiveUp,
}

/// A connection that held for so long was healthy.
const HEALTHY: Duration = Duration::from_mins(1);
/// What an upstream asks for counts up to here; one that asks for a year is not left alone for a year.
const LONGEST_HINT: Duration = Duration::from_hours(1);

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(30) }
    }
}

// === impl Policy ===

impl Policy {
    pub fn new(pace: Pace, max_retries: Option<u32>) -> Self {
        Self {
            pace,
            max_retries,
            hint: None,
            growth: 0,
            failures: 0,
            opened: None,
            progressed: false,
            ever_open: false,
        }
    }

    /// A connection is open.
    pub fn opened(&mut self, now: Instant) {
        self.opened = Some(now);
        self.progressed = false;
        self.ever_open = true;
    }

    /// A new event has come.
    pub fn progressed(&mut self) {
        self.progressed = true;
        self.failures = 0;
    }

    /// The upstream asks for this pace.
    pub fn hint(&mut self, ms: u64) {
        self.hint = Some(Duration::from_millis(ms).min(LONGEST_HINT));
    }

    /// Decides what follows a failure. `again`: the request may be sent once more.
    pub fn lost(
        &mut self,
        now: Instant,
        was_open: bool,
        failure: &Failure,
        again: bool,
        rng: &mut impl rand::Rng,
    ) -> Decision {
        let held = self.opened.take().filter(|_| was_open).map(|opened| now - opened);
        let in_order = self.progressed && matches!(failure, Failure::ClosedEarly);
        self.failures += 1;
        let known = match failure.nature() {
            Nature::Final => return Decision::GiveUp,
            Nature::Refusal => self.ever_open,
            Nature::Passing => true,
        };
        let spent = match (failure.nature(), self.max_retries) {
            (Nature::Passing, None) => false,
            (_, limit) => self.failures > limit.unwrap_or(REFUSALS),
        };
        if !known || !again || spent {
            return Decision::GiveUp;
        }
        if in_order || held.is_some_and(|held| held >= HEALTHY) {
            self.growth = 0;
        }
        let initial = self.hint.unwrap_or(self.pace.initial);
        let backoff = Backoff::new(initial, self.pace.max.max(initial), 2);
        let asked = failure.retry_after().map(|asked| asked.min(LONGEST_HINT));
        let floor = asked.unwrap_or_default().max(initial);
        let delay = backoff.delay(self.growth, Some(floor), rng);
        self.growth = if in_order { 0 } else { (self.growth + 1).min(16) };
        Decision::Retry { attempt: self.failures, delay }
    }
}

/// Refusals in a row after which even a stream that is to go on for ever is given up.
const REFUSALS: u32 = 5;

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::upstream::Error;

    const SECOND: Duration = Duration::from_secs(1);

    struct Case {
        policy: Policy,
        now: Instant,
        rng: StdRng,
    }

    impl Case {
        fn new(max_retries: Option<u32>) -> Self {
            Self {
                policy: Policy::new(Pace::default(), max_retries),
                now: Instant::now(),
                rng: StdRng::seed_from_u64(7),
            }
        }

        fn lose(&mut self, was_open: bool, failure: &Failure) -> Option<Duration> {
            match self.policy.lost(self.now, was_open, failure, true, &mut self.rng) {
                Decision::Retry { delay, .. } => Some(delay),
                Decision::GiveUp => None,
            }
        }

        fn open_for(&mut self, time: Duration) {
            self.policy.opened(self.now);
            self.now += time;
        }
    }

    fn cut() -> Failure {
        Failure::Transport(Error::Truncated)
    }

    fn status(status: u16, retry_after: Option<u64>) -> Failure {
        let status = http::StatusCode::from_u16(status).unwrap();
        Failure::Status { status, retry_after: retry_after.map(Duration::from_secs), excerpt: String::new() }
    }

    #[tokio::test]
    async fn delays_grow_up_to_the_cap_and_start_anew_after_a_healthy_minute() {
        let mut case = Case::new(None);
        let delays: Vec<Duration> = (0..8).map(|_| case.lose(false, &cut()).unwrap()).collect();
        assert_eq!(delays[0], SECOND);
        assert!(delays.iter().all(|delay| *delay >= SECOND && *delay <= 30 * SECOND), "{delays:?}");
        assert!(delays[7] >= 15 * SECOND, "{delays:?}");
        case.open_for(59 * SECOND);
        assert!(case.lose(true, &cut()).unwrap() >= 15 * SECOND);
        case.open_for(60 * SECOND);
        assert_eq!(case.lose(true, &cut()).unwrap(), SECOND);
    }

    #[tokio::test]
    async fn no_delay_is_below_what_the_upstream_asked_for() {
        let mut case = Case::new(None);
        case.policy.hint(5000);
        assert!(case.lose(false, &cut()).unwrap() >= 5 * SECOND);
        assert!(case.lose(false, &status(503, Some(70))).unwrap() >= 70 * SECOND);
        case.policy.hint(u64::MAX);
        assert_eq!(case.lose(false, &cut()).unwrap(), LONGEST_HINT);
    }

    #[tokio::test]
    async fn retries_in_a_row_are_bounded_and_an_event_resets_them() {
        let mut case = Case::new(Some(2));
        assert!(case.lose(false, &cut()).is_some() && case.lose(false, &cut()).is_some());
        case.open_for(SECOND);
        case.policy.progressed();
        assert!(case.lose(true, &cut()).is_some() && case.lose(false, &cut()).is_some());
        assert_eq!(case.lose(false, &cut()), None);
    }

    #[tokio::test]
    async fn a_refusal_is_final_unless_the_stream_was_open_before() {
        let mut case = Case::new(None);
        assert_eq!(case.lose(false, &status(404, None)), None);
        let mut case = Case::new(None);
        case.open_for(SECOND);
        for _ in 0..REFUSALS {
            assert!(case.lose(true, &Failure::ContentType("text/html".into())).is_some());
        }
        assert_eq!(case.lose(false, &status(404, None)), None);
        assert_eq!(Case::new(None).lose(false, &Failure::Encoding("br".into())), None);
    }

    #[tokio::test]
    async fn what_may_not_be_repeated_is_given_up() {
        let mut case = Case::new(None);
        let decision = case.policy.lost(case.now, false, &cut(), false, &mut case.rng);
        assert_eq!(decision, Decision::GiveUp);
    }

    #[tokio::test]
    async fn one_that_closes_in_order_after_events_keeps_its_pace() {
        let mut case = Case::new(Some(3));
        for _ in 0..20 {
            case.open_for(SECOND);
            case.policy.progressed();
            assert_eq!(case.lose(true, &Failure::ClosedEarly), Some(SECOND));
        }
    }
}
