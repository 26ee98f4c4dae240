//! The thread on which attempts run: beside the engine's, so that requests, bodies and JSON do not hold it up.
//!
//! It ends with the [`Runner`], and what still runs there is dropped, which by the contract of handlers stops it.

use std::thread;

use tokio::{
    runtime::Builder,
    sync::mpsc,
    task::{LocalSet, spawn_local},
};

use super::engine::{Attempt, Report};
use crate::supervise::{Supervisor, Vital};

/// The way to the thread.
#[derive(Debug)]
pub struct Runner {
    begin: mpsc::Sender<Vec<Attempt>>,
    /// Guard of the actor that owns the runner: a panic in the actor drops it, which ends the node.
    _actor: Vital,
}

// === impl Runner ===

impl Runner {
    /// Starts the thread. Attempts report to `reports`, and no more than `slots` of them are there at a time.
    ///
    /// # Panics
    /// When the system gives no thread or no descriptors: nothing would ever run.
    pub fn start(slots: usize, reports: mpsc::Sender<Report>, supervisor: &Supervisor) -> Self {
        let (begin, mut begun) = mpsc::channel::<Vec<Attempt>>(slots.clamp(1, tokio::sync::Semaphore::MAX_PERMITS));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime needs a few descriptors");
        let vital = supervisor.vital("attempts");
        let run = move || {
            let _vital = vital;
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                spawn_local(crate::upstream::serve_thread());
                while let Some(attempts) = begun.recv().await {
                    attempts.into_iter().for_each(|attempt| drop(spawn_local(attempt.run(reports.clone()))));
                }
            });
            {
                // What is dropped may want to say so to the runtime.
                let _entered = runtime.enter();
                drop(local);
            }
            // A name lookup that nobody waits for any more may take its time.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("attempts".into()).spawn(run).expect("the system has one more thread");
        Self { begin, _actor: supervisor.vital("jobs") }
    }

    /// Begins attempts. Many go over at once, since each call wakes the thread.
    pub fn begin(&self, attempts: Vec<Attempt>) {
        // Each batch holds a slot of its own at least, so there is room; and the thread is gone only when this is.
        if let Err(error) = self.begin.try_send(attempts) {
            tracing::error!(%error, "attempts cannot be begun");
        }
    }
}
