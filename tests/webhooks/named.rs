//! Named streams, and their page in the documentation.

use std::process::Command;

use serde_json::json;

use crate::{
    OLD_SECRET, start,
    support::{Node, steady},
};

#[test]
fn a_named_stream_receives_its_topics_and_resumes() {
    let node = start();
    let mut stream = node.stream("/api/sse/news?heartbeat=none", &[]);
    assert_eq!(stream.header("Content-Type"), Some("text/event-stream"));
    assert_eq!(stream.header("Cache-Control"), Some("no-cache, no-transform"));
    assert_eq!(stream.header("X-Accel-Buffering"), Some("no"));
    assert_eq!(stream.header("X-Robots-Tag"), Some("noindex"));
    let connected = stream.next();
    assert_eq!(connected.event, "connected");
    let connected = connected.json();
    assert_eq!(connected["clientId"], connected["emitterId"]);
    assert_eq!((&connected["topics"], &connected["groups"]), (&json!(["group:ops", "news"]), &json!(["ops"])));
    for topic in ["other", "news", "all", "group:ops"] {
        node.publish(topic, "e", &json!(topic));
    }
    let first = stream.next_own();
    assert_eq!(first.data, "news");
    assert_eq!(stream.next_own().data, "group:ops");
    drop(stream);
    node.publish("news", "e", &json!("later"));
    let mut again = node.stream("/api/sse/news", &[("Last-Event-ID", &first.id)]);
    assert_eq!(again.next().json()["resume"]["status"], "resumed");
    assert_eq!([again.next_own().data, again.next_own().data], ["group:ops", "later"]);
    let mut history = node.stream("/api/sse/news?history=1", &[]);
    history.until("connected");
    assert_eq!(history.next_own().data, "later");

    let unknown = node.get("/api/sse/olds").problem(404);
    assert!(!unknown.contains("news"), "{unknown}");
    node.get("/api/sse/news?topic=other").problem(400);
    node.get("/api/sse/news?history=x").problem(400);
    node.json("POST", "/api/sse/news", &json!({})).problem(405);
    node.json("POST", "/api/sse/parallel-tasks", &json!({})).problem(422);
}

/// The commands of docs/webhooks.md.
#[test]
fn the_commands_of_the_page_work() {
    let page = include_str!("../../docs/webhooks.md");
    if Command::new("openssl").arg("version").output().is_err() {
        return steady::skipped("the_commands_of_the_page_work", "openssl is not installed");
    }
    let (_, settings) = page.split_once("```toml\n").expect("settings");
    let (settings, _) = settings.split_once("```").expect("they end");
    let secrets = [
        ("UGC_WEBHOOK_SECRET", "minha-senha-secreta"),
        ("ORDERS_SECRET", OLD_SECRET),
        ("GITHUB_SECRET", "It's a Secret to Everybody"),
    ];
    let node = Node::start_with_env(settings, &secrets);
    let blocks: Vec<_> = page.split("<!-- check: ").skip(1).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        let (message, rest) = block.split_once(" -->\n```sh\n").expect("a block follows");
        let (command, _) = rest.split_once("\n```\n").expect("it ends");
        let command = command.replace("localhost:8090", &node.addr.to_string());
        let done = Command::new("sh").args(["-c", &command]).env("NO_PROXY", "*").output().expect("sh");
        let output = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && output.contains(message), "{command}\n{output}{done:?}");
    }
}
