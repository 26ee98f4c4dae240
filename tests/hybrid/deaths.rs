//! Nodes that die in the middle, on either side: one history, nothing twice, and the truth where something is lost.

use serde_json::json;

use super::{
    rig::{HANDLERS, Pair, all, begun, history, names, one, open, pointing, retry, submit, verdict, watch},
    support::{Node, eventually},
};

#[test]
fn a_remote_that_is_killed_and_comes_back_completes_the_job() {
    let mut pair = Pair::start("", "[remotes.reactive]\nmax_retries = 100\n");
    let tasks = json!([
        { "id": "done", "run": "echo", "input": 1, "remote": "reactive" },
        pair.gated("a"), pair.gated("b"), { "id": "here", "run": "task1" },
    ]);
    let job = submit(&pair.local, &json!({ "tasks": tasks }));
    let mut stream = watch(&pair.local, &job);
    while stream.until("task_complete").json()["taskId"] != "done" {}
    begun(&pair.local, &job, "a");
    begun(&pair.local, &job, "b");
    pair.remote.restart();
    open(&pair.gate("a"));
    open(&pair.gate("b"));
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("completed".into(), 4, 0));
    for task in ["a", "b"] {
        assert_eq!(retry(&events, task)["code"], "node_restarted", "the remote's own word");
        let done = one(&events, "task_complete", task);
        assert_eq!((&done["attempts"], &done["result"]), (&json!(2), &json!(2)));
    }
    assert_eq!(names(&events, "done"), ["task_start", "task_complete"]);
    pair.remote_job();
}

#[test]
fn a_remote_that_does_not_return_is_reported_as_lost() {
    let mut pair = Pair::start("", "");
    let tasks = json!([
        { "id": "done", "run": "echo", "input": 1, "remote": "reactive" }, pair.gated("a"), { "id": "here", "run": "task1" },
    ]);
    let job = submit(&pair.local, &json!({ "tasks": tasks }));
    begun(&pair.local, &job, "a");
    let url = format!("/api/jobs/{job}");
    eventually(|| (pair.local.get(&url).json()["successCount"] == 2).then_some(()));
    pair.remote.kill();
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("partial".into(), 2, 1));
    let lost = one(&events, "error", "a");
    assert_eq!((&lost["code"], &lost["retryable"]), (&json!("remote_lost"), &json!(true)));
    assert!(lost["error"].as_str().is_some_and(|text| text.contains("remote `reactive`")), "{lost}");
}

#[test]
fn a_remote_that_is_not_there_is_asked_for_a_while() {
    let mut pair = Pair::start("", "");
    pair.remote.kill();
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a"), { "id": "here", "run": "task1" }] }));
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("partial".into(), 1, 1));
    let lost = one(&events, "error", "a");
    assert_eq!((&lost["code"], &lost["attempts"]), (&json!("remote_lost"), &json!(1)));
    let unreached = all(&events, "task_retry", "a");
    assert_eq!(unreached.len(), 5, "each failure but the last is reported: {unreached:?}");
    for retry in &unreached {
        assert_eq!((&retry["code"], &retry["attempt"]), (&json!("remote_away"), &json!(1)), "it spends no retry");
        assert!(retry["error"].as_str().is_some_and(|text| text.contains("`reactive` cannot be reached")), "{retry}");
        assert!(retry["delayMs"].as_u64().is_some_and(|ms| ms > 0), "{retry}");
    }
    assert!(lost["error"].as_str().is_some_and(|text| text.contains("could not be handed to")), "{lost}");

    // While there is patience it may come up.
    let mut pair = Pair::start("", "[remotes.reactive]\nmax_retries = 100\n");
    pair.remote.kill();
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a")] }));
    pair.remote.start_again();
    open(&pair.gate("a"));
    assert_eq!(verdict(&history(&pair.local, &job)), ("completed".into(), 1, 0));
}

/// A job must not be silent while its remote is away, whether it has the tasks already or not.
#[test]
fn an_unreachable_remote_is_reported_at_once_and_the_job_continues_later() {
    let mut pair = Pair::start("", "[remotes.reactive]\nmax_retries = 100\n");
    pair.remote.kill();
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a")] }));
    let mut stream = watch(&pair.local, &job);
    assert_eq!(stream.until("task_start").json()["source"], "reactive");
    assert_eq!(stream.until("task_retry").json()["code"], "remote_away");
    assert_eq!(pair.local.get(&format!("/api/jobs/{job}")).json()["tasks"][0]["status"], "running");
    pair.remote.start_again();
    pair.remote_becomes("running");
    pair.remote.kill();
    let reported = all(&begun(&pair.local, &job, "a"), "task_retry", "a").len();
    // Reports before the remote had the task are counted, not waited for.
    eventually(|| {
        let mut all_of_it = watch(&pair.local, &job);
        let mut retries = 0;
        while let Some(event) = all_of_it.next_within(std::time::Duration::from_millis(300)) {
            retries += usize::from(event.event == "task_retry");
        }
        (retries > reported + 1).then_some(())
    });
    pair.local.restart();
    pair.remote.start_again();
    open(&pair.gate("a"));
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("completed".into(), 1, 0));
    assert_eq!(names(&events, "a").iter().filter(|name| **name == "task_start").count(), 1);
    pair.remote_job();
}

