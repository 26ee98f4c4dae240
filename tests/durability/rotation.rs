//! More than the store's write-ahead log holds: logs are closed and begun, tables are written, and the node is killed in
//! between.

use rand::RngExt;
use serde_json::json;

use crate::{
    kills::seeded,
    support::{Node, steady::noise},
};

const EVENT_BYTES: usize = 900_000;
/// A log is closed with the first table that is written once it has 64 MB, and a table has 8.
const EVENTS: usize = 90;

#[test]
fn kills_while_logs_are_full_and_tables_are_written_lose_nothing() {
    let mut rng = seeded();
    let mut node = Node::start("[journal]\nretention_bytes = 0\nsync = \"os\"\n[telemetry]\nlog = \"warn\"\n");
    let mut sent: Vec<(String, String)> = Vec::new();
    let mut next_kill = rng.random_range(5..30);
    while sent.len() < EVENTS {
        let data = noise(EVENT_BYTES);
        let id = node.publish("large", "e", &json!(data));
        // Only the end is compared: that the rest is as it was, the checksums say.
        sent.push((id, data[EVENT_BYTES - 40..].to_owned()));
        if sent.len() == next_kill {
            node.restart();
            next_kill += rng.random_range(5..30);
        }
    }
    node.restart();
    let mut stream = node.stream("/events?topic=large&history=1000", &[]);
    for (id, end) in &sent {
        let event = stream.next_own();
        assert_eq!((&event.id, event.data.ends_with(end)), (id, true));
    }
    let logs = std::fs::read_dir(node.data_dir().join("journal/store")).expect("a store");
    let names: Vec<_> = logs.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(names.iter().any(|name| name == "1.jnl"), "no log was full: {names:?}");
}
