//! The guide's own examples, sections A and D, as they stand there but for the port and the placeholders, by `curl`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

mod support;

use support::{
    Node, eventually,
    upstream::{self, Upstream},
};

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

/// A running curl; killed when dropped.
struct Curl {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

// === impl Curl ===

impl Curl {
    /// Sends an example in the guide's notation.
    fn send(node: &Node, example: &str) -> Self {
        let example = filled(node, example);
        let (head, body) = example.split_once("\n\n").unwrap_or((&example, ""));
        let mut lines = head.lines();
        let (method, url) = lines.next().and_then(|line| line.split_once(' ')).expect("method and URL");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-N", "-i", "--noproxy", "*", "-X", method, url]);
        for header in lines {
            curl.args(["-H", header.strip_prefix("Headers: ").unwrap_or(header)]);
        }
        if !body.is_empty() {
            curl.args(["--data-binary", body]);
        }
        Self::spawn(curl)
    }

    fn spawn(mut curl: Command) -> Self {
        let mut child = curl.stdout(Stdio::piped()).spawn().expect("curl is installed");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// The rest of the output, up to and with the line that begins so; all of it where none does.
    fn until(&mut self, beginning: &str) -> String {
        let mut text = String::new();
        for line in self.lines.by_ref().map_while(Result::ok) {
            text.push_str(&line);
            text.push('\n');
            if line.starts_with(beginning) {
                break;
            }
        }
        text
    }

    /// The data of the next event of this name.
    fn event(&mut self, name: &str) -> Value {
        self.until(&format!("event: {name}"));
        let block = self.until("data: ");
        let data = block.lines().last().and_then(|line| line.strip_prefix("data: "));
        serde_json::from_str(data.unwrap_or_else(|| panic!("no event {name}: {block}"))).expect("JSON")
    }

    /// Status and JSON of an answer that ends.
    fn answer(mut self) -> (String, Value) {
        let text = self.until("no line begins so");
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let status = head.lines().next().unwrap_or_default().trim().to_owned();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn filled(node: &Node, example: &str) -> String {
    let port = format!("localhost:{}", node.addr.port());
    let example = example.replace("localhost:8090", &port).replace("localhost:8080", &port);
    // The token names the user in open mode.
    example.replace("{token}", "123").replace("{userId}", "123").replace("{groupId}", "chat-room-1")
}

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

/// With the internet at hand the task succeeds, without it fails; both are told truthfully, and the job completes.
#[test]
fn a_job_over_the_internet_tells_what_came_of_it() {
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
    assert!(curl.child.wait().expect("curl ends").success(), "the response was whole");
}

#[test]
fn the_same_job_with_an_upstream_at_hand_succeeds() {
    let upstream = Upstream::start(|request, socket| upstream::json(socket, &json!({ "path": request.path })));
    let node = Node::start(&upstream.allowed());
    let example = PARALLEL_TASKS.replace("https://jsonplaceholder.typicode.com", &upstream.url(""));
    let mut curl = Curl::send(&node, &example);
    let done = curl.event("task_complete");
    assert_eq!((&done["taskId"], &done["httpStatus"]), (&json!("1"), &json!(200)));
    assert_eq!(done["result"], json!({ "path": "/users/1" }));
    assert_eq!(curl.event("complete")["status"], "completed");
}
