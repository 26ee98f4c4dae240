//! Jobs on two nodes that both are well.

use serde_json::{Value, json};
use wiremock::{
    Mock, MockBuilder, ResponseTemplate,
    matchers::{header_regex, method, path},
};

use super::{
    mock::Mocked,
    rig::{HYBRID, Pair, all, ended, history, names, one, submit, verdict},
    support::Event,
};

/// As the guide has it.
const HYBRID_CURL: &str = r#"{"localTasks": ["task1"], "remoteTasks": ["task2"]}"#;
const HYBRID_BODY: &str = r#"{
  "localTasks": ["Process Image", "Calculate Stats"],
  "remoteTasks": ["Fetch External Data", "Call Third-party API"]
}"#;
const PROXY_BODY: &str = r#"{
  "tasks": [
    {
      "id": "task1",
      "name": "Fetch User Data",
      "url": "https://api.example.com/users/1",
      "timeoutMs": 5000
    },
    {
      "id": "task2",
      "name": "Fetch Orders",
      "url": "https://api.example.com/orders",
      "timeoutMs": 5000
    }
  ]
}"#;

/// The attempts at a task of a job with this path.
fn attempt(target: &str) -> MockBuilder {
    Mock::given(method("GET")).and(path(target)).and(header_regex("idempotency-key", "^[0-9A-Za-z]+/[a-z0-9]+$"))
}

fn parse(body: &str) -> Value {
    serde_json::from_str(body).expect("JSON")
}

/// Where the events of the task of this name come from.
fn source(events: &[Event], name: &str) -> String {
    let starts = all(events, "task_start", "");
    let start = starts.iter().find(|start| start["taskName"] == name).expect("it began");
    start["source"].as_str().expect("a source").to_owned()
}

#[test]
fn the_guides_hybrid_examples_run_here_and_there_in_one_order() {
    let pair = Pair::start("", "");
    let mut stream = pair.local.post_stream(HYBRID, &parse(HYBRID_CURL));
    let greeting = stream.until("connection").json();
    let events = ended(&mut stream);
    assert_eq!((source(&events, "task1"), source(&events, "task2")), ("local".into(), "reactive".into()));
    assert_eq!(verdict(&events), ("completed".into(), 2, 0));
    assert_eq!(pair.remote_job()["totalTasks"], 1, "only its own task");
    let job = greeting["jobId"].as_str().expect("an id");
    assert_eq!(history(&pair.local, job), events, "who comes later reads the same");
    let snapshot = pair.local.get(&format!("/api/jobs/{job}")).json();
    let sources: Vec<&Value> =
        snapshot["tasks"].as_array().expect("tasks").iter().map(|task| &task["source"]).collect();
    assert_eq!(sources, ["local", "reactive"]);

    let pair = Pair::start("", "");
    let events = ended(&mut pair.local.post_stream(HYBRID, &parse(HYBRID_BODY)));
    for (name, from) in [
        ("Process Image", "local"),
        ("Calculate Stats", "local"),
        ("Fetch External Data", "reactive"),
        ("Call Third-party API", "reactive"),
    ] {
        assert_eq!(source(&events, name), from, "{name}");
    }
    assert_eq!(verdict(&events), ("completed".into(), 4, 0));
    let results = one(&events, "aggregated_result", "")["results"].clone();
    assert_eq!(results.as_object().map(serde_json::Map::len), Some(4));
    assert!(!all(&events, "task_progress", "3").is_empty(), "progress of the remote is reported");
}

#[test]
fn the_guides_job_for_the_proxy_runs_on_the_remote_alone() {
    let api = |target: &str, body: &Value| {
        attempt(target).respond_with(ResponseTemplate::new(200).set_body_json(body)).expect(1)
    };
    let (user, orders) = (json!({ "id": 1 }), json!([{ "id": 7 }, { "id": 8 }]));
    let upstream = Mocked::start([api("/users/1", &user), api("/orders", &orders)]);
    let pair = Pair::start(&upstream.allowed(), "");
    let body = PROXY_BODY.replace("https://api.example.com", &upstream.url(""));
    let mut stream = pair.local.post_stream("/api/sse-proxy/reactive/parallel-tasks/sse-emitter", &parse(&body));
    let events = ended(&mut stream);
    assert_eq!(verdict(&events), ("completed".into(), 2, 0));
    for (task, result) in [("task1", &user), ("task2", &orders)] {
        let done = one(&events, "task_complete", task);
        assert_eq!((&done["result"], &done["source"]), (result, &json!("reactive")));
        assert_eq!((&done["httpStatus"], &done["attempts"]), (&json!(200), &json!(1)));
    }
    let unknown = pair.local.json("POST", "/api/sse-proxy/nowhere/parallel-tasks/sse-emitter", &parse(&body));
    assert!(unknown.problem(404).contains("there are `reactive`"), "{unknown:?}");
}

