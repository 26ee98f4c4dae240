//! The idle connections of one thread, each ready for another request to the same origin.
//!
//! awc's own pool closes an idle connection only at the next request to its host. It has no limit per host, and never
//! removes the entry of a host. This pool limits the number of connections per origin and their idle time.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
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
    timeout: Duration,
}

/// Connections with equal keys are interchangeable: the connector with this id, with its trust level, made them to one
/// origin.
pub(super) type Key = (u64, Origin);

/// Shortest pause between two searches for expired connections.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

// === impl Pool ===

impl Pool {
    /// Takes an idle connection that the server has not closed, the most recently used one first.
    pub(super) fn take(&self, key: &Key) -> Option<Wire<Socket>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(key)?;
        while let Some(mut idle) = connections.pop() {
            if !idle.remaining().is_zero() && idle.wire.is_idle() {
                return Some(idle.wire);
            }
        }
        None
    }

    /// Keeps a connection for the next request, or closes it at the limit. Needs a thread with local tasks.
    pub(super) fn put(self: &Rc<Self>, key: Key, wire: Wire<Socket>, connector: &Connector) {
        let timeout = connector.idle_timeout;
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            spawn_local(sweep(Rc::downgrade(self), timeout));
        }
        let connections = idle.entry(key).or_default();
        if connections.len() < connector.idle_connections {
            connections.push(Idle { wire, since: Instant::now(), timeout });
        }
    }

    /// Closes expired connections. Returns the time until the next one expires; `None` if no connection is left.
    fn sweep(&self) -> Option<Duration> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| {
            connections.retain(|idle| !idle.remaining().is_zero());
            !connections.is_empty()
        });
        idle.values().flatten().map(Idle::remaining).min()
    }
}

// === impl Idle ===

impl Idle {
    /// The time until the connection expires.
    fn remaining(&self) -> Duration {
        self.timeout.saturating_sub(self.since.elapsed())
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
