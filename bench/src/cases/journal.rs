//! `journal`: the journal alone, without HTTP. Measures how fast it appends, opens and resumes, and its memory and disk.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use futures::future::join_all;
use millstream::{
    event::Draft,
    journal::{Batch, Config, Embedded, Journal, Query, SyncMode, Unavailable},
    topic::{Pattern, Topic},
};
use tokio::runtime::Runtime;

mod paced;

use self::paced::Pace;
use crate::{
    clock::nanos,
    data::{DirArguments, SyncArguments},
    process::Node,
    report::{Report, float, histogram, rate, record},
    usage::Usage,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct JournalArguments {
    /// Events.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    events: u32,
    /// Topics of the events, taken in turn.
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
    /// Seconds of single commits at a steady rate, with `sync = "os"`; 0: none.
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3600))]
    paced_secs: u32,
    /// These commits per second, over 1,000 topics that keep 50 events each.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    paced_per_s: u32,
    #[command(flatten)]
    sync: SyncArguments,
    #[command(flatten)]
    dir: DirArguments,
}

/// Events of a resume.
const RESUMED: usize = 1000;
/// Topics that are resumed.
const RESUMES: u32 = 1000;

/// The capacity of the journal; no event is deleted.
const MAX_BYTES: u64 = 1 << 40;

// === impl JournalArguments ===

impl JournalArguments {
    pub(crate) fn run(&self) -> Result<Report, String> {
        let data = self.dir.create()?;
        let runtime = runtime()?;
        let Self { events, topics, payload, batch, publishers, .. } = self;
        let title = format!(
            "journal: {events} events of {payload} bytes over {topics} topics, {publishers} publishers, batches of {batch}"
        );
        let mut report = Report::new("journal", title);
        report.put("sync", self.sync.name(), "");

        let journal = self.open(data.path())?;
        let (filled, time) = self.fill(&runtime, &journal, *events, *batch, *publishers)?;
        report.ratio("appendedPerS", rate(filled, time), "");
        report.ratio("eventsPerCommit", Some(float(filled) / float(journal.stats().commits.max(1))), "");
        // Without `close` it is opened as after a crash.
        drop(journal);
        let (journal, ms) = self.open_timed(data.path())?;
        report.ratio("openedAfterCrashMs", Some(ms), "ms");
        runtime.block_on(journal.close());
        drop(journal);
        let (journal, ms) = self.open_timed(data.path())?;
        report.ratio("openedAfterStopMs", Some(ms), "ms");
        let kept = journal.stats().events;
        report.put("events", kept, "");
        if kept < filled {
            report.unclean();
        }
        self.resume(&runtime, &journal, &mut report)?;
        report.ratio("diskBytesPerEvent", Some(float(journal.stats().disk_bytes) / float(kept.max(1))), "");
        runtime.block_on(journal.close());
        drop(journal);

        // The memory of a node that opens this journal.
        let begun = Instant::now();
        let node = Node::start_on(data.path(), &self.settings())?;
        report.ratio("nodeReadyMs", Some(begun.elapsed().as_secs_f64() * 1000.0), "ms");
        report.mib("nodeRssMib", Usage::of(node.pid()).map(|usage| usage.rss), "MiB");
        drop(node);

        for (name, publishers) in [("singlesPerS", 1), ("singlesOf8PerS", 8)] {
            let data = self.dir.create()?;
            let journal = self.open(data.path())?;
            let (count, time) = self.fill(&runtime, &journal, 2000 * publishers, 1, publishers)?;
            report.ratio(name, rate(count, time), "");
        }
        if self.paced_secs > 0 {
            self.paced(&mut report)?;
        }
        Ok(report)
    }

    fn paced(&self, report: &mut Report) -> Result<(), String> {
        let pace = Pace { per_s: self.paced_per_s, secs: self.paced_secs, topics: 1000, payload: self.payload };
        let data = self.dir.create()?;
        let config = Config { sync: SyncMode::Os, retention_events: 50, ..Config::default() };
        let journal = Embedded::open(&config, data.path()).map(Arc::new).map_err(|error| error.to_string())?;
        pace.journal(&journal, report)?;
        drop(journal);
        pace.bare(self.dir.create()?.path(), report)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("MILLSTREAM__JOURNAL__SYNC", self.sync.name()),
            ("MILLSTREAM__JOURNAL__RETENTION_EVENTS", "0".into()),
            ("MILLSTREAM__JOURNAL__RETENTION_BYTES", "0".into()),
            ("MILLSTREAM__JOURNAL__MAX_BYTES", MAX_BYTES.to_string()),
        ]
    }

    fn open(&self, dir: &Path) -> Result<Arc<Embedded>, String> {
        let sync = self.sync.mode;
        let config =
            Config { sync, retention_events: 0, retention_bytes: 0, max_bytes: MAX_BYTES, ..Config::default() };
        Embedded::open(&config, dir).map(Arc::new).map_err(|error| error.to_string())
    }

    /// Also gives the milliseconds that it took.
    fn open_timed(&self, dir: &Path) -> Result<(Arc<Embedded>, f64), String> {
        let begun = Instant::now();
        let journal = self.open(dir)?;
        Ok((journal, begun.elapsed().as_secs_f64() * 1000.0))
    }

    /// Appends events by several publishers; gives the number of events and the time.
    fn fill(
        &self,
        runtime: &Runtime,
        journal: &Arc<Embedded>,
        events: u32,
        batch: u32,
        publishers: u32,
    ) -> Result<(u64, Duration), String> {
        let data = "x".repeat(self.payload as usize);
        let draft = |number: u32| Draft::new(topic(number % self.topics), "bench", data.clone());
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

    /// Reads the last events of many topics. None of them is in memory before.
    fn resume(&self, runtime: &Runtime, journal: &Embedded, report: &mut Report) -> Result<(), String> {
        let mut times = histogram();
        let mut least = usize::MAX;
        for number in 0..RESUMES {
            // Topics far apart, so that neighbours do not help each other.
            let patterns: Arc<[Pattern]> = [Pattern::from(topic(number * 7919 % self.topics))].into();
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
                Ok::<_, Unavailable>(found)
            });
            record(&mut times, nanos(begun.elapsed()));
            least = least.min(found.map_err(|error| error.to_string())?);
        }
        report.put("resumedEvents", least, "at least, each time");
        report.times(&[("resumeP50Ms", 0.5), ("resumeP99Ms", 0.99), ("resumeMaxMs", 1.0)], &times);
        Ok(())
    }
}

/// A topic of a measured journal.
pub(super) fn topic(number: u32) -> Topic {
    Topic::new(format!("bench:{number}")).expect("letters and digits are a valid name")
}

/// A runtime for the futures of a journal.
pub(super) fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("the runtime cannot start: {error}"))
}
