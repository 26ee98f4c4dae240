//! `bench laggards`: whether those who are behind hold up those who are not.
//!
//! Rounds of four kinds in turn. Alone: some subscribers hear live events at a fixed rate. Beside stuck readers: so do
//! many clients that take nothing any more, and whose buffers are full. Beside replays: many clients read a long history
//! meanwhile. Beside unfinished ones: many connections stand without a request. What counts is the median of the 99th
//! percentiles, and what a stuck reader costs.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::{
    process::Node,
    publisher::Connection,
    report::{Report, float},
    scratch::Scratch,
    target::Target,
    usage::Usage,
    wire::Stamp,
};

mod memory;
mod round;
mod stuck;
mod unfinished;

use self::{memory::Memory, round::Round, stuck::Stuck, unfinished::Unfinished};

/// A case of being behind.
#[derive(Args, Clone, Debug)]
pub struct LaggardsArguments {
    /// Subscribers that hear live events.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subs: u32,
    /// Live events per second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Clients that replay the history, all at once; 0: no such rounds.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    replays: u32,
    /// Readers of the live events that take nothing; 0: no such rounds.
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
    /// Seconds of a round without replays; one with them takes as long as the replays.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    /// Which journal the node has: embedded or memory.
    #[arg(long, value_name = "KIND", default_value = "embedded")]
    journal: String,
    /// Where the data go for the time of the measurement; the system's temporary directory where it is not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Names of the rows of one kind of round.
type Names = [&'static str; 4];
const BESIDE_STUCK: Names = ["stuckP50Ms", "stuckP99Ms", "stuckToAlone", "stuckMoreMs"];
const BESIDE_REPLAYS: Names = ["replaysP50Ms", "replaysP99Ms", "replaysToAlone", "replaysMoreMs"];
const BESIDE_UNFINISHED: Names = ["unfinishedP50Ms", "unfinishedP99Ms", "unfinishedToAlone", "unfinishedMoreMs"];

// === impl LaggardsArguments ===

impl LaggardsArguments {
    pub fn run(&self) -> Result<Report, String> {
        let Self { subs, rate, replays, stuck, unfinished, events, payload, .. } = self;
        if *replays == 0 && *stuck == 0 && *unfinished == 0 {
            return Err("with `--replays 0 --stuck 0` and without `--unfinished` there is nothing to measure".into());
        }
        let title = format!(
            "laggards: {subs} live subscribers at {rate} events/s; beside them {stuck} stuck readers, or {replays} replays of {events} events of {payload} bytes, or {unfinished} connections without a request"
        );
        let mut report = Report::new("laggards", title);
        report.put("journal", self.journal.clone(), "");
        let scratch = Scratch::new(self.dir.as_deref())?;
        let deadline_ms = 60_000 + u64::from(self.secs) * 1000;
        let settings = [
            ("MILLSTREAM__JOURNAL__KIND", self.journal.clone()),
            ("MILLSTREAM__JOURNAL__RETENTION_EVENTS", "0".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_BYTES", "0".into()),
            // Stuck readers are to stay for their round; what the node would do with them comes after that.
            ("MILLSTREAM__EMITTER__WRITE_DEADLINE_MS", deadline_ms.to_string()),
        ];
        let node = Node::start_on(scratch.path(), &settings)?;
        let target = Target::node(&node);
        let history = format!("history:{}:0", ulid::Ulid::new());
        let before = if *replays > 0 { self.fill(&target, &history)? } else { String::new() };

        let (mut alone, mut beside_stuck, mut beside_replays) = (Vec::new(), Vec::new(), Vec::new());
        let (mut stuck_readers, mut beside_unfinished, mut again) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.rounds {
            alone.push(self.round(&target)?);
            // Before the first replays, whose memory the node would use again.
            if *stuck > 0 {
                let topic = format!("live:{}:", ulid::Ulid::new());
                let readers = Stuck::connect(&target, *stuck, &topic)?;
                beside_stuck.push(self.round_on(&target, &topic)?);
                stuck_readers.push(readers.finish()?);
            }
            if *replays > 0 {
                beside_replays.push(self.round_with_replays(&target, &history, &before)?);
            }
            if *unfinished > 0 {
                let connections = Unfinished::connect(&target, *unfinished)?;
                beside_unfinished.push(self.round(&target)?);
                again += connections.finish()?;
            }
        }
        let (p50, p99) = (median(&alone, |round| round.p50), median(&alone, |round| round.p99));
        report.ratio("aloneP50Ms", Some(p50), "ms, median of the rounds");
        report.ratio("aloneP99Ms", Some(p99), "ms");
        let beside =
            [(BESIDE_STUCK, &beside_stuck), (BESIDE_REPLAYS, &beside_replays), (BESIDE_UNFINISHED, &beside_unfinished)];
        for (names, rounds) in beside {
            if !rounds.is_empty() && !compare(&mut report, names, rounds, p99) {
                report.unclean();
            }
        }
        if *stuck > 0 {
            Memory::put(&mut report, *stuck, &stuck_readers);
        }
        if *replays > 0 {
            let took = median(&beside_replays, |round| round.time.map_or(f64::NAN, |time| time.as_secs_f64()));
            report.ratio("replayS", Some(took), "s until all are through");
            let replayed = float(u64::from(*replays) * u64::from(*events));
            report.ratio("replayedPerS", Some(replayed / took), "");
        }
        if *unfinished > 0 {
            report.put("unfinishedAgain", again, "made again, because the node had given them up");
        }
        let rss = Usage::of(node.pid()).map(|usage| float(usage.rss) / f64::from(1 << 20));
        report.ratio("serverRssMib", rss, "MiB, at the end");
        let all = || alone.iter().chain(&beside_stuck).chain(&beside_replays).chain(&beside_unfinished);
        let (lost, twice) =
            (all().map(|round| round.losses.lost).sum::<u64>(), all().map(|round| round.losses.duplicated));
        report.put("lost", lost, "of the live ones");
        report.put("duplicated", twice.sum::<u64>(), "");
        report.put("reordered", all().map(|round| round.losses.reordered).sum::<u64>(), "");
        report.put("gaps", all().map(|round| round.gaps).sum::<u64>(), "");
        if all().any(|round| !round.losses.none() || round.gaps > 0) {
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
}

/// Tells of the rounds of a kind; false when those beside wait too long: 1.5 times the 99th percentile of those alone,
/// and 10 ms more than it, are passed both.
fn compare(report: &mut Report, [p50, p99, ratio, more]: Names, rounds: &[Round], alone: f64) -> bool {
    let beside = median(rounds, |round| round.p99);
    report.ratio(p50, Some(median(rounds, |round| round.p50)), "ms");
    report.ratio(p99, Some(beside), "ms");
    report.ratio(ratio, Some(beside / alone), "times the p99");
    report.ratio(more, Some(beside - alone), "ms more; good up to 10, or 1.5 times");
    beside <= (alone * 1.5).max(alone + 10.0)
}

fn median<T>(of: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = of.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Losses;

    fn round(p99: f64) -> Round {
        Round { p50: 1.0, p99, losses: Losses::default(), gaps: 0, time: None }
    }

    #[test]
    fn the_bound_is_the_wider_of_the_two() {
        let holds = |alone: f64, beside: &[f64]| {
            let rounds: Vec<Round> = beside.iter().map(|p99| round(*p99)).collect();
            compare(&mut Report::new("laggards", String::new()), BESIDE_STUCK, &rounds, alone)
        };
        assert!(holds(2.0, &[12.0]) && !holds(2.0, &[12.1]), "ten milliseconds");
        assert!(holds(40.0, &[60.0]) && !holds(40.0, &[60.1]), "half as much again");
        assert!(holds(2.0, &[500.0, 3.0, 2.0]), "the median counts");
    }
}
