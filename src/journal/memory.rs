//! The journal in memory: the reference adapter. Its content is lost when the process ends.
//!
//! A thin shell around [`Log`], the pure core. One lock protects everything; it is held for one batch or one page, and
//! never while something waits. The epoch is random, so that clients of an earlier process get a gap.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use super::{
    AppendError, Batch, BoxFuture, Config, Journal, Notifier, Page, Query, Receipt, Record, Since, Stats, TopicInfo,
    Unavailable,
    log::{BackwardSearch, Log, PlannedEvent, PlannedWrite, Selection},
    new_epoch,
    notifier::Notifiers,
};
use crate::{
    clock::{Clock, Moment},
    event::SharedEvent,
    topic::{Pattern, Topic},
};

/// The adapter `kind = "memory"`.
pub struct Memory {
    state: RwLock<MemoryState>,
    head: watch::Sender<u64>,
    notifiers: Notifiers,
    epoch: u64,
    /// Permits one step of a search at a time, in order of arrival.
    searches: Semaphore,
    clock: Clock,
}

/// The index, the events and the values of records.
struct MemoryState {
    log: Log,
    events: BTreeMap<u64, SharedEvent>,
    records: HashMap<String, Bytes>,
}

// === impl Memory ===

impl Memory {
    /// An empty journal with a new epoch.
    pub fn new(config: &Config) -> Self {
        Self::with_clock(config, Clock::system())
    }

    /// Like [`new`](Self::new), with the clock of the node.
    pub fn with_clock(config: &Config, clock: Clock) -> Self {
        let epoch = new_epoch();
        let state = MemoryState { log: Log::new(config, epoch), events: BTreeMap::new(), records: HashMap::new() };
        Self {
            state: RwLock::new(state),
            head: watch::Sender::new(0),
            notifiers: Notifiers::default(),
            epoch,
            searches: Semaphore::new(1),
            clock,
        }
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, MemoryState> {
        self.state.read().expect("no code that holds the lock panics")
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, MemoryState> {
        self.state.write().expect("no code that holds the lock panics")
    }
}

impl Journal for Memory {
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>> {
        Box::pin(async move {
            let mut state = self.write_lock();
            let (receipts, events) = state.append(batch, self.clock.moment())?;
            let head = state.log.head();
            // Under the lock, so that the head never goes back.
            self.head.send_if_modified(|seen| std::mem::replace(seen, head) != head);
            // Under the lock, so that commits are recorded in order.
            let wakes = self.notifiers.committed(&events, head);
            drop(state);
            wakes.wake();
            Ok(receipts)
        })
    }

    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().page(&query, self.clock.steady_ms())) })
    }

    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().since(after, limit, self.clock.steady_ms())) })
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    fn listen(&self, notifier: &Arc<Notifier>) {
        self.notifiers.add(notifier);
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn durable(&self) -> bool {
        false
    }

    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move {
            let mut search = BackwardSearch::new(patterns, count);
            loop {
                let turn = self.searches.acquire().await.map_err(|_| Unavailable::Closed)?;
                if let Some(position) = self.read_lock().log.search_step(&mut search, self.clock.steady_ms()) {
                    return Ok(position);
                }
                drop(turn);
                // Other searches and other tasks of the thread run between two steps.
                tokio::task::yield_now().await;
            }
        })
    }

    fn before_time(&self, timestamp: u64) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().log.before_time(timestamp)) })
    }

    fn topics(
        &self,
        pattern: Pattern,
        after: Option<Topic>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<TopicInfo>, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().log.topic_infos(&pattern, after.as_ref(), limit)) })
    }

    fn purge(&self, topic: Topic) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move { Ok(self.write_lock().purge(&topic, self.clock.steady_ms())) })
    }

    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().record(&key)) })
    }

    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>> {
        Box::pin(async move { Ok(self.read_lock().log.record_keys(&prefix, after.as_deref(), limit)) })
    }

    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>> {
        Box::pin(async move {
            // In slices, so that publishers run between them.
            self.write_lock().log.update_clock_offset(self.clock.moment());
            while self.write_lock().sweep(now_ms) {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn stats(&self) -> Stats {
        self.read_lock().log.stats()
    }
}

// === impl MemoryState ===

impl MemoryState {
    fn append(&mut self, batch: Batch, now: Moment) -> Result<(Vec<Receipt>, Vec<PlannedEvent>), AppendError> {
        let mut group = self.log.begin(now);
        let receipts = group.add(&self.log, batch)?;
        self.events.extend(group.events.iter().map(|planned| (planned.event.position.offset, planned.event.clone())));
        self.log.apply(&group, &[]);
        for PlannedWrite { key, value, .. } in group.records {
            match value {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        self.remove_dropped();
        Ok((receipts, group.events))
    }

    fn page(&self, query: &Query, now: u64) -> Page {
        let Selection { selected, through, trimmed, .. } = self.log.read(query, now);
        let mut page = Page { events: Vec::with_capacity(selected.len()), through, trimmed };
        let mut bytes = 0;
        for event in selected.iter().filter_map(|selected| self.events.get(&selected.offset)) {
            bytes += event.data.len();
            page.events.push(event.clone());
            if bytes >= query.max_bytes {
                page.through = event.position.offset;
                break;
            }
        }
        page
    }

    fn since(&self, after: u64, limit: usize, now: u64) -> Since {
        let Selection { selected, through, missed, .. } = self.log.since(after, limit, now);
        let events = selected.iter().filter_map(|selected| self.events.get(&selected.offset)).cloned().collect();
        Since { events, through, missed }
    }

    fn record(&self, key: &str) -> Option<Record> {
        let known = self.log.record(key)?;
        self.records.get(key).map(|value| Record { value: value.clone(), revision: known.revision })
    }

    fn purge(&mut self, topic: &Topic, now: u64) -> u64 {
        let count = self.log.purge(topic, now);
        self.remove_dropped();
        count
    }

    fn sweep(&mut self, now: u64) -> bool {
        let more = self.log.sweep(now);
        self.remove_dropped();
        more
    }

    fn remove_dropped(&mut self) {
        for offset in self.log.take_changes().dropped {
            self.events.remove(&offset);
        }
    }
}
