//! Supervises long-running tasks: each has a name, an owner and a policy for panics.
//!
//! | policy | for | after a panic |
//! |---|---|---|
//! | [`Supervisor::vital`] | tasks with state: actors, the journal's writer | the node stops cleanly and exits |
//! | [`Supervisor::keep`] | tasks that can be restarted: sweeps, watchers of files | it is logged, and the task restarts after a pause |
//!
//! Work for one connection, job or relay is not supervised here: its owner ends it after a panic. The task that writes the
//! failure of a relay's source is restarted, because nothing else would end that source.

use std::{
    any::Any,
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// Supervises the long-running tasks of a node. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(Arc<Inner>);

/// A guard that a vital task holds while it runs. If a panic drops it, the node ends.
#[derive(Debug)]
pub struct Vital {
    name: &'static str,
    supervisor: Supervisor,
}

#[derive(Debug, Default)]
struct Inner {
    /// The first vital task that has failed.
    failed: watch::Sender<Option<&'static str>>,
    /// Tasks that have failed and are not restarted yet.
    waiting: Mutex<BTreeSet<&'static str>>,
    restarts: AtomicU64,
}

/// Pause before a restart. It doubles with each failure in a row.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// After a run of this length the pause is the shortest one again.
const STABLE_RUN: Duration = Duration::from_secs(60);

// === impl Supervisor ===

impl Supervisor {
    /// A guard for a task that the node needs and that cannot be restarted.
    pub fn vital(&self, name: &'static str) -> Vital {
        Vital { name, supervisor: self.clone() }
    }

    /// Runs a task until it ends. After a panic it is restarted with a new future.
    pub async fn keep<F: Future<Output = ()>>(self, name: &'static str, mut begin: impl FnMut() -> F) {
        let mut pause = PAUSE;
        loop {
            let begun = Instant::now();
            let Err(panic) = AssertUnwindSafe(async { begin().await }).catch_unwind().await else { return };
            if begun.elapsed() >= STABLE_RUN {
                pause = PAUSE;
            }
            tracing::error!(task = name, panic = text(&*panic), pause_ms = pause.as_millis(), "a task is restarted");
            self.waiting().insert(name);
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
            self.0.restarts.fetch_add(1, Relaxed);
            self.waiting().remove(name);
        }
    }

    /// Reports that a vital task has failed, so that the node must stop.
    pub fn fail(&self, name: &'static str) {
        let first = self.0.failed.send_if_modified(|failed| failed.is_none() && failed.replace(name).is_none());
        if first {
            tracing::error!(task = name, "a vital task has failed; the node must stop");
        }
    }

    /// The vital task that has failed.
    pub fn failed(&self) -> Option<&'static str> {
        *self.0.failed.borrow()
    }

    /// Resolves when a vital task fails.
    pub async fn failure(&self) -> &'static str {
        let mut failed = self.0.failed.subscribe();
        let name = failed.wait_for(Option::is_some).await.ok().and_then(|name| *name);
        // The sender is in `self`, so the channel is open.
        name.expect("`wait_for` returned it")
    }

    /// Why the node is degraded or failed; `None` if all tasks run.
    pub fn trouble(&self) -> Option<String> {
        if let Some(name) = self.failed() {
            return Some(format!("a part of the node has failed: {name}"));
        }
        self.waiting().first().map(|name| format!("a part of the node has failed and is restarted: {name}"))
    }

    /// Number of restarts.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Vital ===

impl Vital {
    /// Runs the task and holds the guard.
    pub async fn run<T>(self, task: impl Future<Output = T>) -> T {
        task.await
    }
}

impl Drop for Vital {
    /// Called while the thread panics if the task has panicked. Any other end is no failure.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.supervisor.fail(self.name);
        }
    }
}

/// The message of a panic.
pub fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_is_restarted_after_a_growing_pause() {
        let supervisor = Supervisor::default();
        let (begun, begin) = (Cell::new(Vec::new()), Instant::now());
        let run = supervisor.clone().keep("sweep", || {
            let mut times = begun.take();
            times.push(begin.elapsed().as_millis());
            let life = times.len();
            begun.set(times);
            async move {
                // The third life is a long one.
                sleep(if life == 3 { STABLE_RUN } else { Duration::ZERO }).await;
                assert!(life > 4, "it fails");
            }
        });
        run.await;
        assert_eq!(begun.take(), [0, 100, 300, 60_400, 60_600]);
        assert_eq!((supervisor.restarts(), supervisor.failed(), supervisor.trouble()), (4, None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_for_its_restart_is_reported() {
        let supervisor = Supervisor::default();
        let kept = tokio::spawn(supervisor.clone().keep("sweep", || async { panic!("it fails") }));
        sleep(PAUSE / 2).await;
        assert_eq!(supervisor.trouble().unwrap(), "a part of the node has failed and is restarted: sweep");
        kept.abort();
    }

    #[tokio::test]
    async fn a_panic_of_a_vital_task_ends_the_node() {
        let supervisor = Supervisor::default();
        tokio::spawn(supervisor.vital("ends well").run(async {})).await.unwrap();
        let aborted = tokio::spawn(supervisor.vital("is cancelled").run(std::future::pending::<()>()));
        aborted.abort();
        aborted.await.unwrap_err();
        assert_eq!(supervisor.trouble(), None);
        for name in ["engine", "another"] {
            tokio::spawn(supervisor.vital(name).run(async { panic!("it fails") })).await.unwrap_err();
        }
        assert_eq!(supervisor.failure().await, "engine");
        assert_eq!(supervisor.trouble().unwrap(), "a part of the node has failed: engine");
    }

    #[test]
    fn a_vital_guard_works_in_a_thread() {
        let supervisor = Supervisor::default();
        let vital = supervisor.vital("writer");
        let thread = std::thread::spawn(move || {
            let _vital = vital;
            panic!("it fails");
        });
        thread.join().unwrap_err();
        assert_eq!(supervisor.failed(), Some("writer"));
    }
}
