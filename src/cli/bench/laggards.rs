//! `bench laggards`: whether those who are behind hold up those who are not.
//!
//! Rounds in turn, without and with: without, some subscribers hear live events at a fixed rate; with, at the same time
//! many clients replay a long history and one reads nothing at all. What counts is the median of the 99th percentiles.

use std::{
    io::Write,
    net::TcpStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use super::{
    Target,
    clock::{Clock, nanos, pause},
    crew::Crew,
    process::{Node, Usage},
    publisher::Connection,
    report::{Report, float, histogram},
    scratch::Scratch,
    subscriber::Ask,
    wire::Stamp,
};

/// A case of being behind.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct LaggardsArguments {
    /// Subscribers that hear live events.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subs: u32,
    /// Live events per second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Clients that replay the history, all at once.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    replays: u32,
    /// Events of the history.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    payload: u32,
    /// Rounds of each kind.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of a round without laggards; one with them takes as long as the replays.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    /// Which journal the node has: embedded or memory.
    #[arg(long, value_name = "KIND", default_value = "embedded")]
    journal: String,
    /// Where the data go for the time of the measurement; the system's temporary directory where it is not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// How long the replays may take.
const REPLAY_TIME: Duration = Duration::from_secs(120);

/// What a round came to.
struct Round {
    p50: f64,
    p99: f64,
    lost: u64,
    /// Of the replays, where there were some.
    time: Option<Duration>,
}

// === impl LaggardsArguments ===

impl LaggardsArguments {
    pub(super) fn run(&self) -> Result<Report, String> {
        let Self { subs, rate, replays, events, payload, .. } = self;
        let title = format!(
            "laggards: {subs} live subscribers at {rate} events/s; {replays} replays of {events} events of {payload} bytes and one stuck reader"
        );
        let mut report = Report::new("laggards", title);
        report.put("journal", self.journal.clone(), "");
        let scratch = Scratch::new(self.dir.as_deref())?;
        let settings = [
            ("MILLSTREAM__JOURNAL__KIND", self.journal.clone()),
            ("MILLSTREAM__JOURNAL__RETENTION_EVENTS", "0".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_BYTES", "0".into()),
        ];
        let node = Node::start_on(scratch.path(), &settings)?;
        let target = Target { addr: node.addr, pid: Some(node.pid()), token: None, readers: 1 };
        let topic = format!("history:{}:0", ulid::Ulid::new());
        let before = self.fill(&target, &topic)?;
        let stuck = Self::stuck(&target, &before)?;

        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            without.push(self.round(&target, None)?);
            with.push(self.round(&target, Some((&topic, &before)))?);
        }
        drop(stuck);
        let median = |rounds: &[Round], of: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (alone, beside) = (median(&without, |round| round.p99), median(&with, |round| round.p99));
        report.ratio("aloneP50Ms", Some(median(&without, |round| round.p50)), "ms, median of the rounds");
        report.ratio("aloneP99Ms", Some(alone), "ms");
        report.ratio("besideP50Ms", Some(median(&with, |round| round.p50)), "ms");
        report.ratio("besideP99Ms", Some(beside), "ms");
        report.ratio("besideToAlone", Some(beside / alone), "");
        report.ratio("besideMoreMs", Some(beside - alone), "ms");
        let took = |round: &Round| round.time.map_or(f64::NAN, |time| time.as_secs_f64());
        report.ratio("replayS", Some(median(&with, took)), "s until all are through");
        let replayed = float(u64::from(*replays) * u64::from(*events));
        report.ratio("replayedPerS", Some(replayed / median(&with, took)), "");
        let rss = Usage::of(node.pid()).map(|usage| float(usage.rss) / f64::from(1 << 20));
        report.ratio("serverRssMib", rss, "MiB");
        let lost: u64 = without.iter().chain(&with).map(|round| round.lost).sum();
        report.put("lost", lost, "");
        if lost > 0 || beside > (alone * 1.5).max(alone + 10.0) {
            report.unclean();
        }
        Ok(report)
    }

    /// Publishes the history, in batches; gives the position before it.
    fn fill(&self, target: &Target, topic: &str) -> Result<String, String> {
        const BATCH: u64 = 100;
        let mut connection = Connection::open(target)?;
        let answer = connection.post(r#"{"topic":"before","data":0}"#)?;
        let answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        let before = answer["id"].as_str().unwrap_or_default().to_owned();
        let last = u64::from(self.events);
        for first in (0..last).step_by(100) {
            let event = |sequence| {
                let payload = Stamp { publisher: 0, sequence, at: 0 }.payload(self.payload as usize);
                format!(r#"{{"topic":"{topic}","data":{payload}}}"#)
            };
            let events: Vec<String> = (first..last.min(first + BATCH)).map(event).collect();
            connection.post(&format!("[{}]", events.join(",")))?;
        }
        Ok(before)
    }

    /// A reader that asked for everything and reads nothing.
    fn stuck(target: &Target, before: &str) -> Result<TcpStream, String> {
        let connect = || {
            let mut socket = TcpStream::connect(target.addr)?;
            let path = format!("/events?topics=history:*,live:*&lastEventId={before}");
            write!(socket, "GET {path} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", target.addr)?;
            Ok(socket)
        };
        connect().map_err(|error: std::io::Error| format!("the stuck reader cannot connect: {error}"))
    }

    fn round(&self, target: &Target, replay: Option<(&str, &str)>) -> Result<Round, String> {
        let clock = Clock::start();
        let topic = format!("live:{}:", ulid::Ulid::new());
        let addr = target.addr;
        let live = format!("GET /events?topic={topic}0 HTTP/1.1\r\nhost: {addr}\r\naccept: text/event-stream\r\n\r\n");
        let crew = Crew::start(target, self.subs as usize, clock, move |_| Ask { request: live.clone(), first: 0 })?;
        crew.wait_established()?;
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = self.publish(target.clone(), clock, topic, stop.clone());
        pause(Duration::from_millis(500));
        crew.measure_from(clock.now());
        let time = match replay {
            None => {
                pause(Duration::from_secs(self.secs.into()));
                None
            }
            Some((history, before)) => Some(self.replay(target, history, before)?),
        };
        stop.store(true, Relaxed);
        let sent = publisher.join().map_err(|_| "the publisher panicked".to_owned())??;
        crew.wait_delivered(sent * u64::from(self.subs), Duration::from_secs(20));
        crew.check()?;
        let lost = (sent * u64::from(self.subs)).saturating_sub(crew.delivered());
        let mut latency = histogram();
        crew.finish()?.iter().for_each(|share| latency += &share.latency);
        let ms = |quantile| float(latency.value_at_quantile(quantile)) / 1000.0;
        Ok(Round { p50: ms(0.5), p99: ms(0.99), lost, time })
    }

    /// Publishes at the rate until it is stopped; gives how many.
    fn publish(
        &self,
        target: Target,
        clock: Clock,
        topic: String,
        stop: Arc<AtomicBool>,
    ) -> std::thread::JoinHandle<Result<u64, String>> {
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
        let addr = target.addr;
        let request = format!(
            "GET /events?topic={history} HTTP/1.1\r\nhost: {addr}\r\naccept: text/event-stream\r\nlast-event-id: {before}\r\n\r\n"
        );
        let crew =
            Crew::start(target, self.replays as usize, clock, move |_| Ask { request: request.clone(), first: 0 })?;
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
