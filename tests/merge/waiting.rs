//! Sources that are away for a while.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::json;

use crate::{
    MERGE, end, node, open, send,
    support::upstream::{self, Upstream},
};

/// A stop of a remote is no end of its streams, and neither is what it answers while it stops.
#[test]
fn a_remote_that_refuses_for_now_is_waited_for() {
    const HELLO: &str = "event: connection\ndata: {\"status\":\"connected\",\"emitterId\":\"e\",\"resume\":{\"from\":null,\"status\":\"resumed\"}}\n\n";
    const REFUSAL: &str = "event: disconnect\ndata: {\"reason\":\"shutdown\"}\nretry: 50\n\n";
    let connections = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, socket| match connections.fetch_add(1, Relaxed) {
        0 => {
            open(socket);
            send(socket, &format!("{HELLO}id: aa-1\nevent: tick\ndata: 1\n\n{REFUSAL}"));
            end(socket);
        }
        1 => upstream::answer(socket, "200 OK", "text/event-stream", REFUSAL),
        _ => {
            open(socket);
            send(socket, &format!("{HELLO}id: aa-2\nevent: tick\ndata: 2\n\nid: aa-3\nevent: tick\ndata: 3\n\n"));
            end(socket);
        }
    });
    let node = node(&upstream, "");
    let events = node.post_stream(MERGE, &json!(["/x"])).rest();
    let reported: Vec<(&str, &str)> = events.iter().map(|event| (event.event.as_str(), event.data.as_str())).collect();
    assert_eq!(&reported[1..4], [("tick", "1"), ("tick", "2"), ("tick", "3")], "{reported:?}");
    let (name, data) = reported.last().expect("events");
    assert!(*name == "merge_complete" && data.contains("\"completed\":1"), "{reported:?}");
}
