//! `replay`: subscribers that reconnect at the same time and resume.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use clap::Args;
use ulid::Ulid;

use crate::{
    clock::Clock,
    pool::SubscriberPool,
    publisher::Connection,
    report::{Report, float, rate},
    subscriber::{Delivery, Subscriber},
    tally::Losses,
    target::{Target, TargetArguments},
    usage::cpu_seconds,
    wire::Stamp,
};

/// Limit for all replays together.
const REPLAY_TIME: Duration = Duration::from_secs(30);

/// Longest silence for the observer.
const OBSERVER_TIME: Duration = Duration::from_secs(15);

#[derive(Args, Clone, Debug)]
pub(crate) struct ReplayArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Subscribers.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subs: u32,
    /// Events in the topic.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    events: u32,
    /// Events that each subscriber missed.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    missed: u32,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    payload: u32,
}

/// Receives the events live, to learn their ids.
struct Observer {
    socket: TcpStream,
    subscriber: Subscriber,
}

// === impl ReplayArguments ===

impl ReplayArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let Self { subs, events, missed, payload, .. } = self;
        if missed >= events {
            return Err(format!(
                "--missed {missed} must be below --events {events}: subscribers resume after an event"
            ));
        }
        let (_node, target) = self.target.open()?;
        let topic = format!("bench:{}:", Ulid::new());
        let first = u64::from(events - missed);
        let position = self.publish(&target, &topic, first)?;
        let begin = target.usage();
        let subscription = target.subscription(&format!("{topic}0"), Some(&position), first);
        let pool = SubscriberPool::start(&target, *subs as usize, Clock::start(), move |_| subscription.clone())?;
        pool.wait_delivered(u64::from(*subs) * u64::from(*missed), REPLAY_TIME)?;
        let time = Duration::from_nanos(pool.delivered_at());
        let end = target.usage();
        let results = pool.finish()?;
        let delivered = results.latency.len();
        let mut losses = Losses::default();
        for (_, subscriber) in &results.subscribers {
            losses += match subscriber.tracks.first() {
                Some(track) => track.losses((*events).into()),
                None => Losses { lost: (*missed).into(), ..Losses::default() },
            };
        }

        let title = format!("replay: {subs} subscribers, {missed} of {events} events missed, {payload} bytes");
        let mut report = Report::new("replay", title);
        for (name, value) in [("subs", subs), ("events", events), ("missed", missed), ("payload", payload)] {
            report.put(name, *value, "");
        }
        report.put("deliveries", delivered, "");
        report.ratio("replayedPerS", rate(delivered, time), "");
        report.ratio("allDoneMs", Some(time.as_secs_f64() * 1000.0), "ms");
        report.times(&[("eventP50Ms", 0.5), ("eventP99Ms", 0.99)], &results.latency);
        let per_delivery = cpu_seconds(begin, end).map(|cpu| cpu * 1e6 / float(delivered.max(1)));
        report.ratio("serverCpuUsPerDelivery", per_delivery, "µs, connecting included");
        report.losses(losses, results.gaps(), "");
        Ok(report)
    }

    /// Publishes all events; gives the id of the last event before the missed ones.
    fn publish(&self, target: &Target, topic: &str, first: u64) -> Result<String, String> {
        let mut observer = Observer::open(target, &format!("{topic}0"))?;
        let observing = std::thread::spawn(move || observer.id_of(first - 1));
        let mut connection = Connection::open(target)?;
        for sequence in 0..u64::from(self.events) {
            // Latency counts from the start of the replay, which is 0 on its clock.
            let payload = Stamp { publisher: 0, sequence, at: 0 }.payload(self.payload as usize);
            connection.publish(topic, 0, &payload)?;
        }
        observing.join().map_err(|_| "the observer panicked".to_owned())?
    }
}

// === impl Observer ===

impl Observer {
    /// Subscribes, and waits for the server's confirmation.
    fn open(target: &Target, topic: &str) -> Result<Self, String> {
        let subscription = target.subscription(topic, None, 0);
        let failed = |error: std::io::Error| format!("the observer cannot connect: {error}");
        let mut socket = TcpStream::connect(target.addr).map_err(failed)?;
        socket.set_read_timeout(Some(OBSERVER_TIME)).map_err(failed)?;
        socket.write_all(subscription.request.as_bytes()).map_err(failed)?;
        let mut observer = Self { socket, subscriber: Subscriber::new(&subscription) };
        while !observer.subscriber.established {
            observer.read(|_| {})?;
        }
        Ok(observer)
    }

    /// Reads up to an event; gives its id.
    fn id_of(&mut self, wanted: u64) -> Result<String, String> {
        let mut found = None;
        while found.is_none() {
            self.read(|delivery| {
                if delivery.sequence == wanted {
                    found = Some(delivery.id.to_owned());
                }
            })?;
        }
        found.filter(|id| !id.is_empty()).ok_or_else(|| "the server's events have no ids: it has no replay".to_owned())
    }

    fn read(&mut self, each: impl FnMut(Delivery<'_>)) -> Result<(), String> {
        let mut buffer = [0; 16 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err("the server ended the observer's stream".into()),
            Ok(read) => self.subscriber.take(&buffer[..read], each),
            Err(error) => Err(format!("the observer gets no events: {error}")),
        }
    }
}
