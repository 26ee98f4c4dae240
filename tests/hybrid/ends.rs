//! What ends a job early, on this side, ends it on the remote.

use serde_json::{Value, json};

use super::{
    rig::{HYBRID, Pair, begun, ended, history, names, one, open, submit, verdict},
    support::{Node, eventually},
};

fn cancel(node: &Node, job: &str) {
    let reply = node.request("DELETE", &format!("/api/jobs/{job}"), &[], "");
    assert_eq!(reply.status, 202, "{reply:?}");
}

#[test]
fn a_cancel_reaches_the_remote() {
    let pair = Pair::start("", "");
    let job =
        submit(&pair.local, &json!({ "tasks": [pair.gated("a"), pair.gated("b"), { "id": "c", "run": "task1" }] }));
    begun(&pair.local, &job, "a");
    cancel(&pair.local, &job);
    let events = history(&pair.local, &job);
    let complete = one(&events, "complete", "");
    assert_eq!(complete["status"], "cancelled");
    assert_eq!(one(&events, "error", "a")["code"], "cancelled");
    pair.remote_becomes("cancelled");
}

#[test]
fn a_remote_that_is_gone_holds_no_cancel_up() {
    let mut pair = Pair::start("", "");
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a")] }));
    begun(&pair.local, &job, "a");
    pair.remote.kill();
    let begin = std::time::Instant::now();
    cancel(&pair.local, &job);
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("cancelled".into(), 0, 1));
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_deadline_here_is_kept_there() {
    let pair = Pair::start("", "");
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a")], "timeoutMs": 500 }));
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("timed_out".into(), 0, 1));
    assert_eq!(one(&events, "error", "a")["code"], "job_timeout");
    pair.remote_becomes("cancelled");
}

#[test]
fn a_failure_on_either_side_ends_both() {
    let pair = Pair::start("", "[handlers.broken]\nkind = \"command\"\ncommand = [\"false\"]\n");
    let local = json!({ "id": "x", "run": "broken" });
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a"), local], "failFast": true }));
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("failed".into(), 0, 2));
    assert_eq!(one(&events, "error", "a")["code"], "cancelled");

    let settings = "[handlers.endless]\nkind = \"command\"\ncommand = [\"sleep\", \"3600\"]\n";
    let pair = Pair::start("[handlers.broken]\nkind = \"command\"\ncommand = [\"false\"]\n", settings);
    let there = json!({ "id": "x", "run": "broken", "remote": "reactive" });
    let here = json!({ "id": "y", "run": "endless" });
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a"), there, here], "failFast": true }));
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("failed".into(), 0, 3));
    assert_eq!(
        (&one(&events, "error", "x")["code"], &one(&events, "error", "y")["code"]),
        (&json!("exit_status"), &json!("cancelled"))
    );
    pair.remote_becomes("failed");
}

#[test]
fn a_watcher_that_leaves_can_end_both() {
    let pair = Pair::start("", "");
    let gate = pair.gate("a");
    let task = json!({ "id": "a", "run": "gated", "input": gate });
    let body = json!({ "remoteTasks": [task], "onDisconnect": "cancel" });
    let mut stream = pair.local.post_stream(HYBRID, &body);
    stream.until("task_start");
    drop(stream);
    pair.remote_becomes("cancelled");
}

/// If jobs do not outlive the node, no client would read the results of the remote.
#[test]
fn the_last_stop_of_a_node_without_memory_reaches_the_remote() {
    let mut pair = Pair::start("", "[journal]\nkind = \"memory\"\n[server]\ndrain_ms = 100\n");
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a")] }));
    begun(&pair.local, &job, "a");
    assert_eq!(pair.local.terminate(), Some(0));
    pair.remote_becomes("cancelled");
}

#[test]
fn a_stop_of_a_node_with_memory_leaves_the_remote_at_work() {
    let mut pair = Pair::start("", "[server]\ndrain_ms = 100\n");
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a"), pair.gated("b")] }));
    let before = begun(&pair.local, &job, "b");
    assert_eq!(pair.local.terminate(), Some(0));
    let there = pair.remote_job();
    assert_eq!(there["status"], "running");
    // It ends without a watcher.
    open(&pair.gate("a"));
    let url = format!("/api/jobs/{}", there["jobId"].as_str().expect("an id"));
    eventually(|| (pair.remote.get(&url).json()["successCount"] == 1).then_some(()));
    pair.local.start_again();
    open(&pair.gate("b"));
    let events = history(&pair.local, &job);
    assert_eq!(events[..before.len()], before, "one history");
    assert_eq!(verdict(&events), ("completed".into(), 2, 0));
    for task in ["a", "b"] {
        assert_eq!(names(&events, task), ["task_start", "task_complete"], "not a word of the stop");
        let done: Value = one(&events, "task_complete", task);
        assert_eq!((&done["result"], &done["attempts"]), (&json!(1), &json!(1)), "nothing ran twice");
    }
    pair.remote_becomes("completed");
}

#[test]
fn failed_remote_tasks_run_again_as_a_new_job() {
    let pair = Pair::start("", "");
    let mut stream = pair.local.post_stream(HYBRID, &json!({ "remoteTasks": ["Nobody Knows This", "task1"] }));
    let job = stream.until("connection").json()["jobId"].as_str().expect("an id").to_owned();
    assert_eq!(verdict(&ended(&mut stream)), ("failed".into(), 0, 2));
    let again = pair.local.post(&format!("/api/jobs/{job}/retry"), &json!({}));
    let events = history(&pair.local, again["jobId"].as_str().expect("an id"));
    assert_eq!(one(&events, "error", "1")["code"], "remote_refused");
}
