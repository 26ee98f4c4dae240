//! Sections B and C: two nodes, of which one is the guide's reactive server.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use wiremock::{
    Mock, ResponseTemplate,
    matchers::{header_exists, method, path},
};

use crate::{
    curl::{Curl, filled},
    mock::Mocked,
    support::Node,
};

const PROXY_PARALLEL: &str = r#"POST http://localhost:8090/api/sse-proxy/reactive/parallel-tasks/sse-emitter
Headers: X-Auth-Token: {token}
Content-Type: application/json

{
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
}
"#;

const PROXY_SAMPLE: &str = "\
GET http://localhost:8090/api/sse-proxy/reactive/sample-parallel/sse-emitter
Headers: X-Auth-Token: {token}
Accept: text/event-stream
";

const MERGE: &str = r#"POST http://localhost:8090/api/sse-proxy/merge-streams/sse-emitter
Headers: X-Auth-Token: {token}
Content-Type: application/json

[
  "/api/sse/sample-parallel",
  "/api/sse/flow-example",
  "/api/sse/parallel-tasks-progress"
]
"#;

const HYBRID: &str = r#"POST http://localhost:8090/api/sse-integration/hybrid-execution/sse-emitter
Headers: X-Auth-Token: {token}
Content-Type: application/json

{
  "localTasks": ["Process Image", "Calculate Stats"],
  "remoteTasks": ["Fetch External Data", "Call Third-party API"]
}
"#;

const CURL_PROXY: &str = r#"curl -N -H "Accept: text/event-stream" \
     -H "X-Auth-Token: test-token" \
     "http://localhost:8090/api/sse-proxy/reactive/sample-parallel/sse-emitter"
"#;

const CURL_HYBRID: &str = r#"curl -X POST -H "Content-Type: application/json" \
     -H "X-Auth-Token: test-token" \
     -H "Accept: text/event-stream" \
     -d '{"localTasks": ["task1"], "remoteTasks": ["task2"]}' \
     "http://localhost:8090/api/sse-integration/hybrid-execution/sse-emitter"
"#;

/// The orchestrator, and its reactive server with these settings.
fn servers(settings: &str) -> (Node, Node) {
    let reactive = Node::start(settings);
    let orchestrator = Node::start(&format!("[remotes.reactive]\nbase_url = \"http://{}\"", reactive.addr));
    (orchestrator, reactive)
}

/// A line of the guide's as a shell runs it.
fn shell(node: &Node, line: &str) -> Curl {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("NO_PROXY=localhost exec {}", filled(node, line))]).stderr(Stdio::null());
    Curl::spawn(shell)
}

/// The events of a stream that ends: names and data, in order.
fn events(mut curl: Curl) -> Vec<(String, Value)> {
    let text = curl.until("no line begins so");
    assert!(curl.succeeded(), "the response was whole: {text}");
    let mut events = Vec::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut name);
        } else if let Some(data) = line.strip_prefix("data: ") {
            events.push((std::mem::take(&mut name), serde_json::from_str(data).unwrap_or(Value::Null)));
        }
    }
    events
}

fn count(events: &[(String, Value)], name: &str) -> usize {
    events.iter().filter(|(event, _)| event == name).count()
}

fn last(events: &[(String, Value)]) -> &Value {
    let (name, data) = events.last().expect("events");
    assert_eq!(name, "complete", "{events:?}");
    data
}

/// By task: where it ran.
fn sources(events: &[(String, Value)]) -> BTreeMap<String, String> {
    let done = events.iter().filter(|(event, _)| event == "task_complete");
    let text = |data: &Value, field: &str| data[field].as_str().unwrap_or_default().to_owned();
    done.map(|(_, data)| (text(data, "taskName"), text(data, "source"))).collect()
}

