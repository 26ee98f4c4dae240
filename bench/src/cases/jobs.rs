//! `bench jobs`: what it costs that a request is a task of a job instead of a plain request.
//!
//! ```text
//!   source (a thread of this program) <──GET── node, journal on disk  <──job── this program follows it to `complete`
//!                                     <──GET── node, journal in memory <──job──
//!                                     <──GET── peers/gets, if it was built: a bare loop
//! ```
//!
//! Rounds in turn. A task is retried, bounded, guarded, told to the watchers and kept; the loop does none of that, so it is
//! the floor.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    process::Node,
    report::{OTHERS, Report, float},
    scratch::Scratch,
    usage::{Machine, Usage, rss_peak},
};
use millstream::journal::SyncMode;

use super::journal::mode;

mod peer;
mod source;
mod watch;

use self::{peer::Peer, source::Source};

/// A case of HTTP tasks.
#[derive(Args, Clone, Debug)]
pub struct JobsArguments {
    /// Tasks of the job.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=40_000))]
    tasks: u32,
    /// Tasks at once.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: u16,
    /// Rounds; the medians are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// When an event is on the disk: always, interval or os.
    #[arg(long, value_name = "MODE", default_value = "always", value_parser = mode)]
    sync: SyncMode,
    /// The bare loop; else bench/peers/target/release/gets, if it is there.
    #[arg(long, value_name = "PROGRAM")]
    peer: Option<PathBuf>,
    /// Where the data go for the time of the measurement; the system's temporary directory where it is not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A node and what came of its jobs.
struct Measured {
    names: Names,
    node: Node,
    runs: Runs,
    lost: u64,
    duplicated: u64,
    failed: u64,
}

/// What was measured, by round.
#[derive(Default)]
struct Runs {
    /// Tasks per second.
    rates: Vec<f64>,
    /// CPU time per task in microseconds.
    cpu: Vec<f64>,
}

/// What the figures of a node are called.
#[derive(Clone, Copy)]
struct Names {
    rate: &'static str,
    to_peer: &'static str,
    cpu: &'static str,
    rss: &'static str,
}

const DISK: Names = Names { rate: "diskPerS", to_peer: "diskToPeer", cpu: "diskCpuUsPerTask", rss: "diskRssPeakMib" };
const MEMORY: Names =
    Names { rate: "memoryPerS", to_peer: "memoryToPeer", cpu: "memoryCpuUsPerTask", rss: "memoryRssPeakMib" };

// === impl JobsArguments ===

impl JobsArguments {
    pub fn run(&self) -> Result<Report, String> {
        let Self { tasks, concurrency, rounds, .. } = self;
        let source = Source::start()?;
        let url = format!("http://{}/", source.addr);
        let scratch = Scratch::new(self.dir.as_deref())?;
        let mut nodes = Vec::new();
        for (names, kind) in [(DISK, "embedded"), (MEMORY, "memory")] {
            nodes.push(self.start(names, kind, &scratch.path().join(kind), &source)?);
        }
        let peer = Peer::find(self.peer.as_deref());
        let (mut floor, mut failures, mut others) = (Runs::default(), 0, Vec::new());
        let mut connections = 0;
        for _ in 0..*rounds {
            let before = source.connections();
            for node in &mut nodes {
                let machine = Machine::now(Some(node.node.pid()));
                self.round(node, &url)?;
                let after = Machine::now(Some(node.node.pid()));
                others.extend(machine.zip(after).map(|(before, after)| after.others_since(before)));
            }
            connections += source.connections() - before;
            if let Some(peer) = &peer {
                let row = peer.run(&url, *tasks, *concurrency)?;
                floor.rates.push(row.rate);
                floor.cpu.extend(row.cpu_seconds.map(|seconds| seconds * 1e6 / f64::from(*tasks)));
                failures += row.failures;
            }
        }
        let title = format!("jobs: {tasks} HTTP tasks, {concurrency} at once; {rounds} rounds");
        let mut report = Report::new("jobs", title);
        report.put("tasks", *tasks, "");
        report.put("concurrency", *concurrency, "");
        report.put("sync", format!("{:?}", self.sync).to_lowercase(), "of the journal on disk");
        report.ratio("peerPerS", median(&floor.rates), "GETs/s of the bare loop");
        report.ratio("peerCpuUsPerGet", median(&floor.cpu), "µs");
        nodes.iter().for_each(|node| node.put(&mut report, &floor));
        let sum = |of: fn(&Measured) -> u64| nodes.iter().map(of).sum::<u64>();
        let (lost, duplicated) = (sum(|node| node.lost), sum(|node| node.duplicated));
        let failed = sum(|node| node.failed) + failures;
        report.put("answered", source.answered(), "requests");
        report.put("nodeConnections", connections, "made by the nodes in all rounds");
        report.put("lost", lost, "ends of tasks or jobs that were not told");
        report.put("duplicated", duplicated, "ends that were told again");
        report.put("failed", failed, "");
        report.ratio("otherCores", median(&others), OTHERS);
        if lost + duplicated + failed > 0 {
            report.unclean();
        }
        Ok(report)
    }

    fn start(&self, names: Names, kind: &str, data: &Path, source: &Source) -> Result<Measured, String> {
        let settings = [
            ("MILLSTREAM__JOURNAL__KIND", kind.to_owned()),
            ("MILLSTREAM__JOURNAL__SYNC", format!("{:?}", self.sync).to_lowercase()),
            ("MILLSTREAM__EGRESS__ALLOW", format!("[\"{}\"]", source.addr)),
            ("MILLSTREAM__JOBS__CONCURRENCY", self.concurrency.to_string()),
            ("MILLSTREAM__JOBS__MAX_TASKS", self.tasks.to_string()),
        ];
        let node = Node::start_on(data, &settings)?;
        Ok(Measured { names, node, runs: Runs::default(), lost: 0, duplicated: 0, failed: 0 })
    }

    /// One job, from its submission to the reading of its `complete`.
    fn round(&self, measured: &mut Measured, url: &str) -> Result<(), String> {
        let used = |pid| Usage::of(pid).map(|usage| usage.cpu);
        let pid = measured.node.pid();
        let (before, begin) = (used(pid), Instant::now());
        let ends = watch::run(measured.node.addr, url, self.tasks, self.concurrency)?;
        let time = begin.elapsed();
        let cpu = before.zip(used(pid)).map(|(before, after)| after.saturating_sub(before));
        measured.runs.rates.push(f64::from(self.tasks) / time.as_secs_f64());
        measured.runs.cpu.extend(cpu.map(|cpu: Duration| cpu.as_secs_f64() * 1e6 / f64::from(self.tasks)));
        measured.lost += ends.lost();
        measured.duplicated += ends.duplicated();
        measured.failed += ends.failed;
        Ok(())
    }
}

// === impl Measured ===

impl Measured {
    fn put(&self, report: &mut Report, floor: &Runs) {
        let rate = median(&self.runs.rates);
        report.ratio(self.names.rate, rate, "tasks/s");
        let ratio = rate.zip(median(&floor.rates)).map(|(own, peer)| own / peer);
        report.ratio(self.names.to_peer, ratio, "of the bare loop");
        report.ratio(self.names.cpu, median(&self.runs.cpu), "µs");
        let rss = rss_peak(self.node.pid()).map(|bytes| float(bytes) / f64::from(1 << 20));
        report.ratio(self.names.rss, rss, "MiB");
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
