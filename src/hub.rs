//! The hub: fan-out of the journal's events to the clients that are connected to this node.
//!
//! ```text
//!  journal ── tail ──> shard (one per worker thread) ──> outbox ──> socket writer ──> socket
//!     ^                   │ full: the overflow policy decides
//!     └── catch-up pages ─┘ an emitter that is behind reads from the journal until it reaches the shard's position
//! ```
//!
//! [`Handle`] is the interface for other components; it can be sent to any thread. A connection is made on the thread that
//! owns its socket ([`Handle::connect`]). So delivery is local and needs no lock, the shard writes to the socket itself, and
//! all emitters share the bytes of an event. The hub publishes nothing: events reach an emitter through the journal only.
//! The exception is [`Handle::send_to_emitter`], which sends one frame to one emitter without any guarantee.
//!
//! # The life of a stream
//!
//! ```text
//!  connecting ──┬──> live ─────────┐
//!               │    │ ^           ├──> ending ──> closed
//!               │    v │           │
//!               └──> catching up ──┘
//! ```
//!
//! | from | to | when | where |
//! |---|---|---|---|
//! | connecting | refused | the node stops, or the journal is unavailable | `shard.rs` `connect`, `start.rs` |
//! | connecting | live | the client asks for no history, or the first page reaches the shard's position | `shard.rs` `connect` |
//! | connecting | catching up | the first page ends before that position | `emitter.rs` `queue_page` |
//! | live | live | an event comes; with a full outbox and `drop_oldest` or `drop_latest`, events are dropped | `emitter.rs` `offer`, `overflow.rs` |
//! | live | catching up (lagging) | the outbox is full and the policy is `catch_up` | `overflow.rs` |
//! | live | catching up | the tail lost events before it read them | `shard.rs` `follow` |
//! | catching up | catching up | the outbox is empty: the next page is read; `gap` for trimmed or damaged events | `shard.rs` `read_page`, `emitter.rs` `take_page` |
//! | catching up | live | a page reaches the shard's position | `emitter.rs` `queue_page` |
//! | catching up | ending | the journal is unavailable | `shard.rs` `take_page` |
//! | live | ending | the outbox is full and the policy is `disconnect` | `overflow.rs` |
//! | both | ending | the last event of the stream (`until`) is queued | `emitter.rs` `offer`, `queue_page` |
//! | both | ending | lifetime, token, write deadline | `emitter.rs` `check_deadlines`, by a tick of the shard |
//! | both | ending | the API, the stop of the node | `shard.rs` `disconnect`, `drain` |
//! | ending | closed | all frames are sent, the last one is `disconnect` with the reason | `socket_writer.rs` |
//! | ending | closed | the client takes nothing: the connection is cut | `shard.rs` `tick` |
//! | each | closed | the client closes the connection, or floods it | `subscription.rs`, `shard.rs` `remove` |
//!
//! The states are those of `Phase` in `emitter.rs`. An emitter that is connecting has none: it is not registered yet. A closed
//! one is gone.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::{Rc, Weak},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{clock::Clock, journal, supervise::Supervisor, unsent::Unsent};

mod actor;
mod audience;
mod connect;
mod counters;
mod due;
mod emitter;
mod frames;
mod metrics;
mod named;
mod outbox;
mod overflow;
mod pages;
mod registry;
mod shard;
mod socket_writer;
mod start;
mod status;
mod subscription;

#[cfg(test)]
mod tests;

use self::{
    actor::Shards,
    audience::Audience,
    emitter::{END_TIMEOUT, TICK},
    shard::Shard,
};
pub use self::{
    connect::{Connect, Start},
    counters::{Counters, Reason},
    frames::{Greeting, Heartbeat, HeartbeatKind},
    named::{NamedConfig, RESERVED as RESERVED_STREAMS},
    outbox::SharedBound,
    overflow::Overflow,
    socket_writer::{Framing, MOST_INPUT},
    status::{Change, ChangedBy, EmitterStatus, Selector, Totals},
    subscription::{StreamTask, Subscription},
};

