//! The engine with tasks that remotes run: pure, without a remote and without a clock.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json, value::to_raw_value};
use tokio::time::Instant;

use crate::{
    event::Position,
    jobs::{
        Config, Deps, Limits, Plan, Spec,
        engine::{Accepted, Bounds, Done, Engine, Group, Report, Said, StoredJob, Told},
        event::JobEvent,
        handler::{Handlers, Output, Registered, Task, TaskError, TaskHandler},
        record::{SpecRecord, VERSION},
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

/// `a` and `b` on one remote, `c` on another, `d` here.
fn four() -> Value {
    let task = |id: &str, remote: Option<&str>| json!({ "id": id, "run": "local", "remote": remote });
    json!({ "tasks": [task("a", Some("far")), task("b", Some("far")), task("c", Some("other")), task("d", None)] })
}

/// One task on a remote.
fn single() -> Value {
    json!({ "tasks": [{ "id": "a", "run": "x", "remote": "far" }] })
}

fn done(result: &Value) -> Told {
    let result = to_raw_value(result).unwrap();
    Told::Ended { result: Ok(Done { result, encoding: None, http_status: None, held: Vec::new() }), attempts: 1 }
}

fn failed(code: &str) -> Told {
    Told::Ended { result: Err(TaskError::transient(code, "bad luck")), attempts: 1 }
}

fn progress(progress: f64, data: Option<Value>) -> Told {
    Told::Progress { progress, message: None, data: data.map(|data| to_raw_value(&data).unwrap()) }
}

fn retry(attempt: u32) -> Told {
    Told::Retry { attempt, delay_ms: 5, error: TaskError::transient("http_status", "500") }
}

impl Pure {
    fn new(spec: &Value, durable: bool) -> Self {
        let deps = deps(durable);
        let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
        let engine = Engine::new(Config { concurrency: 1, ..Config::default() }, &deps);
        let mut pure = Self { engine, now: Instant::now(), spec, deps, events: Vec::new() };
        let (_, tasks) = pure.engine.admit(None, 1).unwrap();
        let limits = Limits { max_tasks: 99, handlers: &pure.deps.handlers, remotes: &pure.deps.remotes };
        let plan = Plan::check(&pure.spec, limits).unwrap();
        let origin = pure.record().origin(&plan);
        pure.engine.accept(
            Accepted { origin, plan, key_record: None, hold: None, record: bytes::Bytes::new(), tasks },
            pure.now,
        );
        pure.turn();
        pure
    }

    /// The node ended after so many events, and starts again.
    fn again(&self, events: usize) -> Self {
        let engine = Engine::new(Config::default(), &self.deps);
        let events = self.events[..events].to_vec();
        let mut pure = Self { engine, now: self.now, spec: self.spec.clone(), deps: self.deps.clone(), events };
        let bounds = Bounds::new(&Config::default(), pure.deps.max_event_bytes);
        let mut past = StoredJob::new(pure.record(), 0, &pure.deps.handlers, bounds).unwrap();
        for (offset, (name, data)) in (1..).zip(&pure.events) {
            let event = JobEvent::decode(name, &data.to_string()).unwrap();
            past.take(&event, 0, Position { epoch: 1, offset });
        }
        pure.engine.restore(past, pure.now);
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

    fn tell(&mut self, task: u32, told: Told) {
        self.said(task, Said::Told(told));
    }

    fn said(&mut self, task: u32, said: Said) {
        let id: Arc<str> = "J".into();
        self.engine.report(Report { id, task, attempt: 0, said }, self.now);
        self.turn();
    }

    fn turn(&mut self) {
        self.engine.turn(self.now);
        while let Some(batch) = self.engine.take_batch() {
            let events = batch.events.into_iter();
            self.events.extend(events.map(|event| (event.event, serde_json::from_str(&event.data).unwrap())));
            self.engine.answered(Ok(Vec::new()), self.now);
        }
    }

    /// Names and, of task events, sources.
    fn told(&self) -> Vec<String> {
        let line = |(name, data): &(String, Value)| {
            let task = data["taskId"].as_str().map_or_else(String::new, |id| format!(" {id}@{}", data["source"]));
            format!("{name}{}", task.replace('"', ""))
        };
        self.events.iter().map(line).collect()
    }

    /// What does not hang on the clock.
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
    let groups = pure.engine.take_groups();
    let tasks: Vec<_> = groups.iter().map(|group| (&*group.remote, group.tasks.clone())).collect();
    assert_eq!(tasks, [("far", vec![("a".into(), 0), ("b".into(), 1)]), ("other", vec![("c".into(), 2)])]);
    assert!(pure.engine.take_groups().is_empty(), "once");
    assert_eq!(pure.engine.take_attempts().len(), 1, "the one slot is for the local task");
    assert_eq!((pure.engine.stats().tasks_queued, pure.engine.stats().remote_jobs), (0, 2));
}

#[test]
fn what_a_remote_tells_becomes_the_jobs_history() {
    let mut pure = Pure::new(&four(), false);
    pure.said(3, Said::Told(done(&json!(9))));
    for told in [Told::Started, progress(30.0, None), progress(20.0, None), retry(2), progress(5.0, None)] {
        pure.tell(0, told);
    }
    pure.tell(0, done(&json!({ "x": 1 })));
    for late in [Told::Started, progress(99.0, None), retry(3), done(&json!(2)), failed("late")] {
        pure.tell(0, late);
    }
    // Ended before it began.
    pure.tell(1, failed("cancelled"));
    pure.tell(2, Told::Started);
    pure.tell(2, failed("exit_status"));
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
    assert_eq!(pure.told(), expected, "a local task does not listen to a remote, and an end is an end");
    assert_eq!(pure.events[5].1["attempts"], 2);
    assert_eq!(pure.events[7].1["retryable"], true);
    assert!(pure.events.iter().all(|(_, data)| data["source"].is_string()));
}

/// The remote tells its whole story once more after each restart of this node, wherever the history broke off.
#[test]
fn a_story_that_is_told_again_is_told_on() {
    let story: [(u32, fn() -> Told); 12] = [
        (0, || Told::Started),
        (0, || progress(10.0, None)),
        (0, || progress(10.0, Some(json!("one")))),
        (1, || Told::Started),
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
    for (task, told) in &story {
        whole.tell(*task, told());
    }
    assert_eq!(whole.told().last().map(String::as_str), Some("complete"));
    for cut in 0..whole.events.len() {
        let mut pure = whole.again(cut);
        let groups = pure.engine.take_groups();
        let open = groups.iter().flat_map(|group| &group.tasks).count();
        let ended = whole.events[..cut].iter().filter(|(name, _)| name == "task_complete" || name == "error").count();
        assert_eq!(open, 3 - ended, "only what has not ended is followed");
        for (task, told) in &story {
            pure.tell(*task, told());
        }
        assert_eq!(sorted(&pure), sorted(&whole), "cut after {cut}");
        assert_eq!(pure.told().last().map(String::as_str), Some("complete"));
    }
}

/// What each task and the job were told of: `progress` of the job may stand elsewhere after a cut.
fn sorted(pure: &Pure) -> Vec<(String, Vec<Value>)> {
    let of = |task: Value| {
        let events = pure.timeless().into_iter().filter(|(name, data)| data["taskId"] == task && name != "progress");
        events.map(|(name, data)| json!([name, data])).collect()
    };
    [json!("a"), json!("b"), json!("c"), Value::Null].map(|task| (task.to_string(), of(task))).into()
}

#[test]
fn a_restart_asks_nothing_of_a_remote_task_and_spends_nothing() {
    let mut pure = Pure::new(&single(), true);
    pure.tell(0, Told::Started);
    for _ in 0..5 {
        pure = pure.again(pure.events.len());
        assert_eq!(pure.engine.take_groups().len(), 1);
        assert!(pure.engine.take_attempts().is_empty());
    }
    assert_eq!(pure.told(), ["task_start a@far"], "not a word");
    pure.tell(0, done(&json!(1)));
    assert_eq!(pure.told().last().map(String::as_str), Some("complete"));
}

fn tokens(groups: &[Group]) -> Vec<(bool, bool)> {
    groups.iter().map(|group| (group.cancel.is_cancelled(), group.leave.is_cancelled())).collect()
}

#[test]
fn a_cancel_is_for_the_remote_and_a_suspension_is_not() {
    let mut pure = Pure::new(&four(), true);
    let groups = pure.engine.take_groups();
    pure.engine.cancel("J").unwrap();
    pure.turn();
    assert_eq!(tokens(&groups), [(true, false); 2]);
    pure.tell(0, failed("whatever"));
    let error = pure.events.iter().find(|(name, data)| name == "error" && data["taskId"] == "a").unwrap();
    assert_eq!(error.1["code"], "cancelled", "the ending is why");

    let mut pure = Pure::new(&four(), true);
    let groups = pure.engine.take_groups();
    pure.tell(0, Told::Started);
    let before = pure.told().len();
    pure.engine.stop(Duration::ZERO, pure.now);
    pure.turn();
    assert_eq!(tokens(&groups), [(false, true); 2]);
    assert_eq!(pure.told().len(), before, "not a word of remote tasks");

    let mut pure = Pure::new(&single(), false);
    let groups = pure.engine.take_groups();
    pure.engine.stop(Duration::ZERO, pure.now);
    pure.turn();
    assert_eq!(tokens(&groups), [(true, false)], "this job does not outlive the node");
    pure.tell(0, failed("stopped"));
    assert!(!pure.engine.stopped(), "somebody still speaks with the remote");
    pure.said(0, Said::Unfollowed);
    assert!(pure.engine.stopped());
    assert_eq!(pure.events.last().unwrap().1["status"], "cancelled");
}

#[test]
fn an_ending_that_a_restart_finds_is_for_the_remote() {
    let mut pure = Pure::new(&json!({ "failFast": true, "tasks": four()["tasks"] }), true);
    pure.tell(2, Told::Started);
    pure.tell(2, failed("exit_status"));
    let position = pure.events.iter().position(|(name, _)| name == "error").unwrap();
    let mut again = pure.again(position + 1);
    assert_eq!(tokens(&again.engine.take_groups()), [(true, false)], "`far` is told; `other` has nothing left");
    // A remote that has cancelled a task of its own accord ends no more than that task.
    let mut pure = Pure::new(&four(), true);
    pure.tell(2, failed("cancelled"));
    let mut again = pure.again(pure.events.len());
    assert_eq!(tokens(&again.engine.take_groups()), [(false, false)]);
}

#[test]
fn a_flood_is_bounded_and_a_steady_drip_is_not() {
    let count = |pure: &Pure| pure.told().iter().filter(|line| line.starts_with("task_progress")).count();
    let mut pure = Pure::new(&single(), false);
    pure.tell(0, Told::Started);
    let most = Config::default().max_response_bytes;
    for _ in 0..200 {
        pure.tell(0, progress(1.0, Some(json!("x".repeat(100_000)))));
    }
    assert_eq!(count(&pure), most / 100_002 + 1, "data up to `max_response_bytes`, and that the rest is left out");
    for n in 0..100 {
        pure.now += Duration::from_millis(100);
        pure.tell(0, progress(f64::from(n), None));
    }
    assert_eq!(count(&pure), most / 100_002 + 1 + 99, "what comes at its pace is told, but that it fell from 1 to 0");
    for attempt in 2..100_000 {
        pure.tell(0, retry(attempt));
    }
    assert!(pure.events.len() < 500, "{}", pure.events.len());
    pure.tell(0, done(&json!(1)));
    assert_eq!(pure.events.last().unwrap().1["status"], "completed");
}
