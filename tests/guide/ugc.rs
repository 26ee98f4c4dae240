//! "SSE – Atualizações em Tempo Real": its tests 1 and 2, as they stand there but for the port.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::{
    curl::Curl,
    support::{Node, eventually},
};

const CONNECT: &str = "curl -N http://localhost:3000/api/sse/ugc-updates\n";

const DELIVER: &str = r#"curl -X POST http://localhost:3000/api/webhooks/ugc-completed \
  -H "x-secret-key: minha-senha-secreta" \
  -H "Content-Type: application/json" \
  -d '{
    "batch_id": "test-123",
    "video_url": "https://example.com/video.mp4",
    "thumbnail_url": "https://example.com/thumb.jpg",
    "status": "success"
  }'
"#;

/// The built-in configuration, and the secret that the document has.
fn node(settings: &str) -> Node {
    Node::start_with_env(settings, &[("UGC_WEBHOOK_SECRET", "minha-senha-secreta")])
}

fn shell(node: &Node, line: &str) -> Curl {
    let line = line.replace("localhost:3000", &format!("localhost:{}", node.addr.port()));
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("NO_PROXY=localhost exec {line}")]).stderr(Stdio::null());
    Curl::spawn(shell)
}

#[test]
fn watchers_of_videos_receive_each_delivery() {
    let node = node("[emitter]\nheartbeat_ms = 1000");
    let mut watcher = shell(&node, CONNECT);
    let connected = watcher.event("connected");
    assert!(connected["clientId"].is_string() && connected["timestamp"].is_u64(), "{connected}");
    assert!(watcher.event("heartbeat")["timestamp"].is_u64());

    let answer = shell(&node, DELIVER).until("no line begins so");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["delivered"], 1, "{answer}");
    let mut data = json!({
        "id": "test-123",
        "batch_id": "test-123",
        "video_url": "https://example.com/video.mp4",
        "thumbnail_url": "https://example.com/thumb.jpg",
        "status": "completed"
    });
    assert_eq!(watcher.event("generation-completed"), data);

    shell(&node, &DELIVER.replace("{\n", "{\n \"product_name\": \"Lamp\",")).until("no line begins so");
    data["product_name"] = "Lamp".into();
    assert_eq!(watcher.event("generation-completed"), data);

    // A video that failed has no addresses.
    let failed = DELIVER.lines().filter(|line| !line.contains("_url")).collect::<Vec<_>>().join("\n");
    shell(&node, &failed.replace("success", "failed")).until("no line begins so");
    let data = json!({ "id": "test-123", "batch_id": "test-123", "status": "failed" });
    assert_eq!(watcher.event("generation-failed"), data);
    drop(watcher);
    eventually(|| (node.metric("millstream_streams_open") == 0.0).then_some(()));
}

/// Its test 3: a client that reconnects misses no event.
#[test]
fn a_watcher_resumes_after_the_server_was_restarted() {
    let mut node = node("");
    let mut watcher = node.stream("/api/sse/ugc-updates", &[]);
    watcher.until("connected");
    shell(&node, DELIVER).until("no line begins so");
    let seen = watcher.until("generation-completed").id;
    shell(&node, &DELIVER.replace("success", "error")).until("no line begins so");
    node.restart();
    let mut watcher = node.stream("/api/sse/ugc-updates", &[("Last-Event-ID", &seen)]);
    assert_eq!(watcher.until("connected").json()["resume"]["status"], "resumed");
    assert_eq!(watcher.next_own().event, "generation-failed");
}
