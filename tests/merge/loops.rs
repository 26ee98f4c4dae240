//! A merged stream that reads a merged stream of its own node.

use serde_json::json;

use crate::{
    MERGE, start_of,
    support::{Node, Stream, until_idle},
};

fn selfish() -> Node {
    let mut node = Node::start("");
    node.configure(&format!("[remotes.me]\nbase_url = \"http://{}\"\npaths = [\"/*\"]\n", node.addr));
    node.restart();
    node
}

#[test]
fn a_merge_of_a_merge_of_the_same_node_is_refused() {
    let node = selfish();
    let plain = json!({ "remote": "me", "path": "/events?topic=t" });
    let inner = json!({ "remote": "me", "path": MERGE, "method": "POST", "body": [plain] });
    let mut stream = node.post_stream(MERGE, &json!([inner, plain]));
    start_of(&mut stream);
    let refused = stream.until("merge_error").json();
    assert_eq!((&refused["code"], &refused["source"]), (&json!("loop_detected"), &json!(MERGE)), "{refused}");
    // The other source is an ordinary stream of the node.
    reads_on(&node, &mut stream);
    assert_eq!(node.metric("millstream_upstream_streams_open"), 1.0);
    let reply = node.request(
        "POST",
        MERGE,
        &[("Content-Type", "application/json"), ("Via", &own_way(&node))],
        json!([plain]).to_string(),
    );
    assert!(reply.problem(508).contains("loop"));
    assert_eq!(reply.json()["code"], "loop_detected");
    until_idle(&[node]);
}

fn reads_on(node: &Node, stream: &mut Stream) {
    crate::support::eventually(|| {
        node.publish("t", "tick", &json!(1));
        stream.next_within(std::time::Duration::from_millis(200)).filter(|event| event.event == "tick")
    });
}

/// The node's id is the first part of its positions.
fn own_way(node: &Node) -> String {
    let id = node.publish("t", "tick", &json!(1));
    format!("1.1 millstream-{}", id.split('-').next().expect("an epoch"))
}
