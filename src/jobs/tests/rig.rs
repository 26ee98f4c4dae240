//! Shared parts of the tests of jobs: a node's jobs with handlers made of closures, and a reader of histories.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::full::Faulty;
use crate::{
    clock::Clock,
    event::SharedEvent,
    jobs::{
        Config, Deps, Handle, JobState, Snapshot, Submission,
        event::JobEvent,
        handle::{start, start_here},
        handler::{Handlers, Output, Registered, Task, TaskError, TaskHandler},
        memory::Memory,
        state::{Origin, TaskOrigin},
    },
    journal::{self, AppendError, BoxFuture, Journal, Query},
    json::Json,
    shares::Share,
    supervise::Supervisor,
    topic::Topic,
};

/// Jobs with a memory journal, on the test's own thread, so that the test can control the clock.
pub(super) struct Rig {
    pub jobs: Handle,
    pub journal: Arc<journal::Memory>,
    /// The shared parts of the node.
    alive: Weak<Faulty>,
}

/// Settings of a rig.
#[derive(Default)]
pub(super) struct Setup {
    pub config: Config,
    pub journal: journal::Config,
    pub handlers: Handlers,
    /// Errors of the first appends of events.
    pub errors: VecDeque<AppendError>,
    /// A journal that outlives this node: that of an earlier node, or a new one.
    pub durable: Option<Arc<journal::Memory>>,
    /// Number of scans of the journal that fail at first.
    pub failing_keys: usize,
    /// Records whose key contains this are damaged.
    pub damaged: Option<String>,
    /// The memory budget, if it differs from the default.
    pub memory: Option<Memory>,
    pub supervisor: Supervisor,
    /// The clock; default is the system's clock.
    pub clock: Option<Clock>,
}

/// Some tests control the clock and let minutes pass.
const PATIENCE: Duration = Duration::from_secs(600);

type Outcome = Result<Output, TaskError>;

struct Closure<F>(F);

/// The outcome of a test's task.
#[expect(clippy::unnecessary_wraps, reason = "handlers return a result")]
pub(super) fn good(result: impl Into<Json>) -> Outcome {
    Ok(Output::from(result.into()))
}

// === impl Setup ===

impl Setup {
    pub(super) fn with<F, R>(self, name: &str, run: F) -> Self
    where
        F: Fn(Task) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        self.bounded(name, None, run)
    }

    pub(super) fn bounded<F, R>(mut self, name: &str, concurrency: Option<usize>, run: F) -> Self
    where
        F: Fn(Task) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        self.handlers.register(name, Registered { concurrency, ..Registered::new(Closure(run)) });
        self
    }

    /// Handlers that most tests need: `echo` returns its input, `hang` runs until its token fires.
    pub(super) fn usual() -> Self {
        Self::default().with("echo", |task| async move { good(task.input) }).with("hang", |task| async move {
            task.cancel.cancelled().await;
            Err(TaskError::fatal("stopped", "stopped"))
        })
    }

    /// Makes the first appends of the journal fail.
    pub(super) fn faulty(mut self, errors: impl IntoIterator<Item = AppendError>) -> Self {
        self.errors.extend(errors);
        self
    }

    /// Makes the first reads of the journal fail.
    pub(super) fn unreadable(self, failing_keys: usize) -> Self {
        Self { failing_keys, ..self }
    }

    /// Uses a journal that outlives the node.
    pub(super) fn on(self, journal: &Arc<journal::Memory>) -> Self {
        Self { durable: Some(journal.clone()), ..self }
    }

    pub(super) fn start(self) -> Rig {
        self.start_by(start_here)
    }

    /// Starts the jobs as a node does: on threads of their own.
    pub(super) fn start_on_threads(self) -> Rig {
        self.start_by(start)
    }

    fn start_by(self, start_jobs: fn(Config, Deps) -> Handle) -> Rig {
        let durable = self.durable.is_some();
        let journal = self.durable.unwrap_or_else(|| Arc::new(journal::Memory::new(&self.journal)));
        let faulty = Arc::new(Faulty {
            errors: Mutex::new(self.errors),
            durable,
            failing_keys: self.failing_keys.into(),
            damaged: self.damaged,
            ..Faulty::new(journal.clone())
        });
        let alive = Arc::downgrade(&faulty);
        let http = Arc::new(Closure(|task: Task| async move { good(json!({ "asked": task.input })) }));
        let deps = Deps::new(faulty, &self.journal, self.handlers, http);
        let deps = deps.with_bounds(Share::WHOLE, self.memory.unwrap_or_default()).supervised(self.supervisor);
        let deps = deps.by_clock(self.clock.unwrap_or_else(Clock::system));
        Rig { jobs: start_jobs(self.config, deps), journal, alive }
    }
}

