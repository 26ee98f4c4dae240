//! What the routes of hybrid jobs take and refuse.

use serde_json::{Value, json};

use super::{
    rig::{HANDLERS, HYBRID, Pair, ended, one, pointing, verdict},
    support::Node,
};

const PROXY: &str = "/api/sse-proxy/reactive/parallel-tasks/sse-emitter";

/// The fields that are wrong.
fn fields(node: &Node, path: &str, body: &Value) -> Vec<String> {
    let reply = node.json("POST", path, body);
    assert_eq!(reply.status, 422, "{body}: {reply:?}");
    let errors = reply.json()["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
}

#[test]
fn mistakes_are_reported_with_the_fields_of_the_request() {
    // No request is sent: the remote need not exist.
    let node = Node::start(&pointing("127.0.0.1:9", ""));
    let wrong = |body: Value| fields(&node, HYBRID, &body);
    assert_eq!(wrong(json!({})), ["localTasks"]);
    assert_eq!(wrong(json!({ "localTasks": ["task1", "nothing"] })), ["localTasks[1].run"]);
    let bad = json!({ "url": "ftp://h/" });
    assert_eq!(wrong(json!({ "localTasks": ["task1"], "remoteTasks": ["anything", bad] })), ["remoteTasks[1].url"]);
    assert_eq!(wrong(json!({ "remoteTasks": ["x"], "remote": "nowhere" })), ["remote"]);
    let elsewhere = json!({ "run": "x", "remote": "nowhere" });
    assert_eq!(wrong(json!({ "remoteTasks": ["x", elsewhere] })), ["remoteTasks[1].remote"]);
    assert_eq!(wrong(json!({ "localTasks": [{ "run": "task1", "remote": "reactive" }] })), ["localTasks[0].remote"]);
    assert_eq!(wrong(json!({ "localTasks": ["task1"], "timeoutMs": 0 })), ["timeoutMs"]);
    assert_eq!(wrong(json!({ "localTasks": [1] })), ["localTasks[0]"]);
    let typo = node.json("POST", HYBRID, &json!({ "localTasks": [{ "run": "task1", "inptu": 1 }] }));
    assert!(typo.problem(422).contains("inptu"), "{typo:?}");
    let typo = node.json("POST", HYBRID, &json!({ "localTask": ["task1"] }));
    assert!(typo.problem(422).contains("localTask"), "{typo:?}");
    assert_eq!(node.request("POST", HYBRID, &[("Content-Type", "text/plain")], "x").status, 415);
    assert_eq!(node.raw_post(HYBRID, "{").status, 400);
    assert_eq!(node.get(HYBRID).status, 405);

    let other = json!({ "tasks": [{ "run": "x", "remote": "other" }] });
    assert_eq!(fields(&node, PROXY, &other), ["tasks[0].remote"]);
    assert_eq!(fields(&node, PROXY, &json!({ "tasks": [] })), ["tasks"]);
    let unknown = node.json("POST", "/api/jobs", &other).json();
    assert!(unknown["detail"].as_str().is_some_and(|text| text.contains("there are `reactive`")), "{unknown}");
}

#[test]
fn whole_tasks_and_the_settings_of_a_job_are_taken_as_elsewhere() {
    let pair = Pair::start("", HANDLERS);
    let spec = json!({
        "localTasks": [{ "id": "a", "name": "Here", "run": "echo", "input": 1 }, "task1"],
        "remoteTasks": [{ "id": "b", "name": "There", "run": "echo", "input": 2 }],
        "remote": "reactive", "concurrency": 1, "timeoutMs": 60000, "failFast": true, "notify": { "topic": "builds" },
    });
    let body = spec.to_string();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "one")];
    let open = || super::support::Stream::open(pair.local.socket(), "POST", HYBRID, &headers, &body);
    let events = ended(&mut open());
    assert_eq!(verdict(&events), ("completed".into(), 3, 0));
    assert_eq!(one(&events, "task_complete", "b")["taskName"], "There");
    assert_eq!(ended(&mut open()), events, "the same key and body: the same job");
    let noted = pair.local.get("/api/topics/builds/events").json();
    assert_eq!(noted["events"].as_array().map(Vec::len), Some(4), "{noted}");
}

#[test]
fn a_refusal_of_the_remote_is_reported_and_local_tasks_succeed() {
    let pair = Pair::start("", "");
    let body = json!({ "localTasks": ["task1"], "remoteTasks": ["Nobody Knows This"] });
    let events = ended(&mut pair.local.post_stream(HYBRID, &body));
    assert_eq!(verdict(&events), ("partial".into(), 1, 1));
    let error = one(&events, "error", "2");
    assert_eq!(
        (&error["code"], &error["retryable"], &error["httpStatus"], &error["attempts"]),
        (&json!("remote_refused"), &json!(false), &json!(422), &json!(0))
    );
    let text = error["error"].as_str().expect("a text");
    for part in ["remote `reactive`", "task `2`.run", "no handler is called `Nobody Knows This`", "known are"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(error["source"], "reactive");
}
