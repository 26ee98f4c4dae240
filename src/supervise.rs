//! Long tasks: each has a name, an owner and a declared fate. A node runs with all of its parts, or it ends.
//!
//! | fate | for | when it panics |
//! |---|---|---|
//! | [`Supervisor::vital`] | tasks with state of their own: actors, the journal's writer | the node stops in order and ends |
//! | [`Supervisor::keep`] | tasks that can begin anew: sweeps, watchers of files | it is logged, and begun again after a pause |
//!
//! Work for one connection, one job or one relay is not supervised here: its panic ends that one, see its owner. The
//! failure of a source of a relay is written by a task that is kept: nothing else would end that source.

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

/// Watches over the long tasks of a node. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(Arc<Inner>);

/// Held by a vital task as long as it runs. A panic that drops it ends the node.
#[derive(Debug)]
pub struct Vital {
    name: &'static str,
    supervisor: Supervisor,
}

#[derive(Debug, Default)]
struct Inner {
    /// The first vital task that failed.
    failed: watch::Sender<Option<&'static str>>,
    /// Supervisor that failed and have not begun again yet.
    waiting: Mutex<BTreeSet<&'static str>>,
    restarts: AtomicU64,
}

/// Pause before a task begins again; it doubles with each failure in a row.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A task that ran for so long before it failed begins again after the shortest pause.
const STEADY: Duration = Duration::from_secs(60);

// === impl Supervisor ===

impl Supervisor {
    /// The guard of a task that the node cannot do without and that cannot begin anew.
    pub fn vital(&self, name: &'static str) -> Vital {
        Vital { name, supervisor: self.clone() }
    }

    /// Runs a task until it ends by itself. After a panic it begins again, with a new future.
    pub async fn keep<F: Future<Output = ()>>(self, name: &'static str, mut begin: impl FnMut() -> F) {
        let mut pause = PAUSE;
        loop {
            let begun = Instant::now();
            let Err(panic) = AssertUnwindSafe(async { begin().await }).catch_unwind().await else { return };
            if begun.elapsed() >= STEADY {
                pause = PAUSE;
            }
            tracing::error!(task = name, panic = text(&*panic), pause_ms = pause.as_millis(), "a task begins again");
            self.waiting().insert(name);
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
            self.0.restarts.fetch_add(1, Relaxed);
            self.waiting().remove(name);
        }
    }

    /// Reports that a vital task has failed: the node cannot go on.
    pub fn fail(&self, name: &'static str) {
        let first = self.0.failed.send_if_modified(|failed| failed.is_none() && failed.replace(name).is_none());
        if first {
            tracing::error!(task = name, "a vital task has failed; the node cannot go on");
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
        // The sender is here, in `self`.
        name.expect("it was waited for")
    }

    /// Why the node does not work as it should.
    pub fn trouble(&self) -> Option<String> {
        if let Some(name) = self.failed() {
            return Some(format!("a part of the node has failed: {name}"));
        }
        self.waiting().first().map(|name| format!("a part of the node has failed and begins again: {name}"))
    }

    /// Times that a task began again.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Vital ===

impl Vital {
    /// Runs the task under its guard.
    pub async fn run<T>(self, task: impl Future<Output = T>) -> T {
        task.await
    }
}

impl Drop for Vital {
    /// A panic drops what the task owned while its thread unwinds. Any other end is the task's own.
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
    async fn a_task_that_can_begin_anew_does_so_after_a_pause_that_grows() {
        let supervisor = Supervisor::default();
        let (begun, begin) = (Cell::new(Vec::new()), Instant::now());
        let run = supervisor.clone().keep("sweep", || {
            let mut times = begun.take();
            times.push(begin.elapsed().as_millis());
            let life = times.len();
            begun.set(times);
            async move {
                // The third life is a long one.
                sleep(if life == 3 { STEADY } else { Duration::ZERO }).await;
                assert!(life > 4, "it fails");
            }
        });
        run.await;
        assert_eq!(begun.take(), [0, 100, 300, 60_400, 60_600]);
        assert_eq!((supervisor.restarts(), supervisor.failed(), supervisor.trouble()), (4, None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn until_it_has_begun_again_the_node_says_what_is_missing() {
        let supervisor = Supervisor::default();
        let kept = tokio::spawn(supervisor.clone().keep("sweep", || async { panic!("it fails") }));
        sleep(PAUSE / 2).await;
        assert_eq!(supervisor.trouble().unwrap(), "a part of the node has failed and begins again: sweep");
        kept.abort();
    }

    #[tokio::test]
    async fn a_vital_task_that_panics_is_the_end_of_the_node() {
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
    fn a_thread_is_guarded_as_a_task_is() {
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
