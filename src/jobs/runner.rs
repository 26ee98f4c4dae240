//! The thread on which attempts run, separate from the engine's thread: requests, bodies and JSON do not delay the
//! engine.
//!
//! It ends with the [`Runner`]. Attempts that still run are dropped, which stops them by the contract of handlers.

use std::thread;

use tokio::{
    runtime::Builder,
    sync::mpsc,
    task::{LocalSet, spawn_local},
};

use super::{attempt::Attempt, work::TaskReport};
use crate::supervise::{Supervisor, Vital};

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Runner {
    begin: mpsc::Sender<Vec<Attempt>>,
    /// Guard of the actor that owns the runner: a panic in the actor drops it, which ends the node.
    _actor: Vital,
}

// === impl Runner ===

impl Runner {
    /// Starts the thread. Attempts report to `reports`; there are at most `slots` of them at a time.
    ///
    /// # Panics
    /// If the system cannot create a thread or has no descriptors left.
    pub(crate) fn start(slots: usize, reports: mpsc::Sender<TaskReport>, supervisor: &Supervisor) -> Self {
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
                // Attempts that are dropped may need the runtime.
                let _entered = runtime.enter();
                drop(local);
            }
            // A name lookup that is no longer needed may take long.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("attempts".into()).spawn(run).expect("the system has one more thread");
        Self { begin, _actor: supervisor.vital("jobs") }
    }

    /// Begins attempts. One call takes many of them, since each call wakes the thread.
    pub(crate) fn begin(&self, attempts: Vec<Attempt>) {
        // Each batch holds at least one slot, so there is room. The thread ends only when this value is dropped.
        if let Err(error) = self.begin.try_send(attempts) {
            tracing::error!(%error, "attempts cannot be started");
        }
    }
}
