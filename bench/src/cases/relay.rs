//! `relay`: the cost of reading a stream through a node instead of from its source.
//!
//! ```text
//!   source (threads of this program) ─┬──────────────────────────> reader      direct
//!                                     ├── nginx, if installed ───> reader      proxy_pass, proxy_buffering off
//!                                     ├── node, /api/sse-proxy/ ─> reader      transparent proxy
//!                                     └── node, /api/relays ─────> reader      through the journal, if the node has it
//! ```
//!
//! The routes take turns in each round, so that a change of the machine affects all of them. A firehose gives events per
//! second. A paced stream gives the latency: its events carry the time of their sending.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;

use crate::{
    clock::Clock,
    data::DirArguments,
    process::Node,
    report::{Report, float, histogram, median, millis},
    usage::{OtherLoad, Usage, cpu_seconds},
};

mod nginx;
mod reader;
mod source;

use self::{nginx::Nginx, reader::Route, source::Source};

#[derive(Args, Clone, Debug)]
pub(crate) struct RelayArguments {
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
    /// Rounds; the report has the medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    #[command(flatten)]
    dir: DirArguments,
}

/// A route and its figures.
struct MeasuredRoute {
    /// The start of its figures' names.
    name: &'static str,
    route: Route,
    /// The process whose CPU time it costs.
    pid: Option<u32>,
    /// Events per second, by round.
    rates: Vec<f64>,
    /// CPU time per event in microseconds, by round.
    cpu: Vec<f64>,
    latency: Histogram<u64>,
    lost: u64,
}

// === impl RelayArguments ===

impl RelayArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let Self { events, streams, payload, rate, rounds, .. } = self;
        let clock = Clock::start();
        let source = Source::start(clock)?;
        let data = self.dir.create()?;
        let settings = [
            ("MILLSTREAM__REMOTES__SOURCE__BASE_URL", format!("http://{}", source.addr)),
            ("MILLSTREAM__REMOTES__SOURCE__PATHS", "[\"/*\"]".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_EVENTS", "0".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_BYTES", "0".into()),
        ];
        let node = Node::start_on(&data.path().join("data"), &settings)?;
        let nginx = Nginx::start(&data.path().join("nginx"), source.addr)?;
        let mut routes = vec![MeasuredRoute::new("direct", Route::plain(source.addr, ""), None)];
        if let Some(nginx) = &nginx {
            routes.push(MeasuredRoute::new("nginx", Route::plain(nginx.addr, ""), Some(nginx.pid())));
        }
        let proxy = Route::plain(node.addr, "/api/sse-proxy/source");
        routes.push(MeasuredRoute::new("proxy", proxy, Some(node.pid())));
        if reader::has_relays(node.addr)? {
            routes.push(MeasuredRoute::new("relay", Route::relay(node.addr), Some(node.pid())));
        }
        let others = OtherLoad::watch(Some(node.pid()));
        for _ in 0..*rounds {
            for route in &mut routes {
                self.round(route, clock)?;
            }
        }
        let others = others.cores();
        let title = format!(
            "relay: {streams} firehoses of {events} events of {payload} bytes; {rate} events/s for the latency; {rounds} rounds"
        );
        let mut report = Report::new("relay", title);
        report.put("events", *events, "");
        report.put("streams", *streams, "");
        report.put("payload", *payload, "");
        report.put("rate", *rate, "");
        put(&mut report, &routes, nginx.is_some());
        report.others(others);
        Ok(report)
    }

    fn round(&self, measured: &mut MeasuredRoute, clock: Clock) -> Result<(), String> {
        let MeasuredRoute { route, pid, rates, cpu, latency, lost, .. } = measured;
        let usage = || pid.and_then(Usage::of);
        let total = u64::from(self.events) * u64::from(self.streams);
        let (before, begin) = (usage(), clock.now());
        let readers: Vec<_> =
            (0..self.streams).map(|_| route.count(self.events, self.payload)).collect::<Result<_, _>>()?;
        let mut arrived = 0;
        for reader in readers {
            arrived += reader.join().map_err(|_| "a reader panicked".to_owned())??;
        }
        let time = Duration::from_nanos(clock.now() - begin);
        rates.push(float(arrived) / time.as_secs_f64());
        cpu.extend(cpu_seconds(before, usage()).map(|cpu| cpu * 1e6 / float(total)));
        let paced = u64::from(self.rate) * u64::from(self.secs);
        let (paced_latency, losses) = route.follow(paced, self.payload, self.rate, clock)?;
        *latency += paced_latency;
        *lost += total.saturating_sub(arrived) + losses.lost + losses.duplicated + losses.reordered;
        Ok(())
    }
}

// === impl MeasuredRoute ===

impl MeasuredRoute {
    fn new(name: &'static str, route: Route, pid: Option<u32>) -> Self {
        Self { name, route, pid, rates: Vec::new(), cpu: Vec::new(), latency: histogram(), lost: 0 }
    }
}

/// Reports the routes: the direct one first, then nginx if it is installed, then those of the node.
fn put(report: &mut Report, routes: &[MeasuredRoute], has_nginx: bool) {
    let direct = &routes[0];
    let nginx = routes.get(1).filter(|_| has_nginx);
    for (index, route) in routes.iter().enumerate() {
        let MeasuredRoute { name, rates, cpu, latency, .. } = route;
        let rate = median(rates);
        report.ratio(format!("{name}PerS"), rate, "events/s");
        if index > 0 {
            let to = |other: &MeasuredRoute| rate.zip(median(&other.rates)).map(|(own, other)| own / other);
            report.ratio(format!("{name}ToDirect"), to(direct), "of the direct rate");
            if let Some(nginx) = nginx.filter(|_| index > 1) {
                report.ratio(format!("{name}ToNginx"), to(nginx), "of nginx's rate");
            }
            report.ratio(format!("{name}CpuUsPerEvent"), median(cpu), "µs");
        }
        report.times(&[(&format!("{name}P50Ms"), 0.5), (&format!("{name}P99Ms"), 0.99)], latency);
        if index > 0 {
            let added = |percentile| {
                let both = millis(latency, percentile).zip(millis(&direct.latency, percentile));
                both.map(|(own, direct)| own - direct)
            };
            report.ratio(format!("{name}AddedP50Ms"), added(0.5), "ms more than direct");
            report.ratio(format!("{name}AddedP99Ms"), added(0.99), "ms");
        }
    }
    let lost: u64 = routes.iter().map(|route| route.lost).sum();
    report.put("lost", lost, "lost, duplicated or reordered");
    if lost > 0 {
        report.unclean();
    }
}
