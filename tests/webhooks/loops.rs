//! Webhooks whose events lead back to their own topic: each delivery is one event.

use serde_json::{Value, json};

use crate::{
    SECRETS, SETTINGS,
    delivery::Delivery,
    support::{
        Node, eventually,
        pipe::{Pipe, WAY},
        until_idle,
    },
};

/// How often an event of this name is in the topic.
fn count(node: &Node, topic: &str, name: &str) -> usize {
    let page = node.get(&format!("/api/topics/{topic}/events?limit=1000")).json();
    page["events"].as_array().expect("a page").iter().filter(|row| row["event"] == name).count()
}

#[test]
fn a_webhook_whose_topic_is_relayed_into_itself_delivers_once() {
    // A proxy before the node, so that it cannot see that it is asked by itself.
    let pipe = Pipe::start(WAY);
    let remote = format!("[remotes.next]\nbase_url = \"{}\"\npaths = [\"/*\"]\n", pipe.upstream.url(""));
    let node = Node::start_with_env(&format!("{SETTINGS}{remote}"), &SECRETS);
    pipe.lead_to(node.addr);
    let spec = json!({ "topic": "news", "sources": [{ "remote": "next", "path": "/events?topic=news" }] });
    let relay = format!("relay:{}", node.post("/api/relays", &spec)["id"].as_str().expect("an id"));
    eventually(|| (count(&node, &relay, "relay_open") == 1).then_some(()));
    for number in 0..5 {
        Delivery::plain(&json!({ "status": "ok", "n": number })).taken(&node);
    }
    eventually(|| (node.metric("millstream_relay_loops_dropped_total") >= 5.0).then_some(()));
    until_idle(std::slice::from_ref(&node));
    assert_eq!(count(&node, "news", "done"), 5);
    assert!((1..20).contains(&count(&node, &relay, "relay_loop")));
}

/// A job that reports to the topic of a webhook, and calls that webhook.
#[test]
fn a_job_that_calls_the_webhook_of_its_own_topic_is_one_delivery() {
    let mut node = Node::start_with_env(SETTINGS, &SECRETS);
    let addr = node.addr;
    node.configure(&format!("{SETTINGS}[egress]\nallow = [\"{addr}\"]\n"));
    node.restart();
    let task = json!({
        "url": format!("http://{addr}/api/webhooks/plain"), "method": "POST",
        "headers": { "x-token": "plain-hush-1" }, "body": { "status": "ok" },
    });
    let job = node.post("/api/jobs", &json!({ "tasks": [task], "notify": { "topic": "news" } }));
    let url = format!("/api/jobs/{}", job["jobId"].as_str().expect("an id"));
    let ended = |job: Value| (job["status"] != "queued" && job["status"] != "running").then_some(job);
    let job = eventually(|| ended(node.get(&url).json()));
    assert_eq!(job["status"], "completed", "{job}");
    until_idle(std::slice::from_ref(&node));
    assert_eq!((count(&node, "news", "done"), count(&node, "news", "complete")), (1, 1));
    assert_eq!(node.get("/api/jobs").json()["jobs"].as_array().map(Vec::len), Some(1));
}
