//! Floods: unrequested bytes after an open stream, and more connections than permitted.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use actix_web::{App as WebApp, HttpServer};
use millstream::{app::App, config::Config, hub::Reason, journal::Kind};
use support::{Node, Stream, eventually};

/// CPU time is counted over so long.
const WINDOW: Duration = Duration::from_secs(2);
/// What a node that has nothing to do may use of it: its ticks, and the end of one connection.
const IDLE: Duration = Duration::from_millis(300);

/// Writes as much as the server takes.
fn push(socket: &mut TcpStream, bytes: &[u8]) {
    socket.set_write_timeout(Some(Duration::from_millis(500))).expect("an option");
    // It need not take everything, and may end the connection.
    let _ = socket.write_all(bytes);
}

fn pipelined_requests(bytes: usize) -> Vec<u8> {
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".iter().copied().cycle().take(bytes).collect()
}

/// A flood of this size and kind costs no more CPU than the end of its connection, and does not affect others.
fn assert_harmless(flood: &[u8]) {
    let node = Node::start("");
    let mut other = node.stream("/events?topic=t", &[]);
    other.until("connection");
    let mut streams: Vec<Stream> = (0..2).map(|_| node.stream("/events?topic=t", &[])).collect();
    streams.iter_mut().for_each(|stream| drop(stream.until("connection")));
    let before = node.cpu();
    for stream in &mut streams {
        push(&mut stream.socket, flood);
    }
    for n in 0..20 {
        let id = node.publish("t", "n", &serde_json::json!(n));
        assert_eq!(other.next().id, id);
    }
    // The storm guard needs a moment to be sure; after that there is silence.
    let used = node.cpu_over(WINDOW);
    assert!(used < IDLE, "{} bytes behind a stream: {used:?} of CPU in {WINDOW:?}", flood.len());
    drop(streams);
    let gone = node.until_streams(1);
    assert!(gone < Duration::from_secs(1), "the streams were gone only after {gone:?}");
    let used = node.cpu_over(WINDOW / 2);
    assert!(used < IDLE / 2, "{used:?} of CPU after the clients are gone");
    let all = node.cpu().saturating_sub(before);
    println!("{} bytes: {all:?} of CPU in all, {} closed as input_flood", flood.len(), node.closed("input_flood"));
    assert_eq!(node.closed("input_flood") + node.closed("client_gone"), 2);
    node.must_be_healthy();
}

#[test]
fn pipelined_garbage_behind_a_stream_burns_no_cpu() {
    assert_harmless(&vec![b'x'; 256 << 10]);
}

#[test]
fn exactly_a_full_read_buffer_behind_a_stream_burns_no_cpu() {
    assert_harmless(&vec![b'x'; 128 << 10]);
}

#[test]
fn pipelined_requests_behind_a_stream_burn_no_cpu() {
    assert_harmless(&pipelined_requests(1 << 20));
}

#[test]
fn a_few_pipelined_bytes_do_not_end_a_stream() {
    let node = Node::start("");
    let mut stream = node.stream("/events?topic=t", &[]);
    stream.until("connection");
    push(&mut stream.socket, &pipelined_requests(4000));
    for n in 0..5 {
        let id = node.publish("t", "n", &serde_json::json!(n));
        assert_eq!(stream.next().id, id);
    }
    assert_eq!(node.streams(), 1);
}

/// A flood of a client that also does not read. The framework's write buffer is full then, and it does not poll the
/// stream, so the stream does not see the number of its wakes.
#[test]
fn a_flood_behind_a_stream_that_is_not_read_burns_no_cpu() {
    assert_unread_flood_is_harmless("", &pipelined_requests(1 << 20));
}

/// All of it is in the framework's buffer: the kernel holds nothing that could be seen.
#[test]
fn a_full_read_buffer_behind_a_stream_that_is_not_read_burns_no_cpu() {
    assert_unread_flood_is_harmless("&heartbeat=none", &pipelined_requests((128 << 10) + 64));
}

