//! The way to the actor: requests wait here for their turn, and at the start until it is known which jobs there are.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};

use super::{
    Error, SubmitError,
    actor::{Address, Cancel, Look, Stop, Submit},
    engine::Engine,
    stats::Stats,
};

/// Requests that the actor may have in hand; more wait for a permit. An actix mailbox is no bound of its own.
pub const MAX_REQUESTS: usize = 256;
/// How long a stop may take beyond its grace: tasks have two seconds, the rest is the journal's.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// How long a request waits for the recovery: longer than most take, shorter than the patience of most clients.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The way to the actor.
#[derive(Clone)]
pub struct Door {
    addr: Address,
    ready: watch::Receiver<bool>,
    permits: Arc<Semaphore>,
    figures: Arc<Mutex<Stats>>,
}

// === impl Door ===

impl Door {
    pub fn new(addr: Address, ready: watch::Receiver<bool>, figures: Arc<Mutex<Stats>>) -> Self {
        Self { addr, ready, permits: Arc::new(Semaphore::new(MAX_REQUESTS)), figures }
    }

    /// Answers the job's id and whether the key was known.
    pub async fn submit(&self, submit: Submit) -> Result<(String, bool), SubmitError> {
        match self.ready().await {
            Err(Error::Starting) => return Err(SubmitError::Starting),
            Err(_) => return Err(SubmitError::Stopping),
            Ok(()) => {}
        }
        let _permit = self.permits.acquire().await;
        self.addr.send(submit).await.unwrap_or(Err(SubmitError::Stopping))
    }

    pub async fn cancel(&self, id: String) -> Result<(), Error> {
        self.ready().await?;
        let _permit = self.permits.acquire().await;
        self.addr.send(Cancel(id)).await.unwrap_or(Err(Error::Stopping))
    }

    pub async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.ready().await?;
        let _permit = self.permits.acquire().await;
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have gone meanwhile.
        let look = Look(Box::new(move |engine| drop(answer.send(question(engine)))));
        self.addr.send(look).await.map_err(|_| Error::Stopping)?;
        answered.await.map_err(|_| Error::Stopping)
    }

    pub async fn stop(&self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.addr.send(Stop(grace, done)).await.is_ok() {
            // An error means that the actor is gone: stopped all the same.
            if timeout(grace + STOP_MARGIN, stopped).await.is_err() {
                tracing::error!("jobs did not come to their end in time");
            }
        }
    }

    /// True after the recovery has finished.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub fn stats(&self) -> Stats {
        *lock(&self.figures)
    }

    /// Waits for the recovery: before it nobody can say which jobs there are.
    async fn ready(&self) -> Result<(), Error> {
        let mut ready = self.ready.clone();
        match timeout(START_PATIENCE, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(Error::Starting),
        }
    }
}

pub fn lock(figures: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    figures.lock().expect("no code that holds the lock panics")
}