/// Settings of section `[emitter]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Maximum duration of a stream in milliseconds, jittered by a tenth; 0 for no limit.
    pub default_timeout_ms: u64,
    /// Longest duration in milliseconds that a client may ask for with `timeoutMs`.
    pub max_timeout_ms: u64,
    /// Reconnection time that streams send to their clients (`retry:`), in milliseconds.
    pub reconnect_time_ms: u64,
    /// Time without another frame, in milliseconds, after which a heartbeat is sent.
    pub heartbeat_ms: u64,
    /// Maximum number of events that wait for one client.
    pub outbox_events: usize,
    /// Maximum number of bytes that wait for one client.
    pub outbox_bytes: usize,
    /// What happens to an event when an outbox is full.
    pub overflow: Overflow,
    /// A client that takes nothing for this time, in milliseconds, is disconnected. The kernel's limit for unacknowledged
    /// bytes is shorter, by a quarter of this time or half a second, whichever is less.
    pub write_deadline_ms: u64,
}

/// The interface of the hub for other components. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    /// Distinguishes the shards of two nodes in one process.
    id: u64,
    config: Config,
    journal: journal::Shared,
    clock: Clock,
    counters: Arc<Counters>,
    /// The audience of each shard.
    audiences: RwLock<Vec<Arc<Audience>>>,
    shards: Mutex<Shards>,
    supervisor: Supervisor,
    stopping: tokio_util::sync::CancellationToken,
    bounds: Bounds,
}

/// Limits that a hub shares with the other responses of its node.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Counts bytes that wait for clients.
    pub unsent: Unsent,
    /// Maximum bytes of history that wait for the readers of one thread.
    pub max_page_bytes: usize,
}

/// The reason why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The node is stopping. Try another node, or try again later.
    #[error("the node is stopping")]
    Stopping,
    /// The journal cannot be read, so that the start of the stream is unknown.
    #[error(transparent)]
    Journal(#[from] journal::Unavailable),
}

/// Default of [`Bounds::max_page_bytes`].
const PAGE_BYTES: usize = 8 << 20;

thread_local! {
    /// The shards of this thread, by the id of their hub. They end with the thread.
    static LOCAL: RefCell<HashMap<u64, Weak<Shard>>> = RefCell::default();
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            default_timeout_ms: 0,
            max_timeout_ms: 24 * 60 * 60 * 1000,
            reconnect_time_ms: 3000,
            heartbeat_ms: 15_000,
            outbox_events: 1024,
            outbox_bytes: 256 << 10,
            overflow: Overflow::CatchUp,
            write_deadline_ms: 60_000,
        }
    }
}

impl Config {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// Returns a message with the key and the accepted form.
    pub fn check(&self) -> Result<(), String> {
        if self.heartbeat_ms < Heartbeat::MIN_MS {
            return Err(format!("`emitter.heartbeat_ms` must be at least {}", Heartbeat::MIN_MS));
        }
        if self.outbox_events == 0 || self.outbox_bytes < 1024 {
            return Err("`emitter.outbox_events` must be at least 1 and `emitter.outbox_bytes` at least 1024".into());
        }
        if self.write_deadline_ms < 1000 {
            return Err("`emitter.write_deadline_ms` must be at least 1000".into());
        }
        Ok(())
    }
}

// === impl Handle ===

impl Handle {
    /// A hub over this journal. A shard starts with the first connection on its thread.
    pub fn new(config: Config, journal: journal::Shared) -> Self {
        Self::supervised(config, journal, Supervisor::default(), Clock::system())
    }

    /// A hub with this clock and this supervisor. The node ends when a shard fails.
    pub fn supervised(config: Config, journal: journal::Shared, supervisor: Supervisor, clock: Clock) -> Self {
        let unsent = Unsent::new(Duration::from_millis(config.write_deadline_ms), usize::MAX);
        Self::of_node(config, journal, supervisor, clock, Bounds { unsent, max_page_bytes: PAGE_BYTES })
    }

