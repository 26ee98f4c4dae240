//! Relays that lead back to their start: each event is in a topic once, and the loop is counted and reported.

use serde_json::{Value, json};

use crate::{
    rig::{relay, relayed, rows, states},
    support::{
        Node, Reply, eventually,
        pipe::{Pipe, WAY},
        until_idle,
    },
};

const LOOPS: &str = "millstream_relay_loops_dropped_total";

/// Settings of a node that knows these remotes.
fn knowing(remotes: &[(&str, String)]) -> String {
    let section =
        |(name, base): &(&str, String)| format!("[remotes.{name}]\nbase_url = \"{base}\"\npaths = [\"/*\"]\n");
    let sections: String = remotes.iter().map(section).collect();
    format!("[relay]\ninitial_retry_ms = 20\nmax_retry_ms = 100\n{sections}")
}

/// A node that knows itself as `me` by its address, and these remotes.
fn selfish(more: &str) -> Node {
    let mut node = Node::start("");
    node.configure(&format!("{}{more}", knowing(&[("me", format!("http://{}", node.addr))])));
    node.restart();
    node
}

/// Nodes in a ring, each of which knows the next one as `next`, through a proxy.
fn cycle(count: usize, stripped: &'static [&'static str]) -> (Vec<Node>, Vec<Pipe>) {
    let pipes: Vec<Pipe> = (0..count).map(|_| Pipe::start(stripped)).collect();
    let nodes: Vec<Node> = pipes.iter().map(|pipe| Node::start(&knowing(&[("next", pipe.upstream.url(""))]))).collect();
    for (at, pipe) in pipes.iter().enumerate() {
        pipe.lead_to(nodes[(at + 1) % count].addr);
    }
    (nodes, pipes)
}

/// A relay that has its connection.
fn open(node: &Node, spec: &Value) -> String {
    let id = relay(node, spec);
    eventually(|| (!states(&rows(node, &format!("relay:{id}")), "relay_open").is_empty()).then_some(()));
    id
}

/// How often an event of this name is in the topic.
fn count(node: &Node, topic: &str, name: &str) -> usize {
    rows(node, topic).iter().filter(|row| row["event"] == name).count()
}

/// Waits until nothing is appended any more.
fn settled(nodes: &[Node]) {
    let appended = || nodes.iter().map(|node| node.metric("millstream_journal_events_appended_total")).sum::<f64>();
    let (mut last, mut still) = (appended(), 0);
    eventually(|| {
        let now = appended();
        still = if now.total_cmp(&last).is_eq() { still + 1 } else { 0 };
        last = now;
        (still >= 15).then_some(())
    });
}

fn create(node: &Node, spec: &Value) -> Reply {
    node.json("POST", "/api/relays", spec)
}

/// Publishes at the first node and checks that the events go round once.
fn goes_round_once(nodes: &[Node], topic: &str, each: usize) {
    for number in 0..5 {
        nodes[0].publish(topic, "tick", &json!(number));
    }
    eventually(|| (nodes[0].metric(LOOPS) >= 5.0).then_some(()));
    nodes[0].publish(topic, "last", &json!("x"));
    for node in nodes {
        eventually(|| (count(node, topic, "last") > 0).then_some(()));
    }
    settled(nodes);
    for node in nodes {
        assert_eq!((count(node, topic, "tick"), count(node, topic, "last")), (5 * each, each));
    }
    until_idle(nodes);
}

#[test]
fn a_relay_of_a_topic_into_itself_is_refused_where_it_can_be_seen() {
    let more = "[remotes.other]\nbase_url = \"http://localhost:1\"\npaths = [\"/*\"]\n";
    let node = selfish(more);
    let spec = |path: &str| json!({ "topic": "t:1", "sources": [{ "remote": "me", "path": path }] });
    for path in [
        "/events?topic=t:1",
        "/events?topic=a&topic=t%3A1&history=5",
        "/events?topics=a,t:1",
        "/events?topic=t:*",
        "/events",
        "/events?lastEventId=x",
        "/api/sse/managed/connect?topic=t:1",
    ] {
        let reply = create(&node, &spec(path));
        assert!(reply.problem(422).contains("its own"), "{path}: {reply:?}");
        assert_eq!(reply.json()["errors"][0]["field"], "sources[0].path", "{path}");
    }
    let group = json!({ "group": "g", "sources": [
        { "remote": "me", "path": "/events?topic=x" }, { "remote": "me", "path": "/api/sse/managed/connect/group/g" }
    ] });
    assert_eq!(create(&node, &group).json()["errors"][0]["field"], "sources[1].path");
    let group = json!({ "group": "g", "sources": [{ "remote": "me", "path": "/events?topic=x&groups=a,g" }] });
    assert_eq!(create(&node, &group).status, 422);
    let user = json!({ "user": "u", "sources": [{ "remote": "me", "path": "/events?topic=user:u" }] });
    assert_eq!(create(&node, &user).status, 422);
    let own = json!({ "sources": [{ "remote": "me", "path": "/events?topic=relay:*" }] });
    assert_eq!(create(&node, &own).status, 422);
    // Another topic, and another server.
    for (remote, path) in [("me", "/events?topic=t:2"), ("me", "/events?topic=t"), ("other", "/events?topic=t:1")] {
        let spec = json!({ "topic": "t:1", "sources": [{ "remote": remote, "path": path }] });
        assert_eq!(create(&node, &spec).status, 201, "{remote}{path}");
    }
}