impl<F, R> TaskHandler for Closure<F>
where
    F: Fn(Task) -> R + Send + Sync + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    fn run(&self, task: Task) -> BoxFuture<'_, Outcome> {
        Box::pin((self.0)(task))
    }
}

// === impl Rig ===

impl Rig {
    /// The node crashes; unwritten data is lost.
    pub(super) async fn crash(self) {
        let Self { jobs, alive, .. } = self;
        drop(jobs);
        let gone = async {
            while alive.strong_count() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the node ends");
    }

    /// Submits a job and returns its id.
    pub(super) async fn submit(&self, spec: Value) -> String {
        self.jobs.submit(submission(spec)).await.expect("the job is accepted").job_id
    }

    /// Submits a job and waits for its whole history.
    pub(super) async fn run(&self, spec: Value) -> History {
        let id = self.submit(spec).await;
        self.ended(&id).await
    }

    /// Waits until the job has ended.
    pub(super) async fn ended(&self, id: &str) -> History {
        self.until(id, |history| history.last().is_some_and(|event| event.name() == "complete")).await
    }

    /// Waits until the history satisfies the condition.
    pub(super) async fn until(&self, id: &str, wanted: impl Fn(&[SharedEvent]) -> bool) -> History {
        let mut head = self.journal.watch_head();
        let wait = async {
            loop {
                head.mark_unchanged();
                let events = self.topic(&Topic::job(id).unwrap()).await;
                if wanted(&events) {
                    return History(events);
                }
                head.changed().await.expect("the journal is open");
            }
        };
        timeout(PATIENCE, wait).await.expect("the history satisfies the condition")
    }

    /// All events of a topic.
    pub(super) async fn topic(&self, topic: &Topic) -> Vec<SharedEvent> {
        let (mut events, mut after) = (Vec::new(), 0);
        loop {
            let query = Query {
                patterns: [topic.clone().into()].into(),
                after,
                floor: 0,
                limit: 10_000,
                max_bytes: usize::MAX,
            };
            let page = self.journal.read(query).await.unwrap();
            after = page.through;
            if page.events.is_empty() {
                return events;
            }
            events.extend(page.events);
        }
    }

    /// The snapshot after the end.
    pub(super) async fn snapshot(&self, id: &str) -> Snapshot {
        loop {
            let snapshot = self.jobs.get(id).await.expect("the job is known");
            if snapshot.summary.status.ended() {
                return snapshot;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Folds a history as a reader does, beginning with the spec's data in the snapshot.
    pub(super) fn refold(snapshot: &Snapshot, history: &History) -> Snapshot {
        let tasks = snapshot.tasks.iter().map(|task| TaskOrigin {
            id: task.task_id.to_string(),
            name: task.task_name.to_string(),
            source: task.source.clone(),
        });
        let tasks = tasks.collect();
        let of = &snapshot.summary;
        let origin = Origin {
            job_id: of.job_id.clone(),
            user: of.user.clone(),
            created_at: of.created_at,
            retry_of: of.retry_of.clone(),
            tasks,
        };
        let mut state = JobState::new(origin);
        for event in &history.0 {
            let fact = JobEvent::decode(event.name(), &event.data).expect("the topic holds events of jobs");
            state.apply(&fact, Some(event.position));
        }
        state.snapshot()
    }
}

/// Events of a job.
pub(super) struct History(pub Vec<SharedEvent>);

// === impl History ===

impl History {
    /// The names of the events, of one task or of the job itself (`""`).
    pub(super) fn names(&self, task: &str) -> Vec<&str> {
        let of = |event: &&SharedEvent| event.data_value()["taskId"].as_str().unwrap_or("") == task;
        self.0.iter().filter(of).map(|event| event.name()).collect()
    }

    /// Data of all events with a name.
    pub(super) fn all(&self, name: &str) -> Vec<Value> {
        self.0.iter().filter(|event| event.name() == name).map(|event| event.data_value()).collect()
    }

    /// Data of the only event with this name, of a task if one is named.
    pub(super) fn one(&self, name: &str, task: &str) -> Value {
        let mut all = self.all(name);
        all.retain(|data| data["taskId"].as_str().unwrap_or("") == task);
        assert_eq!(all.len(), 1, "{name} of {task:?}: {all:?}");
        all.remove(0)
    }

    /// `status`, `successCount`, `errorCount` of `complete`.
    pub(super) fn verdict(&self) -> (String, u64, u64) {
        let complete = self.one("complete", "");
        let count = |key: &str| complete[key].as_u64().unwrap();
        (complete["status"].as_str().unwrap().to_owned(), count("successCount"), count("errorCount"))
    }
}

pub(super) fn submission(spec: Value) -> Submission {
    Submission {
        spec: serde_json::from_value(spec).expect("the spec has the right form"),
        user: None,
        ..Submission::default()
    }
}
