//! The way to the actor of jobs.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::{
    Error, SubmitError,
    actor::{Cancel, Look, Shell, Stop, Submit},
    engine::Engine,
    stats::Stats,
};
use crate::durable::Mailbox;

/// How long a stop may take beyond its grace: tasks have two seconds, the rest is the journal's.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// The way to the actor.
#[derive(Clone)]
pub struct Door {
    mailbox: Mailbox<Shell>,
    figures: Arc<Mutex<Stats>>,
}

// === impl Door ===

impl Door {
    pub fn new(mailbox: Mailbox<Shell>, figures: Arc<Mutex<Stats>>) -> Self {
        Self { mailbox, figures }
    }

    /// Answers the job's id and whether the key was known.
    pub async fn submit(&self, submit: Submit) -> Result<(String, bool), SubmitError> {
        self.mailbox.ask(submit).await?
    }

    pub async fn cancel(&self, id: String) -> Result<(), Error> {
        self.mailbox.ask(Cancel(id)).await?
    }

    pub async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.mailbox.ask(Look(Box::new(move |engine| drop(answer.send(question(engine)))))).await?;
        answered.await.map_err(|_| Error::Stopping)
    }

    pub async fn stop(&self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.mailbox.ask_now(Stop(grace, done)).await.is_ok() {
            // An error means that the actor is gone: stopped all the same.
            if timeout(grace + STOP_MARGIN, stopped).await.is_err() {
                tracing::error!("jobs did not come to their end in time");
            }
        }
    }

    /// True after the recovery has finished.
    pub fn is_ready(&self) -> bool {
        self.mailbox.is_ready()
    }

    pub fn stats(&self) -> Stats {
        *lock(&self.figures)
    }
}

pub fn lock(figures: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    figures.lock().expect("no code that holds the lock panics")
}
