//! When a reader reconnects, and when it gives up; pure.
//!
//! The delay grows exponentially with jitter, and is never below the upstream's own (`retry:`, `Retry-After`). A connection
//! resets the growth if it brought a new event or lasted long enough, whatever ended it. So an upstream that makes progress
//! is not slowed down.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::failure::{Failure, Nature};
use crate::upstream::Backoff;

/// The delays before reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The first delay, until the upstream sets one with `retry:`. Default: 1 s.
    pub initial: Duration,
    /// The maximum to which the delay grows. Default: 30 s.
    pub max: Duration,
}

/// The retry policy of one stream.
#[derive(Debug)]
pub(super) struct Policy {
    pace: Pace,
    /// Maximum number of failures in a row without a new event or a healthy connection. `None`: no limit for transient
    /// failures.
    max_retries: Option<u32>,
    /// The delay in `retry:`.
    retry: Option<Duration>,
    growth: u32,
    /// Failures in a row without a new event or a healthy connection.
    failures: u32,
    /// Refusals since the last open connection.
    refusals: u32,
    opened: Option<Instant>,
    /// True if the current connection has brought a new event.
    progressed: bool,
    ever_open: bool,
    /// True if the stream waits without limit for a permit. Default: false.
    pub waits: bool,
}

/// The reaction to a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Reconnect after the delay. `attempt` counts the failures in a row, from 1.
    Retry { attempt: u32, delay: Duration },
    /// Give up, since another attempt would not help.
    GiveUp,
    /// Give up, since the request must not be repeated. Another attempt might help.
    NotRepeatable,
}

/// Minimum duration of a healthy connection, which resets the delay.
const HEALTHY: Duration = Duration::from_mins(1);
/// Maximum delay that an upstream can request. A longer one is a mistake, or would stop the stream.
const MAX_REQUESTED: Duration = Duration::from_hours(1);
/// Minimum delay that an upstream can request. Without it, `retry: 0` would mean reconnects without a pause.
const MIN_REQUESTED: Duration = Duration::from_millis(100);
/// Minimum of the first delay, since a delay of zero does not grow.
const MIN_INITIAL: Duration = Duration::from_millis(1);
/// Maximum number of refusals in a row, also for a stream that never ends by itself.
const MAX_REFUSALS: u32 = 5;
/// A delay at its lower bound is extended by up to a quarter, so that it has jitter too.
const JITTER_DIVISOR: u32 = 4;

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(30) }
    }
}

// === impl Policy ===

impl Policy {
    /// Creates the policy of a new stream. `served`: the remote served this request before a restart.
    pub(super) fn new(pace: Pace, max_retries: Option<u32>, served: bool) -> Self {
        Self {
            pace: Pace { initial: pace.initial.max(MIN_INITIAL), ..pace },
            max_retries,
            retry: None,
            growth: 0,
            failures: 0,
            refusals: 0,
            opened: None,
            progressed: false,
            ever_open: served,
            waits: false,
        }
    }

    /// Call it when a connection is open.
    pub(super) fn on_open(&mut self, now: Instant) {
        self.opened = Some(now);
        self.progressed = false;
        self.ever_open = true;
        self.refusals = 0;
    }

    /// Call it for each new event.
    pub(super) fn on_new_event(&mut self) {
        self.progressed = true;
        self.failures = 0;
    }

    /// Sets the first delay to that in `retry:`, in milliseconds.
    pub(super) fn set_retry(&mut self, ms: u64) {
        let min = MIN_REQUESTED.min(self.pace.initial);
        self.retry = Some(Duration::from_millis(ms).clamp(min, MAX_REQUESTED));
    }

    /// Decides the reaction to a failure of the open connection, or of an attempt to open one. `may_repeat`: the request
    /// can be sent again.
    pub(super) fn on_failure(
        &mut self,
        now: Instant,
        failure: &Failure,
        may_repeat: bool,
        rng: &mut impl rand::Rng,
    ) -> Decision {
        let lasted = self.opened.take().map(|opened| now - opened);
        let progressed = lasted.is_some() && self.progressed;
        if progressed {
            self.growth = 0;
        }
        if lasted.is_some_and(|lasted| lasted >= HEALTHY) {
            (self.growth, self.failures) = (0, 0);
        }
        self.failures = self.failures.saturating_add(1);
        let waits = self.waits && matches!(failure, Failure::Busy(_));
        let give_up = match (failure.nature(), self.max_retries) {
            (Nature::Final, _) => true,
            (Nature::Transient, _) if waits => false,
            (Nature::Transient, None) => false,
            (Nature::Transient, Some(limit)) => self.failures > limit,
            (Nature::Refusal, limit) => {
                self.refusals += 1;
                // Refusals have a counter of their own: without `max_retries`, earlier transient failures do not count.
                !self.ever_open || self.refusals > MAX_REFUSALS || limit.is_some_and(|limit| self.failures > limit)
            }
        };
        if give_up {
            return Decision::GiveUp;
        }
        if !may_repeat {
            return Decision::NotRepeatable;
        }
        let delay = self.delay(failure.retry_after(), rng);
        // A clean close after progress does not grow the delay, even if the next connection brings nothing.
        let clean = progressed && matches!(failure, Failure::ClosedEarly);
        self.growth = if clean { 0 } else { (self.growth + 1).min(16) };
        Decision::Retry { attempt: self.failures, delay }
    }

