//! `idle`: subscribers without events.

use std::time::Duration;

use clap::Args;
use ulid::Ulid;

use crate::{
    clock::{Clock, nanos, pause},
    pool::SubscriberPool,
    report::{Report, rate},
    target::TargetArguments,
    usage::{OtherLoad, cpu_seconds, pss},
};

/// Time between the last connection and the reading of memory, so that the node can finish its work.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Args, Clone, Debug)]
pub(crate) struct IdleArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Subscribers.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subs: u32,
    /// Seconds that they stay.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    hold: u16,
}

// === impl IdleArguments ===

impl IdleArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let (_node, target) = self.target.open()?;
        let usage = || target.usage();
        let pss = || target.pid.and_then(pss);
        let (before, pss_before) = (usage(), pss());
        let clock = Clock::start();
        let subscription = target.subscription(&format!("bench:{}", Ulid::new()), None, 0);
        let pool = SubscriberPool::start(&target, self.subs as usize, clock, move |_| subscription.clone())?;
        let connected = Duration::from_nanos(pool.wait_established()?);
        let after_connect = usage();
        pause(SETTLE);
        let (begin, pss_begin) = (usage(), pss());
        let others = OtherLoad::watch(target.pid);
        let until = clock.now() + nanos(Duration::from_secs(self.hold.into()));
        while clock.now() < until {
            pool.check()?;
            clock.sleep_until(until.min(clock.now() + nanos(Duration::from_millis(200))));
        }
        let end = usage();
        let others = others.cores();
        let results = pool.finish()?;
        let heartbeats: u64 = results.subscribers.iter().map(|(_, subscriber)| subscriber.heartbeats).sum();
        let closed = results.closed();

        let Self { subs, hold, .. } = self;
        let mut report = Report::new("idle", format!("idle: {subs} subscribers for {hold} s"));
        report.put("subs", *subs, "");
        report.put("holdS", *hold, "s");
        report.ratio("connectsPerS", rate(u64::from(*subs), connected), "");
        let per_connect = cpu_seconds(before, after_connect).map(|cpu| cpu * 1e6 / f64::from(*subs));
        report.ratio("serverCpuUsPerConnect", per_connect, "µs");
        let (rss_before, rss_begin) = (before.map(|usage| usage.rss), begin.map(|usage| usage.rss));
        report.mib("serverRssBeforeMib", rss_before, "MiB");
        report.mib("serverRssConnectedMib", rss_begin, "MiB");
        let each = |(before, begin): (u64, u64)| begin.saturating_sub(before) / u64::from(*subs);
        report.put("serverRssBytesPerConnection", rss_before.zip(rss_begin).map(each), "B");
        report.put("serverPssBytesPerConnection", pss_before.zip(pss_begin).map(each), "B");
        report.ratio("idleCores", cpu_seconds(begin, end).map(|cpu| cpu / f64::from(*hold)), "");
        report.others(others);
        report.put("heartbeats", heartbeats, "");
        report.put("closed", closed, "");
        if closed > 0 {
            report.unclean();
        }
        Ok(report)
    }
}
