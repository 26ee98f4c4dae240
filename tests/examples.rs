//! The examples that are not Rust: they run as their page describes, on their own ports.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

mod support;

use support::{Event, Node, Stream};

const SUBMIT: &str = "/api/sse/emitter/parallel-tasks";

/// The stand-in for a language model; killed when dropped.
struct Model {
    child: Child,
    addr: String,
}

// === impl Model ===

impl Model {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .arg(example("llm_tokens.py"))
            .args(["--port", "0", "--delay-ms", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the examples need Python 3");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line on stdout");
        let addr = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, addr }
    }

    /// The setting that permits tasks to reach it.
    fn allowed(&self) -> String {
        format!("[egress]\nallow = [\"{}\"]\n", self.addr)
    }

    /// The job of the page, sent to this server.
    fn job(&self) -> Value {
        let text = std::fs::read_to_string(example("llm-job.json")).expect("the job");
        assert!(text.contains("127.0.0.1:9000"), "the page names this port");
        serde_json::from_str(&text.replace("127.0.0.1:9000", &self.addr)).expect("JSON")
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Submits a job and reads its events to the end.
fn run(node: &Node, job: &Value) -> Vec<Event> {
    let json = [("Content-Type", "application/json")];
    let mut stream = Stream::open(node.socket(), "POST", SUBMIT, &json, &job.to_string());
    assert_eq!(stream.status, 200, "{}", stream.head);
    let events = stream.rest();
    assert!(stream.finished, "the stream ends well");
    events
}

fn named(events: &[Event], name: &str) -> Vec<Value> {
    events.iter().filter(|event| event.event == name).map(Event::json).collect()
}

/// The chunk that an event of the model carries.
fn chunk(forwarded: &Value) -> Value {
    serde_json::from_str(forwarded["data"].as_str().expect("data are text")).expect("a chunk is JSON")
}

#[test]
fn a_models_tokens_arrive_as_progress_in_order_and_done_ends_the_task() {
    let model = Model::start();
    let node = Node::start(&model.allowed());
    let job = model.job();
    let output = job["tasks"][0]["body"]["messages"][0]["content"].as_str().expect("a message").to_owned();

    let events = run(&node, &job);
    let chunks: Vec<Value> = named(&events, "task_progress").iter().map(|progress| chunk(&progress["data"])).collect();
    let tokens: Vec<&str> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(tokens.concat(), output);
    assert!(tokens.len() > 10, "one event per token: {tokens:?}");
    assert!(events.iter().all(|event| !event.data.contains("[DONE]")), "the mark is no event");

    let complete = &named(&events, "task_complete")[0];
    assert_eq!(complete["result"]["events"], chunks.len());
    assert_eq!(chunk(&complete["result"]["lastEvent"])["choices"][0]["finish_reason"], "stop");
    assert_eq!(named(&events, "complete")[0]["status"], "completed");

    // Who comes late gets the same.
    let job_id = complete["jobId"].as_str().expect("an id");
    let path = format!("/api/jobs/{job_id}/events");
    let mut late = Stream::open(node.socket(), "GET", &path, &[], "");
    let again: Vec<Value> =
        named(&late.rest(), "task_progress").iter().map(|progress| chunk(&progress["data"])).collect();
    assert_eq!(again, chunks);
    // The key is in none of it.
    let shown = node.get(&format!("/api/jobs/{job_id}")).text();
    assert!(!shown.contains("demo-token") && events.iter().all(|event| !event.data.contains("demo-token")), "{shown}");
}

#[test]
fn a_wrong_key_is_an_error_with_its_reason() {
    let model = Model::start();
    let node = Node::start(&model.allowed());
    let mut job = model.job();
    job["tasks"][0]["headers"]["Authorization"] = json!("Bearer wrong");
    let events = run(&node, &job);
    let error = &named(&events, "error")[0];
    assert_eq!((&error["code"], &error["retryable"]), (&json!("http_status"), &json!(false)), "{error}");
    let text = error["error"].as_str().expect("a text");
    assert!(text.contains("401") && text.contains("Authorization: Bearer TOKEN"), "{text}");
}

/// `millstream run` as on the page: the result on stdout.
#[test]
fn the_command_line_runs_the_job_too() {
    let model = Model::start();
    let node = Node::start(&model.allowed());
    let dir = tempfile::tempdir().expect("a temp directory");
    let path = dir.path().join("job.json");
    std::fs::write(&path, model.job().to_string()).expect("write the job");
    let mut child = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["run", "--url", &format!("http://{}", node.addr)])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let mut printed = String::new();
    child.stdout.take().expect("stdout is piped").read_to_string(&mut printed).expect("text");
    assert!(child.wait().expect("it ends").success(), "{printed}");
    let results: Value = serde_json::from_str(&printed).expect("the result is JSON");
    assert_eq!(results["chat"]["events"], 14, "{results}");
}
