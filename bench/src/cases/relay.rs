//! `bench relay`: what it costs to read a stream through this node instead of from its source.
//!
//! ```text
//!   source (threads of this program) ─┬──────────────────────────> reader      direct
//!                                     ├── nginx, if installed ───> reader      proxy_pass, proxy_buffering off
//!                                     ├── node, /api/sse-proxy/ ─> reader      transparent proxy
//!                                     └── node, /api/relays ─────> reader      through the journal, if the node has it
//! ```
//!
//! Rounds in turn, so that a machine that changes its mind does so for all ways. A firehose tells events per second, a
//! paced stream whose events carry the moment of their sending tells latency.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use hdrhistogram::Histogram;

use crate::{
    clock::Clock,
    process::Node,
    report::{OTHERS, Report, float, histogram},
    scratch::Scratch,
    usage::{Machine, Usage},
};

mod nginx;
mod reader;
mod source;

use self::{nginx::Nginx, reader::Way, source::Source};

/// A case of reading through something.
#[derive(Args, Clone, Debug)]
pub struct RelayArguments {
    /// Events of each firehose.
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    events: u32,
    /// Firehoses at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: u16,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    payload: u32,
    /// Events per second of the paced stream.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds of the paced stream.
    #[arg(long, value_name = "S", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    /// Rounds; the medians are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Where the data go for the time of the measurement; the system's temporary directory where it is not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A way and what came of it.
struct Measured {
    names: Names,
    way: Way,
    /// Whose CPU time it costs.
    pid: Option<u32>,
    /// Events per second, by round.
    rates: Vec<f64>,
    /// CPU time per event in microseconds, by round.
    cpu: Vec<f64>,
    latency: Histogram<u64>,
    lost: u64,
}

/// What the figures of a way are called.
#[derive(Clone, Copy)]
struct Names {
    rate: &'static str,
    to_direct: &'static str,
    to_nginx: &'static str,
    cpu: &'static str,
    p50: &'static str,
    p99: &'static str,
    added_p50: &'static str,
    added_p99: &'static str,
}

macro_rules! names {
    ($way:literal) => {
        Names {
            rate: concat!($way, "PerS"),
            to_direct: concat!($way, "ToDirect"),
            to_nginx: concat!($way, "ToNginx"),
            cpu: concat!($way, "CpuUsPerEvent"),
            p50: concat!($way, "P50Ms"),
            p99: concat!($way, "P99Ms"),
            added_p50: concat!($way, "AddedP50Ms"),
            added_p99: concat!($way, "AddedP99Ms"),
        }
    };
}

// === impl RelayArguments ===

impl RelayArguments {
    pub fn run(&self) -> Result<Report, String> {
        let Self { events, streams, payload, rate, .. } = self;
        let clock = Clock::start();
        let source = Source::start(clock)?;
        let scratch = Scratch::new(self.dir.as_deref())?;
        let settings = [
            ("MILLSTREAM__REMOTES__SOURCE__BASE_URL", format!("http://{}", source.addr)),
            ("MILLSTREAM__REMOTES__SOURCE__PATHS", "[\"/*\"]".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_EVENTS", "0".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_BYTES", "0".into()),
        ];
        let data = scratch.path().join("data");
        let node = Node::start_on(&data, &settings)?;
        let nginx = Nginx::start(&scratch.path().join("nginx"), source.addr)?;
        let mut ways = vec![Measured::new(names!("direct"), Way::plain(source.addr, ""), None)];
        if let Some(nginx) = &nginx {
            ways.push(Measured::new(names!("nginx"), Way::plain(nginx.addr, ""), Some(nginx.pid())));
        }
        ways.push(Measured::new(names!("proxy"), Way::plain(node.addr, "/api/sse-proxy/source"), Some(node.pid())));
        if reader::relays_there(node.addr)? {
            ways.push(Measured::new(names!("relay"), Way::relay(node.addr), Some(node.pid())));
        }
        let machine = Machine::now(Some(node.pid()));
        for _ in 0..self.rounds {
            for way in &mut ways {
                self.round(way, clock)?;
            }
        }
        let others = machine.zip(Machine::now(Some(node.pid()))).map(|(before, after)| after.others_since(before));
        let title = format!(
            "relay: {streams} firehoses of {events} events of {payload} bytes; {rate} events/s for the latency; {} rounds",
            self.rounds
        );
        let mut report = Report::new("relay", title);
        for (name, value) in
            [("events", *events), ("streams", (*streams).into()), ("payload", *payload), ("rate", *rate)]
        {
            report.put(name, value, "");
        }
        put(&mut report, &ways, nginx.is_some());
        report.ratio("otherCores", others, OTHERS);
        Ok(report)
    }

