//! Equal sources share one upstream connection, and each relay gets all of it all the same.

use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    rig::{Faucet, HEAD, Row, chunk, ended, events, gone, history, node, relay, relayed, rows, settings, states},
    support::{Node, eventually, upstream::Upstream},
};

fn topic(node: &Node, id: &str) -> Vec<Row> {
    relayed(&rows(node, &format!("relay:{id}")))
}

fn numbers(count: usize) -> Vec<Row> {
    (1..=count).map(|number| ("message".into(), format!("n{number}"), number.to_string())).collect()
}

#[test]
fn equal_sources_share_one_connection_and_one_may_leave() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    let first = relay(&node, &json!({ "topic": "a", "sources": [{ "path": "/x" }] }));
    let second = relay(&node, &json!({ "topic": "b", "sources": [{ "path": "/x" }] }));
    faucet.pour(10);
    [&first, &second].into_iter().for_each(|id| events(&node, id, 10));
    assert_eq!(topic(&node, &first), numbers(10));
    assert_eq!(topic(&node, &second), numbers(10));
    assert_eq!(faucet.opened.load(SeqCst), 1);
    // One event, in all topics.
    let ids = |topic: &str| -> Vec<Value> {
        rows(&node, topic).iter().filter(|row| row.get("origin").is_some()).map(|row| row["id"].clone()).collect()
    };
    assert_eq!(ids("a")[5..], ids("b")[5..]);
    assert_eq!(node.metric("millstream_upstream_streams_open"), 1.0);

    assert_eq!(node.request("DELETE", &format!("/api/relays/{first}"), &[], "").status, 204);
    faucet.pour(10);
    events(&node, &second, 20);
    assert_eq!(topic(&node, &second), numbers(20));
    let gone = rows(&node, &format!("relay:{first}"));
    assert_eq!(relayed(&gone), numbers(10));
    assert_eq!(gone.last().expect("it has ended")["data"]["status"], "deleted");
    assert_eq!((faucet.opened.load(SeqCst), faucet.closed.load(SeqCst)), (1, 0));

    // The last one closes the upstream at once.
    assert_eq!(node.request("DELETE", &format!("/api/relays/{second}"), &[], "").status, 204);
    eventually(|| (faucet.closed.load(SeqCst) == 1).then_some(()));
    assert_eq!(node.metric("millstream_relays_running"), 0.0);
}

#[test]
fn who_joins_later_gets_all_that_came_before_without_another_connection() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    let elder = relay(&node, &json!({ "sources": [{ "path": "/x" }] }));
    faucet.pour(700);
    events(&node, &elder, 700);
    let late = relay(&node, &json!({ "sources": [{ "path": "/x", "label": "mine" }] }));
    events(&node, &late, 700);
    faucet.pour(50);
    [&elder, &late].into_iter().for_each(|id| events(&node, id, 750));
    assert_eq!(topic(&node, &elder), numbers(750));
    let own = rows(&node, &format!("relay:{late}"));
    assert_eq!(relayed(&own), numbers(750));
    assert!(own.iter().filter_map(|row| row.get("source")).all(|source| source == "mine"));
    assert_eq!(states(&own, "relay_open")[0]["source"], "mine");
    assert_eq!(faucet.opened.load(SeqCst), 1);
    faucet.end();
    assert_eq!((ended(&node, &elder), ended(&node, &late)), ("completed".into(), "completed".into()));
    assert_eq!(states(&history(&node, &late), "relay_complete")[0]["events"], 750);
}

#[test]
fn who_joins_when_the_history_is_trimmed_reads_for_itself() {
    let faucet = Faucet::start();
    let node = Node::start(&format!("{}[journal]\nretention_events = 50\n", settings(faucet.upstream.addr)));
    let elder = relay(&node, &json!({ "sources": [{ "path": "/x" }] }));
    faucet.pour(200);
    events(&node, &elder, 200);
    let late = relay(&node, &json!({ "sources": [{ "path": "/x" }] }));
    events(&node, &late, 200);
    assert_eq!(faucet.opened.load(SeqCst), 2);
}

#[test]
fn who_joins_when_something_was_missed_reads_for_itself() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, socket| {
        let _ = socket.write_all(HEAD.as_bytes());
        let number = asked.fetch_add(1, SeqCst);
        chunk(socket, format!("data: n{number}\n\n"));
        // The first one is cut.
        while number > 0 && !gone(socket, Duration::from_millis(20)) {}
    });
    let node = node(&upstream);
    let elder = relay(&node, &json!({ "sources": [{ "path": "/x" }] }));
    events(&node, &elder, 2);
    let late = relay(&node, &json!({ "sources": [{ "path": "/x" }] }));
    events(&node, &late, 1);
    let late = rows(&node, &format!("relay:{late}"));
    assert_eq!(relayed(&late)[0].1, "n2");
    assert_eq!(states(&late, "relay_open")[0]["mayHaveMissed"], false);
}

#[test]
fn another_header_or_start_is_another_connection() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    faucet.pour(10);
    for source in [
        json!({}),
        json!({ "headers": { "X-A": "1" } }),
        json!({ "lastEventId": "4" }),
        json!({ "readTimeoutMs": 9999 }),
    ] {
        let mut source = source;
        source["path"] = json!("/x");
        relay(&node, &json!({ "sources": [source] }));
    }
    eventually(|| (faucet.opened.load(SeqCst) == 4).then_some(()));
    let started_later =
        faucet.upstream.seen("/x").iter().filter(|request| request.header("Last-Event-ID") == Some("4")).count();
    assert_eq!(started_later, 1);
}

#[test]
fn more_relays_than_an_event_has_topics_take_more_connections() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    let ids: Vec<_> = (0..40)
        .map(|number| relay(&node, &json!({ "topic": format!("t{number}"), "sources": [{ "path": "/x" }] })))
        .collect();
    faucet.pour(3);
    for id in &ids {
        events(&node, id, 3);
        assert_eq!(topic(&node, id), numbers(3));
    }
    assert_eq!(faucet.opened.load(SeqCst), 2);
}

#[test]
fn shared_sources_share_again_after_a_restart_of_the_node() {
    let faucet = Faucet::start();
    let mut node = node(&faucet.upstream);
    let ids: Vec<_> = (0..3).map(|_| relay(&node, &json!({ "sources": [{ "path": "/x" }] }))).collect();
    faucet.pour(5);
    ids.iter().for_each(|id| events(&node, id, 5));
    node.restart();
    faucet.pour(5);
    ids.iter().for_each(|id| events(&node, id, 10));
    assert!(ids.iter().all(|id| topic(&node, id) == numbers(10)));
    assert_eq!(faucet.opened.load(SeqCst), 2);
}

#[test]
fn a_restart_makes_the_connection_anew_and_loses_nothing() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    let id = relay(&node, &json!({ "sources": [{ "path": "/x" }] }));
    faucet.pour(5);
    events(&node, &id, 5);
    let reply = node.request("POST", &format!("/api/relays/{id}/restart"), &[], "");
    assert_eq!(reply.status, 202, "{reply:?}");
    eventually(|| (faucet.opened.load(SeqCst) == 2).then_some(()));
    faucet.pour(5);
    events(&node, &id, 10);
    let rows = rows(&node, &format!("relay:{id}"));
    assert_eq!(relayed(&rows), numbers(10));
    let opens = states(&rows, "relay_open");
    assert_eq!((&opens[1]["reconnects"], &opens[1]["resumedAfter"]), (&json!(1), &json!("5")));
    eventually(|| (faucet.closed.load(SeqCst) == 1).then_some(()));
}
