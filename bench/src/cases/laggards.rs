//! `laggards`: checks whether slow clients delay live delivery to the others.
//!
//! Rounds of four kinds in turn. Alone: subscribers receive live events at a fixed rate. Beside stuck readers: many
//! clients read nothing, and their buffers are full. Beside replays: many clients read a long history. Beside unfinished
//! requests: many connections send no complete request. The report compares the medians of the 99th percentiles, and
//! has the memory of a stuck reader.

use clap::Args;
use serde_json::Value;
use ulid::Ulid;

use crate::{
    data::DirArguments,
    process::Node,
    publisher::Connection,
    report::{Report, float, median},
    tally::Losses,
    target::Target,
    usage::Usage,
    wire::Stamp,
};

mod memory;
mod round;
mod stuck;
mod unfinished;

use self::{memory::Memory, round::Round, stuck::StuckReaders, unfinished::UnfinishedRequests};

#[derive(Args, Clone, Debug)]
pub(crate) struct LaggardsArguments {
    /// Subscribers that receive live events.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subs: u32,
    /// Live events per second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Clients that replay the history, all at once; 0: no such rounds.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    replays: u32,
    /// Subscribers to the live events that read nothing; 0: no such rounds.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=9_000))]
    stuck: u32,
    /// Connections that send no request, or half a head; 0: no such rounds.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=15_000))]
    unfinished: u32,
    /// Events of the history.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    payload: u32,
    /// Rounds of each kind.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of a round without replays; a round with replays takes as long as they do.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    /// The journal of the node: embedded or memory.
    #[arg(long, value_name = "KIND", default_value = "embedded")]
    journal: String,
    #[command(flatten)]
    dir: DirArguments,
}

/// Events of the history in one request.
const BATCH: usize = 100;

/// Rounds by kind, and the figures of the slow clients.
#[derive(Default)]
struct Rounds {
    alone: Vec<Round>,
    beside_stuck: Vec<Round>,
    beside_replays: Vec<Round>,
    beside_unfinished: Vec<Round>,
    /// Seconds until all replays were complete, by round.
    replay_seconds: Vec<f64>,
    stuck: Vec<memory::Cost>,
    /// Connections without a request that the node closed, so that they were opened again.
    reopened: u64,
}

// === impl LaggardsArguments ===