#[test]
fn a_remote_that_no_longer_knows_the_job_is_reported_as_lost() {
    let mut pair = Pair::start("[journal]\nkind = \"memory\"\n", "[remotes.reactive]\nmax_retries = 100\n");
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a"), { "id": "here", "run": "task1" }] }));
    begun(&pair.local, &job, "a");
    pair.remote.restart();
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("partial".into(), 1, 1));
    let lost = one(&events, "error", "a");
    assert_eq!(lost["code"], "remote_lost");
    assert!(lost["error"].as_str().is_some_and(|text| text.contains("no longer knows the job")), "{lost}");
    assert_eq!(pair.remote.get("/api/jobs").json()["jobs"], json!([]), "it was not submitted anew");
}

#[test]
fn a_node_that_is_killed_takes_its_remote_tasks_up_again() {
    let mut pair = Pair::start("", "");
    let local_gate = pair.gate("here");
    let tasks = json!([
        { "id": "done", "run": "echo", "input": 1, "remote": "reactive" },
        { "id": "large", "run": "large", "input": 400_000, "remote": "reactive" },
        pair.gated("a"), pair.gated("b"), { "id": "here", "run": "gated", "input": local_gate },
    ]);
    // The same handlers on both sides.
    pair.local = Node::start(&pointing(&pair.remote.addr.to_string(), HANDLERS));
    let job = submit(&pair.local, &json!({ "tasks": tasks, "timeoutMs": 600_000 }));
    for task in ["a", "b", "here"] {
        begun(&pair.local, &job, task);
    }
    let url = format!("/api/jobs/{job}");
    eventually(|| (pair.local.get(&url).json()["successCount"] == 2).then_some(()));
    let mut stream = watch(&pair.local, &job);
    let mut before = Vec::new();
    while all(&before, "progress", "").len() < 2 {
        before.push(stream.next_own());
    }
    pair.local.kill();
    open(&pair.gate("a"));
    pair.remote_job();
    pair.local.start_again();
    let last = before[before.len() - 1].id.clone();
    let mut again = pair.local.stream(&format!("{url}/events"), &[("Last-Event-ID", &last)]);
    assert_eq!(again.until("connection").json()["resume"]["status"], "resumed");
    open(&pair.gate("b"));
    open(&pair.gate("here"));
    let events = history(&pair.local, &job);
    assert_eq!(events[..before.len()], before, "one history");
    assert_eq!(verdict(&events), ("completed".into(), 5, 0));
    for task in ["done", "a", "b", "large"] {
        assert_eq!(names(&events, task), ["task_start", "task_complete"], "{task}");
    }
    assert_eq!(retry(&events, "here")["code"], "node_restarted");
    assert_eq!(one(&events, "task_complete", "a")["attempts"], 1, "nothing ran twice");
    let result = pair.local.get(&format!("{url}/tasks/large/result")).json();
    assert_eq!(result.as_str().map(str::len), Some(400_000));
    assert_eq!(pair.remote_job()["totalTasks"], 4);
}

/// Killed at any moment of the handing over: there is one job on the remote, and each task has run once.
#[test]
fn a_node_that_is_killed_again_and_again_submits_once() {
    let mut pair = Pair::start("", "");
    for round in 0..4u32 {
        let name = format!("g{round}");
        let job = submit(&pair.local, &json!({ "tasks": [pair.gated(&name)] }));
        for _ in 0..round {
            pair.local.restart();
        }
        open(&pair.gate(&name));
        let events = history(&pair.local, &job);
        assert_eq!(verdict(&events), ("completed".into(), 1, 0));
        let jobs = pair.remote.get("/api/jobs").json()["jobs"].take();
        assert_eq!(jobs.as_array().map(Vec::len), Some(round as usize + 1), "{jobs}");
    }
}

#[test]
fn both_sides_killed_at_once_still_complete() {
    let mut pair = Pair::start("", "[remotes.reactive]\nmax_retries = 100\n");
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a")] }));
    begun(&pair.local, &job, "a");
    pair.remote.kill();
    pair.local.kill();
    pair.local.start_again();
    pair.remote.start_again();
    open(&pair.gate("a"));
    let events = history(&pair.local, &job);
    assert_eq!(verdict(&events), ("completed".into(), 1, 0));
    assert_eq!(retry(&events, "a")["code"], "node_restarted");
}

/// A cancel that was acknowledged before the node was killed is carried out after it.
#[test]
fn a_cancel_that_was_acknowledged_reaches_the_remote_after_a_kill() {
    let mut pair = Pair::start("", "");
    let job = submit(&pair.local, &json!({ "tasks": [pair.gated("a")] }));
    begun(&pair.local, &job, "a");
    // The remote does not receive it.
    pair.remote.signal(rustix::process::Signal::STOP);
    let reply = pair.local.request("DELETE", &format!("/api/jobs/{job}"), &[], "");
    assert_eq!(reply.status, 202);
    pair.local.kill();
    pair.remote.signal(rustix::process::Signal::CONT);
    pair.local.start_again();
    assert_eq!(verdict(&history(&pair.local, &job)), ("cancelled".into(), 0, 1));
    pair.remote_becomes("cancelled");
}
