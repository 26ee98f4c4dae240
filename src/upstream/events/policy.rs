//! When a lost stream is opened again, and when it is given up; pure.
//!
//! The delay grows exponentially with jitter, never below what the upstream asked for (`retry:`, `Retry-After`). A
//! connection that brought a new event resets it, whatever ended the connection, and so does one that lasted long
//! enough. So an upstream that makes progress is not slowed down.

use std::time::Duration;

use rand::RngExt;
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
    /// Failures in a row without a new event or a healthy connection, after which it is given up; `None`: never for
    /// passing failures.
    max_retries: Option<u32>,
    hint: Option<Duration>,
    growth: u32,
    failures: u32,
    /// Refusals since a connection was last open.
    refusals: u32,
    opened: Option<Instant>,
    progressed: bool,
    ever_open: bool,
    /// Where there is no place for the stream, it waits for one as long as it takes.
    waits: bool,
}

/// What comes of a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again.
    Retry { attempt: u32, delay: Duration },
    /// Leave it: another attempt would not help.
    GiveUp,
    /// Leave it: another attempt might help, but the request must not be sent twice.
    NotAgain,
}

/// A connection that held for so long was healthy.
const HEALTHY: Duration = Duration::from_mins(1);
/// What an upstream asks for counts up to here; one that asks for a year is not left alone for a year.
const LONGEST_HINT: Duration = Duration::from_hours(1);
/// And from here on; one that asks for no delay at all would be asked without a pause.
const SHORTEST_HINT: Duration = Duration::from_millis(100);
/// No delay is shorter, whatever the pace says, for growth from nothing is nothing.
const SHORTEST: Duration = Duration::from_millis(1);
/// Refusals in a row after which even a stream that is to go on for ever is given up.
const REFUSALS: u32 = 5;
/// By this share a delay may be longer where its lower bound leaves no room for jitter.
const SPREAD: u32 = 4;

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(30) }
    }
}

// === impl Policy ===

impl Policy {
    /// Beginning; `served`: the remote has served this request in an earlier life.
    pub fn new(pace: Pace, max_retries: Option<u32>, served: bool) -> Self {
        Self {
            pace: Pace { initial: pace.initial.max(SHORTEST), ..pace },
            max_retries,
            hint: None,
            growth: 0,
            failures: 0,
            refusals: 0,
            opened: None,
            progressed: false,
            ever_open: served,
            waits: false,
        }
    }

    /// The same for a stream that waits for a place, however long there is none.
    pub fn waiting(self, waits: bool) -> Self {
        Self { waits, ..self }
    }

    /// A connection is open.
    pub fn opened(&mut self, now: Instant) {
        self.opened = Some(now);
        self.progressed = false;
        self.ever_open = true;
        self.refusals = 0;
    }

    /// A new event has come.
    pub fn progressed(&mut self) {
        self.progressed = true;
        self.failures = 0;
    }

    /// The upstream asks for this pace.
    pub fn hint(&mut self, ms: u64) {
        let shortest = SHORTEST_HINT.min(self.pace.initial);
        self.hint = Some(Duration::from_millis(ms).clamp(shortest, LONGEST_HINT));
    }

    /// Decides what follows a failure: of the connection that is open, else of an attempt to make one. `again`: the
    /// request may be sent once more.
    pub fn lost(&mut self, now: Instant, failure: &Failure, again: bool, rng: &mut impl rand::Rng) -> Decision {
        let held = self.opened.take().map(|opened| now - opened);
        let progressed = held.is_some() && self.progressed;
        if progressed {
            self.growth = 0;
        }
        if held.is_some_and(|held| held >= HEALTHY) {
            (self.growth, self.failures) = (0, 0);
        }
        self.failures = self.failures.saturating_add(1);
        let waits = self.waits && matches!(failure, Failure::Busy(_));
        let hopeless = match (failure.nature(), self.max_retries) {
            (Nature::Final, _) => true,
            (Nature::Passing, _) if waits => false,
            (Nature::Passing, None) => false,
            (Nature::Passing, Some(limit)) => self.failures > limit,
            (Nature::Refusal, limit) => {
                self.refusals += 1;
                // Failures of another kind that came before must not make the first refusal the last one.
                !self.ever_open || self.refusals > REFUSALS || limit.is_some_and(|limit| self.failures > limit)
            }
        };
        if hopeless {
            return Decision::GiveUp;
        }
        if !again {
            return Decision::NotAgain;
        }
        let delay = self.delay(failure.retry_after(), rng);
        // A clean close after progress does not grow the delay, even if the next connection brings nothing.
        let in_order = progressed && matches!(failure, Failure::ClosedEarly);
        self.growth = if in_order { 0 } else { (self.growth + 1).min(16) };
        Decision::Retry { attempt: self.failures, delay }
    }

