//! `bench replay`: subscribers who come back at once and missed something.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{
    Case, Target, TargetArguments,
    clock::Clock,
    crew::Crew,
    process::Usage,
    publisher::{Connection, token_line},
    report::{Report, float, histogram, rate},
    subscriber::Ask,
    tally::Losses,
    wire::Stamp,
};

/// How long all of them may take.
const REPLAY_TIME: Duration = Duration::from_secs(30);

/// A case of coming back.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ReplayArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Subscribers.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subs: u32,
    /// Events in the topic.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    events: u32,
    /// How many of them each subscriber missed.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    missed: u32,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    payload: u32,
}

// === impl ReplayArguments ===

impl Case for ReplayArguments {
    fn target(&self) -> &TargetArguments {
        &self.target
    }

    fn time(&self) -> Duration {
        // Publishing one after another: far below a millisecond each.
        REPLAY_TIME + Duration::from_millis(self.events.into())
    }

    fn run(&self, target: &Target) -> Result<Report, String> {
        if self.missed >= self.events {
            return Err(format!(
                "--missed {} must be below --events {}: they resume after one",
                self.missed, self.events
            ));
        }
        let topic = format!("bench:{}:", ulid::Ulid::new());
        let first = u64::from(self.events - self.missed);
        let position = self.publish(target, &topic, first)?;
        let usage = || target.pid.and_then(Usage::of);
        let begin = usage();
        let clock = Clock::start();
        let (addr, token) = (target.addr, token_line(target));
        let request = format!(
            "GET /events?topic={topic}0 HTTP/1.1\r\nhost: {addr}\r\n{token}accept: text/event-stream\r\nlast-event-id: {position}\r\n\r\n"
        );
        let crew = Crew::start(target, self.subs as usize, clock, move |_| Ask { request: request.clone(), first })?;
        let expected = u64::from(self.subs) * u64::from(self.missed);
        crew.wait_delivered(expected, REPLAY_TIME);
        crew.check()?;
        let time = Duration::from_nanos(crew.delivered_at());
        let end = usage();
        let shares = crew.finish()?;
        let (mut losses, mut gaps, mut delivered) = (Losses::default(), 0, 0);
        let mut latency = histogram();
        shares.iter().for_each(|share| latency += &share.latency);
        delivered += latency.len();
        for (_, subscriber) in shares.iter().flat_map(|share| &share.subscribers) {
            losses += match subscriber.tracks.first() {
                Some(track) => track.losses(self.events.into()),
                None => Losses { lost: self.missed.into(), ..Losses::default() },
            };
            gaps += subscriber.gaps;
        }

        let Self { subs, events, missed, payload, .. } = self;
        let title = format!("replay: {subs} subscribers, {missed} of {events} events missed, {payload} bytes");
        let mut report = Report::new("replay", title);
        for (name, value) in [("subs", subs), ("events", events), ("missed", missed), ("payload", payload)] {
            report.put(name, *value, "");
        }
        report.put("deliveries", delivered, "");
        report.ratio("replayedPerS", rate(delivered, time), "");
        report.ratio("allDoneMs", Some(time.as_secs_f64() * 1000.0), "ms");
        report.times(&[("eventP50Ms", 0.5), ("eventP99Ms", 0.99)], &latency);
        let cpu = begin.zip(end).map(|(begin, end)| end.cpu.saturating_sub(begin.cpu).as_secs_f64());
        report.ratio(
            "serverCpuUsPerDelivery",
            cpu.map(|cpu| cpu * 1e6 / float(delivered.max(1))),
            "µs, connecting included",
        );
        report.put("lost", losses.lost, "");
        report.put("duplicated", losses.duplicated, "");
        report.put("reordered", losses.reordered, "");
        report.put("gaps", gaps, "");
        if !losses.none() || gaps > 0 {
            report.unclean();
        }
        Ok(report)
    }
}

impl ReplayArguments {
    /// Publishes all events; gives the position after which the missed ones stand.
    fn publish(&self, target: &Target, topic: &str, first: u64) -> Result<String, String> {
        let mut connection = Connection::open(target)?;
        let mut position = String::new();
        for sequence in 0..u64::from(self.events) {
            // They count from the beginning of the replay, which is 0 on its clock.
            let payload = Stamp { publisher: 0, sequence, at: 0 }.payload(self.payload as usize);
            let answer = connection.publish(topic, 0, &payload)?;
            if sequence + 1 == first {
                let answer: Value =
                    serde_json::from_slice(answer).map_err(|error| format!("an answer is no JSON: {error}"))?;
                answer.get("id").and_then(Value::as_str).unwrap_or_default().clone_into(&mut position);
            }
        }
        Ok(position)
    }
}