    fn round(&self, way: &mut Measured, clock: Clock) -> Result<(), String> {
        let used = |pid: Option<u32>| pid.and_then(Usage::of).map(|usage| usage.cpu);
        let total = u64::from(self.events) * u64::from(self.streams);
        let (before, begin) = (used(way.pid), clock.now());
        let path = format!("/firehose/{}/{}", self.events, self.payload);
        let readers: Vec<_> = (0..self.streams).map(|_| way.way.count(&path)).collect::<Result<_, _>>()?;
        let mut came = 0;
        for reader in readers {
            came += reader.join().map_err(|_| "a reader panicked".to_owned())??;
        }
        let time = Duration::from_nanos(clock.now() - begin);
        way.rates.push(float(came) / time.as_secs_f64());
        let cpu = before.zip(used(way.pid)).map(|(before, after)| after.saturating_sub(before));
        way.cpu.extend(cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / float(total)));
        let paced = u64::from(self.rate) * u64::from(self.secs);
        let path = format!("/paced/{paced}/{}/{}", self.payload, self.rate);
        let (latency, losses) = way.way.follow(&path, paced, clock)?;
        way.latency += latency;
        way.lost += total.saturating_sub(came) + losses.lost + losses.duplicated + losses.reordered;
        Ok(())
    }
}

// === impl Measured ===

impl Measured {
    fn new(names: Names, way: Way, pid: Option<u32>) -> Self {
        Self { names, way, pid, rates: Vec::new(), cpu: Vec::new(), latency: histogram(), lost: 0 }
    }

    fn latency_ms(&self, quantile: f64) -> Option<f64> {
        (!self.latency.is_empty()).then(|| float(self.latency.value_at_quantile(quantile)) / 1000.0)
    }
}

fn put(report: &mut Report, ways: &[Measured], has_nginx: bool) {
    let direct = &ways[0];
    let nginx = ways.get(1).filter(|_| has_nginx);
    let mut lost = 0;
    for (index, way) in ways.iter().enumerate() {
        let rate = median(&way.rates);
        report.ratio(way.names.rate, rate, "events/s");
        if index > 0 {
            let to = |other: &Measured| rate.zip(median(&other.rates)).map(|(own, other)| own / other);
            report.ratio(way.names.to_direct, to(direct), "of the direct rate");
            if let Some(nginx) = nginx.filter(|_| index > 1) {
                report.ratio(way.names.to_nginx, to(nginx), "of nginx's rate");
            }
            report.ratio(way.names.cpu, median(&way.cpu), "µs");
        }
        report.ratio(way.names.p50, way.latency_ms(0.5), "ms");
        report.ratio(way.names.p99, way.latency_ms(0.99), "ms");
        if index > 0 {
            let added = |quantile| way.latency_ms(quantile).zip(direct.latency_ms(quantile)).map(|(own, d)| own - d);
            report.ratio(way.names.added_p50, added(0.5), "ms more than direct");
            report.ratio(way.names.added_p99, added(0.99), "ms");
        }
        lost += way.lost;
    }
    report.put("lost", lost, "lost, duplicated or reordered");
    if lost > 0 {
        report.unclean();
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
