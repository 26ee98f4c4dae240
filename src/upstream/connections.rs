//! The streams that are open upstream: how many there may be, which there are, and a way to end one.
//!
//! Each place is a [`Lease`] that goes back when it is dropped. The bounds are the node's (`[relay] max_upstreams`) and
//! the remote's (`max_connections`); who finds no place is told at once, nobody waits here.

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

/// The upstream streams of a node, as used by one owner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    inner: Arc<Inner>,
    owner: Owner,
    share: Share,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    places: Pool,
    open: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    began: Instant,
    totals: Totals,
}

/// What has happened since the start.
#[derive(Debug, Default)]
struct Totals {
    opened: AtomicU64,
    refused: AtomicU64,
    over_share: AtomicU64,
    bytes: AtomicU64,
    events: AtomicU64,
}

/// A place, taken; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    owner: Connections,
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
    /// Milliseconds since the node began.
    last: AtomicU64,
    end: CancellationToken,
}

/// What a stream is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A client reads it through the transparent proxy.
    Proxy,
    /// It is one of the sources of a merged stream.
    Merge,
    /// A relay puts it into the journal.
    Relay,
    /// A job follows the tasks that run there.
    Job,
}

/// A stream that is open, as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UpstreamConnection, examples(json!({
    "id": "7", "remote": "reactive", "method": "GET", "path": "/api/sse/sample-parallel", "purpose": "proxy",
    "openedAt": 1_790_000_000_000_u64, "events": 0, "bytes": 512, "idleMs": 40,
})))]
pub struct Open {
    /// Names it in this life of the node.
    pub id: String,
    /// Where it comes from.
    pub remote: String,
    /// How it was asked for.
    pub method: String,
    /// What was asked for, without query.
    pub path: String,
    /// What it is read for.
    pub purpose: Purpose,
    /// Since when, in Unix milliseconds.
    pub opened_at: u64,
    /// Events read so far; always 0 for the transparent proxy, which does not look into what it passes on.
    pub events: u64,
    /// Bytes read so far.
    pub bytes: u64,
    /// Milliseconds since something was read.
    pub idle_ms: u64,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Streams that are open.
    pub open: u64,
    /// Most streams at once.
    pub limit: u64,
    /// Streams opened since the start.
    pub opened: u64,
    /// Times that there was no place.
    pub refused: u64,
    /// Refusals because the owner already had its share.
    pub over_share: u64,
    /// Bytes read since the start.
    pub bytes: u64,
    /// Events read since the start.
    pub events: u64,
}

/// There are as many streams as there may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// On this node.
    #[error("as many upstream streams are open as this node permits ({0}, `relay.max_upstreams`)")]
    Node(usize),
    /// For this owner.
    #[error("you have as many upstream streams open{0} as one user may (`limits.share_percent`)")]
    Share(String),
    /// From this remote.
    #[error("as many streams of remote `{0}` are open as permitted (`remotes.{0}.max_connections`)")]
    Remote(String),
}

// === impl Connections ===

impl Connections {
    /// Permits this number of streams, without shares.
    pub fn new(limit: usize) -> Self {
        Self::shared(limit, Share::WHOLE)
    }

    /// Permits this number of streams. One owner may hold this share of them, and of the streams of each remote.
    pub fn shared(limit: usize, share: Share) -> Self {
        let inner = Arc::new(Inner {
            limit,
            places: Pool::new(limit as u64),
            open: Mutex::default(),
            next: AtomicU64::new(1),
            began: Instant::now(),
            totals: Totals::default(),
        });
        Self { inner, owner: None, share }
    }

    /// A handle to the same streams for this owner.
    #[must_use]
    pub fn of(&self, owner: &Owner) -> Self {
        Self { owner: owner.clone(), ..self.clone() }
    }

