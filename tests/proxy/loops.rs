//! Requests that come back to the node that passes them on: noticed by `Via`, and bounded where a proxy takes it away.

use serde_json::{Value, json};

use crate::{
    node, open,
    support::{
        Node, eventually,
        pipe::{Pipe, WAY},
        upstream::Upstream,
    },
};

const OPENED: &str = "millstream_upstream_streams_opened_total";

fn remote(name: &str, base: &str) -> String {
    format!("[remotes.{name}]\nbase_url = \"{base}\"\npaths = [\"/*\"]\nmax_connections = 6\n")
}

/// Asks for a stream and gets the problem that this is a loop.
fn looped(node: &Node, path: &str) {
    for accept in ["text/event-stream", "*/*"] {
        let reply = node.request("GET", path, &[("Accept", accept)], "");
        let detail = reply.problem(508);
        assert!(detail.contains("loop"), "{detail}");
        assert_eq!(reply.json()["code"], "loop_detected");
    }
}

#[test]
fn a_proxy_that_leads_to_itself_answers_508() {
    let mut node = Node::start("");
    node.configure(&remote("me", &format!("http://{}/api/sse-proxy/me", node.addr)));
    node.restart();
    looped(&node, "/api/sse-proxy/me/x");
    assert!(node.metric(OPENED) <= 4.0, "each request goes out once and comes back once");
    assert_eq!(node.metric("millstream_upstream_streams_open"), 0.0);
    // What ends at the node itself is no loop.
    node.configure(&remote("me", &format!("http://{}", node.addr)));
    node.restart();
    let mut stream = node.stream("/api/sse-proxy/me/events?topic=t", &[]);
    stream.until("connection");
    node.publish("t", "e", &json!(1));
    assert_eq!(stream.next_own().event, "e");
    looped(&node, "/api/sse-proxy/me/api/sse-proxy/me/events");
}

#[test]
fn proxies_that_lead_to_each_other_answer_508() {
    let pipes = [Pipe::start(&[]), Pipe::start(&[])];
    let nodes =
        [0, 1].map(|at| Node::start(&remote("next", &format!("{}/api/sse-proxy/next", pipes[at].upstream.url("")))));
    pipes[0].lead_to(nodes[1].addr);
    pipes[1].lead_to(nodes[0].addr);
    looped(&nodes[0], "/api/sse-proxy/next/x");
}

#[test]
fn a_loop_without_via_ends_at_the_limit_of_streams() {
    let pipe = Pipe::start(WAY);
    let node = Node::start(&remote("me", &format!("{}/api/sse-proxy/me", pipe.upstream.url(""))));
    pipe.lead_to(node.addr);
    node.request("GET", "/api/sse-proxy/me/x", &[("Accept", "*/*")], "").problem(502);
    eventually(|| (node.metric("millstream_upstream_streams_open") == 0.0).then_some(()));
    assert_eq!(node.metric(OPENED), 6.0);
}

#[test]
fn the_remote_gets_the_via_of_the_request() {
    let upstream = Upstream::start(|_, socket| open(socket));
    let node = node(&upstream, "");
    let way = |via: &[(&str, &str)]| {
        let before = upstream.seen("/x").len();
        drop(node.stream("/api/sse-proxy/up/x", via));
        let seen = eventually(|| upstream.seen("/x").get(before).cloned());
        seen.header("Via").expect("a way").to_owned()
    };
    let own = way(&[]);
    assert!(own.starts_with("1.1 millstream-"), "{own}");
    assert_eq!(
        way(&[("Via", "1.0 fred, 1.1 p.example (a, b)"), ("via", "2.0 millstream-1")]),
        format!("1.0 fred, 1.1 p.example (a, b), 2.0 millstream-1, {own}")
    );
    let hops = |count: usize| vec!["1.1 p"; count].join(", ");
    assert!(way(&[("Via", &hops(15))]).ends_with(&own));
    let reply = node.request("GET", "/api/sse-proxy/up/x", &[("Via", &hops(16))], "");
    assert!(reply.problem(508).contains("16"));
    let seen: Value = upstream.seen("/x").len().into();
    assert_eq!(seen, 3);
}
