//! `bench fanout`: events to many subscribers.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use clap::Args;

use crate::{
    clock::{Clock, nanos, pause},
    pool::{Crew, Share},
    publisher::{Publisher, Sent},
    report::{OTHERS, Report, float, histogram, rate},
    tally::Losses,
    target::{Target, TargetArguments},
    usage::{Machine, Usage},
};

/// How long deliveries may lag behind the last acknowledgement.
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// A case of fan-out.
#[derive(Args, Clone, Debug)]
pub struct FanoutArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Subscribers; each listens to one topic.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subs: u32,
    /// Topics, taken in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: u32,
    /// Publishers, each with one event at a time on its way.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    publishers: u16,
    /// Events per second of all publishers together; 0: each as fast as it is acknowledged.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate: u32,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    payload: u32,
    /// Seconds that are measured.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    /// Seconds before that.
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=60))]
    warmup: u16,
}

/// What the processes had used at some moments.
struct Used {
    before: Option<Usage>,
    begin: Option<Usage>,
    end: Option<Usage>,
    rss_peak: Option<u64>,
    /// Cores that others used.
    others: Option<f64>,
    /// From the beginning of the measurement to its last delivery.
    time: Duration,
}

// === impl FanoutArguments ===

impl FanoutArguments {
    pub fn run(&self) -> Result<Report, String> {
        let (_node, target) = &self.target.open()?;
        let clock = Clock::start();
        let usage = || target.usage();
        let before = usage();
        let topic = format!("bench:{}:", ulid::Ulid::new());
        let ask = {
            let (target, topic, topics) = (target.clone(), topic.clone(), self.topics as usize);
            move |number: usize| target.subscription(&format!("{topic}{}", number % topics), None, 0)
        };
        let crew = Crew::start(target, self.subs as usize, clock, ask)?;
        crew.wait_established()?;

        let start = clock.now() + nanos(Duration::from_millis(100));
        let measure = start + nanos(Duration::from_secs(self.warmup.into()));
        let end = measure + nanos(Duration::from_secs(self.secs.into()));
        crew.measure_from(measure);
        let publishers = self.publish(target, clock, &topic, (start, measure, end))?;

        clock.sleep_until(measure);
        let begin = usage();
        let machine = Machine::now(target.pid);
        let mut rss_peak = begin.map(|usage| usage.rss);
        while publishers.iter().any(|thread| !thread.is_finished()) {
            crew.check()?;
            rss_peak = rss_peak.max(usage().map(|usage| usage.rss));
            pause(Duration::from_millis(100));
        }
        let sent: Vec<Sent> = publishers
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a publisher panicked".to_owned())?)
            .collect::<Result<_, _>>()?;
        crew.wait_delivered(self.expected(&sent), DRAIN_TIME);
        crew.check()?;
        let finish = usage();
        let others = machine.zip(Machine::now(target.pid)).map(|(before, after)| after.others_since(before));
        rss_peak = rss_peak.max(finish.map(|usage| usage.rss));
        let time = Duration::from_nanos(crew.delivered_at().saturating_sub(measure));
        let shares = crew.finish()?;
        let used = Used { before, begin, end: finish, rss_peak, others, time };
        Ok(self.report(&sent, &shares, &used))
    }
}

impl FanoutArguments {
    fn publish(
        &self,
        target: &Target,
        clock: Clock,
        topic: &str,
        (start, measure, end): (u64, u64, u64),
    ) -> Result<Vec<JoinHandle<Result<Sent, String>>>, String> {
        let of = usize::from(self.publishers);
        let every = (self.rate > 0).then(|| Duration::from_secs(1) * self.publishers.into() / self.rate);
        let target = Arc::new(target.clone());
        let spawn = |index| {
            let (topic, topics, payload) = (topic.to_owned(), self.topics as usize, self.payload as usize);
            let publisher = Publisher { index, of, topic, topics, every, payload, start, measure, end };
            let target = target.clone();
            let thread = std::thread::Builder::new().name(format!("publisher-{index}"));
            thread
                .spawn(move || publisher.run(&target, clock))
                .map_err(|error| format!("no thread for a publisher: {error}"))
        };
        (0..of).map(spawn).collect()
    }

    fn topic_of(&self, subscriber: usize) -> usize {
        subscriber % self.topics as usize
    }

