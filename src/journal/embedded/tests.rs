//! Tests of the journal on disk that the contract cannot contain: its files, and the index restored from them.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Instant,
};

use super::*;
use crate::{
    event::{Draft, now_ms},
    journal::{RecordWrite, Retention, Shared as Journal_, SyncMode},
};

mod clock;
mod damage;
mod disk;
mod epoch;
mod model;
mod rejected;
mod reopen;
mod values;

/// A new journal in a directory that is deleted with the test process.
pub(crate) fn fresh(config: &Config) -> Journal_ {
    let config = Config { sync: SyncMode::Os, min_free_bytes: 0, ..config.clone() };
    Arc::new(Embedded::open(&config, &directory()).unwrap())
}

/// A directory that is deleted with the test process.
fn directory() -> PathBuf {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let root = ROOT.get_or_init(|| tempfile::tempdir().unwrap());
    root.path().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
}

/// A journal that a test opens several times.
struct Reopened {
    dir: PathBuf,
    config: Config,
    /// The clock of the journal; the system clock if it is `None`.
    clock: Option<Clock>,
    journal: Option<Embedded>,
}

// === impl Reopened ===

impl Reopened {
    fn new(config: Config) -> Self {
        let config = Config { min_free_bytes: 0, sync: SyncMode::Os, ..config };
        let dir = directory();
        let journal = Some(Embedded::open(&config, &dir).unwrap());
        Self { dir, config, clock: None, journal }
    }

    /// Stops cleanly.
    async fn close(&mut self) {
        let journal = self.journal.take().unwrap();
        journal.close().await;
    }

    /// Stops as a killed process does, except for the work of `drop`.
    fn drop(&mut self) {
        self.journal = None;
    }

    /// Opens the journal as soon as the writer of the earlier one has ended.
    fn open(&mut self) -> Result<(), OpenError> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let clock = self.clock.clone().unwrap_or_else(Clock::system);
            match Embedded::with_clock(&self.config, &self.dir, clock) {
                Err(OpenError::InUse { .. }) if Instant::now() < until => std::thread::yield_now(),
                opened => {
                    self.journal = Some(opened?);
                    return Ok(());
                }
            }
        }
    }

    async fn reopen(&mut self, clean: bool) {
        if clean {
            self.close().await;
        } else {
            self.drop();
        }
        self.open().unwrap();
    }

    async fn put(&self, topics: &[&str], data: &str) -> u64 {
        self.append(vec![draft(topics, data)]).await[0].position.offset
    }

    async fn append(&self, events: Vec<Draft>) -> Vec<Receipt> {
        Journal::append(&**self, Batch::events(events)).await.unwrap()
    }

    async fn all(&self) -> Page {
        self.after(0).await
    }

    async fn after(&self, after: u64) -> Page {
        let patterns = vec![Pattern::any()].into();
        self.read(Query { patterns, after, floor: 0, limit: usize::MAX, max_bytes: usize::MAX }).await.unwrap()
    }

    async fn data(&self) -> Vec<String> {
        self.all().await.events.iter().map(|event| event.data.to_string()).collect()
    }

    async fn write(&self, key: &str, value: Option<Bytes>) {
        let records = vec![RecordWrite { key: key.into(), value }];
        Journal::append(&**self, Batch { records, ..Batch::default() }).await.unwrap();
    }

    async fn value(&self, key: &str) -> Option<Bytes> {
        self.get(key.into()).await.unwrap().map(|record| record.value)
    }

    /// Number of segments on the disk.
    fn segments(&self) -> usize {
        let names = std::fs::read_dir(self.dir.join("journal")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".seg")).count()
    }

    /// Waits until the writer thread has nothing to clean.
    async fn cleaned(&self) {
        let is_due = || self.committer.lock().unwrap().as_ref().unwrap().is_cleaning_due();
        while is_due() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The directory, as soon as the writer of the journal has ended.
    fn stopped(&self) -> data_dir::DataDir {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match data_dir::DataDir::take(&self.dir) {
                Err(OpenError::InUse { .. }) if Instant::now() < until => std::thread::yield_now(),
                taken => return taken.unwrap(),
            }
        }
    }
}

impl std::ops::Deref for Reopened {
    type Target = Embedded;

    fn deref(&self) -> &Embedded {
        self.journal.as_ref().expect("it is open")
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn draft(topics: &[&str], data: &str) -> Draft {
    Draft { topics: topics.iter().map(|name| topic(name)).collect(), data: data.into(), ..Draft::default() }
}

/// Bytes that cannot be compressed.
fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(2) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn keep(pattern: &str, events: u64) -> Retention {
    Retention { topic: pattern.into(), retention_ms: None, retention_events: Some(events), retention_bytes: None }
}