    /// A hub like [`supervised`](Self::supervised), with limits that it shares with the other responses of the node.
    pub fn of_node(
        config: Config,
        journal: journal::Shared,
        supervisor: Supervisor,
        clock: Clock,
        bounds: Bounds,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            inner: Arc::new(Inner {
                id: NEXT.fetch_add(1, Relaxed),
                config,
                journal,
                clock,
                counters: Arc::default(),
                audiences: RwLock::default(),
                shards: Mutex::default(),
                supervisor,
                stopping: tokio_util::sync::CancellationToken::new(),
                bounds,
            }),
        }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Counters for metrics and status.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Opens a stream on the current thread, which must belong to an actix system: the shard of the stream runs here.
    ///
    /// # Errors
    /// If the node is stopping, or the journal is unavailable.
    pub async fn connect(&self, connect: Connect) -> Result<Subscription, ConnectError> {
        if self.inner.stopping.is_cancelled() {
            return Err(ConnectError::Stopping);
        }
        let shard = self.local();
        let key = shard.connect(connect).await?;
        Ok(Subscription::new(shard, key))
    }

    /// Number of emitters of this node that subscribe to the topics; each counts once. `None` for a filtered event: to
    /// count its receivers needs a check of each emitter.
    pub fn delivered(&self, topics: &[crate::topic::Topic], filtered: bool) -> Option<u64> {
        let audiences = self.inner.audiences.read().expect("no code that holds the lock panics");
        (!filtered).then(|| audiences.iter().map(|audience| audience.count(topics)).sum())
    }

    /// Sends one frame to one emitter, past the journal. False if the emitter is gone, or has no room.
    pub async fn send_to_emitter(&self, emitter_id: String, event: String, data: String) -> bool {
        let frame = crate::sse::Frame { event: &event, data: Some(&data), ..Default::default() }.encode();
        self.shards().push(emitter_id, frame).await
    }

    /// The selected emitters, sorted by id.
    pub async fn emitters(&self, selector: Selector) -> Vec<EmitterStatus> {
        let mut list = self.shards().list(selector).await;
        list.sort_unstable_by(|a, b| a.emitter_id.cmp(&b.emitter_id));
        list
    }

    /// Totals over all emitters.
    pub async fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for emitter in self.shards().list(Selector::All).await {
            totals.add(&emitter);
        }
        let mut topics = HashSet::new();
        for audience in &*self.inner.audiences.read().expect("no code that holds the lock panics") {
            audience.topics(&mut topics);
        }
        totals.total_topics = topics.len() as u64;
        totals.dropped_events = self.inner.counters.dropped.load(Relaxed);
        totals
    }

    /// Changes the topics, groups or metadata of a live emitter. Returns its new status; `None` if it is gone, or if the
    /// credential of the change does not belong to it.
    pub async fn change(&self, emitter_id: String, change: Change) -> Option<EmitterStatus> {
        self.shards().change(emitter_id, change).await
    }

    /// Ends the selected streams, and returns their number. Each client first gets `disconnect` with the reason.
    pub async fn disconnect(&self, selector: Selector, reason: Reason) -> u64 {
        self.shards().disconnect(selector, reason).await
    }

    /// Rejects new streams, and ends the open ones, spread over `drain`. Each client gets a randomised `retry:`.
    pub async fn stop(&self, drain: Duration) {
        self.inner.stopping.cancel();
        self.shards().drain(drain).await;
        // A stream closes when its client has taken the last frame. A tick cuts the connections of the other clients.
        let deadline = tokio::time::Instant::now() + END_TIMEOUT + TICK * 2;
        while self.inner.counters.open() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts the shard of this thread, if it has none yet.
    pub fn start_local(&self) {
        drop(self.local());
    }

    fn shards(&self) -> Shards {
        self.inner.shards.lock().expect("no code that holds the lock panics").clone()
    }

    fn local(&self) -> Rc<Shard> {
        LOCAL.with_borrow_mut(|shards| {
            if let Some(shard) = shards.get(&self.inner.id).and_then(Weak::upgrade) {
                return shard;
            }
            shards.retain(|_, shard| shard.strong_count() > 0);
            let inner = &self.inner;
            let audience = Arc::<Audience>::default();
            {
                let mut audiences = inner.audiences.write().expect("no code that holds the lock panics");
                // Removes the audiences of threads that have ended.
                audiences.retain(|audience| Arc::strong_count(audience) > 1);
                audiences.push(audience.clone());
            }
            let shard = Rc::new(Shard::new(inner, audience));
            shards.insert(inner.id, Rc::downgrade(&shard));
            inner.shards.lock().expect("no code that holds the lock panics").start(shard.clone(), &inner.supervisor);
            shard
        })
    }
}

impl Drop for Inner {
    /// No stream can be opened any more. Each shard ends with its last stream.
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
