//! The journal in memory: the reference adapter, gone with the process.
//!
//! A thin shell around [`log::Log`], the pure core: one lock, held for the time of one batch or one page; nothing in
//! here waits. The epoch is random, so that a client of an earlier process is told of the gap.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::{
    AppendError, Batch, BoxFuture, Config, Journal, Page, Query, Receipt, Record, Since, Stats, TopicInfo, Unavailable,
};
use crate::{
    event::now_ms,
    topic::{Pattern, Topic},
};

mod dedupe;
mod log;
mod read;
mod records;
mod retention;
mod topics;

#[cfg(test)]
mod tests;

use self::log::Log;

/// The adapter `kind = "memory"`.
pub struct Memory {
    log: RwLock<Log>,
    head: watch::Sender<u64>,
    epoch: u64,
}

// === impl Memory ===

impl Memory {
    /// An empty journal with a fresh epoch.
    pub fn new(config: &Config) -> Self {
        // The high bit keeps all epochs the same length; 0 is never one.
        let epoch = rand::random::<u64>() >> 16 | 1 << 47;
        Self { log: RwLock::new(Log::new(config, epoch)), head: watch::Sender::new(0), epoch }
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Log> {
        self.log.read().expect("no code that holds the lock panics")
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Log> {
        self.log.write().expect("no code that holds the lock panics")
    }
}

impl Journal for Memory {
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>> {
        Box::pin(async move {
            let mut log = self.write_lock();
            let receipts = log.append(batch, now_ms())?;
            let head = log.head();
            // Under the lock: the head never goes back.
            self.head.send_if_modified(|seen| std::mem::replace(seen, head) != head);
            Ok(receipts)
        })
    }

    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().read(&query, now_ms())) })
    }

    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().since(after, limit, now_ms())) })
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().before_last(&patterns, count, now_ms())) })
    }

    fn before_time(&self, timestamp: u64) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().before_time(timestamp)) })
    }

    fn topics(
        &self,
        pattern: Pattern,
        after: Option<Topic>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<TopicInfo>, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().topic_infos(&pattern, after.as_ref(), limit)) })
    }

    fn purge(&self, topic: Topic) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move { Ok(self.write_lock().purge(&topic, now_ms())) })
    }

    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().records.get(&key)) })
    }

    fn scan(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Record)>, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().records.scan(&prefix, after.as_deref(), limit)) })
    }

    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>> {
        Box::pin(async move {
            // In slices, so that publishers get their turns between them.
            while self.write_lock().sweep(now_ms) {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    }

    fn stats(&self) -> Stats {
        self.read_lock().stats()
    }
}
