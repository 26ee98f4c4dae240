//! A journal for tests that fails on demand.
//!
//! It forwards all calls to another journal. The test decides the outcome of each call: see [`Fate`].

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use tokio::sync::{RwLock, watch};

use super::{
    AppendError, Batch, BoxFuture, Journal, Maintenance, MaintenanceReport, Notifier, Page, Query, Receipt, Record,
    Shared, Since, Stats, TopicInfo, Unavailable,
};
use crate::topic::{Pattern, Topic};

/// A call whose fate a test may decide. All other calls are forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'a> {
    /// [`Journal::append`].
    Append(&'a Batch),
    /// [`Journal::read`].
    Read(&'a Query),
    /// [`Journal::since`], with its `after`.
    Since(u64),
    /// [`Journal::purge`].
    Purge(&'a Topic),
    /// [`Journal::get`], with its key.
    Get(&'a str),
    /// [`Journal::keys`], with its prefix.
    Keys(&'a str),
}

/// What happens to a call.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The call is forwarded.
    Done,
    /// The call has no effect and returns this error.
    Rejected(AppendError),
    /// The call is forwarded, but returns an error.
    AnswerLost,
    /// The batch is written only before the next append. The call returns an error now.
    Late,
    /// The call is forwarded as soon as the lock is free.
    Blocked(Arc<RwLock<()>>),
    /// A read is forwarded, but the event at this offset is damaged.
    Damaged(u64),
    /// The call panics.
    Panic,
}

type Judge = Box<dyn FnMut(Call<'_>) -> Fate + Send>;

/// A journal that forwards calls to `inner`, unless the test decides otherwise.
pub(crate) struct Faulty {
    inner: Shared,
    durable: bool,
    judge: Mutex<Judge>,
    /// The batch of [`Fate::Late`].
    late: Mutex<Option<Batch>>,
    /// If set, the drop of the journal panics.
    pub(crate) panics_on_drop: AtomicBool,
}

// === impl Fate ===

impl From<Unavailable> for Fate {
    fn from(error: Unavailable) -> Self {
        Self::Rejected(error.into())
    }
}

// === impl Faulty ===

impl Faulty {
    /// Forwards all calls to this journal.
    pub(crate) fn new(inner: Shared) -> Self {
        Self {
            durable: inner.durable(),
            inner,
            judge: Mutex::new(Box::new(|_| Fate::Done)),
            late: Mutex::default(),
            panics_on_drop: AtomicBool::default(),
        }
    }

    /// Sets the answer of [`Journal::durable`].
    pub(crate) fn with_durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// From now on `judge` decides the fate of each call.
    pub(crate) fn judge(&self, judge: impl FnMut(Call<'_>) -> Fate + Send + 'static) {
        *self.judge.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(judge);
    }

    /// From now on `judge` decides the fate of each append. All other calls are forwarded.
    pub(crate) fn judge_appends(&self, mut judge: impl FnMut(&Batch) -> Fate + Send + 'static) {
        self.judge(move |call| match call {
            Call::Append(batch) => judge(batch),
            _ => Fate::Done,
        });
    }

    fn fate(&self, call: Call<'_>) -> Fate {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)(call)
    }

    async fn forward<T>(
        &self,
        fate: Fate,
        forwarded: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        match fate {
            Fate::Done => forwarded.await,
            Fate::Blocked(lock) => {
                let _free = lock.read().await;
                forwarded.await
            }
            Fate::Rejected(AppendError::Unavailable(error)) => Err(error),
            Fate::AnswerLost => forwarded.await.and(Err(lost())),
            Fate::Panic => panic!("a fault that a test has requested"),
            other => panic!("this call cannot be {other:?}"),
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert!(!self.panics_on_drop.load(SeqCst) || std::thread::panicking(), "a fault that a test has requested");
    }
}

fn lost() -> Unavailable {
    Unavailable::Failed("the answer was lost".into())
}

fn unreadable(through: u64) -> Unavailable {
    Unavailable::Unreadable { through, reason: "the event is damaged".into() }
}

impl Journal for Faulty {
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>> {
        Box::pin(async move {
            let late = self.late.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(late) = late {
                self.inner.append(late).await?;
            }
            match self.fate(Call::Append(&batch)) {
                Fate::Done => self.inner.append(batch).await,
                Fate::Blocked(lock) => {
                    let _free = lock.read().await;
                    self.inner.append(batch).await
                }
                Fate::Rejected(error) => Err(error),
                Fate::AnswerLost => self.inner.append(batch).await.and(Err(lost().into())),
                Fate::Late => {
                    *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch);
                    Err(lost().into())
                }
                Fate::Damaged(_) => panic!("an append cannot be damaged"),
                Fate::Panic => panic!("a fault that a test has requested"),
            }
        })
    }

    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>> {
        Box::pin(async move {
            let page = match self.fate(Call::Read(&query)) {
                Fate::Damaged(damaged) => {
                    let mut page = self.inner.read(query).await?;
                    match page.events.iter().position(|event| event.position.offset == damaged) {
                        Some(0) => return Err(unreadable(damaged)),
                        Some(at) => {
                            page.events.truncate(at);
                            page.through = damaged - 1;
                        }
                        None => {}
                    }
                    Ok(page)
                }
                fate => self.forward(fate, self.inner.read(query)).await,
            };
            // Other tasks run meanwhile, as with a disk. So a page may be outdated when it arrives.
            tokio::task::yield_now().await;
            page
        })
    }

    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>> {
        Box::pin(async move {
            match self.fate(Call::Since(after)) {
                Fate::Damaged(damaged) => {
                    let since = self.inner.since(after, limit).await?;
                    let hit = since.events.iter().any(|event| event.position.offset == damaged);
                    if hit { Err(unreadable(damaged)) } else { Ok(since) }
                }
                fate => self.forward(fate, self.inner.since(after, limit)).await,
            }
        })
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.inner.watch_head()
    }

    fn listen(&self, notifier: &Arc<Notifier>) {
        self.inner.listen(notifier);
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn durable(&self) -> bool {
        self.durable
    }

    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.inner.before_last(patterns, count)
    }

    fn before_time(&self, timestamp: u64) -> BoxFuture<'_, Result<u64, Unavailable>> {
        self.inner.before_time(timestamp)
    }

    fn topics(
        &self,
        pattern: Pattern,
        after: Option<Topic>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<TopicInfo>, Unavailable>> {
        self.inner.topics(pattern, after, limit)
    }

    fn purge(&self, topic: Topic) -> BoxFuture<'_, Result<u64, Unavailable>> {
        Box::pin(async move {
            let fate = self.fate(Call::Purge(&topic));
            self.forward(fate, self.inner.purge(topic)).await
        })
    }

    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>> {
        Box::pin(async move {
            let fate = self.fate(Call::Get(&key));
            self.forward(fate, self.inner.get(key)).await
        })
    }

    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>> {
        Box::pin(async move {
            let fate = self.fate(Call::Keys(&prefix));
            self.forward(fate, self.inner.keys(prefix, after, limit)).await
        })
    }

    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>> {
        self.inner.sweep(now_ms)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }

    fn maintain(&self, work: Maintenance) -> BoxFuture<'_, Result<MaintenanceReport, Unavailable>> {
        self.inner.maintain(work)
    }

    fn refusal(&self) -> Option<String> {
        self.inner.refusal()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

// === tests of it ===

mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::{
        event::Draft,
        journal::{Config, Memory, Tail},
    };

    fn faulty() -> Arc<Faulty> {
        Arc::new(Faulty::new(Arc::new(Memory::new(&Config::default()))))
    }

    fn batch(data: &str) -> Batch {
        let topics = vec![Topic::new("t").unwrap()];
        Batch::events(vec![Draft { topics, data: data.into(), ..Draft::default() }])
    }

    async fn data(journal: &Faulty) -> Vec<String> {
        let since = journal.inner.since(0, usize::MAX).await.unwrap();
        since.events.iter().map(|event| event.data.to_string()).collect()
    }

    #[tokio::test]
    async fn each_fate_of_an_append_writes_what_it_names() {
        let journal = faulty();
        journal.judge_appends(|batch| match &*batch.events[0].data {
            "rejected" => Unavailable::Busy.into(),
            "answer lost" => Fate::AnswerLost,
            "late" => Fate::Late,
            _ => Fate::Done,
        });
        assert!(journal.append(batch("rejected")).await.is_err());
        assert!(journal.append(batch("answer lost")).await.is_err());
        assert!(journal.append(batch("late")).await.is_err());
        assert_eq!(data(&journal).await, ["answer lost"]);
        journal.append(batch("done")).await.unwrap();
        assert_eq!(data(&journal).await, ["answer lost", "late", "done"]);
    }

    #[tokio::test]
    async fn a_blocked_call_waits_for_its_lock() {
        let (journal, lock) = (faulty(), Arc::new(RwLock::new(())));
        let its_lock = lock.clone();
        journal.judge(move |_| Fate::Blocked(its_lock.clone()));
        let held = lock.write().await;
        let mut get = journal.get("k".into());
        assert!((&mut get).now_or_never().is_none());
        drop(held);
        assert_eq!(get.await.unwrap(), None);
    }

    #[tokio::test]
    async fn every_call_can_be_judged() {
        let journal = Faulty::new(Arc::new(Memory::new(&Config::default()))).with_durable(true);
        assert!(journal.durable());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        journal.judge(move |call| {
            seen.lock().unwrap().push(match call {
                Call::Append(batch) => format!("append {}", batch.events.len()),
                Call::Read(query) => format!("read {}", query.after),
                Call::Since(after) => format!("since {after}"),
                Call::Purge(topic) => format!("purge {topic}"),
                Call::Get(key) => format!("get {key}"),
                Call::Keys(prefix) => format!("keys {prefix}"),
            });
            Unavailable::Busy.into()
        });
        let query = Query { patterns: [].into(), after: 7, floor: 7, limit: 1, max_bytes: 1 };
        assert!(journal.append(batch("x")).await.is_err());
        assert!(journal.read(query).await.is_err());
        assert!(journal.since(8, 1).await.is_err());
        assert!(journal.purge(Topic::new("t").unwrap()).await.is_err());
        assert!(journal.get("k".into()).await.is_err());
        assert!(journal.keys("p".into(), None, 1).await.is_err());
        assert_eq!(*calls.lock().unwrap(), ["append 1", "read 7", "since 8", "purge t", "get k", "keys p"]);
    }

    #[tokio::test]
    #[should_panic(expected = "a fault that a test has requested")]
    async fn a_call_can_panic() {
        let journal = faulty();
        journal.judge(|_| Fate::Panic);
        let _ = journal.get("k".into()).await;
    }

    #[test]
    #[should_panic(expected = "a fault that a test has requested")]
    fn a_drop_can_panic() {
        faulty().panics_on_drop.store(true, SeqCst);
    }

    /// A tail reports the loss and continues behind it; each reader finds the damage for itself.
    #[tokio::test]
    async fn a_tail_continues_after_a_damaged_event() {
        let journal = faulty();
        for number in 1..=3 {
            journal.append(batch(&number.to_string())).await.unwrap();
        }
        journal.judge(|call| match call {
            Call::Since(after) if after < 2 => Fate::Damaged(2),
            _ => Fate::Done,
        });
        let mut tail = Tail::new(journal.clone(), 0);
        let lost = tail.next().await.unwrap();
        assert_eq!((lost.events.len(), lost.through, lost.missed), (0, 2, true));
        let rest = tail.next().await.unwrap();
        assert_eq!((rest.events.len(), rest.through, rest.missed), (1, 3, false));
    }
}
