//! `bench replay`: subscribers who come back at once and missed something.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use clap::Args;

use crate::{
    clock::Clock,
    pool::Crew,
    publisher::Connection,
    report::{Report, float, histogram, rate},
    subscriber::{Delivery, Subscriber},
    tally::Losses,
    target::{Target, TargetArguments},
    wire::Stamp,
};

/// How long all of them may take.
const REPLAY_TIME: Duration = Duration::from_secs(30);

/// How long the first subscriber may hear nothing.
const WITNESS_TIME: Duration = Duration::from_secs(15);

/// A case of coming back.
#[derive(Args, Clone, Debug)]
pub struct ReplayArguments {
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

/// Hears the events when they are new, to know their ids.
struct Witness {
    socket: TcpStream,
    subscriber: Subscriber,
}

// === impl ReplayArguments ===

impl ReplayArguments {
    pub fn run(&self) -> Result<Report, String> {
        let (_node, target) = &self.target.open()?;
        if self.missed >= self.events {
            return Err(format!(
                "--missed {} must be below --events {}: they resume after one",
                self.missed, self.events
            ));
        }
        let topic = format!("bench:{}:", ulid::Ulid::new());
        let first = u64::from(self.events - self.missed);
        let position = self.publish(target, &topic, first)?;
        let usage = || target.usage();
        let begin = usage();
        let clock = Clock::start();
        let ask = target.subscription(&format!("{topic}0"), Some(&position), first);
        let crew = Crew::start(target, self.subs as usize, clock, move |_| ask.clone())?;
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
    /// Publishes all events; gives the id after which the missed ones stand, as a subscriber is told it.
    fn publish(&self, target: &Target, topic: &str, first: u64) -> Result<String, String> {
        let mut witness = Witness::open(target, &format!("{topic}0"))?;
        let watching = std::thread::spawn(move || witness.id_of(first - 1));
        let mut connection = Connection::open(target)?;
        for sequence in 0..u64::from(self.events) {
            // They count from the beginning of the replay, which is 0 on its clock.
            let payload = Stamp { publisher: 0, sequence, at: 0 }.payload(self.payload as usize);
            connection.publish(topic, 0, &payload)?;
        }
        watching.join().map_err(|_| "the first subscriber panicked".to_owned())?
    }
}

// === impl Witness ===

impl Witness {
    /// Subscribes, and waits until the server says that it heard.
    fn open(target: &Target, topic: &str) -> Result<Self, String> {
        let ask = target.subscription(topic, None, 0);
        let failed = |error: std::io::Error| format!("the first subscriber cannot connect: {error}");
        let mut socket = TcpStream::connect(target.addr).map_err(failed)?;
        socket.set_read_timeout(Some(WITNESS_TIME)).map_err(failed)?;
        socket.write_all(ask.request.as_bytes()).map_err(failed)?;
        let mut witness = Self { socket, subscriber: Subscriber::new(&ask) };
        while !witness.subscriber.established {
            witness.read(|_| {})?;
        }
        Ok(witness)
    }

    /// Reads up to an event and gives its id.
    fn id_of(&mut self, wanted: u64) -> Result<String, String> {
        let mut found = None;
        while found.is_none() {
            self.read(|delivery| {
                if delivery.sequence == wanted {
                    found = Some(delivery.id.to_owned());
                }
            })?;
        }
        found.filter(|id| !id.is_empty()).ok_or_else(|| "its events have no ids: there is no replay".to_owned())
    }

    fn read(&mut self, each: impl FnMut(Delivery<'_>)) -> Result<(), String> {
        let mut buffer = [0; 16 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err("the server ended the first subscriber's stream".into()),
            Ok(read) => self.subscriber.take(&buffer[..read], each),
            Err(error) => Err(format!("the first subscriber hears nothing: {error}")),
        }
    }
}
