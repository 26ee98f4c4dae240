//! A journal that fails on demand, an upstream that counts, and relays between them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    clock::Clock,
    event::SharedEvent,
    journal::{
        self, AppendError, Batch, BoxFuture, Journal, Memory, Page, Query, Receipt, Record, Since, Stats, TopicInfo,
        Unavailable,
    },
    relay::{self, Config, Deps, Handle, Spec, Status},
    shares::Share,
    supervise::Supervisor,
    topic::{Pattern, Topic},
    upstream::{Client, Connections, RemoteConfig, Remotes},
};

/// What becomes of an append.
pub(super) enum Fate {
    /// It is written.
    Written,
    /// It is refused.
    Refused,
    /// It is written, and the answer is lost.
    AnswerLost,
    /// The answer is lost, and it is written just before the next append.
    Late,
    /// The journal has a fault.
    Panic,
}

type Judge = Box<dyn FnMut(&Batch) -> Fate + Send>;

/// A journal that outlives its node, and fails on demand.
pub(super) struct Faulty {
    memory: Memory,
    judge: Mutex<Judge>,
    late: Mutex<Option<Batch>>,
    /// The number of reads of records that still panic.
    pub reads_panic: AtomicUsize,
    /// Listing the records panics.
    pub keys_panic: AtomicBool,
    /// Its end panics.
    pub drop_panics: AtomicBool,
}

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

// === impl Faulty ===

impl Faulty {
    pub(super) fn new() -> Arc<Self> {
        let memory = Memory::new(&journal::Config::default());
        Arc::new(Self {
            memory,
            judge: Mutex::new(Box::new(|_| Fate::Written)),
            late: Mutex::default(),
            reads_panic: AtomicUsize::default(),
            keys_panic: AtomicBool::default(),
            drop_panics: AtomicBool::default(),
        })
    }

    /// From now on this decides.
    pub(super) fn judge(&self, judge: impl FnMut(&Batch) -> Fate + Send + 'static) {
        *self.judge.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Box::new(judge);
    }

    /// All events of a relay.
    pub(super) async fn events(&self, id: &str) -> Vec<SharedEvent> {
        let patterns = [Topic::relay(id).unwrap().into()].into();
        let query = Query { patterns, after: 0, floor: 0, limit: usize::MAX, max_bytes: usize::MAX };
        self.memory.read(query).await.unwrap().events
    }

    /// The upstream ids of what a relay has got.
    pub(super) async fn origins(&self, id: &str) -> Vec<u64> {
        let events = self.events(id).await;
        events.iter().filter_map(|event| event.origin.as_deref()?.parse().ok()).collect()
    }

    /// The data of the states of this name.
    pub(super) async fn states(&self, id: &str, name: &str) -> Vec<Value> {
        let events = self.events(id).await;
        events.iter().filter(|event| event.name() == name).map(|event| event.data_value()).collect()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert!(!self.drop_panics.load(SeqCst) || std::thread::panicking(), "it fails on purpose");
    }
}

impl Journal for Faulty {
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>> {
        Box::pin(async move {
            let lost = || AppendError::from(Unavailable::Failed("the answer was lost".into()));
            let late = self.late.lock().unwrap().take();
            if let Some(late) = late {
                self.memory.append(late).await?;
            }
            let fate = self.judge.lock().unwrap_or_else(std::sync::PoisonError::into_inner)(&batch);
            match fate {
                Fate::Written => self.memory.append(batch).await,
                Fate::Refused => Err(Unavailable::Full("a test".into()).into()),
                Fate::AnswerLost => {
                    self.memory.append(batch).await?;
                    Err(lost())
                }
                Fate::Late => {
                    *self.late.lock().unwrap() = Some(batch);
                    Err(lost())
                }
                Fate::Panic => panic!("a fault that a test has asked for"),
            }
        })
    }

    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>> {
        self.memory.read(query)
    }

    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>> {
        self.memory.since(after, limit)
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.memory.watch_head()
    }

