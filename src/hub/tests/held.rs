//! A memory journal whose page reads a test can block, fail, or damage in part.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tokio::sync::{RwLock, watch};

use crate::{
    clock::Clock,
    journal::{
        AppendError, Batch, BoxFuture, Config, Journal, Memory, Notifier, Page, Query, Receipt, Record, Since, Stats,
        TopicInfo, Unavailable,
    },
    topic::{Pattern, Topic},
};

/// A memory journal whose page reads a test can block or fail.
pub(super) struct Held {
    memory: Memory,
    /// While this lock is held for writing, page reads block.
    pub(super) pages: Arc<RwLock<()>>,
    pub(super) broken: AtomicBool,
    /// The event at this offset cannot be read; 0 for none.
    pub(super) damaged: AtomicU64,
    pub(super) panics: AtomicBool,
}

// === impl Held ===

impl Held {
    pub(super) fn new(config: &Config, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::with_clock(config, clock),
            pages: Arc::default(),
            broken: AtomicBool::default(),
            damaged: AtomicU64::default(),
            panics: AtomicBool::default(),
        })
    }

    fn unreadable(through: u64) -> Unavailable {
        Unavailable::Unreadable { through, reason: "it is damaged".into() }
    }
}

impl Journal for Held {
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>> {
        self.memory.append(batch)
    }

    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>> {
        Box::pin(async move {
            let _free = self.pages.read().await;
            assert!(!self.panics.load(SeqCst), "the test requested this panic");
            if self.broken.load(SeqCst) {
                return Err(Unavailable::Failed("it is broken".into()));
            }
            let mut page = self.memory.read(query).await;
            let damaged = self.damaged.load(SeqCst);
            if let Ok(found) = &mut page
                && let Some(at) = found.events.iter().position(|event| event.position.offset == damaged)
            {
                if at == 0 {
                    return Err(Self::unreadable(damaged));
                }
                found.events.truncate(at);
                found.through = damaged - 1;
            }
            // Let other tasks run, so that a page is never up to date when it arrives.
            tokio::task::yield_now().await;
            page
        })
    }

    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>> {
        Box::pin(async move {
            let since = self.memory.since(after, limit).await?;
            let damaged = self.damaged.load(SeqCst);
            match since.events.iter().any(|event| event.position.offset == damaged) {
                true => Err(Self::unreadable(damaged)),
                false => Ok(since),
            }
        })
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.memory.watch_head()
    }

    fn listen(&self, notifier: &Arc<Notifier>) {
        self.memory.listen(notifier);
    }

    fn epoch(&self) -> u64 {
        self.memory.epoch()
    }

    fn durable(&self) -> bool {
        self.memory.durable()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.memory.close()
    }

    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.memory.before_last(patterns, count)
    }

    fn before_time(&self, timestamp: u64) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.memory.before_time(timestamp)
    }

    fn topics(
        &self,
        pattern: Pattern,
        after: Option<Topic>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<TopicInfo>, Unavailable>> {
        self.memory.topics(pattern, after, limit)
    }

    fn purge(&self, topic: Topic) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.memory.purge(topic)
    }

    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>> {
        self.memory.get(key)
    }

    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>> {
        self.memory.keys(prefix, after, limit)
    }

    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>> {
        self.memory.sweep(now_ms)
    }

    fn stats(&self) -> Stats {
        self.memory.stats()
    }
}
