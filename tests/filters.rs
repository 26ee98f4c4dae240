//! Expressions as filters: the receivers of an event, live and on replay, and the refusals.

use serde_json::{Value, json};

mod support;

use support::{Node, Stream};

const PATH: &str = "/api/sse/managed/send/filtered";

fn open(node: &Node, path: &str, headers: &[(&str, &str)]) -> Stream {
    let mut stream = node.stream(path, headers);
    stream.until("connection");
    stream
}

/// Sends an event with this filter; its data is the filter.
fn send(node: &Node, filter: &str) -> Value {
    node.post(PATH, &json!({ "filter": filter, "event": "f", "data": filter }))
}

/// An event for all, after all others.
fn end(node: &Node) {
    node.post("/api/sse/managed/broadcast", &json!({ "event": "end", "data": "" }));
}

/// The filtered events up to the one named `end`.
fn received(stream: &mut Stream) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let event = stream.next_own();
        match event.event.as_str() {
            "end" => return all,
            "f" => all.push(event.data),
            _ => {}
        }
    }
}

const FOR_OPS: &str = "metadata.level > 3 && \"ops\" in groups";
const FOR_42: &str = "user == \"42\"";
const FOR_SOME_GROUP: &str = "groups.exists(g, g.startsWith(\"d\"))";
const WITHOUT_LEVEL: &str = "!has(metadata.level)";
const FOR_ALL: &str = "true";

const ALL: [&str; 5] = [FOR_OPS, FOR_42, FOR_SOME_GROUP, WITHOUT_LEVEL, FOR_ALL];

#[test]
fn an_expression_chooses_live_and_on_replay_even_after_a_crash() {
    let mut node = Node::start("");
    let start = node.publish("t", "e", &json!("start"));
    let clients = [
        ("/events?meta.level=4&group=ops", "42", vec![FOR_OPS, FOR_42, FOR_ALL]),
        ("/events?meta.level=3&groups=ops,dev", "43", vec![FOR_SOME_GROUP, FOR_ALL]),
        ("/events", "44", vec![WITHOUT_LEVEL, FOR_ALL]),
    ];
    let mut streams = clients.clone().map(|(path, user, _)| open(&node, path, &[("X-User-ID", user)]));
    for filter in ALL {
        assert_eq!(send(&node, filter)["delivered"], Value::Null);
    }
    end(&node);
    for (stream, (path, _, expected)) in streams.iter_mut().zip(&clients) {
        assert_eq!(received(stream), *expected, "{path}");
    }
    for round in ["the same node", "after a crash"] {
        for (path, user, expected) in &clients {
            let mut again = open(&node, path, &[("X-User-ID", user), ("Last-Event-ID", &start)]);
            assert_eq!(received(&mut again), *expected, "{path}, {round}");
        }
        if round == "the same node" {
            node.restart();
        }
    }
}

#[test]
fn who_changes_is_asked_anew() {
    let node = Node::start("");
    let mut stream = node.stream("/events?meta.level=1", &[]);
    let greeting = stream.until("connection").json();
    let emitter = greeting["emitterId"].as_str().expect("an id");
    send(&node, FOR_OPS);
    let change = json!({ "groups": ["ops"], "meta": { "level": 9 } });
    assert_eq!(node.json("PATCH", &format!("/api/sse/managed/emitters/{emitter}"), &change).status, 200);
    send(&node, FOR_OPS);
    send(&node, &format!("emitterId == '{emitter}'"));
    end(&node);
    assert_eq!(received(&mut stream).len(), 2);
}

#[test]
fn an_event_with_an_undecidable_filter_has_no_receiver_and_is_counted() {
    let node = Node::start("");
    let mut stream = open(&node, "/events?meta.level=x", &[]);
    for undecided in ["metadata.absent > 3", "metadata.level > 3", "user.size() == 1", "metadata.level", "1 / 0 == 1"] {
        send(&node, undecided);
    }
    end(&node);
    assert!(received(&mut stream).is_empty());
    assert!(node.metric("millstream_filters_failed_total") >= 5.0);
    node.must_be_healthy();
}

#[test]
fn a_wrong_expression_is_refused_with_its_column() {
    let node = Node::start("");
    for (filter, expected) in [
        (json!("metadata.level >"), "line 1, column 17"),
        (json!("metadata.level == 3 && level == 3"), "column 24: `level` is not known"),
        (json!("user.matches('(a+)+$')"), "column 6: `matches` is not a function here"),
        (json!(""), "column 1"),
        (json!("x".repeat(2000)), "at most 1024"),
        (json!("(".repeat(900)), "brackets"),
        (json!(["a"]), "an object of names and values, or an expression"),
        (json!(null), "an object of names and values, or an expression"),
    ] {
        let reply = node.json("POST", PATH, &json!({ "filter": filter, "data": 1 }));
        let reported = reply.problem(422);
        assert!(reported.contains(expected), "{filter}: {reported}");
        assert_eq!(reply.json()["errors"][0]["field"], "filter");
    }
    assert_eq!(node.get("/api/topics/all/events").json()["events"], json!([]), "nothing was appended");
}

#[test]
fn a_costly_expression_is_refused_and_the_most_costly_permitted_one_delays_no_client() {
    let node = Node::start("");
    let each = |terms: usize| format!("groups.exists(g, {})", vec!["g == 'x'"; terms].join(" || ")) + " || true";
    let refused = node.json("POST", PATH, &json!({ "filter": each(60), "data": 1 })).problem(422);
    assert!(refused.contains("steps"), "{refused}");
    let accepted =
        |filter: &String| node.json("POST", PATH, &json!({ "filter": filter, "event": "x", "data": "" })).status == 200;
    let dearest = (1..60).rev().map(each).find(accepted).expect("some are accepted");
    // As many groups as a connection may name, and more work than one turn is for.
    let groups: Vec<String> = (0..200).map(|number| format!("g{number}")).collect();
    let mut streams: Vec<Stream> =
        (0..20).map(|_| open(&node, &format!("/events?groups={}", groups.join(",")), &[])).collect();
    for _ in 0..10 {
        send(&node, &dearest);
    }
    end(&node);
    for stream in &mut streams {
        assert_eq!(received(stream).len(), 10);
    }
    node.must_be_healthy();
}
