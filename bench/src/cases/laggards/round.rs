//! One round: live subscribers, a publisher, and perhaps replays beside them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use ulid::Ulid;

use super::LaggardsArguments;
use crate::{
    clock::{Clock, nanos, pause},
    pool::SubscriberPool,
    publisher::Connection,
    report::millis,
    tally::Losses,
    target::Target,
    wire::Stamp,
};

/// Limit for all replays together.
const REPLAY_TIME: Duration = Duration::from_secs(120);

/// Live events before the measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// Limit for deliveries after the last acknowledgement.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// The figures of a round.
pub(crate) struct Round {
    /// Latency of live events, in milliseconds.
    pub p50: f64,
    pub p99: f64,
    pub losses: Losses,
    pub gaps: u64,
}

// === impl LaggardsArguments ===

impl LaggardsArguments {
    /// A round on a topic of its own.
    pub(crate) fn round(&self, target: &Target) -> Result<Round, String> {
        self.round_on(target, &new_topic())
    }

    /// A round on a topic that others may have subscribed to; its name is `topic` and 0.
    pub(crate) fn round_on(&self, target: &Target, topic: &str) -> Result<Round, String> {
        let (round, ()) = self.live(target, topic, || {
            pause(Duration::from_secs(self.secs.into()));
            Ok(())
        })?;
        Ok(round)
    }

    /// A round with replays; also gives their seconds.
    pub(crate) fn round_with_replays(
        &self,
        target: &Target,
        history: &str,
        before: &str,
    ) -> Result<(Round, f64), String> {
        self.live(target, &new_topic(), || self.replay(target, history, before))
    }

    /// Publishes live events until `meanwhile` has ended.
    fn live<T>(
        &self,
        target: &Target,
        topic: &str,
        meanwhile: impl FnOnce() -> Result<T, String>,
    ) -> Result<(Round, T), String> {
        let clock = Clock::start();
        let subscription = target.subscription(&format!("{topic}0"), None, 0);
        let pool = SubscriberPool::start(target, self.subs as usize, clock, move |_| subscription.clone())?;
        pool.wait_established()?;
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = self.publish(target.clone(), clock, topic.to_owned(), stop.clone());
        pause(WARM_UP);
        pool.measure_from(clock.now());
        let done = meanwhile();
        stop.store(true, Relaxed);
        let sent = publisher.join().map_err(|_| "the publisher panicked".to_owned())??;
        let done = done?;
        pool.wait_delivered(sent * u64::from(self.subs), DRAIN_TIME)?;
        let results = pool.finish()?;
        let mut losses = Losses::default();
        for (_, subscriber) in &results.subscribers {
            losses += subscriber.tracks.first().cloned().unwrap_or_default().losses(sent);
        }
        let ms = |percentile| millis(&results.latency, percentile).unwrap_or_default();
        Ok((Round { p50: ms(0.5), p99: ms(0.99), losses, gaps: results.gaps() }, done))
    }

    /// Publishes at the rate until the stop; gives the number of events.
    fn publish(
        &self,
        target: Target,
        clock: Clock,
        topic: String,
        stop: Arc<AtomicBool>,
    ) -> JoinHandle<Result<u64, String>> {
        let every = nanos(Duration::from_secs(1) / self.rate);
        let payload = self.payload as usize;
        std::thread::spawn(move || {
            let mut connection = Connection::open(&target)?;
            let first = clock.now();
            let mut sequence = 0;
            while !stop.load(Relaxed) {
                let at = first + every * sequence;
                clock.sleep_until(at);
                connection.publish(&topic, 0, &Stamp { publisher: 0, sequence, at }.payload(payload))?;
                sequence += 1;
            }
            Ok(sequence)
        })
    }

    /// All replays at once; gives the seconds until the last one is complete.
    fn replay(&self, target: &Target, history: &str, before: &str) -> Result<f64, String> {
        let subscription = target.subscription(history, Some(before), 0);
        let pool = SubscriberPool::start(target, self.replays as usize, Clock::start(), move |_| subscription.clone())?;
        let expected = u64::from(self.replays) * u64::from(self.events);
        pool.wait_delivered(expected, REPLAY_TIME)?;
        let (delivered, at) = (pool.delivered(), pool.delivered_at());
        let gaps = pool.finish()?.gaps();
        if delivered < expected || gaps > 0 {
            return Err(format!("{delivered} of {expected} events were replayed, with {gaps} gaps"));
        }
        Ok(Duration::from_nanos(at).as_secs_f64())
    }
}

fn new_topic() -> String {
    format!("live:{}:", Ulid::new())
}