fn assert_unread_flood_is_harmless(query: &str, flood: &[u8]) {
    let node = Node::start("[telemetry]\nlog = \"warn,millstream::hub=info\"\n[server]\nsend_buffer_bytes = 4096");
    let row = serde_json::json!({ "topic": "t", "data": "x".repeat(10_000) });
    node.post("/events", &serde_json::Value::Array(vec![row; 100]));
    let mut socket = node.tight_socket();
    write!(socket, "GET /events?topic=t&history=100{query} HTTP/1.1\r\nHost: {}\r\n\r\n", node.addr).expect("send");
    node.until_streams(1);
    let before = node.cpu();
    push(&mut socket, flood);
    let gone = node.until_streams(0);
    let used = node.cpu_over(WINDOW);
    println!("unread flood: gone after {gone:?}, {:?} of CPU in all, then {used:?}", node.cpu().saturating_sub(before));
    assert!(gone < Duration::from_secs(2) && used < IDLE, "gone after {gone:?}, then {used:?} of CPU in {WINDOW:?}");
    assert_eq!(node.closed("input_flood"), 1);
    node.must_be_healthy();
}

/// In another program's server: one client sends the flood with its request, one sends it later and reads nothing, and
/// one sends a little.
#[actix_web::test]
async fn a_flood_behind_a_stream_in_another_programs_server_ends_it() {
    let mut config = Config::default();
    config.journal.kind = Kind::Memory;
    let app = Arc::new(App::with_handlers(config, []).expect("a node"));
    let (connections, routed) = (app.connections().clone(), app.clone());
    let server = HttpServer::new(move || WebApp::new().configure(routed.routes()))
        .workers(1)
        .on_connect(move |io, data| connections.enter(io, data))
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .expect("a port");
    let addr = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    let counters = app.node().clone();
    let clients = move || {
        let counters = counters.hub.counters();
        let ask = b"GET /events?topic=t HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let connect = || TcpStream::connect(addr).expect("a connection");
        let ended = |streams| eventually(|| (counters.closed(Reason::InputFlood) == streams).then_some(()));
        let mut calm = connect();
        calm.write_all(ask).expect("send");
        push(&mut calm, &pipelined_requests(1000));
        let mut at_once = connect();
        push(&mut at_once, &[&ask[..], &pipelined_requests(256 << 10)].concat());
        ended(1);
        let mut later = connect();
        later.write_all(ask).expect("send");
        assert!(later.read(&mut [0; 64]).expect("a response") > 0);
        push(&mut later, &pipelined_requests(1 << 20));
        // The input of the calm client has been checked by then, too.
        ended(2);
        assert_eq!(counters.open(), 1, "a few bytes do not end a stream");
    };
    actix_web::rt::task::spawn_blocking(clients).await.expect("the clients");
    app.stop().await;
    handle.stop(true).await;
}

#[test]
fn one_connection_above_the_limit_gets_a_reason() {
    let node = Node::start("[server]\nmax_connections = 3");
    let mut streams: Vec<Stream> = (0..3).map(|_| node.stream("/events?topic=t", &[])).collect();
    streams.iter_mut().for_each(|stream| drop(stream.until("connection")));

    let mut refused = node.stream("/events?topic=t", &[]);
    assert_eq!(refused.status, 200, "any other status ends a browser's EventSource for good");
    let last = refused.until("disconnect");
    assert_eq!(last.json()["reason"], "full");
    assert!(refused.retry.is_some_and(|ms| (1500..=4500).contains(&ms)), "{:?}", refused.retry);
    assert_eq!(refused.socket.read(&mut [0; 16]).expect("the end"), 0, "its place is given back");

    let reply = node.get("/healthz");
    assert_eq!((reply.status, reply.header("content-type")), (503, Some("application/problem+json")), "{reply:?}");
    assert!(reply.header("retry-after").is_some(), "{reply:?}");
    assert_eq!(node.raw_post("/events", r#"{"topic":"t","data":1}"#).status, 503);

    drop(streams.pop());
    // One place is free again, as soon as the last one's answer has left it.
    eventually(|| (node.raw_post("/events", r#"{"topic":"t","data":1}"#).status == 200).then_some(()));
    streams.iter_mut().for_each(|stream| assert_eq!(stream.next().data, "1"));
    drop(streams);
    eventually(|| (node.get("/healthz").status == 200).then_some(()));
    node.until_streams(0);
    node.must_be_healthy();
}
