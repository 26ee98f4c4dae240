//! The messages about wrong specs, and the plans of valid ones.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    jobs::handler::{Handlers, Output, Registered, Task, TaskError, TaskHandler},
    journal::BoxFuture,
    json::FieldError,
    upstream::{self, Client, RemoteConfig, Remotes},
};

struct Nothing;

impl TaskHandler for Nothing {
    fn run(&self, _: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async { Ok(Output::default()) })
    }
}

fn check(body: &Value) -> Result<Plan, Vec<FieldError>> {
    let mut handlers = Handlers::default();
    for name in ["resize", "Process Image"] {
        handlers.register(name, Registered { handler: Arc::new(Nothing), timeout: None, concurrency: None });
    }
    let spec: Spec = serde_json::from_value(body.clone()).expect("the body has the right form");
    Plan::check(&spec, Limits { max_tasks: 4, handlers: &handlers, remotes: &remotes() })
}

fn remotes() -> Remotes {
    let base_url = Some("http://h".into());
    let config = RemoteConfig { base_url, ..RemoteConfig::default() };
    let client = Client::new(upstream::Config::default());
    Remotes::build(&[("far".into(), config)].into(), &client).expect("good settings")
}

fn fields(body: &Value) -> Vec<String> {
    check(body).expect_err("the spec is wrong").into_iter().map(|e| e.field).collect()
}

fn detail(body: &Value) -> String {
    check(body).expect_err("the spec is wrong").remove(0).detail
}

#[test]
fn a_good_spec_becomes_a_plan() {
    let spec = json!({
        "tasks": [
            {"id": "a", "name": "Fetch", "url": "https://example.com/x", "method": "post", "headers": {"X-Key": "k"},
             "body": {"n": 1}, "timeoutMs": 5000, "retryCount": 2},
            {"run": "resize", "input": {"w": 3}},
        ],
        "concurrency": 2, "timeoutMs": 60000, "failFast": true, "onDisconnect": "cancel",
        "notify": {"user": "42", "group": "ops", "topic": "builds"},
    });
    let plan = check(&spec).unwrap();
    let spec: Spec = serde_json::from_value(spec).unwrap();
    assert_eq!(plan.tasks[0].kind, Kind::Http);
    assert_eq!(
        spec.tasks[0].clone().into_input(),
        json!({"url": "https://example.com/x", "method": "POST", "headers": {"X-Key": "k"}, "body": {"n": 1}})
    );
    assert_eq!((plan.tasks[0].retries, plan.tasks[0].timeout), (2, Some(Duration::from_secs(5))));
    let second = &plan.tasks[1];
    assert_eq!((second.id.as_str(), second.name.as_str()), ("2", "resize"));
    assert_eq!(spec.tasks[1].clone().into_input().value(), json!({"w": 3}));
    let topics: Vec<_> = plan.notify.iter().map(Topic::as_str).collect();
    assert_eq!(topics, ["user:42", "group:ops", "builds"]);
    assert!(plan.fail_fast && plan.concurrency == Some(2) && plan.timeout == Some(Duration::from_secs(60)));
}

