//! The journal on disk: the adapter of one node, in a directory of its own.
//!
//! ```text
//!  append ──bounded queue──> writer thread ──commit, sync──> store ─┐
//!                               └──apply──> index (memory) ──> head │ wakes the tails
//!  read, since ──which events──> index ──payloads──> cache ──else──> store, off the caller's thread
//! ```
//!
//! The index holds about 60 bytes for each event that is kept; payloads stay on disk, the recent and the often read ones
//! also in a cache of `cache_bytes`. What `sync` promises holds for every acknowledgement. A directory that has lost or
//! changed anything that was acknowledged is refused, not opened in part: see [`OpenError::Damaged`].

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
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    AppendError, Batch, Bell, BoxFuture, Compacted, Config, Journal, Maintenance, OpenError, Page, Query, Receipt,
    Record, Report, Since, Stats, TopicInfo, Unavailable,
    bell::Bells,
    log::{Log, Walk},
};
use crate::{
    clock::Clock,
    event::SharedEvent,
    topic::{Pattern, Topic},
};

mod check;
mod exchange;
mod look;
mod open;
mod own_files;
mod place;
mod read;
mod repair;
mod restore;
mod rows;
mod salvage;
mod stopped;
mod store;
mod survey;
mod values;
mod verify;
mod writer;

#[cfg(test)]
pub(super) mod tests;

pub use self::{
    repair::Repaired,
    stopped::{Stopped, compact},
};
use self::{
    store::{Store, StoreError},
    writer::{Append, Command},
};

