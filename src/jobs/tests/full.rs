//! A journal that is full, fails or is closed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, pause, sleep},
};

use super::rig::{Rig, Setup, good, submission};
use crate::{
    event,
    jobs::{Status, SubmitError},
    journal::{
        self, AppendError, Batch, BoxFuture, Journal, Memory, Page, Query, Receipt, Record, Since, Stats, TopicInfo,
        Unavailable,
    },
    topic::{Pattern, Topic},
};

/// A memory journal that fails appends of events as long as it has errors.
pub(super) struct Faulty {
    pub inner: Arc<Memory>,
    pub errors: Mutex<VecDeque<AppendError>>,
    /// The value of `durable`.
    pub durable: bool,
    /// Number of writes until it is closed.
    pub writes: AtomicUsize,
    /// Number of scans that fail at first.
    pub failing_keys: AtomicUsize,
    /// Records whose key contains this are damaged.
    pub damaged: Option<String>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<Memory>) -> Self {
        let (errors, writes) = (Mutex::default(), AtomicUsize::new(usize::MAX));
        Self { inner, errors, durable: false, writes, failing_keys: AtomicUsize::default(), damaged: None }
    }

    fn spent(&self) -> bool {
        self.writes.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

impl Journal for Faulty {
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>> {
        if self.spent() {
            return Box::pin(async { Err(Unavailable::Closed.into()) });
        }
        let error = if batch.events.is_empty() { None } else { self.errors.lock().unwrap().pop_front() };
        match error {
            Some(error) => Box::pin(async { Err(error) }),
            None => self.inner.append(batch),
        }
    }

    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>> {
        self.inner.read(query)
    }

    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>> {
        self.inner.since(after, limit)
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.inner.watch_head()
    }

    fn listen(&self, notifier: &Arc<journal::Notifier>) {
        self.inner.listen(notifier);
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn durable(&self) -> bool {
        self.durable
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
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
        if self.spent() {
            return Box::pin(async { Err(Unavailable::Closed) });
        }
        self.inner.purge(topic)
    }

    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>> {
        if self.damaged.as_ref().is_some_and(|damaged| key.contains(damaged)) {
            return Box::pin(async { Err(Unavailable::Failed("a block is damaged".into())) });
        }
        self.inner.get(key)
    }

    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>> {
        let failing = self.failing_keys.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if failing {
            return Box::pin(async { Err(Unavailable::Failed("disk".into())) });
        }
        self.inner.keys(prefix, after, limit)
    }

    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>> {
        self.inner.sweep(now_ms)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

fn echo() -> Value {
    json!({"tasks": [{"id": "a", "run": "echo", "input": 1}, {"id": "b", "run": "echo"}]})
}

async fn ended(rig: &Rig, id: &str) -> Status {
    loop {
        let status = rig.jobs.summary(id).await.unwrap().status;
        if status.ended() {
            return status;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[actix_rt::test]
async fn a_journal_that_fails_for_a_while_delays_jobs_and_loses_nothing() {
    pause();
    let failed = || AppendError::Unavailable(Unavailable::Failed("disk".into()));
    let rig = Setup::usual().faulty((0..20).map(|_| failed())).start();
    let begun = Instant::now();
    let id = rig.submit(echo()).await;
    let history = rig.ended(&id).await;
    assert_eq!(history.verdict(), ("completed".into(), 2, 0));
    assert_eq!((history.names("a"), history.names("b").len()), (vec!["task_start", "task_complete"], 2));
    assert!((5..6).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let live = rig.snapshot(&id).await;
    assert_eq!(Rig::refold(&live, &history), live);
}

#[actix_rt::test]
async fn jobs_end_when_the_journal_is_closed_or_fails_for_too_long() {
    pause();
    let closed = || AppendError::Unavailable(Unavailable::Closed);
    let rig = Setup::usual().faulty((0..1000).map(|_| closed())).start();
    let id = rig.submit(echo()).await;
    assert_eq!(ended(&rig, &id).await, Status::Completed);

    let full = || AppendError::Unavailable(Unavailable::Full("full".into()));
    let rig = Setup::usual().faulty((0..10_000).map(|_| full())).start();
    let id = rig.submit(echo()).await;
    let begun = Instant::now();
    assert_eq!(ended(&rig, &id).await, Status::Completed);
    assert!(begun.elapsed() > Duration::from_secs(59), "{:?}", begun.elapsed());
}

#[actix_rt::test]
async fn an_event_that_the_journal_rejects_delays_no_other() {
    let invalid = AppendError::Invalid { index: 0, reason: event::Invalid::NoTopic };
    let rig = Setup::usual().faulty([invalid]).start();
    let history = rig.run(echo()).await;
    assert_eq!(history.names("a"), ["task_complete"]);
    assert_eq!(history.verdict(), ("completed".into(), 2, 0));
}

#[actix_rt::test]
async fn a_job_whose_results_have_no_room_ends_and_the_node_recovers() {
    pause();
    let setup = Setup::usual().with("make", |task| async move {
        task.progress.report(1.0, None).await;
        sleep(Duration::from_millis(10)).await;
        good(Value::from("x".repeat(100_000)))
    });
    let journal = journal::Config { max_bytes: 4 << 20, ..journal::Config::default() };
    let rig = Setup { journal, ..setup }.start();
    let tasks = vec![json!({"run": "make"}); 100];
    let id = rig.submit(json!({ "tasks": tasks, "concurrency": 4 })).await;
    let history = rig.ended(&id).await;
    let (status, good, bad) = history.verdict();
    assert!(status == "partial" && (10..30).contains(&good) && good + bad == 100, "{status} {good} {bad}");
    assert!(history.all("error").iter().all(|error| error["code"] == "no_room"));
    // It is deleted early, and the node accepts jobs again.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(rig.run(echo()).await.verdict().0, "completed");
    assert!(rig.jobs.get(&id).await.is_err());
}

#[actix_rt::test]
async fn no_job_is_accepted_while_unfinished_ones_fill_the_journal() {
    let journal = journal::Config { max_bytes: 4 << 20, ..journal::Config::default() };
    let rig = Setup { journal, ..Setup::usual() }.start();
    let large = json!({"tasks": [{"run": "hang", "input": "x".repeat(3 << 20)}]});
    let id = rig.submit(large).await;
    rig.until(&id, |events| !events.is_empty()).await;
    assert!(matches!(rig.jobs.submit(submission(echo())).await, Err(SubmitError::Full)));
    rig.jobs.cancel(&id).await.unwrap();
    rig.ended(&id).await;
    while rig.jobs.get(&id).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rig.run(echo()).await.verdict().0, "completed");
}