#[test]
fn missing_ids_are_given_without_a_clash() {
    let task = |id: Option<&str>| json!({"id": id, "run": "resize"});
    let ids =
        |tasks: Value| check(&json!({ "tasks": tasks })).unwrap().tasks.into_iter().map(|t| t.id).collect::<Vec<_>>();
    assert_eq!(ids(json!([task(None), task(None)])), ["1", "2"]);
    assert_eq!(ids(json!([task(Some("2")), task(None), task(None), task(Some("5"))])), ["2", "6", "3", "5"]);
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_fields() {
    let body = json!({
        "tasks": [
            {"id": "a", "url": "ftp://x/", "headers": {"a b": "c"}, "method": "TRACE", "retryCount": 21, "timeoutMs": 0},
            {"id": "a", "run": "shrink", "body": 1},
            {"id": "x\ny", "name": "", "url": "http://u:p@h/", "input": 1, "remote": "reactive"},
            {"url": "relative", "run": "resize"},
        ],
        "timeoutMs": 86_400_001, "concurrency": 0, "notify": {"user": "a b", "topic": "job:1"}, "callbackUrl": "http://h/",
    });
    let mut found = fields(&body);
    found.sort();
    let mut expected = [
        "callbackUrl",
        "concurrency",
        "timeoutMs",
        "notify.user",
        "notify.topic",
        "tasks[1].id",
        "tasks[2].id",
        "tasks[0].timeoutMs",
        "tasks[0].retryCount",
        "tasks[0].url",
        "tasks[0].method",
        "tasks[0].headers",
        "tasks[1].run",
        "tasks[1].body",
        "tasks[2].name",
        "tasks[2].remote",
        "tasks[2].input",
        "tasks[2].url",
        "tasks[3]",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn messages_contain_the_remedy() {
    let unknown = detail(&json!({"tasks": [{"run": "shrink"}]}));
    assert!(unknown.contains("`shrink`") && unknown.contains("known are `Process Image`, `resize`"), "{unknown}");
    let named = detail(&json!({"tasks": [{"name": "Process Image"}]}));
    assert!(named.contains("\"run\": \"Process Image\""), "{named}");
    assert!(detail(&json!({"tasks": []})).contains("1 to 4 tasks"));
    let five = detail(&json!({"tasks": vec![json!({"run": "resize"}); 5]}));
    assert!(five.contains("has 5"), "{five}");
    let secret = check(&json!({"tasks": [{"url": "http://h/", "headers": {"X-Key": "top\nsecret"}}]})).unwrap_err();
    assert!(!format!("{secret:?}").contains("secret"), "{secret:?}");
}

#[test]
fn unknown_fields_are_refused_by_name() {
    for body in
        [r#"{"tasks":[{"run":"a","inptu":1}]}"#, r#"{"tasks":[],"inptu":1}"#, r#"{"tasks":[],"notify":{"inptu":1}}"#]
    {
        let refused = serde_json::from_str::<Spec>(body).unwrap_err().to_string();
        assert!(refused.contains("`inptu`"), "{refused}");
    }
    let missing = serde_json::from_str::<Spec>("{}").unwrap_err().to_string();
    assert!(missing.contains("`tasks`"), "{missing}");
}

#[test]
fn header_values_are_redacted() {
    let headers = json!({"Authorization": "Bearer s3cret", "ACCEPT": "text/plain", "Content-Type": "text/x"});
    let spec: Spec = serde_json::from_value(json!({"tasks": [{"url": "http://h/", "headers": headers}]})).unwrap();
    let shown = serde_json::to_value(spec.redacted()).unwrap();
    assert_eq!(
        shown["tasks"][0]["headers"],
        json!({"Authorization": "***", "ACCEPT": "text/plain", "Content-Type": "text/x"})
    );
}

#[test]
fn a_task_of_a_remote_names_handlers_of_the_remote() {
    let plan = check(&json!({"tasks": [{"run": "shrink", "remote": "far"}, {"run": "resize"}]})).unwrap();
    assert_eq!((plan.tasks[0].remote.as_deref(), plan.tasks[0].name.as_str()), (Some("far"), "shrink"));
    assert_eq!(plan.tasks[1].remote, None);
    assert_eq!(
        fields(&json!({"tasks": [{"url": "relative", "remote": "far"}]})),
        ["tasks[0].url"],
        "the other rules apply"
    );
    let unknown = detail(&json!({"tasks": [{"run": "shrink", "remote": "near"}]}));
    assert_eq!(unknown, "no remote is called `near`; there are `far`");
    let other = serde_json::from_value::<Spec>(json!({"tasks": [{"run": "resize", "remote": 1}]}));
    assert!(other.unwrap_err().to_string().contains("string"));
}
