//! Jobs across an end of the node, with the journal on disk: killed or stopped, unfinished work continues, and all
//! watchers get one history.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

mod support;

use support::{Event, Node, eventually};

/// A node whose journal stays, with these handlers:
/// `echo` gives its input back; `gated` waits for the file that its input names, takes it away and answers with its
/// attempt; `poison` does the same and kills the node; `endless` leaves a child behind that never ends.
fn settings(data: &Path) -> String {
    let wait = "read -r gate; gate=${gate#?}; gate=${gate%?}; until rm $gate 2>/dev/null; do sleep 0.02; done";
    let answer = r#"echo \"{\\\"result\\\": $MILLSTREAM_ATTEMPT}\""#;
    format!(
        r#"
[server]
data_dir = "{data}"
drain_ms = 100
[journal]
kind = "embedded"
[handlers.echo]
kind = "command"
command = ["sh", "-c", "read -r line; echo \"{{\\\"result\\\": $line}}\""]
[handlers.gated]
kind = "command"
command = ["sh", "-c", "{wait}; {answer}"]
[handlers.poison]
kind = "command"
command = ["sh", "-c", "{wait}; kill -9 $PPID; sleep 60"]
[handlers.endless]
kind = "command"
command = ["sh", "-c", "sleep {long} & wait"]
"#,
        data = data.display(),
        long = long(data),
    )
}

/// Sleep time of the child of `endless`; no other process sleeps for this time.
fn long(data: &Path) -> String {
    let digits: String = data.to_string_lossy().bytes().map(|byte| char::from(b'0' + byte % 10)).collect();
    format!("9{}{}", std::process::id(), &digits[digits.len() - 6..])
}

fn submit(node: &Node, spec: &Value) -> String {
    node.post("/api/jobs", spec)["jobId"].as_str().expect("an id").to_owned()
}

fn events(job: &str) -> String {
    format!("/api/jobs/{job}/events")
}

/// The whole history, at its end.
fn history(node: &Node, job: &str) -> Vec<Event> {
    let mut stream = node.stream(&events(job), &[]);
    let mut history = Vec::new();
    loop {
        let event = stream.next_own();
        history.push(event.clone());
        if event.event == "complete" {
            return history;
        }
    }
}

/// Names of the events of a task.
fn names<'h>(history: &'h [Event], task: &str) -> Vec<&'h str> {
    let of = |event: &&Event| event.json()["taskId"] == *task;
    history.iter().filter(of).map(|event| event.event.as_str()).collect()
}

/// Data of the one event of this name, and of this task.
fn one(history: &[Event], name: &str, task: &str) -> Value {
    let found: Vec<Value> = history.iter().filter(|event| event.event == name).map(Event::json).collect();
    let found: Vec<&Value> = found.iter().filter(|data| task.is_empty() || data["taskId"] == *task).collect();
    assert_eq!(found.len(), 1, "{name} of {task}: {history:?}");
    found[0].clone()
}

fn codes(history: &[Event], task: &str) -> Vec<Value> {
    let retries = history.iter().filter(|event| event.event == "task_retry").map(Event::json);
    retries.filter(|data| data["taskId"] == *task).map(|data| data["code"].clone()).collect()
}

/// Opens a gate when a task waits at it, and waits until it is taken.
fn open(gate: &Path) {
    std::fs::write(gate, "").expect("write a gate");
    eventually(|| (!gate.exists()).then_some(()));
}

/// True while a process runs that has this among its arguments.
fn runs(argument: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("a Linux machine").filter_map(Result::ok);
    let mut commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| String::from_utf8_lossy(&command).split('\0').any(|word| word == argument))
}

