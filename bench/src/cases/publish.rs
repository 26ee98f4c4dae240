//! `bench publish`: what of the journal's rate is left behind HTTP, and how well single publishers share commits.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use futures::future::join_all;

use super::journal::mode;
use crate::{
    clock::{Clock, nanos},
    process::Node,
    publisher::Connection,
    report::{Report, float, rate},
    scratch::Scratch,
    target::Target,
    usage::Usage,
};
use millstream::{
    event::Draft,
    journal::{Batch, Config, Embedded, Journal, SyncMode},
    topic::Topic,
};

/// A case of publishing.
#[derive(Args, Clone, Debug)]
pub struct PublishArguments {
    /// Events in a batch.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Connections at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    payload: u32,
    /// Seconds that each part takes.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    secs: u16,
    /// When an event is on the disk: always, interval or os.
    #[arg(long, value_name = "MODE", default_value = "always", value_parser = mode)]
    sync: SyncMode,
    /// Where the data go for the time of the measurement; the system's temporary directory where it is not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Topics of the batches.
const TOPICS: u64 = 1000;

// === impl PublishArguments ===

impl PublishArguments {
    pub fn run(&self) -> Result<Report, String> {
        let Self { batch, connections, payload, .. } = self;
        let title = format!("publish: {connections} connections, batches of {batch}, {payload} bytes");
        let mut report = Report::new("publish", title);
        let sync = format!("{:?}", self.sync).to_lowercase();
        report.put("sync", sync.clone(), "");
        let scratch = Scratch::new(self.dir.as_deref())?;
        let node = Node::start_on(scratch.path(), &[("MILLSTREAM__JOURNAL__SYNC", sync)])?;
        let target = Target::node(&node);

        let data = "x".repeat(*payload as usize);
        let event =
            move |number: u64| format!(r#"{{"topic":"bench:{}","event":"b","data":"{data}"}}"#, number % TOPICS);
        let size = u64::from(*batch);
        let many = {
            let event = event.clone();
            move |number: u64| {
                let events: Vec<String> = (0..size).map(|index| event(number * size + index)).collect();
                format!("[{}]", events.join(","))
            }
        };
        let begun = Usage::of(node.pid());
        let (requests, time) = self.post(&target, usize::from(*connections), many)?;
        let used = begun.zip(Usage::of(node.pid())).map(|(begun, now)| now.cpu.saturating_sub(begun.cpu));
        let published = requests * size;
        let over_http = rate(published, time);
        report.ratio("batchedPerS", over_http, "events over HTTP");
        report.ratio("cpuUsPerEvent", used.map(|cpu| cpu.as_secs_f64() * 1e6 / float(published.max(1))), "µs");
        let (singles, time) = self.post(&target, 1, event.clone())?;
        let one = rate(singles, time);
        report.ratio("singlesPerS", one, "by one publisher");
        let (singles, time) = self.post(&target, 8, event)?;
        let eight = rate(singles, time);
        report.ratio("singlesOf8PerS", eight, "by eight publishers");
        report.ratio("eightToOne", eight.zip(one).map(|(eight, one)| eight / one), "");
        drop(node);
        let own = self.own_rate()?;
        report.ratio("journalPerS", own, "events, the same batches without HTTP");
        report.ratio("journalToHttp", own.zip(over_http).map(|(own, http)| own / http), "");
        Ok(report)
    }

    /// Posts as fast as acknowledged; gives the requests and the time.
    fn post(
        &self,
        target: &Target,
        connections: usize,
        body: impl Fn(u64) -> String + Clone + Send + 'static,
    ) -> Result<(u64, Duration), String> {
        let clock = Clock::start();
        let until = nanos(Duration::from_secs(self.secs.into()));
        let run = |index: usize| {
            let (target, body) = (target.clone(), body.clone());
            std::thread::spawn(move || -> Result<u64, String> {
                let mut connection = Connection::open(&target)?;
                // Made beforehand, so that the node is measured and not this program.
                let bodies: Vec<String> = (0..16).map(|number| body(number + 16 * index as u64)).collect();
                let mut done = 0;
                while clock.now() < until {
                    connection.post(&bodies[done % bodies.len()])?;
                    done += 1;
                }
                Ok(done as u64)
            })
        };
        let threads: Vec<_> = (0..connections).map(run).collect();
        let done = threads.into_iter().map(|thread| thread.join().map_err(|_| "a publisher panicked".to_owned())?);
        let done = done.collect::<Result<Vec<u64>, String>>()?.into_iter().sum();
        Ok((done, Duration::from_nanos(clock.now())))
    }

    /// The journal's own rate with the same batches.
    fn own_rate(&self) -> Result<Option<f64>, String> {
        let scratch = Scratch::new(self.dir.as_deref())?;
        let config = Config { sync: self.sync, ..Config::default() };
        let journal = Embedded::open(&config, scratch.path()).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let topics: Vec<Topic> =
            (0..TOPICS).map(|number| Topic::new(format!("bench:{number}")).expect("it is a name")).collect();
        let data = Arc::<str>::from("x".repeat(self.payload as usize));
        let clock = Clock::start();
        let until = nanos(Duration::from_secs(self.secs.into()));
        let publisher = async |_| {
            let mut done = 0;
            while clock.now() < until {
                let draft =
                    |index: u16| Draft::new(topics[(done + usize::from(index)) % topics.len()].clone(), "b", &*data);
                journal.append(Batch::events((0..self.batch).map(draft).collect())).await.map_err(|e| e.to_string())?;
                done += usize::from(self.batch);
            }
            Ok::<_, String>(done as u64)
        };
        let done = runtime.block_on(join_all((0..self.connections).map(publisher)));
        let done: u64 = done.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum();
        Ok(rate(done, Duration::from_nanos(clock.now())))
    }
}
