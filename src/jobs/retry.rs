//! How long a task waits for its next attempt; pure.

use std::time::Duration;

use crate::upstream::Backoff;

/// Half a second, doubled up to half a minute: quick enough for a hiccup, slow enough for an upstream that is down.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30), 2);
/// The longest wait that an upstream may ask for: its `Retry-After` must not park a task for a day.
const MAX_HINT: Duration = Duration::from_secs(5 * 60);

/// The delay after attempt number `failed` (from 1), with jitter; at least `hint`, which is bounded.
pub fn retry_delay(failed: u32, hint: Option<Duration>, rng: &mut impl rand::Rng) -> Duration {
    BACKOFF.delay(failed.saturating_sub(1), hint.map(|hint| hint.min(MAX_HINT)), rng)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn the_delay_grows_and_a_hint_counts_up_to_its_bound() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..50 {
            let first = retry_delay(1, None, &mut rng);
            assert!((250..=500).contains(&first.as_millis()), "{first:?}");
            let third = retry_delay(3, None, &mut rng);
            assert!((1000..=2000).contains(&third.as_millis()), "{third:?}");
            assert!(retry_delay(1, Some(Duration::from_secs(20)), &mut rng) >= Duration::from_secs(20));
            let day = Duration::from_secs(86_400);
            assert_eq!(retry_delay(1, Some(day), &mut rng), Duration::from_secs(300));
        }
    }
}
