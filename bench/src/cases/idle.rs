//! `bench idle`: subscribers to whom nothing happens.

use std::time::Duration;

use clap::Args;

use crate::{
    clock::{Clock, nanos, pause},
    pool::Crew,
    report::{OTHERS, Report, float, rate},
    target::TargetArguments,
    usage::{Machine, Usage, pss},
};

/// Before memory is read, the node may finish what connecting left to do.
const SETTLE: Duration = Duration::from_millis(500);

/// A case of silence.
#[derive(Args, Clone, Debug)]
pub struct IdleArguments {
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
    pub fn run(&self) -> Result<Report, String> {
        let (_node, target) = &self.target.open()?;
        let usage = || target.usage();
        let pss = || target.pid.and_then(pss);
        let (before, pss_before) = (usage(), pss());
        let clock = Clock::start();
        let ask = target.subscription(&format!("bench:{}", ulid::Ulid::new()), None, 0);
        let crew = Crew::start(target, self.subs as usize, clock, move |_| ask.clone())?;
        let connected = Duration::from_nanos(crew.wait_established()?);
        let after_connect = usage();
        pause(SETTLE);
        let (begin, pss_begin) = (usage(), pss());
        let machine = Machine::now(target.pid);
        let until = clock.now() + nanos(Duration::from_secs(self.hold.into()));
        while clock.now() < until {
            crew.check()?;
            clock.sleep_until(until.min(clock.now() + nanos(Duration::from_millis(200))));
        }
        let end = usage();
        let others = machine.zip(Machine::now(target.pid)).map(|(before, after)| after.others_since(before));
        let shares = crew.finish()?;
        let subscribers = || shares.iter().flat_map(|share| &share.subscribers);
        let signs: u64 = subscribers().map(|(_, subscriber)| subscriber.signs).sum();
        let closed = subscribers().filter(|(_, subscriber)| subscriber.closed).count();

        let Self { subs, hold, .. } = self;
        let mut report = Report::new("idle", format!("idle: {subs} subscribers for {hold} s"));
        report.put("subs", *subs, "");
        report.put("holdS", *hold, "s");
        report.ratio("connectsPerS", rate(u64::from(*subs), connected), "");
        let cpu = |from: Option<Usage>, to: Option<Usage>| {
            from.zip(to).map(|(from, to)| to.cpu.saturating_sub(from.cpu).as_secs_f64())
        };
        report.ratio("serverCpuUsPerConnect", cpu(before, after_connect).map(|cpu| cpu * 1e6 / f64::from(*subs)), "µs");
        let mib = |usage: Usage| float(usage.rss) / f64::from(1 << 20);
        report.ratio("serverRssBeforeMib", before.map(mib), "MiB");
        report.ratio("serverRssConnectedMib", begin.map(mib), "MiB");
        let each = |(before, begin): (u64, u64)| begin.saturating_sub(before) / u64::from(*subs);
        let rss = before.map(|usage| usage.rss).zip(begin.map(|usage| usage.rss));
        report.put("serverRssBytesPerConnection", rss.map(each), "B");
        report.put("serverPssBytesPerConnection", pss_before.zip(pss_begin).map(each), "B");
        report.ratio("idleCores", cpu(begin, end).map(|cpu| cpu / f64::from(*hold)), "");
        report.ratio("otherCores", others, OTHERS);
        report.put("heartbeats", signs, "");
        report.put("closed", closed, "");
        if closed > 0 {
            report.unclean();
        }
        Ok(report)
    }
}
