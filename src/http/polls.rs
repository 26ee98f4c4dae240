//! Long polling: wakes requests that wait for an event of a topic.
//!
//! One tail of the journal wakes all requests, and sleeps while no request waits for the appended topics. A request
//! first registers and then reads, so that it misses no event between the two:
//!
//! ```text
//!  GET …/events?wait= ── register(topic) ──> read the journal ── empty ──> changed() ──> read again
//!                              │                                             ^
//!  commit ──> Interest: does a request wait? ────── yes ──> tail ────────────┘
//! ```

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    journal::{self, Interest, Pulled, Tail, Unavailable, Waker},
    topic::Topic,
};

/// The waiting requests of a node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Polls {
    waiters: Arc<Waiters>,
    waker: Waker,
    head: watch::Receiver<u64>,
}

/// Registration of a request that waits for the events of one topic; removed on drop.
pub(super) struct Poll {
    topic: Topic,
    waiters: Arc<Waiters>,
    changes: watch::Receiver<()>,
}

#[derive(Default)]
struct Waiters {
    topics: RwLock<HashMap<Topic, watch::Sender<()>>>,
    count: AtomicUsize,
}

/// Delay before the tail is read again after a failure of the journal.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

// === impl Polls ===

impl Polls {
    /// Starts to watch the journal until it is closed. Must be called inside an actix system.
    pub(super) fn start(journal: &journal::Shared) -> Self {
        let waiters = Arc::<Waiters>::default();
        let head = journal.watch_head();
        let mut tail = Tail::of(journal.clone(), *head.borrow(), waiters.clone());
        let waker = tail.waker();
        let wakes = waiters.clone();
        actix_rt::spawn(async move {
            loop {
                match tail.next().await {
                    Ok(pulled) => wakes.wake(&pulled),
                    Err(Unavailable::Closed) => return,
                    Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
                }
            }
        });
        Self { waiters, waker, head }
    }

    /// Number of waiting requests.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.count.load(Relaxed)
    }

    /// Registers a request. When this resolves, every event of the topic is either readable or will wake the request.
    pub(super) async fn register(&self, topic: Topic) -> Poll {
        let poll = self.waiters.add(topic);
        // The tail skips events committed just before the registration, and they may not be readable yet: wait for
        // them.
        let through = self.waker.wake().max(self.waker.position());
        // An error means that the journal is closed; the read that follows reports it.
        let _ = self.head.clone().wait_for(|head| *head >= through).await;
        poll
    }
}

impl fmt::Debug for Polls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polls").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

// === impl Poll ===

impl Poll {
    /// Resolves when the topic may have new events.
    pub(super) async fn changed(&mut self) {
        // No error: the sender lives as long as its receivers.
        let _ = self.changes.changed().await;
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.waiters.count.fetch_sub(1, Relaxed);
        let mut topics = self.waiters.topics.write().expect("no code that holds the lock panics");
        // `self` is still counted as a receiver.
        if topics.get(&self.topic).is_some_and(|sender| sender.receiver_count() <= 1) {
            topics.remove(&self.topic);
        }
    }
}

// === impl Waiters ===

impl Waiters {
    fn add(self: &Arc<Self>, topic: Topic) -> Poll {
        self.count.fetch_add(1, Relaxed);
        let mut topics = self.topics.write().expect("no code that holds the lock panics");
        let changes = topics.entry(topic.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        Poll { topic, waiters: self.clone(), changes }
    }

    fn wake(&self, pulled: &Pulled) {
        let topics = self.topics.read().expect("no code that holds the lock panics");
        if pulled.missed {
            for sender in topics.values() {
                let _ = sender.send(());
            }
        }
        for topic in pulled.events.iter().flat_map(|event| &event.topics) {
            if let Some(sender) = topics.get(topic) {
                let _ = sender.send(());
            }
        }
    }
}

impl Interest for Waiters {
    fn wants(&self, topics: &[Topic]) -> bool {
        let waited = self.topics.read().expect("no code that holds the lock panics");
        !waited.is_empty() && topics.iter().any(|topic| waited.contains_key(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Draft,
        journal::{Batch, Config, Kind, open},
    };

    #[actix_web::test]
    async fn an_event_wakes_only_requests_that_wait_for_its_topic() {
        let config = Config { kind: Kind::Memory, ..Config::default() };
        let journal = open(&config, std::path::Path::new("unused")).unwrap();
        let polls = Polls::start(&journal);
        let topic = |name: &str| Topic::new(name).unwrap();
        let publish = async |name: &str| {
            let draft = Draft::new(topic(name), "e", "data");
            journal.append(Batch::events(vec![draft])).await.unwrap();
        };
        publish("a").await;
        let (mut first, mut second) = (polls.register(topic("a")).await, polls.register(topic("a")).await);
        let mut other = polls.register(topic("b")).await;
        assert_eq!(polls.waiting(), 3);
        publish("a").await;
        tokio::join!(first.changed(), second.changed());
        assert!(tokio::time::timeout(Duration::from_millis(20), other.changed()).await.is_err(), "it waits for `b`");
        drop(first);
        publish("a").await;
        second.changed().await;
        drop(second);
        publish("b").await;
        other.changed().await;
        drop(other);
        assert_eq!(polls.waiting(), 0);
        assert!(polls.waiters.topics.read().unwrap().is_empty());
    }
}
