//! Jobs whose tasks lead back to their own node: finite ones are done, endless ones are refused.

use serde_json::{Value, json};

use super::{
    rig::{HANDLERS, HYBRID, submit},
    support::{Node, eventually, until_idle},
};

/// A node that knows itself as `me`, and whose tasks may reach it.
fn selfish(more: impl Fn(&str) -> String) -> Node {
    let mut node = Node::start("");
    let addr = node.addr.to_string();
    node.configure(&format!(
        "[egress]\nallow = [\"{addr}\"]\n[remotes.me]\nbase_url = \"http://{addr}\"\npaths = [\"/*\"]\n{HANDLERS}{}",
        more(&addr)
    ));
    node.restart();
    node
}

/// Waits for the end of a job; the job.
fn ended(node: &Node, id: &str) -> Value {
    eventually(|| {
        let job = node.get(&format!("/api/jobs/{id}")).json();
        (!["queued", "running"].contains(&job["status"].as_str()?)).then_some(job)
    })
}

fn jobs(node: &Node) -> usize {
    node.get("/api/jobs").json()["jobs"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_hybrid_job_onto_its_own_node_is_one_more_job() {
    let node = selfish(|_| String::new());
    let task = json!({ "id": "b", "run": "echo", "input": 2 });
    let spec = json!({ "localTasks": [{ "id": "a", "run": "echo", "input": 1 }, "task1"], "remoteTasks": [task, "Fetch External Data"], "remote": "me" });
    let mut stream = node.post_stream(HYBRID, &spec);
    assert_eq!(stream.until("complete").json()["status"], "completed");
    assert_eq!(jobs(&node), 2);
    until_idle(&[node]);
}

#[test]
fn a_task_that_would_go_on_from_its_own_node_is_refused() {
    let node = selfish(|_| String::new());
    let url = format!("http://{}/healthz", node.addr);
    let spec = json!({ "tasks": [{ "id": "a", "url": url, "remote": "me", "retryCount": 3 }] });
    let job = ended(&node, &submit(&node, &spec));
    assert_eq!((&job["status"], &job["tasks"][0]["code"]), (&json!("failed"), &json!("remote_refused")), "{job}");
    assert!(job["tasks"][0]["error"].as_str().is_some_and(|error| error.contains("loop")), "{job}");
    assert_eq!(jobs(&node), 1);
    // The same by a task of its own, and through the proxy.
    let inner = json!({ "tasks": [{ "url": url }] });
    for task in [
        json!({ "id": "a", "url": format!("http://{}/api/jobs", node.addr), "method": "POST", "body": inner, "retryCount": 3 }),
        json!({ "id": "a", "url": format!("http://{}/api/sse-proxy/me/events", node.addr), "retryCount": 3 }),
    ] {
        let job = ended(&node, &submit(&node, &json!({ "tasks": [task] })));
        let failed = &job["tasks"][0];
        assert_eq!((&failed["code"], &failed["attempts"]), (&json!("http_status"), &json!(1)), "{job}");
        assert!(failed["error"].as_str().is_some_and(|error| error.contains("508")), "{job}");
    }
    assert_eq!(jobs(&node), 3);
    until_idle(&[node]);
}

#[test]
fn a_task_may_publish_and_submit_at_its_own_node() {
    let node = selfish(|_| String::new());
    let at = |path: &str, body: Value| json!({ "url": format!("http://{}{path}", node.addr), "method": "POST", "body": body });
    let inner = json!({ "tasks": [{ "run": "echo", "input": 1 }] });
    let spec =
        json!({ "tasks": [at("/events", json!({ "topic": "t", "event": "e", "data": 1 })), at("/api/jobs", inner)] });
    assert_eq!(ended(&node, &submit(&node, &spec))["status"], "completed");
    let page = node.get("/api/topics/t/events").json();
    assert_eq!((page["events"].as_array().map(Vec::len), &page["events"][0]["event"]), (Some(1), &json!("e")));
    eventually(|| (jobs(&node) == 2).then_some(()));
}

/// A handler of the settings that hands its input to the node as a job, which runs the same handler.
#[test]
fn a_handler_that_begins_itself_again_ends_after_one_round() {
    let node = selfish(|addr| format!("[handlers.again]\nkind = \"http\"\nurl = \"http://{addr}/api/jobs\"\n"));
    let again = |input: Value| json!({ "tasks": [{ "id": "a", "run": "again", "input": input, "retryCount": 3 }] });
    let spec = (0..5).fold(json!({ "tasks": [{ "run": "echo", "input": 1 }] }), |inner, _| again(inner));
    assert_eq!(ended(&node, &submit(&node, &spec))["status"], "completed");
    let ids = || -> Vec<String> {
        let all = node.get("/api/jobs").json()["jobs"].take();
        all.as_array().expect("a list").iter().map(|job| job["jobId"].as_str().expect("an id").to_owned()).collect()
    };
    // Newest first.
    let all = ids();
    let inner = ended(&node, &all[0]);
    assert_eq!((all.len(), &inner["tasks"][0]["code"]), (2, &json!("loop_detected")), "{inner}");
    assert_eq!((&inner["tasks"][0]["attempts"], jobs(&node)), (&json!(1), 2), "{inner}");
    until_idle(&[node]);
}
