//! The idle connections of one thread, each ready for another request to the same origin.
//!
//! awc's own pool closes an idle connection only at the next request to its host. It has no limit per host, and never
//! removes the entry of a host. This pool limits the number of connections per origin and their idle time.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{Hash, Hasher},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use tokio::{task::spawn_local, time::Instant};
use url::Origin;

use super::{
    connect::{Connector, Socket},
    wire::Wire,
};

/// Idle connections by origin.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
}

/// An idle connection, and the end of its last request.
struct Idle {
    wire: Wire<Socket>,
    since: Instant,
}

/// Connections with equal keys are interchangeable: the same connector, with its trust level, made them to one origin.
#[derive(Clone)]
pub(super) struct Key(Arc<Connector>, Origin);

/// Shortest pause between two searches for expired connections.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

// === impl Key ===

impl Key {
    pub(super) fn new(connector: Arc<Connector>, origin: Origin) -> Self {
        Self(connector, origin)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) && self.1 == other.1
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
        self.1.hash(state);
    }
}

// === impl Pool ===

impl Pool {
    /// Takes an idle connection that the server has not closed, the most recently used one first.
    pub(super) fn take(&self, key: &Key) -> Option<Wire<Socket>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(key)?;
        while let Some(Idle { mut wire, since }) = connections.pop() {
            if since.elapsed() < key.0.idle_timeout && wire.is_idle() {
                return Some(wire);
            }
        }
        None
    }

    /// Keeps a connection for the next request, or closes it at the limit. Needs a thread with local tasks.
    pub(super) fn put(self: &Rc<Self>, key: Key, wire: Wire<Socket>) {
        let limit = key.0.idle_connections;
        let timeout = key.0.idle_timeout;
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            spawn_local(sweep(Rc::downgrade(self), timeout));
        }
        let connections = idle.entry(key).or_default();
        if connections.len() < limit {
            connections.push(Idle { wire, since: Instant::now() });
        }
    }

    /// Closes expired connections. Returns the time until the next one expires; `None` if no connection is left.
    fn sweep(&self) -> Option<Duration> {
        let mut next = None;
        self.idle.borrow_mut().retain(|key, connections| {
            connections.retain(|idle| idle.since.elapsed() < key.0.idle_timeout);
            let remaining =
                connections.iter().map(|idle| key.0.idle_timeout.saturating_sub(idle.since.elapsed())).min();
            next = next.into_iter().chain(remaining).min();
            !connections.is_empty()
        });
        next
    }
}

/// Closes connections when they expire. Ends with the last connection.
async fn sweep(pool: Weak<Pool>, first: Duration) {
    let mut pause = Some(first);
    while let Some(duration) = pause {
        tokio::time::sleep(duration.max(SWEEP_EVERY)).await;
        pause = pool.upgrade().and_then(|pool| pool.sweep());
    }
}
