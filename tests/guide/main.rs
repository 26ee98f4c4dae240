//! The guide's own examples as they stand there but for the port and the placeholders, by `curl`: sections A and D here,
//! B and C, which need its two servers, in `servers`; the tests of "SSE – Atualizações em Tempo Real" in `ugc`.

use std::process::{Command, Stdio};

use serde_json::json;
use wiremock::{
    Mock, ResponseTemplate,
    matchers::{method, path},
};

mod curl;
#[path = "../support/mock.rs"]
mod mock;
mod samples;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod ugc;

use curl::{Curl, filled};
use mock::Mocked;
use support::{Node, eventually};

const CONNECT: &str = "\
GET http://localhost:8090/api/sse/managed/connect
Headers: X-Auth-Token: {token}
";

const CONNECT_GROUP: &str = "\
GET http://localhost:8090/api/sse/managed/connect/group/{groupId}
Headers: X-Auth-Token: {token}
";

const SEND_USER: &str = r#"POST http://localhost:8090/api/sse/managed/send/user/{userId}
Content-Type: application/json

{
  "message": "Hello User",
  "timestamp": 1234567890
}
"#;

const BROADCAST_GROUP: &str = r#"POST http://localhost:8090/api/sse/managed/broadcast/group/{groupId}
Content-Type: application/json

{
  "event": "group_notification",
  "data": "New message in group"
}
"#;

const PARALLEL_TASKS: &str = r#"POST http://localhost:8080/api/sse/emitter/parallel-tasks
Content-Type: application/json

{
  "tasks": [
    {
      "id": "1",
      "name": "Task 1",
      "url": "https://jsonplaceholder.typicode.com/users/1"
    }
  ]
}
"#;

const STATUS: &str = "GET http://localhost:8090/api/sse/managed/status\n";
const STATUS_USER: &str = "GET http://localhost:8090/api/sse/managed/status/user/{userId}\n";
const STATUS_GROUP: &str = "GET http://localhost:8090/api/sse/managed/status/group/{groupId}\n";

/// The one that the guide itself writes for curl.
const CURL_CONNECT: &str = r#"curl -N -H "Accept: text/event-stream" \
     -H "X-Auth-Token: test-token" \
     "http://localhost:8090/api/sse/managed/connect"
"#;

#[test]
fn a_user_connects_and_is_sent_to() {
    let node = Node::start("");
    let mut curl = Curl::send(&node, CONNECT);
    let connection = curl.event("connection");
    assert_eq!((&connection["status"], &connection["userId"]), (&json!("connected"), &json!("123")));
    assert!(connection["emitterId"].as_str().is_some_and(|id| id.starts_with("user_123_")), "{connection}");

    let (status, answer) = Curl::send(&node, SEND_USER).answer();
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert_eq!((&answer["topic"], &answer["delivered"]), (&json!("user:123"), &json!(1)));
    let block = curl.until("data: ");
    assert!(block.contains(&format!("id: {}\n", answer["id"].as_str().expect("an id"))), "{block}");
    assert!(block.ends_with("data: {\"message\":\"Hello User\",\"timestamp\":1234567890}\n"), "{block}");

    let (status, user) = Curl::send(&node, STATUS_USER).answer();
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert_eq!((&user["userId"], &user["activeConnections"]), (&json!("123"), &json!(1)));
    assert_eq!(user["emitters"][0]["emitterId"], connection["emitterId"]);
}

#[test]
fn a_group_is_joined_and_broadcast_to() {
    let node = Node::start("");
    let mut curl = Curl::send(&node, CONNECT_GROUP);
    assert_eq!(curl.event("connection")["groups"], json!(["chat-room-1"]));

    let (status, answer) = Curl::send(&node, BROADCAST_GROUP).answer();
    assert_eq!((status.as_str(), &answer["delivered"]), ("HTTP/1.1 200 OK", &json!(1)));
    curl.until("event: group_notification");
    assert_eq!(curl.until("data: "), "data: New message in group\n", "a string goes as it is");

    let (_, group) = Curl::send(&node, STATUS_GROUP).answer();
    assert_eq!((&group["groupId"], &group["activeConnections"]), (&json!("chat-room-1"), &json!(1)));

    let (_, status) = Curl::send(&node, STATUS).answer();
    assert_eq!(
        (&status["totalEmitters"], &status["totalUsers"], &status["totalGroups"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(status["emittersByUser"], json!({ "123": 1 }));
    assert_eq!(status["emittersByGroup"], json!({ "chat-room-1": 1 }));

    drop(curl);
    eventually(|| (Curl::send(&node, STATUS).answer().1["totalEmitters"] == 0).then_some(()));
}

#[test]
fn the_guides_own_curl_line_opens_a_stream() {
    let node = Node::start("");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("NO_PROXY=localhost exec {}", filled(&node, CURL_CONNECT))]).stderr(Stdio::null());
    let mut curl = Curl::spawn(shell);
    assert_eq!(curl.event("connection")["userId"], "test-token");
}

/// With internet access the task succeeds, without it fails; both are reported correctly, and the job completes.
#[test]
fn a_job_over_the_internet_reports_its_result() {
    let node = Node::start("");
    let mut curl = Curl::send(&node, PARALLEL_TASKS);
    let connection = curl.event("connection");
    assert_eq!(
        connection["eventsUrl"],
        json!(format!("/api/jobs/{}/events", connection["jobId"].as_str().expect("an id")))
    );
    let start = curl.event("task_start");
    assert_eq!(
        (&start["taskId"], &start["taskName"], &start["source"]),
        (&json!("1"), &json!("Task 1"), &json!("local"))
    );
    let progress = curl.event("progress");
    assert_eq!(
        (&progress["step"], &progress["totalSteps"], &progress["progress"]),
        (&json!(1), &json!(1), &json!(100))
    );
    let result = curl.event("aggregated_result")["results"]["1"].take();
    let complete = curl.event("complete");
    assert_eq!(complete["totalTasks"], 1);
    if complete["successCount"] == 1 {
        assert_eq!((&complete["status"], &result["id"]), (&json!("completed"), &json!(1)));
    } else {
        assert_eq!((&complete["status"], &complete["errorCount"]), (&json!("failed"), &json!(1)));
        assert_eq!(complete["errors"][0]["taskId"], "1");
        assert_eq!(complete["errors"][0]["error"], result["error"]);
        assert!(!result["error"].as_str().expect("a reason").is_empty());
    }
    assert_eq!(curl.until("no line begins so").trim(), "", "the stream ends after complete");
    assert!(curl.succeeded(), "the response was whole");
}

#[test]
fn the_same_job_with_an_upstream_at_hand_succeeds() {
    let user = json!({ "id": 1, "name": "Leanne Graham" });
    let upstream = Mocked::start([Mock::given(method("GET"))
        .and(path("/users/1"))
        .respond_with(ResponseTemplate::new(200).set_body_json(&user))
        .expect(1)]);
    let node = Node::start(&upstream.allowed());
    let example = PARALLEL_TASKS.replace("https://jsonplaceholder.typicode.com", &upstream.url(""));
    let mut curl = Curl::send(&node, &example);
    let done = curl.event("task_complete");
    assert_eq!((&done["taskId"], &done["httpStatus"]), (&json!("1"), &json!(200)));
    assert_eq!(done["result"], user);
    assert_eq!(curl.event("complete")["status"], "completed");
}