    fn delay(&self, asked: Option<Duration>, rng: &mut impl rand::Rng) -> Duration {
        let initial = self.hint.unwrap_or(self.pace.initial);
        let backoff = Backoff::new(initial, self.pace.max.max(initial), 2);
        let floor = asked.unwrap_or_default().min(LONGEST_HINT).max(initial);
        let delay = backoff.delay(self.growth, Some(floor), rng);
        // Many who were lost together must not all come back in the same moment.
        if delay == floor { delay + rng.random_range(Duration::ZERO..=floor / SPREAD) } else { delay }
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

        fn lose(&mut self, failure: &Failure) -> Option<Duration> {
            match self.policy.lost(self.now, failure, true, &mut self.rng) {
                Decision::Retry { delay, .. } => Some(delay),
                Decision::GiveUp => None,
                Decision::NotAgain => panic!("the request may be repeated"),
            }
        }

        fn open_for(&mut self, time: Duration) {
            self.policy.opened(self.now);
            self.now += time;
        }
    }

    /// The first delay, which no failure has lengthened.
    fn is_first(delay: Duration) -> bool {
        delay >= SECOND && delay <= SECOND + SECOND / SPREAD
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
        let delays: Vec<Duration> = (0..8).map(|_| case.lose(&cut()).unwrap()).collect();
        assert!(is_first(delays[0]), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay >= SECOND && *delay <= 30 * SECOND), "{delays:?}");
        assert!(delays[7] >= 15 * SECOND, "{delays:?}");
        case.open_for(59 * SECOND);
        assert!(case.lose(&cut()).unwrap() >= 15 * SECOND);
        case.open_for(60 * SECOND);
        assert!(is_first(case.lose(&cut()).unwrap()));
    }

    #[tokio::test]
    async fn no_delay_is_below_what_the_upstream_asked_for() {
        let mut case = Case::new(None);
        case.policy.hint(5000);
        assert!(case.lose(&cut()).unwrap() >= 5 * SECOND);
        assert!(case.lose(&status(503, Some(70))).unwrap() >= 70 * SECOND);
        case.policy.hint(u64::MAX);
        let delay = case.lose(&cut()).unwrap();
        assert!(delay >= LONGEST_HINT && delay <= LONGEST_HINT + LONGEST_HINT / SPREAD, "{delay:?}");
    }

    /// Growth from nothing is nothing: who takes `retry: 0` at its word asks without a pause.
    #[tokio::test]
    async fn an_upstream_that_asks_for_no_delay_is_not_asked_without_a_pause() {
        let mut case = Case::new(None);
        case.policy.hint(0);
        let delays: Vec<Duration> = (0..12).map(|_| case.lose(&Failure::ClosedEarly).unwrap()).collect();
        assert!(delays[0] >= SHORTEST_HINT && delays[11] >= 15 * SECOND, "{delays:?}");
        case.open_for(SECOND);
        case.policy.progressed();
        assert!(case.lose(&Failure::ClosedEarly).unwrap() >= SHORTEST_HINT);
        let none = Pace { initial: Duration::ZERO, max: Duration::ZERO };
        let mut case = Case { policy: Policy::new(none, None, false), ..Case::new(None) };
        assert!(case.lose(&cut()).unwrap() >= SHORTEST);
    }

    #[tokio::test]
    async fn many_who_are_lost_together_come_back_scattered() {
        let failure = status(503, Some(40));
        let delays: Vec<Duration> = (0..50)
            .map(|seed| {
                let mut case = Case { rng: StdRng::seed_from_u64(seed), ..Case::new(None) };
                case.lose(&failure).unwrap()
            })
            .collect();
        assert!(delays.iter().all(|delay| (40 * SECOND..=50 * SECOND).contains(delay)), "{delays:?}");
        let (first, last) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*last > *first + 5 * SECOND, "{delays:?}");
    }

    #[tokio::test]
    async fn retries_in_a_row_are_bounded_and_an_event_resets_them() {
        let mut case = Case::new(Some(2));
        assert!(case.lose(&cut()).is_some() && case.lose(&cut()).is_some());
        case.open_for(SECOND);
        case.policy.progressed();
        assert!(case.lose(&cut()).is_some() && case.lose(&cut()).is_some());
        assert_eq!(case.lose(&cut()), None);
    }

    #[tokio::test]
    async fn a_refusal_is_final_unless_the_stream_was_open_before() {
        let mut case = Case::new(None);
        assert_eq!(case.lose(&status(404, None)), None);
        let mut case = Case::new(None);
        case.open_for(SECOND);
        for _ in 0..REFUSALS {
            assert!(case.lose(&Failure::ContentType("text/html".into())).is_some());
        }
        assert_eq!(case.lose(&status(404, None)), None);
        for failure in [Failure::Encoding("br".into()), Failure::Transport(Error::Protocol("rubbish".into()))] {
            assert_eq!(Case::new(None).lose(&failure), None);
            let mut served = Case { policy: Policy::new(Pace::default(), None, true), ..Case::new(None) };
            assert!(served.lose(&failure).is_some(), "it was served in an earlier life");
        }
    }

    /// An hour without the remote, and then its proxy answers 404 until it is up: that is the first refusal.
    #[tokio::test]
    async fn failures_of_another_kind_do_not_use_up_the_refusals() {
        let mut case = Case::new(None);
        case.open_for(SECOND);
        for _ in 0..100 {
            assert!(case.lose(&cut()).is_some());
        }
        for _ in 0..REFUSALS {
            assert!(case.lose(&status(404, None)).is_some());
        }
        assert_eq!(case.lose(&status(404, None)), None);
    }

    #[tokio::test]
    async fn a_quiet_stream_whose_connections_hold_is_not_given_up() {
        let mut case = Case::new(Some(2));
        for _ in 0..10 {
            case.open_for(HEALTHY);
            assert!(case.lose(&cut()).is_some());
        }
    }

    #[tokio::test]
    async fn one_that_waits_for_a_place_is_not_given_up_before_it_has_one() {
        use crate::upstream::Busy;
        let mut case = Case::new(Some(2));
        case.policy = case.policy.waiting(true);
        assert!((0..50).all(|_| case.lose(&Failure::Busy(Busy::Node(1))).is_some()));
        let mut hasty = Case::new(Some(2));
        assert!((0..50).any(|_| hasty.lose(&Failure::Busy(Busy::Node(1))).is_none()));
    }

    #[tokio::test]
    async fn what_may_not_be_repeated_is_given_up() {
        let mut case = Case::new(None);
        assert_eq!(case.policy.lost(case.now, &cut(), false, &mut case.rng), Decision::NotAgain);
        let refusal = status(404, None);
        assert_eq!(case.policy.lost(case.now, &refusal, false, &mut case.rng), Decision::GiveUp);
    }

    /// The delay does not grow for an upstream that breaks off every few seconds, but sends new events each time.
    #[tokio::test]
    async fn one_that_breaks_off_after_new_events_keeps_its_pace() {
        let idle = Failure::Transport(Error::IdleTimeout { after: SECOND });
        for failure in [cut(), idle, Failure::Ended, Failure::ClosedEarly] {
            let mut case = Case::new(Some(3));
            case.policy.hint(100);
            for _ in 0..20 {
                case.open_for(3 * SECOND);
                case.policy.progressed();
                let delay = case.lose(&failure).unwrap();
                assert!((100..=125).contains(&delay.as_millis()), "{failure}: {delay:?}");
            }
            // Without new events the delay grows.
            for _ in 0..2 {
                case.open_for(3 * SECOND);
                assert!(case.lose(&failure).is_some());
            }
            assert!(case.lose(&failure).is_none(), "{failure}");
        }
    }

    #[tokio::test]
    async fn failures_before_the_new_event_do_not_slow_what_comes_after_it() {
        let mut case = Case::new(None);
        for _ in 0..8 {
            assert!(case.lose(&cut()).is_some());
        }
        case.open_for(SECOND);
        case.policy.progressed();
        assert!(is_first(case.lose(&cut()).unwrap()));
        let second = case.lose(&cut()).unwrap();
        assert!(second >= SECOND && second <= 2 * SECOND + SECOND / SPREAD, "{second:?}");
    }

    #[tokio::test]
    async fn one_that_closes_in_order_after_events_keeps_its_pace() {
        let mut case = Case::new(Some(3));
        for _ in 0..20 {
            case.open_for(SECOND);
            case.policy.progressed();
            assert!(case.lose(&Failure::ClosedEarly).is_some_and(is_first));
        }
    }
}
