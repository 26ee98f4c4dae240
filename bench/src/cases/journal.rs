//! `bench journal`: the journal alone, without HTTP: how fast it takes events, comes up again, and gives them back.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use futures::future::join_all;
use tokio::runtime::Runtime;

use crate::{
    process::Node,
    report::{Report, float, histogram, rate},
    scratch::Scratch,
    usage::Usage,
};
use millstream::{
    event::Draft,
    journal::{Batch, Config, Embedded, Journal, Query, SyncMode},
    topic::{Pattern, Topic},
};

/// A case of keeping.
#[derive(Args, Clone, Debug)]
pub struct JournalArguments {
    /// Events.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    events: u32,
    /// Topics that they go to, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: u32,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    payload: u32,
    /// Events in a batch.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Publishers at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    publishers: u32,
    /// When an event is on the disk: always, interval or os.
    #[arg(long, value_name = "MODE", default_value = "always", value_parser = mode)]
    sync: SyncMode,
    /// Where the data go for the time of the measurement; the system's temporary directory where it is not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Events that a resume asks for.
const RESUMED: usize = 1000;
/// Topics that are resumed.
const RESUMES: usize = 1000;

/// Reads a mode of syncing.
pub fn mode(text: &str) -> Result<SyncMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "it is `always`, `interval` or `os`".to_owned())
}

// === impl JournalArguments ===

impl JournalArguments {
    pub fn run(&self) -> Result<Report, String> {
        let scratch = Scratch::new(self.dir.as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let Self { events, topics, payload, batch, publishers, .. } = self;
        let title = format!(
            "journal: {events} events of {payload} bytes over {topics} topics, {publishers} publishers, batches of {batch}"
        );
        let mut report = Report::new("journal", title);
        report.put("sync", format!("{:?}", self.sync).to_lowercase(), "");

        let journal = self.open(scratch.path())?;
        let (filled, time) = self.fill(&runtime, &journal, *events, *batch, *publishers)?;
        report.ratio("appendedPerS", rate(filled, time), "");
        report.ratio("eventsPerCommit", Some(float(filled) / float(journal.stats().commits.max(1))), "");
        drop(journal);
        let opened = |clean: bool| -> Result<(Arc<Embedded>, Duration), String> {
            let begun = Instant::now();
            let journal = self.open(scratch.path())?;
            let time = begun.elapsed();
            if clean {
                runtime.block_on(journal.close());
                return Ok((self.open(scratch.path())?, time));
            }
            Ok((journal, time))
        };
        let (journal, time) = opened(true)?;
        report.ratio("openedAfterCrashMs", Some(time.as_secs_f64() * 1000.0), "ms");
        drop(journal);
        let (journal, time) = opened(false)?;
        report.ratio("openedAfterStopMs", Some(time.as_secs_f64() * 1000.0), "ms");
        let kept = journal.stats().events;
        report.put("events", kept, "");
        if kept < filled {
            report.unclean();
        }
        self.resume(&runtime, &journal, &mut report)?;
        report.ratio("diskBytesPerEvent", Some(float(journal.stats().disk_bytes) / float(kept.max(1))), "");
        runtime.block_on(journal.close());
        drop(journal);

        // A node of its own shows what of that is memory.
        let begun = Instant::now();
        let node = Node::start_on(scratch.path(), &self.settings())?;
        report.ratio("nodeReadyMs", Some(begun.elapsed().as_secs_f64() * 1000.0), "ms");
        let rss = Usage::of(node.pid()).map(|usage| float(usage.rss) / f64::from(1 << 20));
        report.ratio("nodeRssMib", rss, "MiB");
        drop(node);

        for (name, publishers) in [("singlesPerS", 1), ("singlesOf8PerS", 8)] {
            let scratch = Scratch::new(self.dir.as_deref())?;
            let journal = self.open(scratch.path())?;
            let (count, time) = self.fill(&runtime, &journal, 2000 * publishers, 1, publishers)?;
            report.ratio(name, rate(count, time), "");
        }
        Ok(report)
    }

    /// Everything is to be kept.
    fn config(&self) -> Config {
        Config { sync: self.sync, retention_events: 0, retention_bytes: 0, max_bytes: 1 << 40, ..Config::default() }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let sync = format!("{:?}", self.sync).to_lowercase();
        vec![
            ("MILLSTREAM__JOURNAL__SYNC", sync),
            ("MILLSTREAM__JOURNAL__RETENTION_EVENTS", "0".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_BYTES", "0".into()),
            ("MILLSTREAM__JOURNAL__MAX_BYTES", (1_u64 << 40).to_string()),
        ]
    }

    /// A journal that was dropped a moment ago may still hold its lock.
    fn open(&self, dir: &Path) -> Result<Arc<Embedded>, String> {
        Embedded::open(&self.config(), dir).map(Arc::new).map_err(|error| error.to_string())
    }

    fn topic(number: u32) -> Topic {
        Topic::new(format!("bench:{number}")).expect("a number makes a good name")
    }

    /// Appends so many events; gives their number and the time.
    fn fill(
        &self,
        runtime: &Runtime,
        journal: &Arc<Embedded>,
        events: u32,
        batch: u32,
        publishers: u32,
    ) -> Result<(u64, Duration), String> {
        let data = "x".repeat(self.payload as usize);
        let draft = |number: u32| Draft::new(Self::topic(number % self.topics), "bench", data.clone());
        let share = events / publishers;
        let publisher = async |first: u32| {
            let mut done = 0;
            while done < share {
                let size = batch.min(share - done);
                let drafts = (first + done..first + done + size).map(draft).collect();
                journal.append(Batch::events(drafts)).await.map_err(|error| error.to_string())?;
                done += size;
            }
            Ok::<_, String>(u64::from(done))
        };
        let begun = Instant::now();
        let done = runtime.block_on(join_all((0..publishers).map(|number| publisher(number * share))));
        let done: u64 = done.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum();
        Ok((done, begun.elapsed()))
    }

    /// The last events of many topics, none of which is in memory yet.
    fn resume(&self, runtime: &Runtime, journal: &Arc<Embedded>, report: &mut Report) -> Result<(), String> {
        let mut times = histogram();
        let mut least = usize::MAX;
        for number in 0..RESUMES {
            let topic = Self::topic(u32::try_from(number * 7919).unwrap_or(0) % self.topics);
            let patterns: Arc<[Pattern]> = [Pattern::from(topic)].into();
            let begun = Instant::now();
            let found = runtime.block_on(async {
                let after = journal.before_last(patterns.clone(), RESUMED).await?;
                let mut query = Query { patterns, after, floor: after, limit: 256, max_bytes: 1 << 20 };
                let (mut found, head) = (0, *journal.watch_head().borrow());
                while query.after < head {
                    let page = journal.read(query.clone()).await?;
                    found += page.events.len();
                    query.after = page.through;
                }
                Ok::<_, millstream::journal::Unavailable>(found)
            });
            crate::report::record(&mut times, u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
            least = least.min(found.map_err(|error| error.to_string())?);
        }
        report.put("resumedEvents", least, "at least, each time");
        report.times(&[("resumeP50Ms", 0.5), ("resumeP99Ms", 0.99), ("resumeMaxMs", 1.0)], &times);
        Ok(())
    }
}