#[test]
fn parallel_tasks_run_on_the_reactive_server() {
    let api = |target: &str, body: &Value| {
        let asked = Mock::given(method("GET")).and(path(target)).and(header_exists("idempotency-key"));
        asked.respond_with(ResponseTemplate::new(200).set_body_json(body)).expect(1)
    };
    let (user, orders) = (json!({ "id": 1 }), json!([{ "id": 7 }, { "id": 8 }]));
    let upstream = Mocked::start([api("/users/1", &user), api("/orders", &orders)]);
    let (orchestrator, reactive) = servers(&upstream.allowed());
    let example = PROXY_PARALLEL.replace("https://api.example.com", &upstream.url(""));
    let events = events(Curl::send(&orchestrator, &example));
    assert_eq!(count(&events, "task_start"), 2, "{events:?}");
    let both = [("Fetch Orders", "reactive"), ("Fetch User Data", "reactive")];
    assert_eq!(sources(&events), both.map(|(task, at)| (task.to_owned(), at.to_owned())).into());
    let (_, results) = events.iter().find(|(event, _)| event == "aggregated_result").expect("one");
    assert_eq!(results["results"], json!({ "task1": user, "task2": orders }));
    assert_eq!((&last(&events)["status"], &last(&events)["successCount"]), (&json!("completed"), &json!(2)));
    assert_eq!(reactive.get("/api/jobs").json()["jobs"].as_array().expect("jobs").len(), 1, "it ran there");
}

#[test]
fn the_sample_is_relayed_from_the_reactive_server() {
    let (orchestrator, reactive) = servers("");
    for curl in [Curl::send(&orchestrator, PROXY_SAMPLE), shell(&orchestrator, CURL_PROXY)] {
        let events = events(curl);
        assert_eq!(events.first().expect("events").0, "connection");
        assert_eq!(count(&events, "task_complete"), 4, "{events:?}");
        assert_eq!(last(&events)["status"], "completed");
    }
    assert_eq!(reactive.get("/api/jobs").json()["jobs"].as_array().expect("jobs").len(), 2);
    assert_eq!(orchestrator.get("/api/jobs").json()["jobs"], json!([]), "nothing ran here");
}

#[test]
fn streams_are_merged() {
    let (orchestrator, _reactive) = servers("");
    let events = events(Curl::send(&orchestrator, MERGE));
    let (name, start) = events.first().expect("events");
    assert_eq!((name.as_str(), &start["totalStreams"]), ("merge_start", &json!(3)));
    assert_eq!(count(&events, "complete"), 3, "{events:?}");
    assert_eq!(count(&events, "task_complete"), 4 + 4 + 2);
    let (name, end) = events.last().expect("events");
    assert_eq!((name.as_str(), &end["completed"], &end["failed"]), ("merge_complete", &json!(3), &json!(0)));
}

#[test]
fn tasks_run_on_both_servers() {
    let (orchestrator, _reactive) = servers("");
    let events = events(Curl::send(&orchestrator, HYBRID));
    let expected = [
        ("Calculate Stats", "local"),
        ("Call Third-party API", "reactive"),
        ("Fetch External Data", "reactive"),
        ("Process Image", "local"),
    ];
    assert_eq!(sources(&events), expected.map(|(task, at)| (task.to_owned(), at.to_owned())).into());
    assert_eq!((count(&events, "aggregated_result"), count(&events, "complete")), (1, 1));
    let (_, results) = events.iter().find(|(event, _)| event == "aggregated_result").expect("one");
    assert_eq!(results["results"].as_object().expect("results").len(), 4);
    assert_eq!((&last(&events)["status"], &last(&events)["totalTasks"]), (&json!("completed"), &json!(4)));
}

#[test]
fn the_guides_own_curl_line_runs_a_hybrid_job() {
    let (orchestrator, _reactive) = servers("");
    let events = events(shell(&orchestrator, CURL_HYBRID));
    let expected = [("task1", "local"), ("task2", "reactive")];
    assert_eq!(sources(&events), expected.map(|(task, at)| (task.to_owned(), at.to_owned())).into());
    assert_eq!(last(&events)["status"], "completed");
}