    fn delay(&self, retry_after: Option<Duration>, rng: &mut impl rand::Rng) -> Duration {
        let initial = self.retry.unwrap_or(self.pace.initial);
        let backoff = Backoff::new(initial, self.pace.max.max(initial));
        let floor = retry_after.unwrap_or_default().min(MAX_REQUESTED).max(initial);
        let delay = backoff.delay(self.growth, Some(floor), rng);
        // Readers that lost their connections at the same time must not all reconnect at the same time.
        if delay == floor { delay + rng.random_range(Duration::ZERO..=floor / JITTER_DIVISOR) } else { delay }
    }
}

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
                policy: Policy::new(Pace::default(), max_retries, false),
                now: Instant::now(),
                rng: StdRng::seed_from_u64(7),
            }
        }

        fn fail(&mut self, failure: &Failure) -> Option<Duration> {
            match self.policy.on_failure(self.now, failure, true, &mut self.rng) {
                Decision::Retry { delay, .. } => Some(delay),
                Decision::GiveUp => None,
                Decision::NotRepeatable => panic!("the request can be repeated"),
            }
        }

        fn open_for(&mut self, time: Duration) {
            self.policy.on_open(self.now);
            self.now += time;
        }
    }

    /// True for a delay without growth.
    fn is_first(delay: Duration) -> bool {
        delay >= SECOND && delay <= SECOND + SECOND / JITTER_DIVISOR
    }

    fn cut() -> Failure {
        Failure::Transport(Error::Truncated)
    }

    fn status(status: u16, retry_after: Option<u64>) -> Failure {
        let status = http::StatusCode::from_u16(status).unwrap();
        Failure::Status { status, retry_after: retry_after.map(Duration::from_secs), excerpt: String::new() }
    }

    #[tokio::test]
    async fn delays_grow_up_to_the_maximum_and_reset_after_a_healthy_minute() {
        let mut case = Case::new(None);
        let delays: Vec<Duration> = (0..8).map(|_| case.fail(&cut()).unwrap()).collect();
        assert!(is_first(delays[0]), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay >= SECOND && *delay <= 30 * SECOND), "{delays:?}");
        assert!(delays[7] >= 15 * SECOND, "{delays:?}");
        case.open_for(59 * SECOND);
        assert!(case.fail(&cut()).unwrap() >= 15 * SECOND);
        case.open_for(60 * SECOND);
        assert!(is_first(case.fail(&cut()).unwrap()));
    }

    #[tokio::test]
    async fn no_delay_is_below_the_requested_one() {
        let mut case = Case::new(None);
        case.policy.set_retry(5000);
        assert!(case.fail(&cut()).unwrap() >= 5 * SECOND);
        assert!(case.fail(&status(503, Some(70))).unwrap() >= 70 * SECOND);
        case.policy.set_retry(u64::MAX);
        let delay = case.fail(&cut()).unwrap();
        assert!(delay >= MAX_REQUESTED && delay <= MAX_REQUESTED + MAX_REQUESTED / JITTER_DIVISOR, "{delay:?}");
    }

    /// A delay of zero would not grow, so `retry: 0` would mean reconnects without a pause.
    #[tokio::test]
    async fn a_requested_delay_of_zero_has_a_minimum() {
        let mut case = Case::new(None);
        case.policy.set_retry(0);
        let delays: Vec<Duration> = (0..12).map(|_| case.fail(&Failure::ClosedEarly).unwrap()).collect();
        assert!(delays[0] >= MIN_REQUESTED && delays[11] >= 15 * SECOND, "{delays:?}");
        case.open_for(SECOND);
        case.policy.on_new_event();
        assert!(case.fail(&Failure::ClosedEarly).unwrap() >= MIN_REQUESTED);
        let none = Pace { initial: Duration::ZERO, max: Duration::ZERO };
        let mut case = Case { policy: Policy::new(none, None, false), ..Case::new(None) };
        assert!(case.fail(&cut()).unwrap() >= MIN_INITIAL);
    }

    #[tokio::test]
    async fn readers_that_fail_together_reconnect_at_different_times() {
        let failure = status(503, Some(40));
        let delays: Vec<Duration> = (0..50)
            .map(|seed| {
                let mut case = Case { rng: StdRng::seed_from_u64(seed), ..Case::new(None) };
                case.fail(&failure).unwrap()
            })
            .collect();
        assert!(delays.iter().all(|delay| (40 * SECOND..=50 * SECOND).contains(delay)), "{delays:?}");
        let (first, last) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*last > *first + 5 * SECOND, "{delays:?}");
    }

    #[tokio::test]
    async fn retries_in_a_row_are_limited_and_an_event_resets_them() {
        let mut case = Case::new(Some(2));
        assert!(case.fail(&cut()).is_some() && case.fail(&cut()).is_some());
        case.open_for(SECOND);
        case.policy.on_new_event();
        assert!(case.fail(&cut()).is_some() && case.fail(&cut()).is_some());
        assert_eq!(case.fail(&cut()), None);
    }

    #[tokio::test]
    async fn a_refusal_is_final_unless_the_stream_was_open_before() {
        let mut case = Case::new(None);
        assert_eq!(case.fail(&status(404, None)), None);
        let mut case = Case::new(None);
        case.open_for(SECOND);
        for _ in 0..MAX_REFUSALS {
            assert!(case.fail(&Failure::ContentType("text/html".into())).is_some());
        }
        assert_eq!(case.fail(&status(404, None)), None);
        for failure in [Failure::Encoding("br".into()), Failure::Transport(Error::Protocol("rubbish".into()))] {
            assert_eq!(Case::new(None).fail(&failure), None);
            let mut served = Case { policy: Policy::new(Pace::default(), None, true), ..Case::new(None) };
            assert!(served.fail(&failure).is_some(), "the remote served it before a restart");
        }
    }

    /// After an hour without the remote, its proxy responds 404 until it is up: that is the first refusal.
    #[tokio::test]
    async fn transient_failures_do_not_count_as_refusals() {
        let mut case = Case::new(None);
        case.open_for(SECOND);
        for _ in 0..100 {
            assert!(case.fail(&cut()).is_some());
        }
        for _ in 0..MAX_REFUSALS {
            assert!(case.fail(&status(404, None)).is_some());
        }
        assert_eq!(case.fail(&status(404, None)), None);
    }

    #[tokio::test]
    async fn a_quiet_stream_with_long_connections_is_not_given_up() {
        let mut case = Case::new(Some(2));
        for _ in 0..10 {
            case.open_for(HEALTHY);
            assert!(case.fail(&cut()).is_some());
        }
    }

    #[tokio::test]
    async fn a_stream_can_wait_without_limit_for_a_permit() {
        use crate::upstream::Busy;
        let mut case = Case::new(Some(2));
        case.policy.waits = true;
        assert!((0..50).all(|_| case.fail(&Failure::Busy(Busy::Node(1))).is_some()));
        let mut limited = Case::new(Some(2));
        assert!((0..50).any(|_| limited.fail(&Failure::Busy(Busy::Node(1))).is_none()));
    }

    #[tokio::test]
    async fn a_request_that_must_not_be_repeated_is_given_up() {
        let mut case = Case::new(None);
        assert_eq!(case.policy.on_failure(case.now, &cut(), false, &mut case.rng), Decision::NotRepeatable);
        let refusal = status(404, None);
        assert_eq!(case.policy.on_failure(case.now, &refusal, false, &mut case.rng), Decision::GiveUp);
    }

    /// The delay does not grow for an upstream that fails every few seconds, but sends new events each time.
    #[tokio::test]
    async fn failures_after_new_events_do_not_grow_the_delay() {
        let idle = Failure::Transport(Error::IdleTimeout { after: SECOND });
        for failure in [cut(), idle, Failure::Ended, Failure::ClosedEarly] {
            let mut case = Case::new(Some(3));
            case.policy.set_retry(100);
            for _ in 0..20 {
                case.open_for(3 * SECOND);
                case.policy.on_new_event();
                let delay = case.fail(&failure).unwrap();
                assert!((100..=125).contains(&delay.as_millis()), "{failure}: {delay:?}");
            }
            // Without new events the delay grows.
            for _ in 0..2 {
                case.open_for(3 * SECOND);
                assert!(case.fail(&failure).is_some());
            }
            assert!(case.fail(&failure).is_none(), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_new_event_resets_the_growth_of_earlier_failures() {
        let mut case = Case::new(None);
        for _ in 0..8 {
            assert!(case.fail(&cut()).is_some());
        }
        case.open_for(SECOND);
        case.policy.on_new_event();
        assert!(is_first(case.fail(&cut()).unwrap()));
        let second = case.fail(&cut()).unwrap();
        assert!(second >= SECOND && second <= 2 * SECOND + SECOND / JITTER_DIVISOR, "{second:?}");
    }

    #[tokio::test]
    async fn a_clean_close_after_events_does_not_grow_the_delay() {
        let mut case = Case::new(Some(3));
        for _ in 0..20 {
            case.open_for(SECOND);
            case.policy.on_new_event();
            assert!(case.fail(&Failure::ClosedEarly).is_some_and(is_first));
        }
    }
}