/// The adapter `kind = "embedded"`.
pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` while it is dropped.
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
    /// KiB that may wait for the writer.
    queue: Arc<Semaphore>,
    queue_kib: u32,
    queue_wait: Duration,
    /// How many may read from the disk at once.
    readers: Arc<Semaphore>,
    /// Work on the whole of it goes on one at a time.
    upkeep: Semaphore,
    /// Permits one step of a walk at a time, in order of arrival.
    walks: Semaphore,
}

/// What writer and readers share.
struct Shared {
    log: RwLock<Log>,
    /// `None` once it is closed, and while it is opened again.
    store: RwLock<Option<Store>>,
    events: Cache<u64, SharedEvent, Footprint>,
    head: watch::Sender<u64>,
    bells: Bells,
    epoch: u64,
    clock: Clock,
    commits: AtomicU64,
    disk_bytes: AtomicU64,
    /// The reason why writes are rejected now.
    refusal: RwLock<Option<Unavailable>>,
    /// Tells whether the store is gone for good: who hears of an end does not come back.
    closed: AtomicBool,
}

/// Weighs events for the cache.
#[derive(Clone)]
struct Footprint;

/// Commands that may wait beside the bytes that they carry.
const QUEUE: usize = 4096;
/// Reads from the disk at once: more would only take the processor from those who deliver.
const READERS: usize = 2;

// === impl Embedded ===

impl Embedded {
    /// Opens the journal in a data directory, which is made if need be.
    ///
    /// # Errors
    /// When another process uses it, when it cannot be had, or when it is damaged.
    pub fn open(config: &Config, dir: &Path) -> Result<Self, OpenError> {
        Self::with_clock(config, dir, Clock::system())
    }

    /// Like [`open`](Self::open), with the node's clock.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_clock(config: &Config, dir: &Path, clock: Clock) -> Result<Self, OpenError> {
        let (commands, waiting) = mpsc::channel(QUEUE);
        let (shared, writer) = open::open(config, dir, clock, waiting)?;
        let queue_kib = u32::try_from(config.queue_bytes / 1024).unwrap_or(u32::MAX).max(1);
        Ok(Self {
            shared,
            commands: Some(commands),
            writer: Some(writer),
            queue: Arc::new(Semaphore::new(queue_kib as usize)),
            queue_kib,
            queue_wait: Duration::from_millis(config.queue_wait_ms),
            readers: Arc::new(Semaphore::new(READERS)),
            upkeep: Semaphore::new(1),
            walks: Semaphore::new(1),
        })
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(Unavailable::Closed)?;
        commands.send(command(answer)).await.map_err(|_| Unavailable::Closed)?;
        answered.await.map_err(|_| Unavailable::Closed)
    }

    fn disk_bytes(&self) -> u64 {
        self.shared.weigh();
        self.shared.disk_bytes.load(Ordering::Relaxed)
    }

    async fn write(&self, batch: Batch) -> Result<Vec<Receipt>, AppendError> {
        let kib = u32::try_from(weight(&batch) / 1024).unwrap_or(u32::MAX).saturating_add(1).min(self.queue_kib);
        let room = tokio::time::timeout(self.queue_wait, self.queue.clone().acquire_many_owned(kib)).await;
        let room = room.map_err(|_| Unavailable::Busy)?.map_err(|_| Unavailable::Closed)?;
        self.ask(|answer| Command::Append(Append { batch, answer, room })).await?
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

    fn listen(&self, bell: &Arc<Bell>) {
        self.shared.bells.add(bell);
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    fn durable(&self) -> bool {
        true
    }

    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move {
            let mut walk = Walk::new(patterns, count);
            loop {
                let turn = self.walks.acquire().await.map_err(|_| Unavailable::Closed)?;
                if let Some(position) = self.shared.log().step_back(&mut walk, self.shared.clock.steady_ms()) {
                    return Ok(position);
                }
                drop(turn);
                // Let other walks and other tasks of the thread run between two steps.
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
        Box::pin(async move { self.ask(|answer| Command::Purge(topic, answer)).await? })
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
        Box::pin(async move { self.ask(|answer| Command::Sweep(now_ms, answer)).await? })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // An error means that it was closed before.
            let _ = self.ask(Command::Close).await;
        })
    }

    fn maintain(&self, work: Maintenance) -> BoxFuture<'_, Result<Report, Unavailable>> {
        Box::pin(async move {
            let _turn = self.upkeep.try_acquire().map_err(|_| Unavailable::Working)?;
            match work {
                Maintenance::Compact => {
                    let bytes_before = self.disk_bytes();
                    self.ask(Command::Flush).await??;
                    // Beside the writer: nobody's commit waits for it.
                    self.off_thread(|shared| shared.with_store(Store::compact)).await?;
                    Ok(Report::Compacted(Compacted { bytes_before, bytes_after: self.disk_bytes() }))
                }
                Maintenance::Verify => self.off_thread(Shared::verify).await.map(Report::Verified),
            }
        })
    }

    fn refusal(&self) -> Option<String> {
        self.shared.refusal().map(|why| why.to_string())
    }

    fn stats(&self) -> Stats {
        Stats {
            commits: self.shared.commits.load(Ordering::Relaxed),
            refusing: self.shared.refusal().is_some(),
            disk_bytes: self.shared.disk_bytes.load(Ordering::Relaxed),
            queued_bytes: (u64::from(self.queue_kib) - self.queue.available_permits() as u64) * 1024,
            ..self.shared.log().stats()
        }
    }
}

impl Drop for Embedded {
    /// Waits for the commit that is being written: the directory is free afterwards. What [`Journal::close`] does besides
    /// is left undone, as in a crash.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the journal's writer panicked");
        }
    }
}

/// Bytes that a batch takes while it waits.
fn weight(batch: &Batch) -> usize {
    let events = batch.events.iter().map(|draft| draft.size() + size_of_val(draft));
    let records = batch.records.iter().map(|record| record.key.len() + record.value.as_ref().map_or(0, Bytes::len));
    events.sum::<usize>() + records.sum::<usize>()
}

// === impl Shared ===

impl Shared {
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
    fn refuse(&self, why: Option<Unavailable>) {
        *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn store_slot(&self) -> RwLockWriteGuard<'_, Option<Store>> {
        self.store.write().expect("no code that holds the lock panics")
    }

    fn set_store(&self, store: Option<Store>) {
        *self.store_slot() = store;
    }

    fn with_store<T>(&self, work: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let slot = self.store.read().expect("no code that holds the lock panics");
        let absent = || match self.closed.load(Ordering::Relaxed) {
            true => StoreError::Closed,
            false => StoreError::Io("the store is being opened again".into()),
        };
        work(slot.as_ref().ok_or_else(absent)?)
    }

    /// Says that events up to `head` can be read.
    fn tell(&self, head: u64) {
        self.head.send_if_modified(|seen| std::mem::replace(seen, head) != head);
    }

    /// Looks how much the disk holds.
    fn weigh(&self) {
        if let Ok(bytes) = self.with_store(|store| Ok(store.disk_bytes())) {
            self.disk_bytes.store(bytes, Ordering::Relaxed);
        }
    }
}

// === impl Footprint ===

impl Weighter<u64, SharedEvent> for Footprint {
    fn weight(&self, _: &u64, event: &SharedEvent) -> u64 {
        event.footprint() as u64
    }
}