impl LaggardsArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let Self { subs, rate, replays, stuck, unfinished, events, payload, .. } = self;
        if *replays == 0 && *stuck == 0 && *unfinished == 0 {
            return Err("with `--replays 0 --stuck 0` and without `--unfinished` there is nothing to measure".into());
        }
        let title = format!(
            "laggards: {subs} live subscribers at {rate} events/s; beside them {stuck} stuck readers, or {replays} replays of {events} events of {payload} bytes, or {unfinished} connections without a request"
        );
        let mut report = Report::new("laggards", title);
        report.put("journal", self.journal.clone(), "");
        let data = self.dir.create()?;
        // Stuck readers must stay connected for their round.
        let deadline_ms = 60_000 + u64::from(self.secs) * 1000;
        let settings = [
            ("MILLSTREAM__JOURNAL__KIND", self.journal.clone()),
            ("MILLSTREAM__JOURNAL__RETENTION_EVENTS", "0".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_BYTES", "0".into()),
            ("MILLSTREAM__EMITTER__WRITE_DEADLINE_MS", deadline_ms.to_string()),
        ];
        let node = Node::start_on(data.path(), &settings)?;
        let rounds = self.measure(&Target::node(&node))?;
        self.put(&rounds, &mut report);
        report.mib("serverRssMib", Usage::of(node.pid()).map(|usage| usage.rss), "MiB, at the end");
        let mut losses = Losses::default();
        rounds.all().for_each(|round| losses += round.losses);
        report.losses(losses, rounds.all().map(|round| round.gaps).sum(), "of the live events");
        Ok(report)
    }

    fn measure(&self, target: &Target) -> Result<Rounds, String> {
        let history = format!("history:{}:0", Ulid::new());
        let before = if self.replays > 0 { self.fill(target, &history)? } else { String::new() };
        let mut rounds = Rounds::default();
        for _ in 0..self.rounds {
            rounds.alone.push(self.round(target)?);
            // Before the first replays: the node would use their memory again.
            if self.stuck > 0 {
                let topic = format!("live:{}:", Ulid::new());
                let readers = StuckReaders::connect(target, self.stuck, &topic)?;
                rounds.beside_stuck.push(self.round_on(target, &topic)?);
                rounds.stuck.push(readers.finish()?);
            }
            if self.replays > 0 {
                let (round, seconds) = self.round_with_replays(target, &history, &before)?;
                rounds.beside_replays.push(round);
                rounds.replay_seconds.push(seconds);
            }
            if self.unfinished > 0 {
                let connections = UnfinishedRequests::connect(target, self.unfinished)?;
                rounds.beside_unfinished.push(self.round(target)?);
                rounds.reopened += connections.finish()?;
            }
        }
        Ok(rounds)
    }

    fn put(&self, rounds: &Rounds, report: &mut Report) {
        let (p50, p99) = medians(&rounds.alone);
        report.ratio("aloneP50Ms", Some(p50), "ms, median of the rounds");
        report.ratio("aloneP99Ms", Some(p99), "ms");
        for (name, beside) in [
            ("stuck", &rounds.beside_stuck),
            ("replays", &rounds.beside_replays),
            ("unfinished", &rounds.beside_unfinished),
        ] {
            if !beside.is_empty() && !compare(report, name, beside, p99) {
                report.unclean();
            }
        }
        if self.stuck > 0 {
            Memory::put(report, self.stuck, &rounds.stuck);
        }
        if let Some(seconds) = median(&rounds.replay_seconds) {
            report.ratio("replayS", Some(seconds), "s until all are complete");
            let replayed = float(u64::from(self.replays) * u64::from(self.events));
            report.ratio("replayedPerS", Some(replayed / seconds), "");
        }
        if self.unfinished > 0 {
            report.put("unfinishedAgain", rounds.reopened, "opened again, because the node closed them");
        }
    }

    /// Publishes the history in batches; gives the position before it.
    fn fill(&self, target: &Target, topic: &str) -> Result<String, String> {
        let mut connection = Connection::open(target)?;
        let answer = connection.post(r#"{"topic":"before","data":0}"#)?;
        let answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        let before = answer["id"].as_str().unwrap_or_default().to_owned();
        let last = u64::from(self.events);
        for first in (0..last).step_by(BATCH) {
            let event = |sequence| {
                let payload = Stamp { publisher: 0, sequence, at: 0 }.payload(self.payload as usize);
                format!(r#"{{"topic":"{topic}","data":{payload}}}"#)
            };
            let events: Vec<String> = (first..last).take(BATCH).map(event).collect();
            connection.post(&format!("[{}]", events.join(",")))?;
        }
        Ok(before)
    }
}

// === impl Rounds ===

impl Rounds {
    fn all(&self) -> impl Iterator<Item = &Round> {
        self.alone.iter().chain(&self.beside_stuck).chain(&self.beside_replays).chain(&self.beside_unfinished)
    }
}

/// Reports a kind of round; false if live events are too late. They are if the 99th percentile is above 1.5 times that
/// of the rounds alone, and also more than 10 ms above it.
fn compare(report: &mut Report, name: &str, rounds: &[Round], alone: f64) -> bool {
    let (p50, p99) = medians(rounds);
    report.ratio(format!("{name}P50Ms"), Some(p50), "ms");
    report.ratio(format!("{name}P99Ms"), Some(p99), "ms");
    report.ratio(format!("{name}ToAlone"), Some(p99 / alone), "times the p99");
    report.ratio(format!("{name}MoreMs"), Some(p99 - alone), "ms more; good up to 10, or 1.5 times");
    p99 <= (alone * 1.5).max(alone + 10.0)
}

/// Medians of the 50th and the 99th percentiles.
fn medians(rounds: &[Round]) -> (f64, f64) {
    let of =
        |percentile: fn(&Round) -> f64| median(&rounds.iter().map(percentile).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    (of(|round| round.p50), of(|round| round.p99))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(p99: f64) -> Round {
        Round { p50: 1.0, p99, losses: Losses::default(), gaps: 0 }
    }

    #[test]
    fn the_bound_is_the_wider_of_the_two() {
        let holds = |alone: f64, beside: &[f64]| {
            let rounds: Vec<Round> = beside.iter().map(|p99| round(*p99)).collect();
            compare(&mut Report::new("laggards", String::new()), "stuck", &rounds, alone)
        };
        assert!(holds(2.0, &[12.0]) && !holds(2.0, &[12.1]), "ten milliseconds");
        assert!(holds(40.0, &[60.0]) && !holds(40.0, &[60.1]), "half as much again");
        assert!(holds(2.0, &[500.0, 3.0, 2.0]), "the median counts");
    }
}