#[test]
fn a_relay_from_another_topic_of_the_same_node_brings_its_events_once() {
    let node = selfish("");
    let id = open(&node, &json!({ "topic": "b", "sources": [{ "remote": "me", "path": "/events?topic=a" }] }));
    for number in 0..5 {
        node.publish("a", "early", &json!(number));
    }
    eventually(|| (count(&node, "b", "early") == 5).then_some(()));
    let brought = relayed(&rows(&node, "b"));
    assert_eq!(brought.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    assert_eq!((node.metric(LOOPS), count(&node, &format!("relay:{id}"), "early")), (0.0, 5));
    // And back again: only what began in `b` gets into `a`.
    open(&node, &json!({ "topic": "a", "sources": [{ "remote": "me", "path": "/events?topic=b" }] }));
    node.publish("b", "back", &json!(1));
    eventually(|| (count(&node, "a", "back") == 1).then_some(()));
    goes_round_once(&[node], "a", 1);
}

#[test]
fn a_cycle_of_one_node_without_via_is_detected_and_reported() {
    for stripped in [&[], WAY] {
        let (nodes, _pipes) = cycle(1, stripped);
        let spec = json!({ "topic": "t", "sources": [{ "remote": "next", "path": "/events?topic=t" }] });
        let id = open(&nodes[0], &spec);
        goes_round_once(&nodes, "t", 1);
        let report = states(&rows(&nodes[0], &format!("relay:{id}")), "relay_loop");
        let first = &report[0];
        assert_eq!((&first["source"], &first["code"], &first["dropped"]), (&json!("next"), &json!("loop"), &json!(1)));
        assert!(first["error"].as_str().is_some_and(|error| error.contains("`t`")), "{first}");
        assert!(report.len() < 10, "{report:?}");
        assert_eq!(crate::rig::view(&nodes[0], &id)["status"], "running");
    }
}

#[test]
fn cycles_of_two_and_three_nodes_pass_each_event_once() {
    for (count, stripped) in [(2, &[] as &[&str]), (2, WAY), (3, WAY)] {
        let (nodes, _pipes) = cycle(count, stripped);
        let spec = json!({ "topic": "t", "sources": [{ "remote": "next", "path": "/events?topic=t" }] });
        for node in &nodes {
            open(node, &spec);
        }
        // The other way round each event reaches all nodes.
        goes_round_once(&nodes, "t", 1);
        for node in &nodes {
            assert!(states(&rows(node, "t"), "relay_loop").len() < 20);
        }
    }
}

#[test]
fn events_come_back_from_another_topic_of_a_neighbour() {
    let (nodes, _pipes) = cycle(2, &[]);
    // All of both, gathered on the second node, is read back by the first one: that is no loop.
    open(&nodes[1], &json!({ "topic": "gathered", "sources": [{ "remote": "next", "path": "/events?topic=orders" }] }));
    open(
        &nodes[0],
        &json!({ "topic": "gathered", "sources": [{ "remote": "next", "path": "/events?topic=gathered" }] }),
    );
    nodes[0].publish("orders", "paid", &json!(1));
    eventually(|| (count(&nodes[0], "gathered", "paid") == 1).then_some(()));
    assert_eq!(nodes[0].metric(LOOPS), 0.0, "{:#?}", rows(&nodes[0], "gathered"));
}

/// The second node merges, which removes the ids, and the first one relays the result.
#[test]
fn a_cycle_through_a_merged_stream_is_detected() {
    for stripped in [&[], WAY] {
        let (nodes, _pipes) = cycle(2, stripped);
        let merge = json!({
            "remote": "next", "path": "/api/sse-proxy/merge-streams/sse-emitter", "method": "POST",
            "body": [{ "remote": "next", "path": "/events?topic=t" }],
        });
        open(&nodes[0], &json!({ "topic": "t", "sources": [merge] }));
        eventually(|| (count(&nodes[0], "t", "remote.merge_start") == 1).then_some(()));
        eventually(|| (nodes[1].metric("millstream_upstream_streams_open") >= 1.0).then_some(()));
        let listening = || nodes[0].get("/api/sse/managed/status").json()["totalEmitters"].as_u64();
        eventually(|| (listening() == Some(1)).then_some(()));
        goes_round_once(&nodes[..1], "t", 1);
    }
}

/// Without the list of hops the request goes round until a server has no room; with it not even once.
#[test]
fn a_relay_that_reads_its_node_through_its_own_proxy_is_given_up() {
    let node = selfish("");
    let source = json!({ "remote": "me", "path": "/api/sse-proxy/me/events?topic=a" });
    let id = relay(&node, &json!({ "topic": "b", "sources": [source] }));
    assert_eq!(crate::rig::ended(&node, &id), "failed");
    let error = &states(&rows(&node, "b"), "relay_error")[0];
    assert_eq!(error["code"], "loop_detected", "{error}");
    until_idle(&[node]);
}
