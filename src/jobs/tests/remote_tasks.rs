//! The engine with tasks that remotes run: pure, without a remote and without a clock.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json, value::to_raw_value};
use tokio::time::Instant;

use crate::{
    event::Position,
    jobs::{
        Config, Deps, Limits, Plan, Spec,
        attempt::Attempt,
        engine::{Accepted, Engine, ResultBounds, StoredJob},
        event::JobEvent,
        handler::{Handlers, Output, Registered, Task, TaskError, TaskHandler},
        record::{SpecRecord, VERSION},
        work::{RemoteReport, RemoteTasks, ReportBody, TaskDone, TaskReport},
    },
    journal::{self, BoxFuture, Memory},
    upstream::{self, Client, RemoteConfig, Remotes, Via},
};

use super::full::Faulty;

struct Nothing;

impl TaskHandler for Nothing {
    fn run(&self, _: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async { Ok(Output::default()) })
    }
}

/// An engine whose journal is a list.
struct Pure {
    engine: Engine,
    now: Instant,
    spec: Spec,
    deps: Deps,
    events: Vec<(String, Value)>,
    /// Attempts and remote tasks that the engine has handed out.
    attempts: Vec<Attempt>,
    remote_tasks: Vec<RemoteTasks>,
    stopped: bool,
}

fn deps(durable: bool) -> Deps {
    let limits = journal::Config::default();
    let journal = Faulty { durable, ..Faulty::new(Arc::new(Memory::new(&limits))) };
    let mut handlers = Handlers::default();
    handlers.register("local", Registered::new(Nothing));
    let config = RemoteConfig { base_url: Some("http://h".into()), ..RemoteConfig::default() };
    let configs = [("far".to_owned(), config.clone()), ("other".to_owned(), config)].into();
    let remotes = Remotes::build(&configs, &Client::new(upstream::Config::default())).unwrap();
    Deps { remotes, ..Deps::new(Arc::new(journal), &limits, handlers, Arc::new(Nothing)) }
}

/// `a` and `b` on one remote, `c` on another, `d` on this node.
fn four() -> Value {
    let task = |id: &str, remote: Option<&str>| json!({ "id": id, "run": "local", "remote": remote });
    json!({ "tasks": [task("a", Some("far")), task("b", Some("far")), task("c", Some("other")), task("d", None)] })
}

/// One task on a remote.
fn single() -> Value {
    json!({ "tasks": [{ "id": "a", "run": "x", "remote": "far" }] })
}

fn done(result: &Value) -> RemoteReport {
    let result = to_raw_value(result).unwrap();
    RemoteReport::Ended {
        result: Ok(TaskDone { result, encoding: None, http_status: None, held: Vec::new() }),
        attempts: 1,
    }
}

fn failed(code: &str) -> RemoteReport {
    RemoteReport::Ended { result: Err(TaskError::transient(code, "bad luck")), attempts: 1 }
}

fn progress(progress: f64, data: Option<Value>) -> RemoteReport {
    RemoteReport::Progress { progress, message: None, data: data.map(|data| to_raw_value(&data).unwrap()) }
}

fn retry(attempt: u32) -> RemoteReport {
    RemoteReport::Retry { attempt, delay_ms: 5, error: TaskError::transient("http_status", "500") }
}

impl Pure {
    fn new(spec: &Value, durable: bool) -> Self {
        let deps = deps(durable);
        let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
        let engine = Engine::new(Config { concurrency: 1, ..Config::default() }, &deps);
        let mut pure = Self {
            engine,
            now: Instant::now(),
            spec,
            deps,
            events: Vec::new(),
            attempts: Vec::new(),
            remote_tasks: Vec::new(),
            stopped: false,
        };
        let (_, task_quota) = pure.engine.admit(None, 1).unwrap();
        let limits = Limits { max_tasks: 99, handlers: &pure.deps.handlers, remotes: &pure.deps.remotes };
        let plan = Plan::check(&pure.spec, limits).unwrap();
        let origin = pure.record().origin(&plan);
        pure.engine.accept(
            Accepted { origin, plan, key_record: None, quota_guard: None, record: bytes::Bytes::new(), task_quota },
            pure.now,
        );
        pure.turn();
        pure
    }

    /// The node ended after this number of events, and starts again.
    fn again(&self, events: usize) -> Self {
        let engine = Engine::new(Config::default(), &self.deps);
        let events = self.events[..events].to_vec();
        let (spec, deps) = (self.spec.clone(), self.deps.clone());
        let (attempts, remote_tasks) = (Vec::new(), Vec::new());
        let mut pure = Self { engine, now: self.now, spec, deps, events, attempts, remote_tasks, stopped: false };
        let bounds = ResultBounds::new(&Config::default(), pure.deps.max_event_bytes);
        let mut stored = StoredJob::new(pure.record(), 0, &pure.deps.handlers, bounds).unwrap();
        for (offset, (name, data)) in (1..).zip(&pure.events) {
            let event = JobEvent::decode(name, &data.to_string()).unwrap();
            stored.take(&event, 0, Position { epoch: 1, offset });
        }
        pure.engine.restore(stored, pure.now);
        pure.turn();
        pure
    }

