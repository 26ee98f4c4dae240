//! What these tests share: two nodes of which one knows the other, gates, and a reader of histories.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::support::{Event, Node, Stream, eventually};

/// Two nodes; work on the remote waits at gates.
pub(crate) struct Pair {
    pub remote: Node,
    pub local: Node,
    gates: tempfile::TempDir,
}

/// A handler that waits for the file that its input names, deletes it and returns its attempt; one that returns its
/// input; and one that returns this number of letters.
pub(crate) const HANDLERS: &str = r#"
[handlers.gated]
kind = "command"
command = ["sh", "-c", "read -r gate; gate=${gate#?}; gate=${gate%?}; until rm $gate 2>/dev/null; do sleep 0.02; done; echo \"{\\\"result\\\": $MILLSTREAM_ATTEMPT}\""]
[handlers.echo]
kind = "command"
command = ["sh", "-c", "read -r line; echo \"{\\\"result\\\": $line}\""]
[handlers.large]
kind = "command"
command = ["sh", "-c", "read -r n; printf '{\"result\": \"'; yes xxxxxxxxx | tr -d '\\n' | head -c $n; echo '\"}'"]
"#;

// === impl Pair ===

impl Pair {
    /// Both with these settings, and with handlers that only the remote has.
    pub(crate) fn start(remote: &str, local: &str) -> Self {
        let remote = Node::start(&format!("{HANDLERS}{remote}"));
        let local = Node::start(&pointing(&remote.addr.to_string(), local));
        Self { remote, local, gates: tempfile::tempdir().expect("a temp directory") }
    }

    pub(crate) fn gate(&self, name: &str) -> PathBuf {
        self.gates.path().join(name)
    }

    /// A task on the remote that waits at a gate.
    pub(crate) fn gated(&self, name: &str) -> Value {
        json!({ "id": name, "run": "gated", "input": self.gate(name), "remote": "reactive" })
    }

    /// The one job on the remote.
    pub(crate) fn remote_job(&self) -> Value {
        let jobs = self.remote.get("/api/jobs").json()["jobs"].take();
        assert_eq!(jobs.as_array().map(Vec::len), Some(1), "one job there: {jobs}");
        jobs[0].clone()
    }

    /// Waits until the one job on the remote is so.
    pub(crate) fn remote_becomes(&self, status: &str) -> Value {
        eventually(|| {
            let jobs = self.remote.get("/api/jobs").json();
            (jobs["jobs"][0]["status"] == status).then(|| self.remote_job())
        })
    }
}

/// The settings of a node for which `reactive` is at this address, and which loses no time.
pub(crate) fn pointing(address: &str, more: &str) -> String {
    format!(
        "[relay]\ninitial_retry_ms = 50\nmax_retry_ms = 200\n[remotes.reactive]\nbase_url = \"http://{address}\"\n{more}"
    )
}

pub(crate) const HYBRID: &str = "/api/sse-integration/hybrid-execution/sse-emitter";

pub(crate) fn submit(node: &Node, spec: &Value) -> String {
    node.post("/api/jobs", spec)["jobId"].as_str().expect("an id").to_owned()
}

pub(crate) fn watch(node: &Node, job: &str) -> Stream {
    node.stream(&format!("/api/jobs/{job}/events"), &[])
}

/// The whole history, at its end; coherent in all that can be checked of any.
pub(crate) fn history(node: &Node, job: &str) -> Vec<Event> {
    ended(&mut watch(node, job))
}

/// All events of a job's stream.
pub(crate) fn ended(stream: &mut Stream) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = stream.next_own();
        events.push(event);
        if events[events.len() - 1].event == "complete" {
            coherent(&events);
            return events;
        }
    }
}

/// One start and one end of each task, one aggregate and one end of the job, each with a source.
fn coherent(events: &[Event]) {
    let count = |name: &str| events.iter().filter(|event| event.event == name).count();
    assert_eq!((count("aggregated_result"), count("complete")), (1, 1), "{events:?}");
    let total = one(events, "complete", "")["totalTasks"].as_u64().expect("a count");
    assert_eq!((count("task_complete") + count("error")) as u64, total, "{events:?}");
    assert_eq!(count("progress") as u64, total);
    let mut tasks: BTreeMap<String, (Vec<&str>, String)> = BTreeMap::new();
    for event in events {
        let data = event.json();
        let source = data["source"].as_str().unwrap_or_else(|| panic!("no source: {event:?}"));
        match data["taskId"].as_str() {
            None => assert_eq!(source, "local", "{event:?}"),
            Some(task) => {
                let (names, first) = tasks.entry(task.to_owned()).or_insert_with(|| (Vec::new(), source.to_owned()));
                assert_eq!(first, source, "{event:?}");
                names.push(&event.event);
            }
        }
    }
    for (names, _) in tasks.values() {
        assert!(names.iter().filter(|name| **name == "task_start").count() <= 1, "{names:?}");
        assert!(names.len() == 1 || names[0] == "task_start", "{names:?}");
        assert!(matches!(names[names.len() - 1], "task_complete" | "error"), "{names:?}");
    }
}

/// Names of the events of a task.
pub(crate) fn names<'h>(events: &'h [Event], task: &str) -> Vec<&'h str> {
    let of = |event: &&Event| event.json()["taskId"] == *task;
    events.iter().filter(of).map(|event| event.event.as_str()).collect()
}

/// Data of all events of this name, and of this task if one is named.
pub(crate) fn all(events: &[Event], name: &str, task: &str) -> Vec<Value> {
    let data = events.iter().filter(|event| event.event == name).map(Event::json);
    data.filter(|data| task.is_empty() || data["taskId"] == *task).collect()
}

/// The one of these.
pub(crate) fn one(events: &[Event], name: &str, task: &str) -> Value {
    let mut found = all(events, name, task);
    assert_eq!(found.len(), 1, "{name} of {task:?}: {events:?}");
    found.remove(0)
}

/// The one `task_retry` of a task beside those that say that its remote is away, of which there may be any number.
pub(crate) fn retry(events: &[Event], task: &str) -> Value {
    let mut found = all(events, "task_retry", task);
    found.retain(|retry| retry["code"] != "remote_away");
    assert_eq!(found.len(), 1, "task_retry of {task:?}: {events:?}");
    found.remove(0)
}

/// `status`, `successCount`, `errorCount`.
pub(crate) fn verdict(events: &[Event]) -> (String, u64, u64) {
    let complete = one(events, "complete", "");
    let count = |key: &str| complete[key].as_u64().expect("a count");
    (complete["status"].as_str().expect("a status").to_owned(), count("successCount"), count("errorCount"))
}

/// Opens a gate when a task waits at it, and waits until it is taken.
pub(crate) fn open(gate: &Path) {
    std::fs::write(gate, "").expect("write a gate");
    eventually(|| (!gate.exists()).then_some(()));
}

/// Waits until a task of the job has begun.
pub(crate) fn begun(node: &Node, job: &str, task: &str) -> Vec<Event> {
    let mut stream = watch(node, job);
    let mut events = Vec::new();
    while !names(&events, task).contains(&"task_start") {
        events.push(stream.next_own());
    }
    events
}
