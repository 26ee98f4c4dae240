//! A relay under `kill -9`: what the upstream sends is in the topic once, in order, however often the node dies.

use std::{io::Write, time::Duration};

use serde_json::json;

use crate::{
    rig::{
        HEAD, after, all_numbers, chunk, events, finish, gone, history, numbered, relay, relayed, rows, settings,
        states,
    },
    support::{Node, eventually, upstream::Upstream},
};

const TOTAL: usize = 10_000;
/// Events that come at once.
const AT_ONCE: usize = 20;

/// Numbers at a pace that leaves a middle in which to be killed.
fn numbers() -> Upstream {
    Upstream::start(|request, socket| {
        let _ = socket.write_all(HEAD.as_bytes());
        let mut at = after(request);
        while at < TOTAL {
            let next = (at + AT_ONCE).min(TOTAL);
            let events: String = (at + 1..=next).map(|number| numbered(number, TOTAL)).collect();
            if !chunk(socket, events) || gone(socket, Duration::from_millis(1)) {
                return;
            }
            at = next;
        }
        finish(socket);
    })
}

fn start(upstream: &Upstream) -> Node {
    let journal = "[journal]\nretention_events = 0\nretention_bytes = 0\n[telemetry]\nlog = \"warn\"\n";
    Node::start(&format!("{}{journal}", settings(upstream.addr)))
}

/// All numbers are there, once, in order; answers how many connections that took.
fn check(node: &Node, id: &str) -> usize {
    let rows = history(node, id);
    let (got, all) = (relayed(&rows), all_numbers(TOTAL));
    let wrong = got.iter().zip(&all).position(|(got, all)| got != all);
    assert_eq!(wrong.map(|at| (&got[at], &all[at])), None);
    assert_eq!(got.len(), all.len());
    let opens = states(&rows, "relay_open");
    assert!(opens.iter().all(|open| open["mayHaveMissed"] == false), "{opens:?}");
    assert_eq!(states(&rows, "relay_complete")[0]["events"], TOTAL);
    assert_eq!(states(&rows, "relay_end").len(), 1);
    opens.len()
}

#[test]
fn a_node_that_is_killed_while_it_relays_loses_and_doubles_nothing() {
    let upstream = numbers();
    let mut node = start(&upstream);
    let id = relay(&node, &json!({ "topic": "numbers", "sources": [{ "path": "/n" }] }));
    for kill in 1..=5 {
        events(&node, &id, kill * 1500);
        node.restart();
    }
    assert!(check(&node, &id) >= 5);
    assert_eq!(relayed(&rows(&node, "numbers")).len(), TOTAL);
}

/// Some join while the others are in the middle, and are killed while they are brought up to them.
#[test]
fn relays_that_share_an_upstream_survive_kills_each_for_itself() {
    let upstream = numbers();
    let mut node = start(&upstream);
    let mut ids = vec![relay(&node, &json!({ "topic": "numbers", "sources": [{ "path": "/n" }] }))];
    for kill in 1..=4 {
        events(&node, &ids[0], kill * 1500);
        ids.push(relay(&node, &json!({ "sources": [{ "path": "/n" }] })));
        ids.push(relay(&node, &json!({ "sources": [{ "path": "/n", "label": format!("after {kill}") }] })));
        events(&node, &ids[ids.len() - 2], kill * 300);
        node.restart();
    }
    for id in &ids {
        check(&node, id);
    }
    println!("{} relays, {} requests", ids.len(), upstream.seen("/n").len());
}

/// The other one's turn: it is a node, too, and its connections say where they begin.
#[test]
fn events_of_another_node_that_is_killed_arrive_once() {
    let mut other = Node::start("[telemetry]\nlog = \"warn\"\n");
    let node = Node::start(&settings(other.addr));
    let spec = json!({ "repeat": "forever", "topic": "here", "sources": [{ "path": "/events?topic=there" }] });
    let id = relay(&node, &spec);
    let mut ids = Vec::new();
    for round in 0..3 {
        let connections = usize::try_from(round + 1).expect("a few");
        let opens = |rows: &[serde_json::Value]| states(rows, "relay_open").len();
        eventually(|| (opens(&rows(&node, "here")) == connections).then_some(()));
        ids.extend((0..20).map(|number| other.publish("there", "tick", &json!(number))));
        events(&node, &id, ids.len() as u64);
        other.kill();
        // Events without a receiver arrive with the next connection.
        other.start_again();
        ids.push(other.publish("there", "tick", &json!("after")));
    }
    events(&node, &id, ids.len() as u64);
    let rows = rows(&node, "here");
    let origins: Vec<_> = relayed(&rows).into_iter().map(|(_, _, origin)| origin).collect();
    assert_eq!(origins, ids);
    assert!(states(&rows, "relay_open").iter().all(|open| open["mayHaveMissed"] == false));
    assert!(states(&rows, "relay_gap").is_empty());
}