#[test]
fn a_task_that_kills_its_node_three_times_ends_as_crashed() {
    let data = tempfile::tempdir().expect("a temp directory");
    let gate = data.path().join("gate");
    let mut node = Node::start(&settings(&data.path().join("data")));
    let tasks = json!([
        { "id": "poison", "run": "poison", "input": gate, "retryCount": 5 },
        { "id": "echo", "run": "echo", "input": 1 },
    ]);
    let job = submit(&node, &json!({ "tasks": tasks }));
    node.stream(&events(&job), &[]).until("task_complete");
    for _ in 0..3 {
        open(&gate);
        assert_eq!(node.exited(), None, "it was killed");
        node.restart();
    }
    let history = history(&node, &job);
    let error = one(&history, "error", "poison");
    assert_eq!(
        (&error["code"], &error["retryable"], &error["attempts"]),
        (&json!("crashed"), &json!(false), &json!(3))
    );
    assert_eq!(codes(&history, "poison"), ["node_restarted", "node_restarted"]);
    assert_eq!(names(&history, "echo"), ["task_start", "task_complete"]);
    let complete = one(&history, "complete", "");
    assert_eq!((&complete["status"], &complete["successCount"]), (&json!("partial"), &json!(1)));
    assert_eq!(one(&history, "aggregated_result", "")["results"]["echo"], 1);
    assert_eq!(node.post("/api/jobs", &json!({ "tasks": [{ "run": "echo" }] }))["status"], "queued", "the node lives");
}

#[test]
fn what_a_command_has_begun_dies_with_the_node() {
    let data = tempfile::tempdir().expect("a temp directory");
    let own = data.path().join("data");
    let mut node = Node::start(&settings(&own));
    let job = submit(&node, &json!({ "tasks": [{ "id": "a", "run": "endless" }] }));
    let long = long(&own);
    eventually(|| runs(&long).then_some(()));
    node.kill();
    eventually(|| (!runs(&long)).then_some(()));
    node.restart();
    eventually(|| runs(&long).then_some(()));
    node.request("DELETE", &format!("/api/jobs/{job}"), &[], "");
    let history = history(&node, &job);
    assert_eq!(names(&history, "a"), ["task_start", "task_retry", "task_progress", "error"]);
    assert_eq!(one(&history, "complete", "")["status"], "cancelled");
    eventually(|| (!runs(&long)).then_some(()));
}

#[test]
fn a_deadline_holds_across_a_restart() {
    const DEADLINE: Duration = Duration::from_secs(3);
    let data = tempfile::tempdir().expect("a temp directory");
    let mut node = Node::start(&settings(&data.path().join("data")));
    let spec = json!({ "timeoutMs": 3000, "tasks": [{ "id": "a", "run": "endless" }] });
    // One that passes while the node runs again, and one that passes while it does not.
    let begun = Instant::now();
    let job = submit(&node, &spec);
    node.stream(&events(&job), &[]).until("task_start");
    node.restart();
    let running = history(&node, &job);
    assert!(begun.elapsed() >= DEADLINE, "{:?}", begun.elapsed());
    assert_eq!(one(&running, "complete", "")["status"], "timed_out");
    assert!(one(&running, "complete", "")["durationMs"].as_u64().is_some_and(|ms| (3000..9000).contains(&ms)));

    let begun = Instant::now();
    let job = submit(&node, &spec);
    node.stream(&events(&job), &[]).until("task_start");
    node.kill();
    eventually(|| (begun.elapsed() > DEADLINE).then_some(()));
    node.restart();
    let down = history(&node, &job);
    assert_eq!(names(&down, "a"), ["task_start", "error"], "it is not begun again");
    assert_eq!(one(&down, "error", "a")["code"], "job_timeout");
    assert_eq!(one(&down, "complete", "")["status"], "timed_out");
}

