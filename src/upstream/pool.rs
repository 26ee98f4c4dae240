//! The idle connections of one thread, each ready for another request to the same origin.
//!
//! awc has a pool of its own, which closes an idle connection only when its host is requested again, has no limit per
//! host, and keeps an entry for each host for ever. Here both the number per host and the time are limited.

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
pub struct Pool {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
}

/// An idle connection, and when it became idle.
type Idle = (Wire<Socket>, Instant);

/// Connections with equal keys are interchangeable: one connector, hence one trust level, made them to one origin.
#[derive(Clone)]
pub struct Key(Arc<Connector>, Origin);

/// Shortest pause between two searches for expired connections.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

// === impl Key ===

impl Key {
    pub fn new(connector: Arc<Connector>, origin: Origin) -> Self {
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
    pub fn take(&self, key: &Key) -> Option<Wire<Socket>> {
        let mut idle = self.idle.borrow_mut();
        let wires = idle.get_mut(key)?;
        while let Some((mut wire, since)) = wires.pop() {
            if since.elapsed() < key.0.idle_timeout && wire.is_idle() {
                return Some(wire);
            }
        }
        None
    }

    /// Keeps a connection for the next request, or closes it if there are enough. Needs a thread with local tasks.
    pub fn put(self: &Rc<Self>, key: Key, wire: Wire<Socket>) {
        let limit = key.0.idle_connections;
        let timeout = key.0.idle_timeout;
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            spawn_local(sweep(Rc::downgrade(self), timeout));
        }
        let wires = idle.entry(key).or_default();
        if wires.len() < limit {
            wires.push((wire, Instant::now()));
        }
    }

    /// Closes expired connections; the time until the next one expires.
    fn sweep(&self) -> Option<Duration> {
        let mut next = None;
        self.idle.borrow_mut().retain(|key, wires| {
            wires.retain(|(_, since)| since.elapsed() < key.0.idle_timeout);
            let left = wires.iter().map(|(_, since)| key.0.idle_timeout.saturating_sub(since.elapsed())).min();
            next = next.into_iter().chain(left).min();
            !wires.is_empty()
        });
        next
    }
}

/// Closes connections when they expire; ends with the last one.
async fn sweep(pool: Weak<Pool>, first: Duration) {
    let mut pause = Some(first);
    while let Some(duration) = pause {
        tokio::time::sleep(duration.max(SWEEP_EVERY)).await;
        pause = pool.upgrade().and_then(|pool| pool.sweep());
    }
}
