//! The open upstream streams: their limits, their list, and how an operator ends one.
//!
//! Each open stream holds a [`StreamPermit`], which is released when it is dropped. The node limits their number
//! (`[relay] max_upstreams`), and so does each remote (`max_connections`). A stream above a limit is refused at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{Method, remote::Remote};
use crate::shares::{Denied, Held, Owner, Pool, Share};

/// The upstream streams of a node, for one owner. Cheap to clone; clones share the limits.
#[derive(Clone, Debug)]
pub struct Connections {
    inner: Arc<Inner>,
    owner: Owner,
    share: Share,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    permits: Pool,
    open: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next_id: AtomicU64,
    started: Instant,
    totals: Totals,
}

/// Counters since the start of the node.
#[derive(Debug, Default)]
struct Totals {
    opened: AtomicU64,
    refused: AtomicU64,
    over_share: AtomicU64,
    bytes: AtomicU64,
    events: AtomicU64,
}

/// The permit of one open stream, released when it is dropped.
#[derive(Debug)]
pub struct StreamPermit {
    connections: Connections,
    entry: Arc<Entry>,
    _node: Held,
    _remote: Held,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    remote: String,
    method: Method,
    path: String,
    purpose: Purpose,
    opened_at: u64,
    events: AtomicU64,
    bytes: AtomicU64,
    /// Time of the last read, in milliseconds since the start of the node.
    last_read: AtomicU64,
    end: CancellationToken,
}

/// The purpose of an upstream stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A client reads the stream through the transparent proxy.
    Proxy,
    /// The stream is a source of a merged stream.
    Merge,
    /// A relay appends the events of the stream to the journal.
    Relay,
    /// A job follows its tasks at the remote.
    Job,
}

/// An open upstream stream, as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UpstreamConnection, examples(json!({
    "id": "7", "remote": "reactive", "method": "GET", "path": "/api/sse/sample-parallel", "purpose": "proxy",
    "openedAt": 1_790_000_000_000_u64, "events": 0, "bytes": 512, "idleMs": 40,
})))]
pub struct OpenStream {
    /// Identifies the stream until the node restarts.
    pub id: String,
    /// The name of the remote.
    pub remote: String,
    /// The method of the request.
    pub method: String,
    /// The path of the request, without query.
    pub path: String,
    /// The purpose of the stream.
    pub purpose: Purpose,
    /// When the stream was opened, in Unix milliseconds.
    pub opened_at: u64,
    /// Events read so far; always 0 for the transparent proxy, which does not parse the stream.
    pub events: u64,
    /// Bytes read so far.
    pub bytes: u64,
    /// Milliseconds since the last read.
    pub idle_ms: u64,
}

/// Counts of upstream streams, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Open streams.
    pub open: u64,
    /// Maximum number of open streams of the node.
    pub limit: u64,
    /// Streams opened since the start.
    pub opened: u64,
    /// Streams refused since the start because of a limit.
    pub refused: u64,
    /// Streams refused since the start because the owner had its whole share.
    pub over_share: u64,
    /// Bytes read since the start.
    pub bytes: u64,
    /// Events read since the start.
    pub events: u64,
}

/// The limit that refuses a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// The limit of the node; with that number.
    #[error("this node has reached its limit of {0} open upstream streams (`relay.max_upstreams`)")]
    Node(usize),
    /// The share of the owner; with the words for the remote, empty if the share of the node is meant.
    #[error("you have reached one user's share of open upstream streams{0} (`limits.share_percent`)")]
    Share(String),
    /// The limit of a remote; with its name.
    #[error("remote `{0}` has reached its limit of open streams (`remotes.{0}.max_connections`)")]
    Remote(String),
}

// === impl Connections ===

impl Connections {
    /// Creates a limit of open streams for a node, without shares.
    pub fn new(limit: usize) -> Self {
        Self::shared(limit, Share::WHOLE)
    }

    /// Creates a limit of open streams for a node. One owner can hold `share` of them, and of the streams of each remote.
    pub fn shared(limit: usize, share: Share) -> Self {
        let inner = Arc::new(Inner {
            limit,
            permits: Pool::new(limit as u64),
            open: Mutex::default(),
            next_id: AtomicU64::new(1),
            started: Instant::now(),
            totals: Totals::default(),
        });
        Self { inner, owner: None, share }
    }

    /// A handle to the streams of the node for this owner.
    #[must_use]
    pub fn of(&self, owner: &Owner) -> Self {
        Self { owner: owner.clone(), ..self.clone() }
    }

