//! The journal on disk: the adapter for one node, in its data directory.
//!
//! ```text
//!  append ──┬─small──────────────> committer ──frame──> segments ──(sync)──> MARK ─┐
//!           └─queue──> writer thread ──┘  └──apply──> index (memory) ──> head      │ wakes the tails
//!  read, since ──offsets──> index ──locations──> cache, or segments on a blocking thread
//! ```
//!
//! The index uses about 80 bytes per stored event. Payloads are on disk; a cache of `cache_bytes` holds recent and often
//! read ones. Every acknowledgement fulfils the promise of `sync`. If acknowledged data are missing or have changed, the
//! directory is rejected and never opened in part: see [`OpenError::Damaged`].

use std::{
    path::Path,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::{
    AppendError, Batch, BoxFuture, Compacted, Config, Journal, Maintenance, MaintenanceReport, Notifier, OpenError,
    Page, Query, Receipt, Record, Since, Stats, SyncMode, TopicInfo, Unavailable,
    log::{BackwardSearch, Log},
    notifier::Notifiers,
};
use crate::{
    clock::Clock,
    event::SharedEvent,
    topic::{Pattern, Topic},
};

mod committer;
mod data_dir;
mod error;
mod exchange;
mod items;
mod offline;
mod open;
mod own_files;
mod read;
mod repair;
mod segments;
mod verify;
mod writer;

#[cfg(test)]
pub(super) mod tests;

use self::{
    committer::{Append, SharedCommitter},
    error::StoreError,
    segments::Files,
    writer::Command,
};
pub use self::{
    offline::{OfflineJournal, compact},
    repair::Repaired,
};

/// The adapter `kind = "embedded"`.
pub struct Embedded {
    shared: Arc<EmbeddedState>,
    committer: SharedCommitter,
    /// True if callers may commit.
    callers_commit: bool,
    /// `None` during `drop`, and in a journal that is only read.
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
    /// Free KiB of the queue of the writer.
    queue: Arc<Semaphore>,
    queue_kib: u32,
    queue_wait: Duration,
    /// Permits for reads from the disk.
    readers: Arc<Semaphore>,
    /// Permits one maintenance at a time.
    maintenance: Semaphore,
    /// Permits one step of a search at a time, in order of arrival.
    searches: Semaphore,
}

/// State that writer and readers share.
struct EmbeddedState {
    log: RwLock<Log>,
    files: Arc<Files>,
    events: Cache<u64, SharedEvent, Footprint>,
    head: watch::Sender<u64>,
    notifiers: Notifiers,
    epoch: u64,
    clock: Clock,
    commits: AtomicU64,
    /// Commits that held the thread of their caller for long.
    stalls: AtomicU64,
    disk_bytes: AtomicU64,
    /// The reason why writes are rejected now.
    refusal: RwLock<Option<Unavailable>>,
    /// True after the journal was closed.
    closed: AtomicBool,
    /// Wakes the writer thread.
    wake: Notify,
}

/// Gives the cache the size of events.
#[derive(Clone)]
struct Footprint;

/// Maximum number of waiting commands. The bytes of their batches have their own limit.
const QUEUE: usize = 4096;
/// Maximum number of reads from the disk at once. More would take processor time from the delivery.
const READERS: usize = 2;
/// Maximum size of a batch that its caller commits. A larger one would hold the caller's thread.
const CALLER_BYTES: usize = 64 << 10;

// === impl Embedded ===

impl Embedded {
    /// Opens the journal in a data directory, which is created if it does not exist.
    ///
    /// # Errors
    /// If another process uses the directory, it cannot be used, or its content is damaged.
    pub fn open(config: &Config, dir: &Path) -> Result<Self, OpenError> {
        Self::with_clock(config, dir, Clock::system())
    }

    /// Like [`open`](Self::open), with the clock of the node.
    ///
    /// # Errors
    /// If another process uses the directory, it cannot be used, or its content is damaged.
    pub fn with_clock(config: &Config, dir: &Path, clock: Clock) -> Result<Self, OpenError> {
        let (commands, waiting) = mpsc::channel(QUEUE);
        let (shared, committer, writer) = open::open(config, dir, clock, waiting)?;
        let mut journal = Self::around(config, shared, committer);
        (journal.commands, journal.writer) = (Some(commands), Some(writer));
        Ok(journal)
    }

    /// A journal that is only read.
    fn around(config: &Config, shared: Arc<EmbeddedState>, committer: SharedCommitter) -> Self {
        let queue_kib = u32::try_from(config.queue_bytes / 1024).unwrap_or(u32::MAX).max(1);
        Self {
            shared,
            committer,
            callers_commit: config.sync != SyncMode::Always,
            commands: None,
            writer: None,
            queue: Arc::new(Semaphore::new(queue_kib as usize)),
            queue_kib,
            queue_wait: Duration::from_millis(config.queue_wait_ms),
            readers: Arc::new(Semaphore::new(READERS)),
            maintenance: Semaphore::new(1),
            searches: Semaphore::new(1),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Unavailable> {
        let (reply, answered) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(Unavailable::Closed)?;
        commands.send(command(reply)).await.map_err(|_| Unavailable::Closed)?;
        answered.await.map_err(|_| Unavailable::Closed)
    }

    fn disk_bytes(&self) -> u64 {
        self.shared.refresh_disk_usage();
        self.shared.disk_bytes.load(Ordering::Relaxed)
    }

    async fn write(&self, batch: Batch) -> Result<Vec<Receipt>, AppendError> {
        let bytes = batch_bytes(&batch);
        let batch = match self.commit_here(batch, bytes) {
            Ok(done) => return done,
            Err(batch) => batch,
        };
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).saturating_add(1).min(self.queue_kib);
        let permit = tokio::time::timeout(self.queue_wait, self.queue.clone().acquire_many_owned(kib)).await;
        let permit = permit.map_err(|_| Unavailable::Busy)?.map_err(|_| Unavailable::Closed)?;
        self.ask(|reply| Command::Append(Append { batch, reply, _permit: permit })).await?
    }

    /// Commits on the thread of the caller. Returns the batch if it is left to the writer thread: it is large, others
    /// wait before it, another thread commits, or the last commit took long. So no caller waits for another one's disk.
    fn commit_here(&self, batch: Batch, bytes: usize) -> Result<Result<Vec<Receipt>, AppendError>, Batch> {
        let none_waits = self.queue.available_permits() == self.queue_kib as usize;
        if !self.callers_commit || bytes > CALLER_BYTES || !none_waits {
            return Err(batch);
        }
        match self.committer.try_lock().ok().as_deref_mut() {
            Some(Some(committer)) if !committer.is_slow() => Ok(committer.append(batch)),
            _ => Err(batch),
        }
    }
}

impl Journal for Embedded {
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>> {
        Box::pin(self.write(batch))
    }

    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>> {
        Box::pin(self.page(query))
    }

    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>> {
        Box::pin(self.tail(after, limit))
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.shared.head.subscribe()
    }

    fn listen(&self, notifier: &Arc<Notifier>) {
        self.shared.notifiers.add(notifier);
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    fn durable(&self) -> bool {
        true
    }

    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move {
            let mut search = BackwardSearch::new(patterns, count);
            loop {
                let turn = self.searches.acquire().await.map_err(|_| Unavailable::Closed)?;
                if let Some(position) = self.shared.log().search_step(&mut search, self.shared.clock.steady_ms()) {
                    return Ok(position);
                }
                drop(turn);
                // Other searches and other tasks of the thread run between two steps.
                tokio::task::yield_now().await;
            }
        })
    }

    fn before_time(&self, timestamp: u64) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move { Ok(self.shared.log().before_time(timestamp)) })
    }

    fn topics(
        &self,
        pattern: Pattern,
        after: Option<Topic>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<TopicInfo>, Unavailable>> {
        Box::pin(async move { Ok(self.shared.log().topic_infos(&pattern, after.as_ref(), limit)) })
    }

    fn purge(&self, topic: Topic) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move { self.ask(|reply| Command::Purge(topic, reply)).await? })
    }

    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>> {
        Box::pin(self.record(key))
    }

    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>> {
        Box::pin(async move { Ok(self.shared.log().record_keys(&prefix, after.as_deref(), limit)) })
    }

    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>> {
        Box::pin(async move { self.ask(|reply| Command::Sweep(now_ms, reply)).await? })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // An error means that the journal was already closed.
            let _ = self.ask(Command::Close).await;
        })
    }

    fn maintain(&self, work: Maintenance) -> BoxFuture<'_, Result<MaintenanceReport, Unavailable>> {
        Box::pin(async move {
            let _turn = self.maintenance.try_acquire().map_err(|_| Unavailable::Working)?;
            match work {
                Maintenance::Compact => {
                    let bytes_before = self.disk_bytes();
                    self.ask(Command::Compact).await??;
                    Ok(MaintenanceReport::Compacted(Compacted { bytes_before, bytes_after: self.disk_bytes() }))
                }
                Maintenance::Verify => {
                    let scan = self.ask(Command::Scan).await??;
                    let verified = self.run_blocking(move |_| verify::verify(&scan).map(|found| found.verified));
                    verified.await.map(MaintenanceReport::Verified)
                }
            }
        })
    }

    fn refusal(&self) -> Option<String> {
        self.shared.refusal().map(|why| why.to_string())
    }

    fn stats(&self) -> Stats {
        Stats {
            commits: self.shared.commits.load(Ordering::Relaxed),
            worker_stalls: self.shared.stalls.load(Ordering::Relaxed),
            refusing: self.shared.refusal().is_some(),
            disk_bytes: self.shared.disk_bytes.load(Ordering::Relaxed),
            queued_bytes: (u64::from(self.queue_kib) - self.queue.available_permits() as u64) * 1024,
            ..self.shared.log().stats()
        }
    }
}

