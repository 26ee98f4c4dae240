//! `publish`: the rate of the journal over HTTP, and how single publishers share commits.

use std::{sync::Arc, time::Duration};

use clap::Args;
use futures::future::join_all;
use millstream::{
    event::Draft,
    journal::{Batch, Config, Embedded, Journal},
    topic::Topic,
};

use super::journal::{runtime, topic};
use crate::{
    clock::{Clock, nanos},
    data::{DirArguments, SyncArguments},
    process::Node,
    publisher::Connection,
    report::{Report, float, rate},
    target::Target,
    usage::{Usage, cpu_seconds},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct PublishArguments {
    /// Events in a batch.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Connections at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    payload: u32,
    /// Seconds of each part.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    #[command(flatten)]
    sync: SyncArguments,
    #[command(flatten)]
    dir: DirArguments,
}

/// Topics of the events.
const TOPICS: u32 = 1000;

/// Bodies that a connection sends in turn.
const BODIES: usize = 16;

// === impl PublishArguments ===

impl PublishArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let Self { batch, connections, payload, .. } = self;
        let title = format!("publish: {connections} connections, batches of {batch}, {payload} bytes");
        let mut report = Report::new("publish", title);
        report.put("sync", self.sync.name(), "");
        let data = self.dir.create()?;
        let node = Node::start_on(data.path(), &[("MILLSTREAM__JOURNAL__SYNC", self.sync.name())])?;
        let target = Target::node(&node);

        let text = "x".repeat(*payload as usize);
        let event = move |number: u64| {
            format!(r#"{{"topic":"bench:{}","event":"b","data":"{text}"}}"#, number % u64::from(TOPICS))
        };
        let size = u64::from(*batch);
        let many = |number: u64| {
            let events: Vec<String> = (0..size).map(|index| event(number * size + index)).collect();
            format!("[{}]", events.join(","))
        };
        let before = Usage::of(node.pid());
        let (requests, time) = self.post(&target, usize::from(*connections), many)?;
        let cpu = cpu_seconds(before, Usage::of(node.pid()));
        let published = requests * size;
        let over_http = rate(published, time);
        report.ratio("batchedPerS", over_http, "events over HTTP");
        report.ratio("cpuUsPerEvent", cpu.map(|cpu| cpu * 1e6 / float(published.max(1))), "µs");
        let (singles, time) = self.post(&target, 1, &event)?;
        let one = rate(singles, time);
        report.ratio("singlesPerS", one, "by one publisher");
        let (singles, time) = self.post(&target, 8, &event)?;
        let eight = rate(singles, time);
        report.ratio("singlesOf8PerS", eight, "by eight publishers");
        report.ratio("eightToOne", eight.zip(one).map(|(eight, one)| eight / one), "");
        drop(node);
        let own = self.own_rate()?;
        report.ratio("journalPerS", own, "events, the same batches without HTTP");
        report.ratio("journalToHttp", own.zip(over_http).map(|(own, http)| own / http), "");
        Ok(report)
    }

    /// Posts as fast as acknowledged; gives the number of requests and the time.
    fn post(
        &self,
        target: &Target,
        connections: usize,
        body: impl Fn(u64) -> String,
    ) -> Result<(u64, Duration), String> {
        // Created before the start, so that the node is measured and not this program.
        let bodies = (0..(connections * BODIES) as u64).map(body).collect::<Vec<_>>();
        let clock = Clock::start();
        let until = nanos(Duration::from_secs(self.secs.into()));
        let publish = |bodies: &[String]| {
            let mut connection = Connection::open(target)?;
            let mut done = 0;
            while clock.now() < until {
                connection.post(&bodies[done % bodies.len()])?;
                done += 1;
            }
            Ok::<_, String>(done as u64)
        };
        let done = std::thread::scope(|scope| {
            let threads: Vec<_> = bodies.chunks(BODIES).map(|bodies| scope.spawn(move || publish(bodies))).collect();
            let done =
                threads.into_iter().map(|thread| thread.join().map_err(|_| "a publisher panicked".to_owned())?);
            done.collect::<Result<Vec<u64>, String>>()
        })?;
        Ok((done.into_iter().sum(), Duration::from_nanos(clock.now())))
    }

    /// The rate of the journal with the same batches.
    fn own_rate(&self) -> Result<Option<f64>, String> {
        let data = self.dir.create()?;
        let config = Config { sync: self.sync.mode, ..Config::default() };
        let journal = Embedded::open(&config, data.path()).map_err(|error| error.to_string())?;
        let topics: Vec<Topic> = (0..TOPICS).map(topic).collect();
        let text = Arc::<str>::from("x".repeat(self.payload as usize));
        let clock = Clock::start();
        let until = nanos(Duration::from_secs(self.secs.into()));
        let publisher = async |_| {
            let mut done = 0;
            while clock.now() < until {
                let draft =
                    |index: u16| Draft::new(topics[(done + usize::from(index)) % topics.len()].clone(), "b", &*text);
                let batch = Batch::events((0..self.batch).map(draft).collect());
                journal.append(batch).await.map_err(|error| error.to_string())?;
                done += usize::from(self.batch);
            }
            Ok::<_, String>(done as u64)
        };
        let done = runtime()?.block_on(join_all((0..self.connections).map(publisher)));
        let done: u64 = done.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum();
        Ok(rate(done, Duration::from_nanos(clock.now())))
    }
}
