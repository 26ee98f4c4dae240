//! More than a segment holds: segments are filled and begun, emptied and removed, and the node is killed in between.

use std::path::Path;

use rand::{RngExt, rngs::StdRng};
use serde_json::json;

use crate::{
    kills::seeded,
    support::{Node, steady::noise},
};

const EVENT_BYTES: usize = 900_000;

/// Settings of a journal that may have this number of bytes. A segment has a 16th of them. An event counts twice.
fn settings(max_bytes: u32) -> String {
    format!("[journal]\nmax_bytes = {max_bytes}\nretention_bytes = 0\nsync = \"os\"\n[telemetry]\nlog = \"warn\"\n")
}

/// The numbers of the segments, in order.
fn segments(data: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(data.join("journal")).expect("a journal");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let mut numbers: Vec<u32> = names.filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Publishes large events. Only the end of each is returned: that the rest is as it was, the checksums say.
fn publish(node: &Node, topic: &str) -> (String, String) {
    let data = noise(EVENT_BYTES);
    let id = node.publish(topic, "e", &json!(data));
    (id, data[EVENT_BYTES - 40..].to_owned())
}

/// The topic has these events, and no other.
fn check(node: &Node, topic: &str, sent: &[(String, String)]) {
    let mut stream = node.stream(&format!("/events?topic={topic}&history=1000"), &[]);
    for (id, end) in sent {
        let event = stream.next_own();
        assert_eq!((&event.id, event.data.ends_with(end)), (id, true));
    }
    let last = node.publish(topic, "e", &json!("last"));
    assert_eq!(stream.next_own().id, last);
}

fn next_kill(rng: &mut StdRng, published: usize) -> usize {
    published + rng.random_range(5..30)
}

#[test]
fn kills_while_segments_are_filled_and_begun_lose_nothing() {
    const EVENTS: usize = 90;
    let mut rng = seeded();
    let mut node = Node::start(&settings(192 << 20));
    let mut sent: Vec<(String, String)> = Vec::new();
    let mut kill = next_kill(&mut rng, 0);
    while sent.len() < EVENTS {
        sent.push(publish(&node, "large"));
        if sent.len() == kill {
            node.restart();
            kill = next_kill(&mut rng, kill);
        }
    }
    node.restart();
    let numbers = segments(&node.data_dir());
    assert!(numbers.len() > 5, "no segment was full: {numbers:?}");
    check(&node, "large", &sent);
}

/// Two of three events are deleted, so that the third one is moved out of its segment before that is removed.
#[test]
fn kills_while_segments_are_emptied_and_removed_lose_nothing() {
    const EVENTS: usize = 30;
    let mut rng = seeded();
    let mut node = Node::start(&settings(96 << 20));
    let mut sent: Vec<(String, String)> = Vec::new();
    let (mut published, mut unneeded, mut kill) = (0, 0, next_kill(&mut rng, 0));
    while sent.len() < EVENTS {
        for topic in ["large", "deleted", "deleted"] {
            let event = publish(&node, topic);
            published += 1;
            if topic == "large" {
                sent.push(event);
            } else {
                unneeded += 1;
            }
            if unneeded == 10 || rng.random_bool(0.2) {
                let purged = node.request("DELETE", "/api/topics/deleted", &[], "");
                assert_eq!(purged.status, 200, "{purged:?}");
                unneeded = 0;
            }
            if published == kill {
                node.restart();
                kill = next_kill(&mut rng, kill);
            }
        }
    }
    node.restart();
    let numbers = segments(&node.data_dir());
    assert!(numbers.first().is_some_and(|oldest| *oldest > 3), "no segment was emptied: {numbers:?}");
    check(&node, "large", &sent);
}