    fn listen(&self, notifier: &Arc<journal::Notifier>) {
        self.memory.listen(notifier);
    }

    fn epoch(&self) -> u64 {
        self.memory.epoch()
    }

    fn durable(&self) -> bool {
        true
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
        let left = self.reads_panic.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "it fails on purpose");
        self.memory.get(key)
    }

    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>> {
        assert!(!self.keys_panic.load(SeqCst), "it fails on purpose");
        self.memory.keys(prefix, after, limit)
    }

    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>> {
        self.memory.sweep(now_ms)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.memory.close()
    }

    fn stats(&self) -> Stats {
        self.memory.stats()
    }
}

/// An upstream of numbers, each with its id, one per chunk: `/{total}` closes after the last one, `/{total}/on` stays open.
/// `/{total}/on/{length}` fills the data up to this length. `/panic` sends one event of that name.
pub(super) async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let after = head
                    .lines()
                    .find_map(|line| line.strip_prefix("last-event-id: "))
                    .map_or(0, |id| id.parse().unwrap());
                let mut parts = path.split('/').skip(1);
                let total: u64 = parts.next().unwrap().parse().unwrap_or(0);
                let stays_open = parts.next().is_some();
                let length: usize = parts.next().map_or(0, |length| length.parse().unwrap());
                let event = |number| format!("id: {number}\ndata: {:length$}\n\n", format!("n{number}"));
                let mut events: Vec<_> = (after + 1..=total).map(event).collect();
                if path == "/panic" {
                    events.push("event: panic\ndata: x\n\n".into());
                }
                let mut answer =
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                        .to_owned();
                events.iter().for_each(|event| answer.push_str(&format!("{:x}\r\n{event}\r\n", event.len())));
                if !stays_open {
                    answer.push_str("0\r\n\r\n");
                }
                if socket.write_all(answer.as_bytes()).await.is_ok() {
                    let _ = socket.read(&mut [0]).await;
                }
            });
        }
    });
    addr
}

/// Relays that write into this journal, and may ask these upstreams by the name `up`.
pub(super) fn relays(journal: &Arc<Faulty>, up: Option<SocketAddr>) -> Handle {
    supervised(journal, up, Supervisor::default())
}

/// Relays on this journal, under this supervisor.
pub(super) fn supervised(journal: &Arc<Faulty>, up: Option<SocketAddr>, supervisor: Supervisor) -> Handle {
    let configs: BTreeMap<String, RemoteConfig> = up
        .map(|addr| {
            let base_url = Some(format!("http://{addr}"));
            ("up".to_owned(), RemoteConfig { base_url, paths: vec!["/*".into()], ..RemoteConfig::default() })
        })
        .into_iter()
        .collect();
    let remotes = Remotes::build(&configs, &Client::new(crate::upstream::Config::default())).unwrap();
    let config = Config { initial_retry_ms: 10, default_remote: Some("up".into()), ..Config::default() };
    let deps = Deps {
        journal: journal.clone(),
        max_event_bytes: 1 << 20,
        remotes,
        connections: Connections::new(100),
        share: Share::WHOLE,
        clock: Clock::system(),
        supervisor,
    };
    relay::start(config, deps)
}

/// A relay of these paths; its id.
pub(super) async fn relay(relays: &Handle, paths: &[&str]) -> String {
    let sources: Vec<_> = paths.iter().map(|path| serde_json::json!({ "path": path })).collect();
    let spec: Spec = serde_json::from_value(serde_json::json!({ "sources": sources })).unwrap();
    relays.create(spec, None).await.unwrap().id
}

/// Waits for the end of a relay.
pub(super) async fn ended(relays: &Handle, id: &str) -> Status {
    eventually(async || Some(relays.summary(id).await.unwrap().status).filter(|status| status.ended())).await
}

/// Asks until there is an answer.
pub(super) async fn eventually<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(PATIENCE, asking).await.expect("it did not happen")
}