    fn record(&self) -> SpecRecord {
        let spec = self.spec.clone();
        let created_at = crate::event::now_ms();
        SpecRecord {
            version: VERSION,
            job_id: "J".into(),
            created_at,
            user: None,
            groups: Arc::default(),
            retry_of: None,
            key_record: None,
            via: Via::default(),
            spec,
        }
    }

    fn report(&mut self, task: u32, report: RemoteReport) {
        self.send(task, ReportBody::Remote(report));
    }

    fn send(&mut self, task: u32, body: ReportBody) {
        let job: Arc<str> = "J".into();
        self.engine.report(TaskReport { job, task, attempt: 0, body }, self.now);
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            let turn = self.engine.turn(self.now);
            self.attempts.extend(turn.attempts);
            self.remote_tasks.extend(turn.remote_tasks);
            self.stopped = turn.stopped;
            let Some(batch) = turn.batch else { return };
            let events = batch.events.into_iter();
            self.events.extend(events.map(|event| (event.event, serde_json::from_str(&event.data).unwrap())));
            self.engine.answered(Ok(Vec::new()), self.now);
        }
    }

    /// Names of the events and, for task events, sources.
    fn lines(&self) -> Vec<String> {
        let line = |(name, data): &(String, Value)| {
            let task = data["taskId"].as_str().map_or_else(String::new, |id| format!(" {id}@{}", data["source"]));
            format!("{name}{}", task.replace('"', ""))
        };
        self.events.iter().map(line).collect()
    }

    /// The events without times.
    fn timeless(&self) -> Vec<(String, Value)> {
        let mut events = self.events.clone();
        for (_, data) in &mut events {
            let data = data.as_object_mut().unwrap();
            data.remove("timestamp");
            data.remove("durationMs");
        }
        events
    }
}

#[test]
fn remote_tasks_are_handed_over_by_remote_and_take_no_slot() {
    let mut pure = Pure::new(&four(), false);
    let tasks: Vec<_> = pure.remote_tasks.iter().map(|group| (&*group.remote, group.tasks.clone())).collect();
    assert_eq!(tasks, [("far", vec![("a".into(), 0), ("b".into(), 1)]), ("other", vec![("c".into(), 2)])]);
    pure.remote_tasks.clear();
    pure.turn();
    assert!(pure.remote_tasks.is_empty(), "once");
    assert_eq!(pure.attempts.len(), 1, "the one slot is for the local task");
    assert_eq!((pure.engine.stats().tasks_queued, pure.engine.stats().remote_jobs), (0, 2));
}

#[test]
fn the_reports_of_a_remote_become_the_history_of_the_job() {
    let mut pure = Pure::new(&four(), false);
    pure.send(3, ReportBody::Remote(done(&json!(9))));
    for report in [RemoteReport::Started, progress(30.0, None), progress(20.0, None), retry(2), progress(5.0, None)] {
        pure.report(0, report);
    }
    pure.report(0, done(&json!({ "x": 1 })));
    for late in [RemoteReport::Started, progress(99.0, None), retry(3), done(&json!(2)), failed("late")] {
        pure.report(0, late);
    }
    // It ended before it began.
    pure.report(1, failed("cancelled"));
    pure.report(2, RemoteReport::Started);
    pure.report(2, failed("exit_status"));
    let expected = [
        "task_start d@local",
        "task_start a@far",
        "task_progress a@far",
        "task_retry a@far",
        "task_progress a@far",
        "task_complete a@far",
        "progress",
        "error b@far",
        "progress",
        "task_start c@other",
        "error c@other",
        "progress",
    ];
    assert_eq!(pure.lines(), expected, "a local task ignores reports of a remote, and nothing follows an end");
    assert_eq!(pure.events[5].1["attempts"], 2);
    assert_eq!(pure.events[7].1["retryable"], true);
    assert!(pure.events.iter().all(|(_, data)| data["source"].is_string()));
}

/// The remote repeats all its reports after each restart of this node, for any end of the history.
#[test]
fn repeated_reports_continue_the_history() {
    let story: [(u32, fn() -> RemoteReport); 12] = [
        (0, || RemoteReport::Started),
        (0, || progress(10.0, None)),
        (0, || progress(10.0, Some(json!("one")))),
        (1, || RemoteReport::Started),
        (0, || progress(10.0, Some(json!("two")))),
        (0, || progress(60.0, None)),
        (1, || done(&json!("b"))),
        (0, || retry(2)),
        (0, || progress(0.0, None)),
        (0, || progress(10.0, Some(json!("one")))),
        (2, || failed("exit_status")),
        (0, || done(&json!("a"))),
    ];
    let spec = json!({ "tasks": [
        { "id": "a", "run": "x", "remote": "far" }, { "id": "b", "run": "x", "remote": "far" },
        { "id": "c", "run": "x", "remote": "far" },
    ] });
    let mut whole = Pure::new(&spec, true);
    for (task, report) in &story {
        whole.report(*task, report());
    }
    assert_eq!(whole.lines().last().map(String::as_str), Some("complete"));
    for cut in 0..whole.events.len() {
        let mut pure = whole.again(cut);
        let open = pure.remote_tasks.iter().flat_map(|group| &group.tasks).count();
        let ended = whole.events[..cut].iter().filter(|(name, _)| name == "task_complete" || name == "error").count();
        assert_eq!(open, 3 - ended, "only open tasks are followed");
        for (task, report) in &story {
            pure.report(*task, report());
        }
        assert_eq!(sorted(&pure), sorted(&whole), "cut after {cut}");
        assert_eq!(pure.lines().last().map(String::as_str), Some("complete"));
    }
}