    /// How many deliveries there are when all have come.
    fn expected(&self, sent: &[Sent]) -> u64 {
        let of = |number: usize| sent.iter().map(|sent| sent.acknowledged[self.topic_of(number)]).sum::<u64>();
        (0..self.subs as usize).map(of).sum()
    }

    fn losses(&self, sent: &[Sent], shares: &[Share]) -> Losses {
        let mut losses = Losses::default();
        for (number, subscriber) in shares.iter().flat_map(|share| &share.subscribers) {
            for (publisher, sent) in sent.iter().enumerate() {
                let published = sent.acknowledged[self.topic_of(*number)];
                let track = subscriber.tracks.get(publisher).cloned().unwrap_or_default();
                losses += track.losses(published);
            }
        }
        losses
    }

    fn report(&self, sent: &[Sent], shares: &[Share], used: &Used) -> Report {
        let (mut latency, mut acks) = (histogram(), histogram());
        shares.iter().for_each(|share| latency += &share.latency);
        sent.iter().for_each(|sent| acks += &sent.acks);
        let losses = self.losses(sent, shares);
        let subscribers = || shares.iter().flat_map(|share| &share.subscribers);
        let gaps: u64 = subscribers().map(|(_, subscriber)| subscriber.gaps).sum();
        let closed = subscribers().filter(|(_, subscriber)| subscriber.closed).count();
        let measured: u64 = sent.iter().map(|sent| sent.measured).sum();
        let deliveries = latency.len();
        let secs = Duration::from_secs(self.secs.into());

        let Self { subs, topics, publishers, rate: wanted, payload, .. } = self;
        let speed = if *wanted == 0 { "as fast as acknowledged".to_owned() } else { format!("{wanted} events/s") };
        let title = format!(
            "fan-out: subscribers {subs}, topics {topics}, publishers {publishers}, {speed}, {payload} bytes, {secs:?}"
        );
        let mut report = Report::new("fanout", title);
        for (name, value) in [
            ("subs", *subs),
            ("topics", *topics),
            ("publishers", (*publishers).into()),
            ("rate", *wanted),
            ("payload", *payload),
            ("secs", self.secs.into()),
        ] {
            report.put(name, value, "");
        }
        report.put("published", measured, "");
        report.ratio("publishesPerS", rate(measured, secs), "");
        report.put("deliveries", deliveries, "");
        report.ratio("deliveriesPerS", rate(deliveries, used.time), "");
        report.put("lost", losses.lost, "");
        report.put("duplicated", losses.duplicated, "");
        report.put("reordered", losses.reordered, "");
        report.put("gaps", gaps, "");
        report.put("closed", closed, "");
        report.times(
            &[("latencyP50Ms", 0.5), ("latencyP99Ms", 0.99), ("latencyP999Ms", 0.999), ("latencyMaxMs", 1.0)],
            &latency,
        );
        report.times(&[("ackP50Ms", 0.5), ("ackP99Ms", 0.99)], &acks);
        used.put(&mut report, deliveries, measured);
        let busy: f64 = shares.iter().map(|share| share.cpu.as_secs_f64()).fold(0.0, f64::max);
        report.ratio("readerCpuS", Some(busy), "s, of the busiest; near the whole time it sets the pace");
        if !losses.none() || gaps > 0 || closed > 0 || deliveries == 0 {
            report.unclean();
        }
        report
    }
}

// === impl Used ===

impl Used {
    fn put(&self, report: &mut Report, deliveries: u64, published: u64) {
        let cpu = self.begin.zip(self.end).map(|(begin, end)| end.cpu.saturating_sub(begin.cpu).as_secs_f64());
        let mib = |bytes: u64| float(bytes) / f64::from(1 << 20);
        report.ratio("serverCpuUsPerDelivery", cpu.map(|cpu| cpu * 1e6 / float(deliveries.max(1))), "µs");
        let per_publish = cpu.map(|cpu| cpu * 1e6 / float(published.max(1)));
        report.ratio("serverCpuUsPerPublish", per_publish, "µs, with its deliveries");
        report.ratio("serverCores", cpu.map(|cpu| cpu / self.time.as_secs_f64()), "");
        report.ratio("serverRssBeforeMib", self.before.map(|usage| mib(usage.rss)), "MiB");
        report.ratio("serverRssPeakMib", self.rss_peak.map(mib), "MiB");
        report.ratio("otherCores", self.others, OTHERS);
    }
}
