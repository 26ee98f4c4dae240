//! The door to the relays of a node.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use utoipa::ToSchema;

use super::{
    Error, Filter, Listing, Spec, Stats, Status, Summary, View, append, lifecycle, shared::Shared, spec::Plan,
};
use crate::journal::BoxFuture;

/// Makes, shows and ends relays. Cheap to clone; when the last one is dropped the relays end, as at a stop.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    work: mpsc::Sender<Work>,
    permits: Arc<Semaphore>,
    ready: watch::Receiver<bool>,
}

/// A relay that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelayCreated, examples(json!({
    "id": "01JB0000000000000000000000", "topic": "orders:all", "status": "running",
    "eventsUrl": "/api/relays/01JB0000000000000000000000/events",
})))]
pub struct Created {
    /// The relay.
    pub id: String,
    /// Where its events are to be heard: its target, or its own topic.
    pub topic: String,
    /// `running`.
    pub status: Status,
    /// Its events as a stream.
    pub events_url: String,
}

/// Something to be done on the relays' own thread. Whoever asked may go away: it is done all the same.
pub type Work = BoxFuture<'static, ()>;

/// Requests that may be in hand; more wait for a permit.
pub const MAX_REQUESTS: usize = 256;
/// How long a request waits for the recovery: longer than most take, shorter than the patience of most clients.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a stop waits for appends that are in flight.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

// === impl Handle ===

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, work: mpsc::Sender<Work>, ready: watch::Receiver<bool>) -> Self {
        Self { shared, work, permits: Arc::new(Semaphore::new(MAX_REQUESTS)), ready }
    }

    /// Makes a relay of this user. When this answers, it is in the journal, and its sources are being connected.
    ///
    /// # Errors
    /// Nothing was kept; the variant says what can be done.
    pub async fn create(&self, mut spec: Spec, user: Option<String>) -> Result<Created, Error> {
        let plan = Plan::check(&mut spec, self.shared.limits()).map_err(Error::Invalid)?;
        let shared = self.shared.clone();
        let id = self.ask(lifecycle::create(shared, spec, plan, user)).await?;
        // Not by way of `summary`: it is kept, whatever has begun meanwhile.
        let summary = self.shared.books().summary(&id).ok_or(Error::Unknown(id))?;
        let Summary { id, topic, status, events_url, .. } = summary;
        Ok(Created { id, topic, status, events_url })
    }

    /// A relay with its sources.
    ///
    /// # Errors
    /// When there is no such relay.
    pub async fn get(&self, id: &str) -> Result<View, Error> {
        self.ready().await?;
        self.shared.books().view(id).ok_or_else(|| Error::Unknown(id.to_owned()))
    }

    /// A relay without its sources.
    ///
    /// # Errors
    /// When there is no such relay.
    pub async fn summary(&self, id: &str) -> Result<Summary, Error> {
        self.ready().await?;
        self.shared.books().summary(id).ok_or_else(|| Error::Unknown(id.to_owned()))
    }

    /// A page of relays, newest first.
    ///
    /// # Errors
    /// When the node has just started or is stopping.
    pub async fn list(&self, filter: Filter) -> Result<Listing, Error> {
        self.ready().await?;
        Ok(self.shared.books().list(&filter))
    }

    /// Ends a relay: its upstreams are closed, its watchers hear of it unless the journal is full, and it is forgotten.
    ///
    /// # Errors
    /// When there is no such relay, or the journal cannot note it: then it goes on.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        self.ask(lifecycle::delete(self.shared.clone(), id.to_owned())).await
    }

    /// Makes all connections of a relay anew, each after its cursor; what has ended is taken up again. Relays that share
    /// such a connection see a reconnect, and lose nothing where the remote gives ids.
    ///
    /// # Errors
    /// When there is no such relay, there is no room for one more that runs, or the journal cannot note it.
    pub async fn restart(&self, id: &str) -> Result<(), Error> {
        self.ask(lifecycle::restart(self.shared.clone(), id.to_owned())).await
    }

    /// Leaves all relays standing without a word; they go on at the next start where the journal outlives the process.
    /// When this returns nothing is appended any more.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if timeout(STOP_PATIENCE, self.shared.tasks.wait()).await.is_err() {
            tracing::error!("relays did not come to their end in time");
        }
    }

    /// True after all relays of the journal are restored; before that requests wait.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Figures for metrics and status. Never waits.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Has it done on the relays' own thread.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.ready().await?;
        let permits = self.permits.clone();
        let permit = permits.acquire_owned().await.map_err(|_| Error::Stopping)?;
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::pin(async move {
            // Whoever asked may have gone meanwhile.
            drop(answer.send(work.await));
            drop(permit);
        });
        self.work.send(work).await.map_err(|_| Error::Stopping)?;
        answered.await.map_err(|_| match self.shared.stop.is_cancelled() {
            true => Error::Stopping,
            false => append::fault().into(),
        })?
    }

    /// Waits for the recovery: before it nobody can say which relays there are.
    async fn ready(&self) -> Result<(), Error> {
        if self.shared.stop.is_cancelled() {
            return Err(Error::Stopping);
        }
        let mut ready = self.ready.clone();
        match timeout(START_PATIENCE, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(Error::Starting),
        }
    }
}
