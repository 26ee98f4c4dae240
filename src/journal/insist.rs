//! The retry loop for requests to the journal, with one pause and one form of log lines for all components.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Unavailable;

/// The pause before a request that the journal could not serve is repeated.
///
/// A full journal gets space when jobs or relays are deleted, which is checked once per second. With a quarter of that
/// pause, a failing disk gets four requests per second.
pub const RETRY: Duration = Duration::from_millis(250);

/// Repeats a request until the journal serves it. `None` when `stop` fires or the journal is closed.
///
/// `stop` is checked between two requests, never during one: when this returns, no append is in flight. The request
/// decides which errors are final: it returns `Ok` for those, and `Err` for a temporary failure.
///
/// `purpose` completes the log line "the journal does not serve a request"; failures 1, 2, 4, 8, … are logged.
pub async fn insist<T>(
    stop: &CancellationToken,
    purpose: &str,
    mut request: impl AsyncFnMut() -> Result<T, Unavailable>,
) -> Option<T> {
    let mut failures: u32 = 0;
    while !stop.is_cancelled() {
        let error = match request().await {
            Ok(answer) => return Some(answer),
            Err(Unavailable::Closed) => return None,
            Err(error) => error,
        };
        failures = failures.saturating_add(1);
        if failures.is_power_of_two() {
            tracing::warn!(purpose, %error, failures, "the journal does not serve a request; trying again");
        }
        stop.run_until_cancelled(sleep(RETRY)).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn failure() -> Unavailable {
        Unavailable::Failed("disk".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_repeated_until_it_is_served() {
        let (begun, mut requests) = (Instant::now(), 0);
        let stop = CancellationToken::new();
        let answer = insist(&stop, "a test", async || {
            requests += 1;
            if requests < 5 { Err(failure()) } else { Ok(requests) }
        });
        assert_eq!(answer.await, Some(5));
        assert_eq!(begun.elapsed(), 4 * RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_journal_and_a_stop_end_the_loop() {
        let stop = CancellationToken::new();
        assert_eq!(insist(&stop, "a test", async || Err::<(), _>(Unavailable::Closed)).await, None);
        let mut requests = 0;
        let stopped = insist(&stop, "a test", async || {
            requests += 1;
            stop.cancel();
            Err::<(), _>(failure())
        });
        assert_eq!(stopped.await, None);
        assert_eq!(requests, 1, "no pause and no request follow a stop");
    }
}
