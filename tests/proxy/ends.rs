//! Each end of one side is an end of the other.

use std::{
    io::{Read, Write},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    chunk, node, open,
    support::{
        Node, PATIENCE, Stream,
        upstream::{Request, Upstream},
    },
    until, whole,
};

/// Sends until the client has disconnected, and reports the time.
fn watched() -> (Upstream, mpsc::Receiver<Instant>) {
    let (left, gone) = mpsc::channel();
    let upstream = Upstream::start(move |request: &Request, socket| {
        if !request.path.contains("mute") {
            open(socket);
            chunk(socket, "data: 1\n\n");
        }
        let _ = socket.read(&mut [0]);
        let _ = left.send(Instant::now());
    });
    (upstream, gone)
}

#[test]
fn a_client_that_leaves_closes_the_upstream_connection_at_once() {
    let (upstream, gone) = watched();
    let node = node(&upstream, "");
    let mut stream = node.stream("/api/sse-proxy/up/x", &[]);
    stream.next();
    let left = Instant::now();
    drop(stream);
    let noticed = gone.recv_timeout(PATIENCE).expect("it is closed") - left;
    assert!(noticed < Duration::from_secs(1), "only after {noticed:?}");
    // Also before there is an answer.
    let mut socket = node.socket();
    let head = format!("GET /api/sse-proxy/up/mute HTTP/1.1\r\nHost: {}\r\n\r\n", node.addr);
    socket.write_all(head.as_bytes()).expect("send");
    until(|| upstream.seen("/mute").len() == 1);
    let left = Instant::now();
    drop(socket);
    let noticed = gone.recv_timeout(PATIENCE).expect("it is closed") - left;
    assert!(noticed < Duration::from_secs(1), "only after {noticed:?}");
    until(|| connections(&node).is_empty());
}

fn connections(node: &Node) -> Vec<serde_json::Value> {
    let list = node.get("/api/sse-proxy/connections").json();
    let open = list["connections"].as_array().expect("a list").clone();
    assert_eq!(list["total"], open.len());
    open
}

/// The stream ends without its last chunk, so that no client takes it for complete.
#[track_caller]
fn assert_broken(mut stream: Stream) {
    assert!(stream.rest().is_empty());
    assert!(!stream.finished, "a stream that broke off must not end well");
}

#[test]
fn a_stream_that_breaks_off_upstream_breaks_off_here() {
    let upstream = Upstream::start(|request, socket| match request.path.as_str() {
        "/cut" => {
            open(socket);
            chunk(socket, "data: 1\n\n");
            let _ = socket.write_all(b"9\r\ndata:");
        }
        "/reset" => {
            open(socket);
            chunk(socket, "data: 1\n\n");
            let _ = socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
        }
        "/short" => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\ndata: 1\n\n";
            let _ = socket.write_all(head.as_bytes());
        }
        "/silent" => {
            open(socket);
            chunk(socket, "data: 1\n\n");
            let _ = socket.read(&mut [0]);
        }
        _ => {
            open(socket);
            chunk(socket, "data: 1\n\n");
            let _ = socket.write_all(b"0\r\n\r\n");
        }
    });
    let node = node(&upstream, "read_timeout_ms = 1500\n[emitter]\nheartbeat_ms = 1000\n");
    for path in ["cut", "short", "silent"] {
        let mut stream = node.stream(&format!("/api/sse-proxy/up/{path}"), &[]);
        assert_eq!(stream.next().data, "1", "{path}: the bytes before the break are passed on");
        assert_broken(stream);
    }
    // A reset may destroy the bytes before it.
    let mut stream = node.stream("/api/sse-proxy/up/reset", &[]);
    stream.rest();
    assert!(!stream.finished);
    let mut well = node.stream("/api/sse-proxy/up/well", &[]);
    assert_eq!((well.rest().len(), well.finished), (1, true), "a good end is a good end");
    let log = node.logged("code=\"idle_timeout\"");
    assert!(log.contains("code=\"truncated\"") && log.contains("code=\"idle_timeout\""), "{log}");
}

