//! The public side of the relays of a node.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Config, Created, Deps, Error, Filter, Limits, Listing, Spec, Stats, Summary, View,
    actor::{self, Create, Delete, GetSummary, GetView, List, RelaysActor, Restart},
};
use crate::{durable::Mailbox, upstream::Remotes};

/// Creates, shows and ends relays. Cheap to clone; when the last clone is dropped, the relays stop as in
/// [`stop`](Self::stop).
#[derive(Clone)]
pub struct Handle {
    relays: Mailbox<RelaysActor>,
    limits: Arc<(Config, Remotes)>,
    stats: watch::Receiver<Stats>,
    stop: CancellationToken,
    _guard: Arc<DropGuard>,
}

/// Maximum time that a stop waits for writes that are in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the relays of a node on a thread of their own.
///
/// # Panics
/// Outside of an actix system.
pub fn start(config: Config, deps: Deps) -> Handle {
    let limits = Arc::new((config.clone(), deps.remotes.clone()));
    let stop = CancellationToken::new();
    let (relays, stats) = actor::launch(config, deps, stop.clone());
    Handle { relays, limits, stats, _guard: Arc::new(stop.clone().drop_guard()), stop }
}

// === impl Handle ===

impl Handle {
    /// Creates a relay of this user. When this returns, the relay is in the journal and its sources are being connected.
    /// Dropping the future does not take the request back.
    ///
    /// # Errors
    /// Nothing was stored; the variant shows what the caller can do.
    pub async fn create(&self, mut spec: Spec, user: Option<String>) -> Result<Created, Error> {
        let (config, remotes) = &*self.limits;
        let sources = spec.check(Limits { config, remotes }).map_err(Error::Invalid)?;
        self.relays.ask(Create(spec, sources, user)).await?
    }

    /// A relay with its sources.
    ///
    /// # Errors
    /// When there is no such relay, or the node has just started or is stopping.
    pub async fn get(&self, id: &str) -> Result<View, Error> {
        self.relays.ask(GetView(id.to_owned())).await?
    }

    /// A relay without its sources.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn summary(&self, id: &str) -> Result<Summary, Error> {
        self.relays.ask(GetSummary(id.to_owned())).await?
    }

    /// A page of relays, newest first.
    ///
    /// # Errors
    /// When the node has just started or is stopping.
    pub async fn list(&self, filter: Filter) -> Result<Listing, Error> {
        self.relays.ask(List(filter)).await?
    }

    /// Deletes a relay: its connections are closed, its readers get the last event unless the journal is full, and it is
    /// forgotten. Its events stay until retention deletes them. Dropping the future does not take the request back.
    ///
    /// # Errors
    /// When there is no such relay, or the journal cannot store the deletion; then the relay continues.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        self.relays.ask(Delete(id.to_owned())).await?
    }

    /// Makes all connections of a relay anew, each after its position, and begins ended sources again. Relays that share
    /// such a connection see a reconnect, and lose nothing if the remote gives ids. Dropping the future does not take the
    /// request back.
    ///
    /// # Errors
    /// When there is no such relay, no place for one more running relay, or the journal cannot store the restart.
    pub async fn restart(&self, id: &str) -> Result<(), Error> {
        self.relays.ask(Restart(id.to_owned())).await?
    }

    /// Stops all upstreams and leaves the relays in the journal as they are; they continue at the next start if the journal
    /// outlives the process. When this returns, nothing is appended any more. It waits at most ten seconds.
    pub async fn stop(&self) {
        self.stop.cancel();
        if timeout(STOP_TIMEOUT, self.relays.ended()).await.is_err() {
            tracing::error!("the relays did not stop in time");
        }
    }

    /// True after all relays of the journal are restored; before that requests wait.
    pub fn is_ready(&self) -> bool {
        self.relays.is_ready()
    }

    /// Figures for metrics and status. Never waits.
    pub fn stats(&self) -> Stats {
        *self.stats.borrow()
    }
}
