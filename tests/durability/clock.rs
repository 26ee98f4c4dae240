//! The program under a wall clock that is moved, by the library of the Debian package `faketime`. What the clocks of unit
//! tests cannot show: that all parts of the program have the same one, and that it follows the wall clock.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::support::{Node, eventually, steady::skipped};

const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];

/// Events live for four seconds, keys for one.
const BRIEF: &str = "[journal]\nretention_ms = 4000\ndedupe_ms = 1000\n";

#[expect(clippy::disallowed_methods, reason = "the wall clock of a client")]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(since.as_millis()).expect("a small number")
}

fn kept(node: &Node) -> Vec<Value> {
    node.get("/api/topics/t/events").json()["events"].as_array().expect("a list").clone()
}

/// The clock is right again: an event of now has the time of now, and goes by it.
fn judges_by_the_right_time(node: &Node, text: &str) {
    node.post("/events", &json!({ "topic": "t", "data": "short", "ttlMs": 500 }));
    let with_key = |data: &str| node.json("POST", "/events", &json!({ "topic": "t", "data": data, "id": "k" })).status;
    assert_eq!(with_key(text), 200);
    for row in kept(node).iter().rev().take(2) {
        let timestamp = row["timestamp"].as_u64().expect("a time");
        assert!(timestamp.abs_diff(now_ms()) < 60_000, "{row} at {}", now_ms());
    }
    let far = node.stream(&format!("/events?topic=t&since={}", now_ms() + 60_000), &[]).next().id;
    let live = node.stream("/events?topic=t", &[]).next().id;
    assert_eq!(far, live, "nothing is from the future");
    eventually(|| kept(node).iter().all(|row| row["data"] != "short").then_some(()));
    eventually(|| (with_key(&format!("{text} again")) == 200).then_some(()));
    eventually(|| kept(node).is_empty().then_some(()));
}

#[test]
fn a_wall_clock_that_is_moved_changes_no_age_and_is_followed() {
    let Some(library) = LIBRARIES.into_iter().find(|library| Path::new(library).exists()) else {
        return skipped("a_wall_clock_that_is_moved_changes_no_age_and_is_followed", "faketime is not installed");
    };
    let dir = tempfile::tempdir().expect("a temp directory");
    let file = dir.path().join("time");
    let set = |offset: &str| std::fs::write(&file, offset).expect("set the clock");
    set("+0");
    let environment = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("a path")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut node = Node::start_with_env(BRIEF, &environment);
    set("+1d");
    node.publish("t", "e", &json!("ahead"));
    set("+0");
    judges_by_the_right_time(&node, "a moment");

    set("+10y");
    node.restart();
    node.publish("t", "e", &json!("ahead"));
    set("+0");
    node.restart();
    judges_by_the_right_time(&node, "a life");

    set("+2h");
    eventually(|| (node.metric("millstream_clock_jumps_total") == 1.0).then_some(()));
    node.publish("t", "e", &json!("later"));
    let timestamp = kept(&node).last().expect("it is there")["timestamp"].as_u64().expect("a time");
    assert!(timestamp.abs_diff(now_ms() + 7_200_000) < 60_000, "{timestamp}");
    assert_eq!(node.log().matches("the wall clock has jumped").count(), 1, "{}", node.log());
}
