//! A rate for each caller: a token bucket.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
};

use super::store::Store;

/// A bucket for each caller: `limit` requests at once, refilled evenly over the window.
#[derive(Debug)]
pub(super) struct Rate<C: Clock = DefaultClock> {
    limiter: RateLimiter<u64, Store, C, StateInformationMiddleware>,
    limit: NonZeroU32,
    interval: Duration,
}

/// The remaining allowance of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Maximum number at once.
    pub limit: u32,
    /// Number that is left now.
    pub remaining: u32,
    /// Time until the full allowance is available again, without another request.
    pub reset: Duration,
}

/// Why a request is not permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// It will be permitted after this time.
    Wait(Duration),
    /// It is never permitted: it is more than the limit permits at once.
    Never,
}

// === impl Rate ===

impl<C: Clock> Rate<C> {
    /// `limit` requests in each window, for about `callers` callers with a rate of their own.
    pub(super) fn new(limit: NonZeroU32, window: Duration, callers: usize, clock: C) -> Self {
        let interval = (window / limit.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(interval).expect("the interval is not zero").allow_burst(limit);
        let limiter = RateLimiter::new(quota, Store::new(callers, interval.into()), clock);
        Self { limiter, limit, interval }
    }

    /// Takes `count` of a caller's allowance, or nothing.
    pub(super) fn take(&self, caller: u64, count: NonZeroU32) -> (Allowance, Result<(), TooMany>) {
        match self.limiter.check_key_n(&caller, count) {
            Err(_) => (self.allowance(0), Err(TooMany::Never)),
            Ok(Ok(left)) => (self.allowance(left.remaining_burst_capacity()), Ok(())),
            Ok(Err(until)) => {
                let wait = until.wait_time_from(self.limiter.clock().now());
                (self.allowance(0), Err(TooMany::Wait(wait)))
            }
        }
    }

    /// Maximum number at once.
    pub(super) fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Number of callers with a rate of their own.
    pub(super) fn callers(&self) -> usize {
        self.limiter.len()
    }

    fn allowance(&self, remaining: u32) -> Allowance {
        let used = self.limit.get().saturating_sub(remaining);
        Allowance { limit: self.limit.get(), remaining, reset: self.interval.saturating_mul(used) }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rate(limit: u32, callers: usize) -> (Rate<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        // Not at time 0, where old and new states cannot be distinguished.
        clock.advance(MINUTE * 60);
        (Rate::new(count(limit), MINUTE, callers, clock.clone()), clock)
    }

    fn count(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    fn passes(rate: &Rate<FakeRelativeClock>, caller: u64) -> bool {
        rate.take(caller, NonZeroU32::MIN).1.is_ok()
    }

    #[test]
    fn a_caller_has_its_limit_at_once_and_again_over_the_window() {
        let (rate, clock) = rate(60, 100);
        let (first, _) = rate.take(1, NonZeroU32::MIN);
        assert_eq!(first, Allowance { limit: 60, remaining: 59, reset: Duration::from_secs(1) });
        assert!((0..59).all(|_| passes(&rate, 1)));
        let (none, refused) = rate.take(1, NonZeroU32::MIN);
        assert_eq!((none.remaining, none.reset), (0, MINUTE));
        assert_eq!(refused, Err(TooMany::Wait(Duration::from_secs(1))));
        clock.advance(Duration::from_millis(999));
        assert!(!passes(&rate, 1));
        clock.advance(Duration::from_millis(1));
        assert!(passes(&rate, 1) && !passes(&rate, 1));
        clock.advance(MINUTE);
        assert_eq!((0..100).filter(|_| passes(&rate, 1)).count(), 60);
    }

    #[test]
    fn callers_have_separate_buckets() {
        let (rate, _clock) = rate(2, 100);
        assert!(passes(&rate, 1) && passes(&rate, 1) && !passes(&rate, 1));
        assert!(passes(&rate, 2));
    }

    #[test]
    fn a_batch_passes_whole_or_not_at_all() {
        let (rate, _clock) = rate(10, 100);
        assert!(rate.take(1, count(8)).1.is_ok());
        assert!(matches!(rate.take(1, count(3)).1, Err(TooMany::Wait(_))));
        assert!(rate.take(1, count(2)).1.is_ok(), "the refused batch took nothing");
        assert_eq!(rate.take(2, count(11)).1, Err(TooMany::Never));
    }

    /// An attacker has many addresses: known callers keep their state, and memory does not grow.
    #[test]
    fn a_crowd_of_new_callers_shares_one_allowance_and_known_callers_keep_theirs() {
        let (rate, clock) = rate(10, 160);
        assert!((0..10).all(|_| passes(&rate, 0)));
        let passed = (1..100_000_u64).filter(|caller| passes(&rate, *caller)).count();
        assert!(rate.callers() <= 160, "{}", rate.callers());
        assert!(passed <= 160 + 10, "{passed} passed");
        assert!(!passes(&rate, 0), "a crowd does not delete the state of a known caller");
        clock.advance(MINUTE);
        assert!((200_000..200_100_u64).all(|caller| passes(&rate, caller)), "idle callers were evicted");
        assert!(rate.callers() <= 160);
    }

    proptest! {
        /// Any pattern gets at most the limit at once, plus the refill since then.
        #[test]
        fn no_pattern_gets_more_than_the_limit(steps in prop::collection::vec((0_u64..5000, 1_u32..8), 1..200)) {
            let (rate, clock) = rate(20, 16);
            let (mut passed, mut elapsed) = (0_u64, 0_u64);
            for (wait, n) in steps {
                clock.advance(Duration::from_millis(wait));
                elapsed += wait;
                if rate.take(7, count(n)).1.is_ok() {
                    passed += u64::from(n);
                }
                prop_assert!(passed <= 20 + elapsed / 3000, "{} in {} ms", passed, elapsed);
            }
        }
    }
}