    /// Acquires the permit for a stream of this remote. Never waits.
    ///
    /// # Errors
    /// [`Busy`] with the limit that is reached.
    pub fn acquire(
        &self,
        remote: &Remote,
        method: &Method,
        path: &str,
        purpose: Purpose,
    ) -> Result<StreamPermit, Busy> {
        let refused = |busy: Busy| {
            self.inner.totals.over_share.fetch_add(u64::from(matches!(busy, Busy::Share(_))), Relaxed);
            self.inner.totals.refused.fetch_add(1, Relaxed);
            busy
        };
        let node = self.inner.permits.take(self.share, &self.owner, 1).map_err(|denied| match denied {
            Denied::Pool => refused(Busy::Node(self.inner.limit)),
            Denied::Share => refused(Busy::Share(String::new())),
        })?;
        let of_remote = remote.permits.take(self.share, &self.owner, 1).map_err(|denied| match denied {
            Denied::Pool => refused(Busy::Remote(remote.name().to_owned())),
            Denied::Share => refused(Busy::Share(format!(" of remote `{}`", remote.name()))),
        })?;
        #[expect(clippy::disallowed_methods, reason = "a label")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Arc::new(Entry {
            id: self.inner.next_id.fetch_add(1, Relaxed),
            remote: remote.name().to_owned(),
            method: method.clone(),
            path: path.to_owned(),
            purpose,
            opened_at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_read: AtomicU64::new(self.now()),
            end: CancellationToken::new(),
        });
        self.inner.totals.opened.fetch_add(1, Relaxed);
        self.lock().insert(entry.id, entry.clone());
        Ok(StreamPermit { connections: self.clone(), entry, _node: node, _remote: of_remote })
    }

    /// The open streams, oldest first.
    pub fn list(&self) -> Vec<OpenStream> {
        let now = self.now();
        let entries: Vec<Arc<Entry>> = self.lock().values().cloned().collect();
        let shown = entries.iter().map(|entry| OpenStream {
            id: entry.id.to_string(),
            remote: entry.remote.clone(),
            method: entry.method.to_string(),
            path: entry.path.clone(),
            purpose: entry.purpose,
            opened_at: entry.opened_at,
            events: entry.events.load(Relaxed),
            bytes: entry.bytes.load(Relaxed),
            idle_ms: now.saturating_sub(entry.last_read.load(Relaxed)),
        });
        shown.collect()
    }

    /// Ends the stream with this id; false if there is no such stream. Its reader gets an error.
    pub fn end(&self, id: &str) -> bool {
        let Ok(number) = id.parse::<u64>() else { return false };
        let entry = self.lock().get(&number).filter(|_| number.to_string() == id).cloned();
        entry.inspect(|entry| entry.end.cancel()).is_some()
    }

    /// Counts of the streams, for metrics.
    pub fn figures(&self) -> Figures {
        let Totals { opened, refused, over_share, bytes, events } = &self.inner.totals;
        Figures {
            open: self.lock().len() as u64,
            limit: self.inner.limit as u64,
            opened: opened.load(Relaxed),
            refused: refused.load(Relaxed),
            over_share: over_share.load(Relaxed),
            bytes: bytes.load(Relaxed),
            events: events.load(Relaxed),
        }
    }

    /// Milliseconds since the start of the node.
    fn now(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl StreamPermit ===

impl StreamPermit {
    /// Counts received bytes and events.
    pub fn count(&self, bytes: usize, events: usize) {
        let totals = &self.connections.inner.totals;
        for (own, total, count) in
            [(&self.entry.bytes, &totals.bytes, bytes), (&self.entry.events, &totals.events, events)]
        {
            own.fetch_add(count as u64, Relaxed);
            total.fetch_add(count as u64, Relaxed);
        }
        self.entry.last_read.store(self.connections.now(), Relaxed);
    }

    /// The token that is cancelled when an operator ends this stream.
    pub fn end_token(&self) -> CancellationToken {
        self.entry.end.clone()
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.entry.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Client, Config, RemoteConfig};

    fn remote(max_connections: usize) -> Remote {
        let config = RemoteConfig { base_url: Some("http://h".into()), max_connections, ..RemoteConfig::default() };
        config.build("up", &Client::new(Config::default())).unwrap()
    }

    #[test]
    fn permits_are_limited_and_released() {
        let connections = Connections::new(2);
        let (narrow, wide) = (remote(1), remote(9));
        let acquire = |remote| connections.acquire(remote, &Method::GET, "/x", Purpose::Relay);
        let first = acquire(&narrow).unwrap();
        assert_eq!(acquire(&narrow).unwrap_err(), Busy::Remote("up".into()));
        let _second = acquire(&wide).unwrap();
        assert_eq!(acquire(&wide).unwrap_err(), Busy::Node(2));
        drop(first);
        assert!(acquire(&narrow).is_ok());
        let figures = connections.figures();
        assert_eq!((figures.open, figures.opened, figures.refused), (1, 3, 2));
    }

    #[test]
    fn one_owner_cannot_hold_all_permits_of_a_remote_or_of_the_node() {
        let owner = |name: &str| Some(name.into());
        let connections = Connections::shared(100, Share::percent(50));
        let (a, b) = (connections.of(&owner("a")), connections.of(&owner("b")));
        let acquire = |of: &Connections, remote| of.acquire(remote, &Method::GET, "/x", Purpose::Relay);
        let narrow = remote(8);
        let held: Vec<_> = std::iter::from_fn(|| acquire(&a, &narrow).ok()).collect();
        assert_eq!(held.len(), 6, "half of the permits, and half of the rest");
        assert!(matches!(acquire(&a, &narrow).unwrap_err(), Busy::Share(of) if of.contains("`up`")));
        let other = acquire(&b, &narrow);
        assert!(other.is_ok());
        assert_eq!(connections.figures().over_share, 2);
        let wide = remote(1000);
        let more: Vec<_> = std::iter::from_fn(|| acquire(&a, &wide).ok()).collect();
        assert_eq!(held.len() + more.len(), 50, "another owner has streams on the node");
    }

    #[test]
    fn an_open_stream_is_listed_and_can_be_ended() {
        let connections = Connections::new(2);
        let permit = connections.acquire(&remote(1), &Method::POST, "/x", Purpose::Merge).unwrap();
        permit.count(10, 2);
        let [open] = &connections.list()[..] else { panic!("one stream is open") };
        assert_eq!((open.path.as_str(), open.method.as_str(), open.bytes, open.events), ("/x", "POST", 10, 2));
        assert!(!connections.end("nothing") && !connections.end("07"));
        assert!(connections.end(&open.id) && permit.end_token().is_cancelled());
    }
}