#[test]
fn open_connections_are_listed_and_can_be_ended() {
    let (upstream, gone) = watched();
    let node = node(&upstream, "max_connections = 1\n");
    assert!(connections(&node).is_empty());
    let mut stream = node.stream("/api/sse-proxy/up/x?secret=1", &[]);
    stream.next();
    let open = connections(&node);
    let [one] = &open[..] else { panic!("one is open: {open:?}") };
    assert_eq!((&one["remote"], &one["method"], &one["path"]), (&"up".into(), &"GET".into(), &"/x".into()));
    assert_eq!((&one["purpose"], &one["bytes"]), (&"proxy".into(), &9.into()));
    // There is no second place.
    let busy = whole(&node, "/api/sse-proxy/up/y", &[]);
    assert!(busy.problem(503).contains("max_connections") && busy.header("Retry-After").is_some(), "{busy:?}");
    assert_eq!(node.stream("/api/sse-proxy/up/y", &[]).next().event, "disconnect");
    let id = one["id"].as_str().expect("an id");
    assert_eq!(node.request("DELETE", &format!("/api/sse-proxy/connections/{id}"), &[], "").status, 204);
    assert_broken(stream);
    gone.recv_timeout(PATIENCE).expect("it is closed upstream, too");
    until(|| connections(&node).is_empty());
    node.request("DELETE", &format!("/api/sse-proxy/connections/{id}"), &[], "").problem(404);
}

#[test]
fn a_stop_ends_proxied_streams_within_the_drain_time() {
    let (upstream, _gone) = watched();
    let mut node = node(&upstream, "[server]\ndrain_ms = 1000\n");
    let mut streams: Vec<Stream> = (0..20).map(|_| node.stream("/api/sse-proxy/up/x", &[])).collect();
    streams.iter_mut().for_each(|stream| assert_eq!(stream.next().data, "1"));
    let begin = Instant::now();
    node.signal(Signal::TERM);
    // Not all at the same moment.
    until(|| node.log().contains("stopping"));
    streams.into_iter().for_each(assert_broken);
    assert_eq!(node.exited(), Some(0));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(took > Duration::from_millis(500), "twenty streams are spread over a second: {took:?}");
}

/// As for the node's own streams: bytes after the request cost nothing.
#[test]
fn a_flood_behind_a_proxied_stream_burns_no_cpu() {
    let upstream = Upstream::start(|request, socket| {
        if request.path != "/mute" {
            open(socket);
        }
        if request.path == "/firehose" {
            while chunk(socket, format!("data: {}\n\n", "x".repeat(10_000))) {}
        }
        let _ = socket.read(&mut [0]);
    });
    let node = node(&upstream, "[server]\nsend_buffer_bytes = 4096\n");
    let flood: Vec<u8> =
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".iter().copied().cycle().take(1 << 20).collect();
    for (path, at_once) in [("idle", false), ("firehose", false), ("mute", false), ("idle", true), ("mute", true)] {
        let mut socket = node.tight_socket();
        let request = format!("GET /api/sse-proxy/up/{path} HTTP/1.1\r\nHost: {}\r\n\r\n", node.addr);
        socket.set_write_timeout(Some(Duration::from_millis(500))).expect("an option");
        if at_once {
            let _ = socket.write_all(&[request.as_bytes(), &flood].concat());
        } else {
            socket.write_all(request.as_bytes()).expect("send");
            until(|| connections(&node).len() == 1);
            let _ = socket.write_all(&flood);
        }
        until(|| connections(&node).is_empty());
        let used = node.cpu_over(Duration::from_secs(1));
        assert!(used < Duration::from_millis(150), "{path}: {used:?} of CPU");
    }
    node.must_be_healthy();
}
