//! So much in a time, for each caller: a token bucket by caller.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
};

use super::store::Store;

/// A bucket for each caller: `limit` at once, and as many again over the window, evenly.
#[derive(Debug)]
pub struct Rate<C: Clock = DefaultClock> {
    limiter: RateLimiter<u64, Store, C, StateInformationMiddleware>,
    limit: NonZeroU32,
    interval: Duration,
}

/// What a caller has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Most at once.
    pub limit: u32,
    /// How many are left now.
    pub remaining: u32,
    /// After this time without another one, all are there again.
    pub reset: Duration,
}

/// Why it is not permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// Not now; after this time it is.
    Wait(Duration),
    /// Never: it is more than the limit lets through at once.
    Never,
}

// === impl Rate ===

impl<C: Clock> Rate<C> {
    /// `limit` in each window, for at most about `callers` callers apart.
    pub fn new(limit: NonZeroU32, window: Duration, callers: usize, clock: C) -> Self {
        let interval = (window / limit.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(interval).expect("the interval is not zero").allow_burst(limit);
        let limiter = RateLimiter::new(quota, Store::new(callers, interval.into()), clock);
        Self { limiter, limit, interval }
    }

    /// Takes `count` of a caller's allowance, or nothing.
    pub fn take(&self, caller: u64, count: NonZeroU32) -> (Allowance, Result<(), TooMany>) {
        match self.limiter.check_key_n(&caller, count) {
            Err(_) => (self.allowance(0), Err(TooMany::Never)),
            Ok(Ok(left)) => (self.allowance(left.remaining_burst_capacity()), Ok(())),
            Ok(Err(until)) => {
                let wait = until.wait_time_from(self.limiter.clock().now());
                (self.allowance(0), Err(TooMany::Wait(wait)))
            }
        }
    }

    /// Most at once.
    pub fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Callers that are known now.
    pub fn callers(&self) -> usize {
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
        // Not at the beginning of time, where what is old cannot be told from what is new.
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
    fn callers_are_apart() {
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

    /// An attacker has many addresses; known callers are not forgotten for them, and memory does not grow.
    #[test]
    fn a_crowd_of_newcomers_shares_one_allowance_and_leaves_known_callers_alone() {
        let (rate, clock) = rate(10, 160);
        assert!((0..10).all(|_| passes(&rate, 0)));
        let passed = (1..100_000_u64).filter(|caller| passes(&rate, *caller)).count();
        assert!(rate.callers() <= 160, "{}", rate.callers());
        assert!(passed <= 160 + 10, "{passed} passed");
        assert!(!passes(&rate, 0), "a crowd is no way to be forgotten");
        clock.advance(MINUTE);
        assert!((200_000..200_100_u64).all(|caller| passes(&rate, caller)), "whoever is as good as new has left");
        assert!(rate.callers() <= 160);
    }

    proptest! {
        /// Whatever the pattern: never more than the limit at once and what came back since.
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
