//! One round: live subscribers, a publisher, and perhaps replays beside them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::LaggardsArguments;
use crate::{
    clock::{Clock, nanos, pause},
    pool::Crew,
    publisher::Connection,
    report::{float, histogram},
    tally::Losses,
    target::Target,
    wire::Stamp,
};

/// How long the replays may take.
const REPLAY_TIME: Duration = Duration::from_secs(120);

/// Live events before those that count.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long the last live events may be on their way.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// What a round came to.
pub struct Round {
    /// Latencies of the live ones, in milliseconds.
    pub p50: f64,
    pub p99: f64,
    pub losses: Losses,
    pub gaps: u64,
    /// Of the replays, where there were some.
    pub time: Option<Duration>,
}

// === impl LaggardsArguments ===

impl LaggardsArguments {
    /// A round of the live subscribers alone.
    pub fn round(&self, target: &Target) -> Result<Round, String> {
        self.round_on(target, &format!("live:{}:", ulid::Ulid::new()))
    }

    /// The same on a topic that others may have subscribed to; its name is this and 0.
    pub fn round_on(&self, target: &Target, topic: &str) -> Result<Round, String> {
        self.live(target, topic, || {
            pause(Duration::from_secs(self.secs.into()));
            Ok(None)
        })
    }

    /// A round as long as replays take.
    pub fn round_with_replays(&self, target: &Target, history: &str, before: &str) -> Result<Round, String> {
        self.live(target, &format!("live:{}:", ulid::Ulid::new()), || self.replay(target, history, before).map(Some))
    }

    fn live(
        &self,
        target: &Target,
        topic: &str,
        meanwhile: impl FnOnce() -> Result<Option<Duration>, String>,
    ) -> Result<Round, String> {
        let clock = Clock::start();
        let ask = target.subscription(&format!("{topic}0"), None, 0);
        let crew = Crew::start(target, self.subs as usize, clock, move |_| ask.clone())?;
        crew.wait_established()?;
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = self.publish(target.clone(), clock, topic.to_owned(), stop.clone());
        pause(WARM_UP);
        crew.measure_from(clock.now());
        let time = meanwhile();
        stop.store(true, Relaxed);
        let sent = publisher.join().map_err(|_| "the publisher panicked".to_owned())??;
        let time = time?;
        crew.wait_delivered(sent * u64::from(self.subs), DRAIN_TIME);
        crew.check()?;
        let (mut latency, mut losses, mut gaps) = (histogram(), Losses::default(), 0);
        for share in crew.finish()? {
            latency += &share.latency;
            for (_, subscriber) in &share.subscribers {
                losses += subscriber.tracks.first().cloned().unwrap_or_default().losses(sent);
                gaps += subscriber.gaps;
            }
        }
        let ms = |quantile| float(latency.value_at_quantile(quantile)) / 1000.0;
        Ok(Round { p50: ms(0.5), p99: ms(0.99), losses, gaps, time })
    }

    /// Publishes at the rate until it is stopped; gives how many.
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

    /// All replays at once; gives the time until the last one is through.
    fn replay(&self, target: &Target, history: &str, before: &str) -> Result<Duration, String> {
        let clock = Clock::start();
        let ask = target.subscription(history, Some(before), 0);
        let crew = Crew::start(target, self.replays as usize, clock, move |_| ask.clone())?;
        let expected = u64::from(self.replays) * u64::from(self.events);
        crew.wait_delivered(expected, REPLAY_TIME);
        crew.check()?;
        let (delivered, at) = (crew.delivered(), crew.delivered_at());
        let gaps: u64 = crew.finish()?.iter().flat_map(|share| &share.subscribers).map(|(_, one)| one.gaps).sum();
        if delivered < expected || gaps > 0 {
            return Err(format!("{delivered} of {expected} events were replayed, with {gaps} gaps"));
        }
        Ok(Duration::from_nanos(at))
    }
}