#[test]
fn a_watcher_sees_one_history_across_a_kill() {
    let data = tempfile::tempdir().expect("a temp directory");
    let gate = data.path().join("gate");
    let mut node = Node::start(&settings(&data.path().join("data")));
    let tasks = json!([
        { "id": "done", "run": "echo", "input": { "kept": true } },
        { "id": "running", "run": "gated", "input": gate },
        { "id": "waiting", "run": "echo", "input": 2 },
    ]);
    let job = submit(&node, &json!({ "concurrency": 1, "tasks": tasks }));
    let mut watcher = node.stream(&events(&job), &[]);
    let mut seen = Vec::new();
    while names(&seen, "running").is_empty() {
        seen.push(watcher.next_own());
    }
    node.restart();
    let mut watcher = node.stream(&events(&job), &[("Last-Event-ID", &seen[seen.len() - 1].id)]);
    assert_eq!(watcher.until("connection").json()["resume"]["status"], "resumed");
    open(&gate);
    loop {
        let event = watcher.next();
        assert_ne!(event.event, "gap");
        if !event.is_own() {
            continue;
        }
        seen.push(event);
        if seen[seen.len() - 1].event == "complete" {
            break;
        }
    }
    assert_eq!(seen, history(&node, &job), "two parts are the whole history");
    assert_eq!(names(&seen, "done"), ["task_start", "task_complete"]);
    assert_eq!(names(&seen, "running"), ["task_start", "task_retry", "task_progress", "task_complete"]);
    assert_eq!(names(&seen, "waiting"), ["task_start", "task_complete"]);
    assert_eq!(codes(&seen, "running"), ["node_restarted"]);
    let results = one(&seen, "aggregated_result", "")["results"].clone();
    assert_eq!(results, json!({ "done": { "kept": true }, "running": 2, "waiting": 2 }));
    assert_eq!(one(&seen, "complete", "")["status"], "completed");
    let again = node.request("GET", &events(&job), &[("Last-Event-ID", &seen[seen.len() - 1].id)], "");
    assert_eq!(again.status, 204, "who has seen all need not come again");
    let result = node.get(&format!("/api/jobs/{job}/tasks/done/result"));
    assert_eq!(result.json(), json!({ "kept": true }));
}

#[test]
fn a_stop_in_order_leaves_the_job_standing() {
    let data = tempfile::tempdir().expect("a temp directory");
    let gate = data.path().join("gate");
    let mut node = Node::start(&settings(&data.path().join("data")));
    let tasks =
        json!([{ "id": "running", "run": "gated", "input": gate }, { "id": "waiting", "run": "echo", "input": 2 }]);
    let job = submit(&node, &json!({ "concurrency": 1, "onDisconnect": "cancel", "tasks": tasks }));
    node.stream(&events(&job), &[]).until("task_start");
    assert_eq!(node.terminate(), Some(0));
    node.restart();
    let before = node.get(&format!("/api/jobs/{job}")).json();
    assert_eq!(before["status"], "running", "{before}");
    open(&gate);
    let history = history(&node, &job);
    assert_eq!(names(&history, "running"), ["task_start", "task_retry", "task_progress", "task_complete"]);
    assert_eq!(codes(&history, "running"), ["node_stopped"]);
    assert_eq!(names(&history, "waiting"), ["task_start", "task_complete"]);
    assert_eq!(one(&history, "complete", "")["status"], "completed");
}

#[test]
fn an_idempotency_key_and_a_cancel_outlive_the_node() {
    let data = tempfile::tempdir().expect("a temp directory");
    let mut node = Node::start(&settings(&data.path().join("data")));
    let spec = json!({ "tasks": [{ "id": "a", "run": "endless" }] }).to_string();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "order-7")];
    let keyed = |node: &Node| node.request("POST", "/api/jobs", &headers, &spec).json()["jobId"].clone();
    let first = keyed(&node);
    let job = first.as_str().expect("an id").to_owned();
    node.stream(&events(&job), &[]).until("task_start");
    node.restart();
    assert_eq!(keyed(&node), first);
    let cancelled = node.request("DELETE", &format!("/api/jobs/{job}"), &[], "");
    assert!(cancelled.status < 300, "{cancelled:?}");
    node.restart();
    let history = history(&node, &job);
    assert_eq!(one(&history, "complete", "")["status"], "cancelled");
    assert_eq!(keyed(&node), first, "ended, and still that job");
}