impl Drop for Embedded {
    /// Waits for the running commit, after which the directory is free. The other steps of [`Journal::close`] are not
    /// done, as after a crash.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the journal's writer panicked");
        }
    }
}

/// Bytes that a batch occupies in the queue.
fn batch_bytes(batch: &Batch) -> usize {
    let events = batch.events.iter().map(|draft| draft.size() + size_of_val(draft));
    let records = batch.records.iter().map(|record| record.key.len() + record.value.as_ref().map_or(0, Bytes::len));
    events.sum::<usize>() + records.sum::<usize>()
}

// === impl EmbeddedState ===

impl EmbeddedState {
    fn log(&self) -> RwLockReadGuard<'_, Log> {
        self.log.read().expect("no code that holds the lock panics")
    }

    fn log_mut(&self) -> RwLockWriteGuard<'_, Log> {
        self.log.write().expect("no code that holds the lock panics")
    }

    fn refusal(&self) -> Option<Unavailable> {
        self.refusal.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or clears the reason why writes are rejected.
    fn set_refusal(&self, why: Option<Unavailable>) {
        *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Wakes the writer thread, which looks for work.
    fn wake_writer(&self) {
        self.wake.notify_one();
    }

    /// Publishes that events up to `head` can be read.
    fn publish_head(&self, head: u64) {
        self.head.send_if_modified(|seen| std::mem::replace(seen, head) != head);
    }

    /// Updates the number of bytes on the disk.
    fn refresh_disk_usage(&self) {
        self.disk_bytes.store(self.files.disk_bytes(), Ordering::Relaxed);
    }
}

// === impl Footprint ===

impl Weighter<u64, SharedEvent> for Footprint {
    fn weight(&self, _: &u64, event: &SharedEvent) -> u64 {
        event.footprint() as u64
    }
}
