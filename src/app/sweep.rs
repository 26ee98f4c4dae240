//! The periodic work of a node: adopts clock jumps, and applies the journal's retention.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    journal::{self, Unavailable},
    supervise::Supervisor,
};

/// The handles that the sweep needs. It must not hold the whole node: parts of the node end when their last handle is
/// dropped.
#[derive(Clone)]
pub(super) struct Sweep {
    pub(super) journal: journal::Shared,
    pub(super) clock: Clock,
    pub(super) stopping: CancellationToken,
    pub(super) supervisor: Supervisor,
}

// === impl Sweep ===

impl Sweep {
    /// Sweeps once a second until the node stops. If the journal's writer has died, the node ends.
    pub(super) async fn run(self) {
        let mut every = interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while self.stopping.run_until_cancelled(every.tick()).await.is_some() {
            self.clock.follow();
            match self.journal.sweep(self.clock.steady_ms()).await {
                Ok(()) => failing = false,
                // The node is not stopping, so the journal's writer has died.
                Err(Unavailable::Closed) if !self.stopping.is_cancelled() => return self.supervisor.fail("journal"),
                // Log a lasting failure only once.
                Err(_) if std::mem::replace(&mut failing, true) => {}
                Err(error) => tracing::error!(%error, "the journal cannot be swept"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Context, Wake},
    };

    use super::*;
    use crate::{event::Draft, journal::Batch, topic::Topic};

    /// Panics on the thread of the writer, which wakes it.
    struct Bomb;

    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("the test requested this panic");
        }
    }

    #[tokio::test]
    async fn a_journal_whose_writer_panics_ends_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal::open(&journal::Config::default(), dir.path()).unwrap();
        let batch = || Batch::events(vec![Draft::new(Topic::new("t").unwrap(), "e", "x")]);
        let waker = Arc::new(Bomb).into();
        // The append may complete at once; repeat until it does not.
        let mut append = journal.append(batch());
        while append.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            append = journal.append(batch());
        }
        let (clock, stopping, supervisor) = (Clock::system(), CancellationToken::new(), Supervisor::default());
        let sweep = Sweep { journal: journal.clone(), clock, stopping, supervisor: supervisor.clone() };
        tokio::time::timeout(Duration::from_secs(60), sweep.run()).await.expect("it ends by itself");
        assert_eq!(supervisor.failed(), Some("journal"));
        let refused = journal.append(batch()).await.unwrap_err();
        assert!(matches!(refused, journal::AppendError::Unavailable(Unavailable::Closed)), "{refused:?}");
    }

    #[tokio::test]
    async fn a_journal_whose_writer_has_ended_ends_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal::open(&journal::Config::default(), dir.path()).unwrap();
        journal.close().await;
        let (clock, stopping, supervisor) = (Clock::system(), CancellationToken::new(), Supervisor::default());
        let sweep = Sweep { journal, clock, stopping, supervisor: supervisor.clone() };
        tokio::time::timeout(Duration::from_secs(60), sweep.run()).await.expect("it ends by itself");
        assert_eq!(supervisor.failed(), Some("journal"));
    }
}