/// The remote makes the retries, and all its reports are repeated here.
#[test]
fn the_reports_of_the_remote_about_a_task_are_unchanged() {
    let answer = |status: u16, media: &str, body: &[u8]| ResponseTemplate::new(status).set_body_raw(body, media);
    let events = b"id: 7\nevent: tick\ndata: 1\n\ndata: 2\n\n";
    let upstream = Mocked::start([
        attempt("/shaky").respond_with(answer(500, "text/plain", b"not yet")).up_to_n_times(1).expect(1),
        attempt("/shaky").respond_with(answer(200, "image/png", &[0x89, 0x50, 0xff])).expect(1),
        attempt("/stream").respond_with(answer(200, "text/event-stream", events)).expect(1),
        attempt("/gone").respond_with(answer(404, "text/plain", b"no such thing")).expect(1),
    ]);
    let pair = Pair::start(&upstream.allowed(), "");
    let task =
        |id: &str| json!({ "id": id, "url": upstream.url(&format!("/{id}")), "retryCount": 1, "remote": "reactive" });
    let job = submit(&pair.local, &json!({ "tasks": [task("shaky"), task("stream"), task("gone")] }));
    let events = history(&pair.local, &job);
    let retry = one(&events, "task_retry", "shaky");
    assert_eq!(
        (&retry["attempt"], &retry["code"], &retry["source"]),
        (&json!(2), &json!("http_status"), &json!("reactive"))
    );
    let shaky = one(&events, "task_complete", "shaky");
    assert_eq!(
        (&shaky["attempts"], &shaky["encoding"], &shaky["result"]),
        (&json!(2), &json!("base64"), &json!("iVD/"))
    );
    let forwarded: Vec<Value> =
        all(&events, "task_progress", "stream").iter().map(|data| data["data"].clone()).collect();
    assert_eq!(
        forwarded,
        [json!({ "event": "tick", "data": "1", "id": "7" }), json!({ "event": "message", "data": "2", "id": "7" })]
    );
    let gone = one(&events, "error", "gone");
    assert_eq!(
        (&gone["code"], &gone["httpStatus"], &gone["retryable"], &gone["attempts"]),
        (&json!("http_status"), &json!(404), &json!(false), &json!(1))
    );
    assert!(gone["error"].as_str().is_some_and(|text| text.contains("no such thing")), "{gone}");
    assert_eq!(verdict(&events), ("partial".into(), 2, 1));
}

#[test]
fn a_large_result_of_the_remote_is_kept_here() {
    const BYTES: usize = 500_000;
    let pair = Pair::start("", "[jobs]\nmax_response_bytes = 600000\n");
    let task = |id: &str, n: usize| json!({ "id": id, "run": "large", "input": n, "remote": "reactive" });
    let job = submit(&pair.local, &json!({ "tasks": [task("large", BYTES), task("huge", 700_000)] }));
    let events = history(&pair.local, &job);
    let done = one(&events, "task_complete", "large");
    assert_eq!((&done["result"], &done["resultBytes"]), (&Value::Null, &json!(BYTES + 2)));
    let url = done["resultUrl"].as_str().expect("a path");
    assert_eq!(url, format!("/api/jobs/{job}/tasks/large/result"), "it is this node's");
    let (local, remote) = (pair.local.get(url), pair.remote_job());
    assert_eq!(local.json().as_str().map(str::len), Some(BYTES));
    let there = format!("/api/jobs/{}/tasks/large/result", remote["jobId"].as_str().expect("an id"));
    assert_eq!(pair.remote.get(&there).body, local.body);
    assert_eq!(one(&events, "error", "huge")["code"], "response_too_large");
    assert_eq!(names(&events, "huge"), ["task_start", "error"]);
}

/// One task of each kind, two remotes, a bound on both sides.
#[test]
fn each_remote_has_one_job_whatever_the_number_of_tasks() {
    let pair = Pair::start("", "");
    let other = super::support::Node::start(super::rig::HANDLERS);
    let more = format!("[remotes.other]\nbase_url = \"http://{}\"\n", other.addr);
    let local = super::support::Node::start(&super::rig::pointing(&pair.remote.addr.to_string(), &more));
    let mut tasks: Vec<Value> =
        (0..20).map(|n| json!({ "id": format!("r{n}"), "run": "echo", "input": n, "remote": "reactive" })).collect();
    tasks.extend((0..5).map(|n| json!({ "id": format!("o{n}"), "run": "echo", "input": n, "remote": "other" })));
    tasks.push(json!({ "id": "here", "run": "task1" }));
    let job = submit(&local, &json!({ "tasks": tasks, "concurrency": 3 }));
    let events = history(&local, &job);
    assert_eq!(verdict(&events), ("completed".into(), 26, 0));
    assert_eq!(one(&events, "task_complete", "o4")["source"], "other");
    assert_eq!(one(&events, "task_complete", "r19")["result"], 19);
    assert_eq!(pair.remote_job()["totalTasks"], 20);
    let there = other.get("/api/jobs").json();
    assert_eq!((there["jobs"].as_array().map(Vec::len), &there["jobs"][0]["totalTasks"]), (Some(1), &json!(5)));
}

/// Who only waits for a place waits as long as it takes, however few retries the remote has.
#[test]
fn groups_wait_for_a_permit_of_the_upstream_streams() {
    let pair = Pair::start("", "[remotes.reactive]\nmax_retries = 0\nmax_connections = 1\n");
    let jobs: Vec<String> =
        ["a", "b", "c"].iter().map(|name| submit(&pair.local, &json!({ "tasks": [pair.gated(name)] }))).collect();
    // Whichever has the place goes first.
    for name in ["a", "b", "c"] {
        std::fs::write(pair.gate(name), "").expect("write a gate");
    }
    for job in jobs {
        assert_eq!(verdict(&history(&pair.local, &job)), ("completed".into(), 1, 0));
    }
}
