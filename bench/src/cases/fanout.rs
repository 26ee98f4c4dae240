//! `fanout`: events to many subscribers.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use clap::Args;
use ulid::Ulid;

use crate::{
    clock::{Clock, nanos, pause},
    pool::{Results, SubscriberPool},
    publisher::{Publisher, Sent},
    report::{Report, float, histogram, rate},
    tally::Losses,
    target::{Target, TargetArguments},
    usage::{OtherLoad, Usage, cpu_seconds},
};

/// Limit for deliveries after the last acknowledgement.
const DRAIN_TIME: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Debug)]
pub(crate) struct FanoutArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Subscribers; each subscribes to one topic.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subs: u32,
    /// Topics, taken in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: u32,
    /// Publishers, each with one event in flight.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    publishers: u16,
    /// Events per second of all publishers together; 0: each publishes as fast as it gets acknowledgements.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate: u32,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    payload: u32,
    /// Seconds of the measurement.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    /// Seconds of load before the measurement.
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=60))]
    warmup: u16,
}

/// The use of CPU and memory by the server.
struct ServerUse {
    before: Option<Usage>,
    begin: Option<Usage>,
    end: Option<Usage>,
    rss_peak: Option<u64>,
    /// Cores that other processes used.
    others: Option<f64>,
    /// From the begin of the measurement to the last delivery.
    time: Duration,
}

// === impl FanoutArguments ===

impl FanoutArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let (_node, target) = self.target.open()?;
        let clock = Clock::start();
        let usage = || target.usage();
        let before = usage();
        let topic = format!("bench:{}:", Ulid::new());
        let subscription = {
            let (target, topic, topics) = (target.clone(), topic.clone(), self.topics as usize);
            move |number: usize| target.subscription(&format!("{topic}{}", number % topics), None, 0)
        };
        let pool = SubscriberPool::start(&target, self.subs as usize, clock, subscription)?;
        pool.wait_established()?;

        let start = clock.now() + nanos(Duration::from_millis(100));
        let measure = start + nanos(Duration::from_secs(self.warmup.into()));
        let end = measure + nanos(Duration::from_secs(self.secs.into()));
        pool.measure_from(measure);
        let publishers = self.publish(&target, clock, &topic, (start, measure, end))?;

        clock.sleep_until(measure);
        let begin = usage();
        let others = OtherLoad::watch(target.pid);
        let mut rss_peak = begin.map(|usage| usage.rss);
        while publishers.iter().any(|thread| !thread.is_finished()) {
            pool.check()?;
            rss_peak = rss_peak.max(usage().map(|usage| usage.rss));
            pause(Duration::from_millis(100));
        }
        let sent: Vec<Sent> = publishers
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a publisher panicked".to_owned())?)
            .collect::<Result<_, _>>()?;
        pool.wait_delivered(self.expected(&sent), DRAIN_TIME)?;
        let end = usage();
        let others = others.cores();
        rss_peak = rss_peak.max(end.map(|usage| usage.rss));
        let time = Duration::from_nanos(pool.delivered_at().saturating_sub(measure));
        let results = pool.finish()?;
        Ok(self.report(&sent, &results, &ServerUse { before, begin, end, rss_peak, others, time }))
    }

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
                .map_err(|error| format!("a thread for a publisher cannot start: {error}"))
        };
        (0..of).map(spawn).collect()
    }

    fn topic_of(&self, subscriber: usize) -> usize {
        subscriber % self.topics as usize
    }

    /// The number of deliveries without losses.
    fn expected(&self, sent: &[Sent]) -> u64 {
        let of = |number: usize| sent.iter().map(|sent| sent.acknowledged[self.topic_of(number)]).sum::<u64>();
        (0..self.subs as usize).map(of).sum()
    }

    fn losses(&self, sent: &[Sent], results: &Results) -> Losses {
        let mut losses = Losses::default();
        for (number, subscriber) in &results.subscribers {
            for (publisher, sent) in sent.iter().enumerate() {
                let published = sent.acknowledged[self.topic_of(*number)];
                let track = subscriber.tracks.get(publisher).cloned().unwrap_or_default();
                losses += track.losses(published);
            }
        }
        losses
    }

    fn report(&self, sent: &[Sent], results: &Results, server: &ServerUse) -> Report {
        let mut acks = histogram();
        sent.iter().for_each(|sent| acks += &sent.acks);
        let measured: u64 = sent.iter().map(|sent| sent.measured).sum();
        let (deliveries, closed) = (results.latency.len(), results.closed());
        let secs = Duration::from_secs(self.secs.into());

        let Self { subs, topics, publishers, rate: wanted, payload, .. } = self;
        let speed = if *wanted == 0 { "as fast as acknowledged".to_owned() } else { format!("{wanted} events/s") };
        let title = format!(
            "fan-out: subscribers {subs}, topics {topics}, publishers {publishers}, {speed}, {payload} bytes, {secs:?}"
        );
        let mut report = Report::new("fanout", title);
        report.put("subs", *subs, "");
        report.put("topics", *topics, "");
        report.put("publishers", *publishers, "");
        report.put("rate", *wanted, "");
        report.put("payload", *payload, "");
        report.put("secs", self.secs, "");
        report.put("published", measured, "");
        report.ratio("publishesPerS", rate(measured, secs), "");
        report.put("deliveries", deliveries, "");
        report.ratio("deliveriesPerS", rate(deliveries, server.time), "");
        report.losses(self.losses(sent, results), results.gaps(), "");
        report.put("closed", closed, "");
        report.times(
            &[("latencyP50Ms", 0.5), ("latencyP99Ms", 0.99), ("latencyP999Ms", 0.999), ("latencyMaxMs", 1.0)],
            &results.latency,
        );
        report.times(&[("ackP50Ms", 0.5), ("ackP99Ms", 0.99)], &acks);
        server.put(&mut report, deliveries, measured);
        let busiest = results.cpu.as_secs_f64();
        report.ratio("readerCpuS", Some(busiest), "s, of the busiest; near the whole time it limits the rate");
        if closed > 0 || deliveries == 0 {
            report.unclean();
        }
        report
    }
}

// === impl ServerUse ===

impl ServerUse {
    fn put(&self, report: &mut Report, deliveries: u64, published: u64) {
        let cpu = cpu_seconds(self.begin, self.end);
        report.ratio("serverCpuUsPerDelivery", cpu.map(|cpu| cpu * 1e6 / float(deliveries.max(1))), "µs");
        let per_publish = cpu.map(|cpu| cpu * 1e6 / float(published.max(1)));
        report.ratio("serverCpuUsPerPublish", per_publish, "µs, with its deliveries");
        report.ratio("serverCores", cpu.map(|cpu| cpu / self.time.as_secs_f64()), "");
        report.mib("serverRssBeforeMib", self.before.map(|usage| usage.rss), "MiB");
        report.mib("serverRssPeakMib", self.rss_peak, "MiB");
        report.others(self.others);
    }
}
