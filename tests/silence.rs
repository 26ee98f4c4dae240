//! Clients that leave, fall silent, or stop reading: the node finds each of them, in the time that it promises, and
//! counts it.

mod support;

use std::{
    io::Write,
    net::Shutdown,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use socket2::{SockFilter, SockRef};
use support::{Node, Stream, eventually};

fn open(node: &Node) -> Stream {
    let mut stream = node.stream("/events?topic=t", &[("X-User-ID", "42")]);
    stream.until("connection");
    assert_eq!(node.streams(), 1);
    stream
}

fn assert_gone_at_once(node: &Node, how: &str) {
    let took = node.until_streams(0);
    println!("{how}: gone after {took:?}");
    assert!(took < Duration::from_secs(1), "{how}: gone only after {took:?}");
    assert_eq!(node.closed("client_gone"), 1);
    assert_eq!(node.get("/api/sse/managed/status/user/42").json()["activeConnections"], 0);
    assert_eq!(node.post("/events", &json!({ "topic": "t", "data": 1 }))["delivered"], 0);
    assert_eq!(node.count("streams_open"), 0);
    let line = eventually(|| node.log().lines().find(|line| line.contains("stream closed")).map(str::to_owned));
    assert!(line.contains("client_gone") && line.contains("42"), "{line}");
}

#[test]
fn a_client_that_closes_is_gone_at_once() {
    let node = Node::start("");
    drop(open(&node));
    assert_gone_at_once(&node, "FIN");
}

#[test]
fn a_client_that_closes_its_side_is_gone_at_once() {
    let node = Node::start("");
    let stream = open(&node);
    stream.socket.shutdown(Shutdown::Write).expect("half closed");
    assert_gone_at_once(&node, "half FIN");
}

#[test]
fn a_client_that_resets_is_gone_at_once() {
    let node = Node::start("");
    let stream = open(&node);
    SockRef::from(&stream.socket).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(stream);
    assert_gone_at_once(&node, "RST");
}

/// A machine without power sends nothing, not even an acknowledgement: the kernel drops the packets for it here.
#[test]
#[cfg(target_os = "linux")]
fn a_client_that_falls_silent_is_gone_within_heartbeat_and_write_deadline() {
    let node = Node::start("[emitter]\nheartbeat_ms = 1000\nwrite_deadline_ms = 2000");
    let stream = open(&node);
    let others = node.stream("/events?topic=t", &[]);
    let drop_all = [SockFilter::new(0x06, 0, 0, 0)];
    SockRef::from(&stream.socket).attach_filter(&drop_all).expect("a filter");
    let begin = Instant::now();
    node.until_streams(1);
    let took = begin.elapsed();
    println!("silent: gone after {took:?}");
    // It takes 2.9 s where nothing else runs; half a second is for a machine that is busy.
    assert!(took < Duration::from_millis(1000 + 2000 + 500), "gone only after {took:?}");
    assert_eq!(node.closed("client_gone") + node.closed("write_deadline"), 1);
    assert_eq!(node.get("/api/sse/managed/status/user/42").json()["activeConnections"], 0);
    drop(others);
}

#[test]
fn a_reader_that_takes_nothing_is_disconnected_and_counted() {
    let node = Node::start("[emitter]\nwrite_deadline_ms = 2000\n[server]\nsend_buffer_bytes = 8192");
    let mut healthy = node.stream("/events?topic=t", &[]);
    healthy.until("connection");
    let mut socket = node.tight_socket();
    write!(socket, "GET /events?topic=t HTTP/1.1\r\nHost: {}\r\nX-User-ID: 42\r\n\r\n", node.addr).expect("send");
    node.until_streams(2);
    let rows = Value::Array(vec![json!({ "topic": "t", "data": "x".repeat(10_000) }); 100]);
    node.post("/events", &rows);
    let begin = Instant::now();
    (0..100).for_each(|_| drop(healthy.next_own()));
    let stuck = &node.get("/api/sse/managed/status/user/42").json()["emitters"][0];
    assert!(stuck["queuedBytes"].as_u64() > Some(0), "{stuck}");
    node.until_streams(1);
    let took = begin.elapsed();
    println!("stuck: gone after {took:?}");
    assert!((Duration::from_millis(1500)..Duration::from_millis(4000)).contains(&took), "gone after {took:?}");
    assert_eq!(node.closed("write_deadline"), 1);
    let line = eventually(|| node.log().lines().find(|line| line.contains("stream closed")).map(str::to_owned));
    assert!(line.contains("write_deadline") && line.contains("42"), "{line}");
    // Who reads is not touched by that.
    let id = node.publish("t", "n", &json!(1));
    assert_eq!(healthy.next_own().id, id);
    drop(socket);
}

/// Slow is not stuck: who takes a little now and then stays, well beyond the deadline.
#[test]
fn a_reader_that_takes_a_little_now_and_then_stays() {
    let node = Node::start("[emitter]\nwrite_deadline_ms = 1000\n[server]\nsend_buffer_bytes = 8192");
    let mut slow = Stream::open(node.tight_socket(), "GET", "/events?topic=t", &[], "");
    slow.until("connection");
    let rows = (0..60).map(|n| json!({ "topic": "t", "data": format!("{n} {}", "x".repeat(10_000)) })).collect();
    node.post("/events", &Value::Array(rows));
    let begin = Instant::now();
    for n in 0..60_u32 {
        // 60 events in 3 seconds, and no faster.
        eventually(|| (begin.elapsed() >= Duration::from_millis(50) * n).then_some(()));
        let event = slow.next_own();
        assert!(event.data.starts_with(&format!("{n} ")), "{n}: {}", &event.data[..20]);
    }
    assert_eq!(node.streams(), 1);
}