    /// Takes a place for a stream of this remote.
    ///
    /// # Errors
    /// When there is none, on the node or for the remote.
    pub fn enter(&self, remote: &Remote, method: &Method, path: &str, purpose: Purpose) -> Result<Lease, Busy> {
        let refused = |busy: Busy| {
            self.inner.totals.over_share.fetch_add(u64::from(matches!(busy, Busy::Share(_))), Relaxed);
            self.inner.totals.refused.fetch_add(1, Relaxed);
            busy
        };
        let node = self.inner.places.take(self.share, &self.owner, 1).map_err(|denied| match denied {
            Denied::Pool => refused(Busy::Node(self.inner.limit)),
            Denied::Share => refused(Busy::Share(String::new())),
        })?;
        let of_remote = remote.places.take(self.share, &self.owner, 1).map_err(|denied| match denied {
            Denied::Pool => refused(Busy::Remote(remote.name().to_owned())),
            Denied::Share => refused(Busy::Share(format!(" from remote `{}`", remote.name()))),
        })?;
        #[expect(clippy::disallowed_methods, reason = "a label")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Arc::new(Entry {
            id: self.inner.next.fetch_add(1, Relaxed),
            remote: remote.name().to_owned(),
            method: method.clone(),
            path: path.to_owned(),
            purpose,
            opened_at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last: AtomicU64::new(self.now()),
            end: CancellationToken::new(),
        });
        self.inner.totals.opened.fetch_add(1, Relaxed);
        self.lock().insert(entry.id, entry.clone());
        Ok(Lease { owner: self.clone(), entry, _node: node, _remote: of_remote })
    }

    /// The streams that are open, oldest first.
    pub fn list(&self) -> Vec<Open> {
        let now = self.now();
        let entries: Vec<Arc<Entry>> = self.lock().values().cloned().collect();
        entries.iter().map(|entry| entry.open(now)).collect()
    }

    /// Ends a stream; false when there is none of this id. Whoever reads it sees a broken connection.
    pub fn end(&self, id: &str) -> bool {
        let Ok(number) = id.parse::<u64>() else { return false };
        let entry = self.lock().get(&number).filter(|_| number.to_string() == id).cloned();
        entry.inspect(|entry| entry.end.cancel()).is_some()
    }

    /// Figures for metrics.
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

    fn now(&self) -> u64 {
        u64::try_from(self.inner.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Lease {
    /// Notes what has come.
    pub fn read(&self, bytes: usize, events: usize) {
        let totals = &self.owner.inner.totals;
        for (own, total, count) in
            [(&self.entry.bytes, &totals.bytes, bytes), (&self.entry.events, &totals.events, events)]
        {
            own.fetch_add(count as u64, Relaxed);
            total.fetch_add(count as u64, Relaxed);
        }
        self.entry.last.store(self.owner.now(), Relaxed);
    }

    /// Resolves when somebody wants this stream to end.
    pub fn ended(&self) -> CancellationToken {
        self.entry.end.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.owner.lock().remove(&self.entry.id);
    }
}

// === impl Entry ===

impl Entry {
    fn open(&self, now: u64) -> Open {
        Open {
            id: self.id.to_string(),
            remote: self.remote.clone(),
            method: self.method.to_string(),
            path: self.path.clone(),
            purpose: self.purpose,
            opened_at: self.opened_at,
            events: self.events.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            idle_ms: now.saturating_sub(self.last.load(Relaxed)),
        }
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
    fn places_are_bounded_and_come_back() {
        let connections = Connections::new(2);
        let (narrow, wide) = (remote(1), remote(9));
        let enter = |remote| connections.enter(remote, &Method::GET, "/x", Purpose::Relay);
        let first = enter(&narrow).unwrap();
        assert_eq!(enter(&narrow).unwrap_err(), Busy::Remote("up".into()));
        let _second = enter(&wide).unwrap();
        assert_eq!(enter(&wide).unwrap_err(), Busy::Node(2));
        drop(first);
        assert!(enter(&narrow).is_ok());
        let figures = connections.figures();
        assert_eq!((figures.open, figures.opened, figures.refused), (1, 3, 2));
    }

    #[test]
    fn one_owner_cannot_take_all_places_of_a_remote_or_of_the_node() {
        let owner = |name: &str| Some(name.into());
        let connections = Connections::shared(100, Share::percent(50));
        let (a, b) = (connections.of(&owner("a")), connections.of(&owner("b")));
        let enter = |of: &Connections, remote| of.enter(remote, &Method::GET, "/x", Purpose::Relay);
        let narrow = remote(8);
        let held: Vec<_> = std::iter::from_fn(|| enter(&a, &narrow).ok()).collect();
        assert_eq!(held.len(), 6, "half, and half of the rest");
        assert!(matches!(enter(&a, &narrow).unwrap_err(), Busy::Share(of) if of.contains("`up`")));
        let other = enter(&b, &narrow);
        assert!(other.is_ok());
        assert_eq!(connections.figures().over_share, 2);
        let wide = remote(1000);
        let more: Vec<_> = std::iter::from_fn(|| enter(&a, &wide).ok()).collect();
        assert_eq!(held.len() + more.len(), 50, "it is not alone on the node");
    }

    #[test]
    fn what_is_open_is_listed_and_can_be_ended() {
        let connections = Connections::new(2);
        let lease = connections.enter(&remote(1), &Method::POST, "/x", Purpose::Merge).unwrap();
        lease.read(10, 2);
        let [open] = &connections.list()[..] else { panic!("one is open") };
        assert_eq!((open.path.as_str(), open.method.as_str(), open.bytes, open.events), ("/x", "POST", 10, 2));
        assert!(!connections.end("nothing") && !connections.end("07"));
        assert!(connections.end(&open.id) && lease.ended().is_cancelled());
    }
}
