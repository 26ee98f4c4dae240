//! `jobs`: the cost of a request as a task of a job, compared with a plain request.
//!
//! ```text
//!   origin (a thread of this program) <──GET── node, journal on disk   <──job── this program follows it to `complete`
//!                                     <──GET── node, journal in memory <──job──
//!                                     <──GET── bench/peers/gets, if it was built: a bare loop
//! ```
//!
//! Rounds in turn. A node retries, bounds, guards, reports and keeps each task. The loop does none of that: it is the
//! lower limit of the cost.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;

use crate::{
    data::{DirArguments, SyncArguments},
    process::Node,
    report::{Report, median},
    usage::{OtherLoad, Usage, cpu_seconds, rss_peak},
};

mod origin;
mod peer;
mod watch;

use self::{origin::Origin, peer::Peer};

#[derive(Args, Clone, Debug)]
pub(crate) struct JobsArguments {
    /// Tasks of the job.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=40_000))]
    tasks: u32,
    /// Tasks at once.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: u16,
    /// Rounds; the report has the medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// The bare loop; without it bench/peers/target/release/gets, if it exists.
    #[arg(long, value_name = "PROGRAM")]
    peer: Option<PathBuf>,
    #[command(flatten)]
    sync: SyncArguments,
    #[command(flatten)]
    dir: DirArguments,
}

/// A node and the figures of its jobs.
struct MeasuredNode {
    /// The start of its figures' names.
    name: &'static str,
    node: Node,
    runs: Runs,
    lost: u64,
    duplicated: u64,
    failed: u64,
}

/// Figures by round.
#[derive(Default)]
struct Runs {
    /// Tasks per second.
    rates: Vec<f64>,
    /// CPU time per task in microseconds.
    cpu: Vec<f64>,
}

// === impl JobsArguments ===

impl JobsArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let Self { tasks, concurrency, rounds, .. } = self;
        let origin = Origin::start()?;
        let url = format!("http://{}/", origin.addr);
        let data = self.dir.create()?;
        let mut nodes = Vec::new();
        for (name, kind) in [("disk", "embedded"), ("memory", "memory")] {
            nodes.push(self.start(name, kind, &data.path().join(kind), &origin)?);
        }
        let peer = Peer::find(self.peer.as_deref());
        let (mut bare, mut failures, mut others) = (Runs::default(), 0, Vec::new());
        let mut connections = 0;
        for _ in 0..*rounds {
            let before = origin.connections();
            for node in &mut nodes {
                let load = OtherLoad::watch(Some(node.node.pid()));
                self.round(node, &url)?;
                others.extend(load.cores());
            }
            connections += origin.connections() - before;
            if let Some(peer) = &peer {
                let row = peer.run(&url, *tasks, *concurrency)?;
                bare.rates.push(row.rate);
                bare.cpu.extend(row.cpu_seconds.map(|seconds| seconds * 1e6 / f64::from(*tasks)));
                failures += row.failures;
            }
        }
        let title = format!("jobs: {tasks} HTTP tasks, {concurrency} at once; {rounds} rounds");
        let mut report = Report::new("jobs", title);
        report.put("tasks", *tasks, "");
        report.put("concurrency", *concurrency, "");
        report.put("sync", self.sync.name(), "of the journal on disk");
        report.ratio("peerPerS", median(&bare.rates), "GETs/s of the bare loop");
        report.ratio("peerCpuUsPerGet", median(&bare.cpu), "µs");
        nodes.iter().for_each(|node| node.put(&mut report, &bare));
        let sum = |of: fn(&MeasuredNode) -> u64| nodes.iter().map(of).sum::<u64>();
        let (lost, duplicated) = (sum(|node| node.lost), sum(|node| node.duplicated));
        let failed = sum(|node| node.failed) + failures;
        report.put("answered", origin.answered(), "requests");
        report.put("nodeConnections", connections, "of the nodes in all rounds");
        report.put("lost", lost, "ends of tasks or jobs without an event");
        report.put("duplicated", duplicated, "ends with more than one event");
        report.put("failed", failed, "");
        report.others(median(&others));
        if lost + duplicated + failed > 0 {
            report.unclean();
        }
        Ok(report)
    }

    fn start(&self, name: &'static str, kind: &str, data: &Path, origin: &Origin) -> Result<MeasuredNode, String> {
        let settings = [
            ("MILLSTREAM__JOURNAL__KIND", kind.to_owned()),
            ("MILLSTREAM__JOURNAL__SYNC", self.sync.name()),
            ("MILLSTREAM__EGRESS__ALLOW", format!("[\"{}\"]", origin.addr)),
            ("MILLSTREAM__JOBS__CONCURRENCY", self.concurrency.to_string()),
            ("MILLSTREAM__JOBS__MAX_TASKS", self.tasks.to_string()),
        ];
        let node = Node::start_on(data, &settings)?;
        Ok(MeasuredNode { name, node, runs: Runs::default(), lost: 0, duplicated: 0, failed: 0 })
    }

    /// One job, from its submission to the arrival of `complete`.
    fn round(&self, measured: &mut MeasuredNode, url: &str) -> Result<(), String> {
        let usage = || Usage::of(measured.node.pid());
        let (before, begin) = (usage(), Instant::now());
        let ends = watch::run(measured.node.addr, url, self.tasks, self.concurrency)?;
        let time = begin.elapsed();
        let cpu = cpu_seconds(before, usage());
        measured.runs.rates.push(f64::from(self.tasks) / time.as_secs_f64());
        measured.runs.cpu.extend(cpu.map(|cpu| cpu * 1e6 / f64::from(self.tasks)));
        measured.lost += ends.lost();
        measured.duplicated += ends.duplicated();
        measured.failed += ends.failed;
        Ok(())
    }
}

// === impl MeasuredNode ===

impl MeasuredNode {
    fn put(&self, report: &mut Report, bare: &Runs) {
        let Self { name, node, runs, .. } = self;
        let rate = median(&runs.rates);
        report.ratio(format!("{name}PerS"), rate, "tasks/s");
        let to_peer = rate.zip(median(&bare.rates)).map(|(own, bare)| own / bare);
        report.ratio(format!("{name}ToPeer"), to_peer, "of the bare loop");
        report.ratio(format!("{name}CpuUsPerTask"), median(&runs.cpu), "µs");
        report.mib(format!("{name}RssPeakMib"), rss_peak(node.pid()), "MiB");
    }
}
