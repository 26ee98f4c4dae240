//! The hub: the live side of the journal. Who is connected to this node, and what each of them still has to get.
//!
//! ```text
//!  journal ── tail ──> shard (one per worker thread) ──> outbox ──> line ──> socket
//!     ^                   │ full? then the emitter's policy
//!     └──── catch_up <────┘ an emitter that is behind reads from the journal until it stands at the shard's cursor
//! ```
//!
//! [`Handle`] is what the other components hold; it can be sent anywhere. A connection is made on the thread that owns
//! its socket ([`Handle::connect`]), so delivery is local and without locks: the shard writes to the socket itself, and the
//! event's bytes are shared. Nothing here publishes: the only road to an emitter is the journal, but for
//! [`Handle::send_to_emitter`], the one send that promises nothing.

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

use crate::{clock::Clock, event::Event, journal, sse::Encoded, supervise::Supervisor, unsent::Unsent};

mod actor;
mod audience;
mod connect;
mod counters;
mod emitter;
mod frames;
mod line;
mod link;
mod metrics;
mod named;
mod outbox;
mod pages;
mod registry;
mod shard;
mod status;
mod subscription;

#[cfg(test)]
mod tests;

use self::{
    actor::Addrs,
    audience::Audience,
    shard::{Shard, tick},
};
pub use self::{
    connect::{Connect, Greeting, Heartbeat, HeartbeatKind, Overflow, Start},
    counters::{Counters, Reason},
    line::{Framing, MOST_INPUT},
    link::Link,
    named::{NamedConfig, RESERVED as RESERVED_STREAMS},
    outbox::Shared,
    status::{By, Change, EmitterStatus, Selector, Totals},
    subscription::Subscription,
};

/// Settings of section `[emitter]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Lifetime of a stream in milliseconds, jittered by a tenth; 0: it has none.
    pub default_timeout_ms: u64,
    /// Longest lifetime that a client may ask for with `timeoutMs`.
    pub max_timeout_ms: u64,
    /// The reconnection time (`retry:`) that clients are given, in milliseconds.
    pub reconnect_time_ms: u64,
    /// A heartbeat is sent after so many milliseconds of silence.
    pub heartbeat_ms: u64,
    /// Most events that wait for one emitter.
    pub outbox_events: usize,
    /// Most bytes that wait for one emitter.
    pub outbox_bytes: usize,
    /// What happens when an outbox is full.
    pub overflow: Overflow,
    /// A reader that takes nothing for so many milliseconds is disconnected.
    /// The kernel's bound on unacknowledged bytes is a quarter, at most half a second, below.
    pub write_deadline_ms: u64,
}

/// What other components hold of the hub. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    /// Tells the shards of two nodes in one process apart.
    id: u64,
    config: Config,
    journal: journal::Shared,
    clock: Clock,
    counters: Arc<Counters>,
    /// One per shard.
    audiences: RwLock<Vec<Arc<Audience>>>,
    shards: Mutex<Addrs>,
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

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The node is about to stop; try another one, or again later.
    #[error("the node is stopping")]
    Stopping,
    /// The journal cannot tell where to begin.
    #[error(transparent)]
    Journal(#[from] journal::Unavailable),
}

/// Default of [`Bounds::max_page_bytes`].
const PAGE_BYTES: usize = 8 << 20;

thread_local! {
    /// The shards of this thread, by hub; gone with the thread.
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
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key and the accepted form.
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
    /// A hub over this journal. Its shards begin with the first connection on each thread.
    pub fn new(config: Config, journal: journal::Shared) -> Self {
        Self::supervised(config, journal, Supervisor::default(), Clock::system())
    }

    /// A hub with a clock and a supervisor; the node ends when a shard fails.
    pub fn supervised(config: Config, journal: journal::Shared, supervisor: Supervisor, clock: Clock) -> Self {
        let unsent = Unsent::new(Duration::from_millis(config.write_deadline_ms), usize::MAX);
        Self::of_node(config, journal, supervisor, clock, Bounds { unsent, max_page_bytes: PAGE_BYTES })
    }

    /// Like [`supervised`](Self::supervised), with limits shared with the other responses of the node.
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

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Counters for metrics and status.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Makes a connection on the current thread, which must be one of an actix system: the shard lives here.
    ///
    /// # Errors
    /// When the node is stopping or the journal is unavailable.
    pub async fn connect(&self, connect: Connect) -> Result<Subscription, ConnectError> {
        if self.inner.stopping.is_cancelled() {
            return Err(ConnectError::Stopping);
        }
        self.local().connect(connect).await
    }

    /// Number of emitters of this node that are subscribed to the topics, each counted once. `None` for filtered
    /// events, since counting would need a check of each emitter.
    pub fn delivered(&self, topics: &[crate::topic::Topic], filtered: bool) -> Option<u64> {
        let audiences = self.inner.audiences.read().expect("no code that holds the lock panics");
        (!filtered).then(|| audiences.iter().map(|audience| audience.count(topics)).sum())
    }

    /// Sends one frame to one emitter, past the journal; false when it is gone.
    pub async fn send_to_emitter(&self, emitter_id: String, event: String, data: String) -> bool {
        let frame = crate::sse::Frame { event: &event, data: Some(&data), ..Default::default() }.encode();
        self.addrs().push(emitter_id, frame).await
    }

    /// The emitters that a selector names, sorted by id.
    pub async fn emitters(&self, selector: Selector) -> Vec<EmitterStatus> {
        let mut list = self.addrs().emitters(selector).await;
        list.sort_unstable_by(|a, b| a.emitter_id.cmp(&b.emitter_id));
        list
    }

    /// Figures over all emitters.
    pub async fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for emitter in self.addrs().emitters(Selector::All).await {
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

    /// Changes what a live emitter hears; its new state, or `None` when it is gone.
    pub async fn change(&self, emitter_id: String, change: Change) -> Option<EmitterStatus> {
        self.addrs().change(emitter_id, change).await
    }

    /// Ends connections; each client gets `disconnect` with the reason first. Answers how many there were.
    pub async fn disconnect(&self, selector: Selector, reason: Reason) -> u64 {
        self.addrs().disconnect(selector, reason).await
    }

    /// Refuses new connections and ends all others, spread over `drain`, each with a randomised `retry:`.
    pub async fn stop(&self, drain: Duration) {
        self.inner.stopping.cancel();
        self.addrs().drain(drain).await;
        // Bodies end when their clients have taken the last frame; who does not take it is cut by a tick.
        let deadline = tokio::time::Instant::now() + tick::LAST_WORD + tick::EVERY * 2;
        while self.inner.counters.open() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Begins the shard of this thread, if it is not there yet.
    pub fn start_local(&self) {
        drop(self.local());
    }

    fn addrs(&self) -> Addrs {
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
                // Those whose thread is gone.
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
    /// Nobody can connect any more; the shards end with their last streams.
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

/// The bytes of an event as one emitter wants them.
fn bytes_for(event: &Event, envelope: bool) -> Encoded {
    if envelope { event.wire_in_envelope() } else { event.wire() }
}
