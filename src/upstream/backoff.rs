//! How long to wait before the next attempt; pure.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER};
use rand::RngExt;

mod date;

/// Delays that double, with jitter: clients that failed at the same time do not retry at the same time. The one backoff
/// of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay before the first retry.
    pub initial: Duration,
    /// The longest delay that growth reaches; a hint may be longer.
    pub max: Duration,
    /// The longest hint that is followed: an upstream must not stop its clients for a day.
    pub longest_hint: Duration,
}

impl Backoff {
    /// Growth from `initial` to `max`. Hints are followed however long they are.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, longest_hint: Duration::MAX }
    }

    /// The delay before retry number `attempt`, counted from 0: between half of the grown delay and all of it. It is never
    /// below `hint`, the delay that the upstream has asked for, as far as it is followed.
    pub fn delay(&self, attempt: u32, hint: Option<Duration>, rng: &mut impl rand::Rng) -> Duration {
        let full = self.initial.saturating_mul(2_u32.saturating_pow(attempt)).min(self.max);
        let floor = hint.unwrap_or_default().min(self.longest_hint);
        rng.random_range((full / 2).max(floor)..=full.max(floor))
    }
}

/// The delay in `Retry-After`, as seconds or as a date; zero for a date in the past. `None` if the field is missing or
/// cannot be parsed.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number above the largest one means "never".
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    Some(date::parse(value, now)?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static(value))])
    }

    #[test]
    fn delays_grow_to_the_maximum_and_scatter_over_the_upper_half() {
        let mut rng = StdRng::seed_from_u64(7);
        for (attempt, full) in [(0, 1), (1, 2), (2, 4), (4, 16), (5, 30), (31, 30), (u32::MAX, 30)] {
            let full = Duration::from_secs(full);
            let delays: Vec<_> = (0..200).map(|_| BACKOFF.delay(attempt, None, &mut rng)).collect();
            assert!(delays.iter().all(|delay| (full / 2..=full).contains(delay)), "attempt {attempt}");
            let (low, high) = (delays.iter().min(), delays.iter().max());
            assert!(low < Some(&(full * 6 / 10)) && high > Some(&(full * 9 / 10)), "attempt {attempt} has no jitter");
        }
    }

    #[test]
    fn a_hint_is_never_undercut() {
        let mut rng = StdRng::seed_from_u64(7);
        for attempt in 0..10 {
            for hint in [1, 3, 20, 300].map(Duration::from_secs) {
                assert!(BACKOFF.delay(attempt, Some(hint), &mut rng) >= hint);
            }
        }
        assert_eq!(BACKOFF.delay(0, Some(Duration::from_mins(5)), &mut rng), Duration::from_mins(5));
    }

    #[test]
    fn a_hint_counts_up_to_its_limit() {
        let mut rng = StdRng::seed_from_u64(3);
        let longest_hint = Duration::from_mins(5);
        let backoff = Backoff { longest_hint, ..Backoff::new(Duration::from_millis(500), Duration::from_secs(30)) };
        for _ in 0..50 {
            let first = backoff.delay(0, None, &mut rng);
            assert!((250..=500).contains(&first.as_millis()), "{first:?}");
            let third = backoff.delay(2, None, &mut rng);
            assert!((1000..=2000).contains(&third.as_millis()), "{third:?}");
            assert!(backoff.delay(0, Some(Duration::from_secs(20)), &mut rng) >= Duration::from_secs(20));
            let day = Duration::from_secs(86_400);
            assert_eq!(backoff.delay(0, Some(day), &mut rng), Duration::from_secs(300));
        }
    }

    #[test]
    fn no_delay_stays_no_delay() {
        let none = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(none.delay(9, None, &mut StdRng::seed_from_u64(7)), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_understood_as_seconds_and_as_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(&headers("120"), now), Some(Duration::from_mins(2)));
        assert_eq!(retry_after(&headers(" 0 "), now), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("99999999999999999999"), now), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(retry_after(&headers("Sun, 06 Nov 1994 08:50:07 GMT"), now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(&headers("Sun, 06 Nov 1994 08:00:00 GMT"), now), Some(Duration::ZERO));
        for nonsense in ["", "-1", "1.5", "soon", "Sun, 06 Nov 1994"] {
            assert_eq!(retry_after(&headers(nonsense), now), None, "{nonsense:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    /// RFC 9110, section 5.6.7: a recipient accepts all three formats.
    #[test]
    fn retry_after_is_understood_in_the_two_old_forms_of_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for date in ["Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"] {
            assert_eq!(retry_after(&headers(date), now), Some(Duration::from_secs(30)), "{date}");
        }
    }
}