/// The events of each task and of the job: `progress` of the job may be at another position after a cut.
fn sorted(pure: &Pure) -> Vec<(String, Vec<Value>)> {
    let of = |task: Value| {
        let events = pure.timeless().into_iter().filter(|(name, data)| data["taskId"] == task && name != "progress");
        events.map(|(name, data)| json!([name, data])).collect()
    };
    [json!("a"), json!("b"), json!("c"), Value::Null].map(|task| (task.to_string(), of(task))).into()
}

#[test]
fn a_restart_changes_nothing_for_a_remote_task() {
    let mut pure = Pure::new(&single(), true);
    pure.report(0, RemoteReport::Started);
    for _ in 0..5 {
        pure = pure.again(pure.events.len());
        assert_eq!(pure.remote_tasks.len(), 1);
        assert!(pure.attempts.is_empty());
    }
    assert_eq!(pure.lines(), ["task_start a@far"], "no event is added");
    pure.report(0, done(&json!(1)));
    assert_eq!(pure.lines().last().map(String::as_str), Some("complete"));
}

fn tokens(pure: &Pure) -> Vec<(bool, bool)> {
    pure.remote_tasks.iter().map(|group| (group.cancel.is_cancelled(), group.leave.is_cancelled())).collect()
}

#[test]
fn a_cancel_reaches_the_remote_and_a_suspension_does_not() {
    let mut pure = Pure::new(&four(), true);
    pure.engine.cancel("J").unwrap();
    pure.turn();
    assert_eq!(tokens(&pure), [(true, false); 2]);
    pure.report(0, failed("whatever"));
    let error = pure.events.iter().find(|(name, data)| name == "error" && data["taskId"] == "a").unwrap();
    assert_eq!(error.1["code"], "cancelled", "the reason is the ending");

    let mut pure = Pure::new(&four(), true);
    pure.report(0, RemoteReport::Started);
    let before = pure.lines().len();
    pure.engine.stop(Duration::ZERO, pure.now);
    pure.turn();
    assert_eq!(tokens(&pure), [(false, true); 2]);
    assert_eq!(pure.lines().len(), before, "no event of remote tasks");

    let mut pure = Pure::new(&single(), false);
    pure.engine.stop(Duration::ZERO, pure.now);
    pure.turn();
    assert_eq!(tokens(&pure), [(true, false)], "this job does not outlive the node");
    pure.report(0, failed("stopped"));
    assert!(!pure.stopped, "a session still follows the remote");
    pure.send(0, ReportBody::SessionEnded);
    assert!(pure.stopped);
    assert_eq!(pure.events.last().unwrap().1["status"], "cancelled");
}

#[test]
fn an_ending_that_a_restart_finds_reaches_the_remote() {
    let mut pure = Pure::new(&json!({ "failFast": true, "tasks": four()["tasks"] }), true);
    pure.report(2, RemoteReport::Started);
    pure.report(2, failed("exit_status"));
    let position = pure.events.iter().position(|(name, _)| name == "error").unwrap();
    let again = pure.again(position + 1);
    assert_eq!(tokens(&again), [(true, false)], "`far` is cancelled; `other` has no open task");
    // A remote that has cancelled a task for its own reasons ends only that task.
    let mut pure = Pure::new(&four(), true);
    pure.report(2, failed("cancelled"));
    let again = pure.again(pure.events.len());
    assert_eq!(tokens(&again), [(false, false)]);
}

#[test]
fn a_flood_is_bounded_and_slow_reports_are_not() {
    let count = |pure: &Pure| pure.lines().iter().filter(|line| line.starts_with("task_progress")).count();
    let mut pure = Pure::new(&single(), false);
    pure.report(0, RemoteReport::Started);
    let most = Config::default().max_response_bytes;
    for _ in 0..200 {
        pure.report(0, progress(1.0, Some(json!("x".repeat(100_000)))));
    }
    assert_eq!(
        count(&pure),
        most / 100_002 + 1,
        "data up to `max_response_bytes`, and the message that the rest is left out"
    );
    for n in 0..100 {
        pure.now += Duration::from_millis(100);
        pure.report(0, progress(f64::from(n), None));
    }
    assert_eq!(count(&pure), most / 100_002 + 1 + 99, "slow reports become events, except for the drop from 1 to 0");
    for attempt in 2..100_000 {
        pure.report(0, retry(attempt));
    }
    assert!(pure.events.len() < 500, "{}", pure.events.len());
    pure.report(0, done(&json!(1)));
    assert_eq!(pure.events.last().unwrap().1["status"], "completed");
}
