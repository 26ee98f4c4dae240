//! Answers that nobody takes: they end in time, on every protocol, and cost little until then.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    http2::frame,
    support::{Node, PATIENCE, Reply, eventually, upstream::Upstream},
};

/// What is asked for: an asset, the document, a small answer, a page of JSON, the export, events, nothing.
const PATHS: [&str; 7] = [
    "/dashboard.js",
    "/openapi.json",
    "/healthz",
    "/api/topics/t/events?limit=100",
    "/api/admin/journal/export",
    "/events?topic=t&history=100",
    "/nowhere",
];
const DEADLINE: Duration = Duration::from_secs(1);
/// How much later than its deadline an answer may end on a busy machine.
const LATER: Duration = Duration::from_secs(10);

/// A node with a megabyte of history and small buffers.
fn node(settings: &str) -> Node {
    let node = Node::start(&format!("[server]\nsend_buffer_bytes = 4096\n{settings}"));
    let rows = vec![json!({ "topic": "t", "data": "x".repeat(10_000) }); 100];
    node.post("/events", &json!(rows));
    node
}

fn quick(settings: &str) -> Node {
    node(&format!("{settings}[emitter]\nwrite_deadline_ms = {}\n", DEADLINE.as_millis()))
}

/// A connection that has asked for so many answers, and gives them no window.
fn shut(node: &Node, streams: u32) -> TcpStream {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    for (number, path) in (0..streams).zip(PATHS.iter().cycle()) {
        let length = u8::try_from(path.len()).expect("it is short");
        let head = [&[0x82, 0x86, 0x04, length], path.as_bytes(), &[0x01, 0x09], b"localhost"].concat();
        frame(&mut bytes, 1, 0x5, 2 * number + 1, &head);
    }
    let mut socket = node.socket();
    socket.write_all(&bytes).expect("send");
    socket
}

/// Reads until the node ends the connection; how long that took.
fn ended(socket: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut bytes = [0; 4096];
    while socket.read(&mut bytes).is_ok_and(|count| count > 0) {
        assert!(began.elapsed() < PATIENCE, "it goes on");
    }
    began.elapsed()
}

/// All connections but that of the question are gone.
fn none_is_left(node: &Node) {
    eventually(|| (node.count("connections") <= 1).then_some(()));
    node.must_be_healthy();
}

#[test]
fn answers_over_http_2_that_nobody_takes_end_with_their_connection() {
    let node = quick("max_connections = 40\n");
    let mut sockets: Vec<TcpStream> = (0..10).map(|_| shut(&node, 14)).collect();
    eventually(|| (node.metric("millstream_unsent_bytes") > 100_000.0).then_some(()));
    for socket in &mut sockets {
        let took = ended(socket);
        assert!(took < DEADLINE + LATER, "{took:?}");
    }
    none_is_left(&node);
    assert!(node.metric("millstream_answers_ended_total{reason=\"write_deadline\"}") >= 10.0);
    assert_eq!(node.metric("millstream_unsent_bytes"), 0.0);
}

#[test]
fn windows_that_grow_by_a_few_bytes_do_not_help() {
    let node = quick("");
    let mut socket = shut(&node, 7);
    let mut more = Vec::new();
    for (number, step) in (0..7_u32).zip([1_u8, 16].iter().cycle()) {
        frame(&mut more, 8, 0, 2 * number + 1, &[0, 0, 0, *step]);
    }
    let mut sending = socket.try_clone().expect("a second handle");
    let growing = std::thread::spawn(move || {
        let began = Instant::now();
        while began.elapsed() < PATIENCE && sending.write_all(&more).is_ok() {
            #[expect(clippy::disallowed_methods, reason = "the pause is what this client does")]
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let took = ended(&mut socket);
    assert!(took < DEADLINE * 2 + LATER, "{took:?}");
    let _ = socket.shutdown(Shutdown::Both);
    growing.join().expect("it has noticed");
    none_is_left(&node);
}

#[test]
fn a_client_over_http_2_that_reads_nothing_at_all_is_cut() {
    let node = quick("");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // Windows as large as they can be.
    frame(&mut bytes, 4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    frame(&mut bytes, 8, 0, 0, &[0x7f, 0, 0, 0]);
    let path = b"/api/topics/t/events?limit=100";
    let head = [&[0x82, 0x86, 0x04, 30][..], path, &[0x01, 0x09], b"localhost"].concat();
    for stream in 0..20 {
        frame(&mut bytes, 1, 0x5, 2 * stream + 1, &head);
    }
    let mut socket = node.tight_socket();
    socket.write_all(&bytes).expect("send");
    eventually(|| (node.metric("millstream_unsent_bytes") > 1_000_000.0).then_some(()));
    none_is_left(&node);
}

#[test]
fn readers_over_http_1_that_stop_are_cut() {
    let node = quick("");
    let sockets: Vec<TcpStream> = (0..20)
        .map(|number| {
            let mut socket = node.tight_socket();
            let path = ["/api/topics/t/events?limit=100", "/openapi.json", "/api/admin/journal/export"][number % 3];
            write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
            socket
        })
        .collect();
    eventually(|| (node.metric("millstream_unsent_bytes") > 1_000_000.0).then_some(()));
    none_is_left(&node);
    assert_eq!(node.metric("millstream_unsent_bytes"), 0.0);
    drop(sockets);
}

#[test]
fn a_slow_reader_gets_all_of_its_answer() {
    let node = quick("");
    let mut socket = node.tight_socket();
    let request = "GET /api/topics/t/events?limit=100 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).expect("send");
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 100_000]);
    loop {
        // Ten times a second: together longer than the deadline.
        #[expect(clippy::disallowed_methods, reason = "the pause is what this client does")]
        std::thread::sleep(Duration::from_millis(100));
        match socket.read(&mut buffer).expect("an answer") {
            0 => break,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    assert!(bytes.len() > 1_000_000 && bytes.ends_with(b"}"), "{} bytes", bytes.len());
}

#[test]
fn the_answer_that_is_stuck_for_the_longest_time_goes_first() {
    let node = node("max_unsent_bytes = 4194304\n");
    let before = node.resident();
    let mut sockets = Vec::new();
    for _ in 0..30 {
        let mut socket = node.tight_socket();
        socket.write_all(b"GET /api/topics/t/events?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
        sockets.push(socket);
    }
    // Each has a megabyte.
    let ended = || node.metric("millstream_answers_ended_total{reason=\"unsent_bytes\"}");
    eventually(|| (ended() >= 25.0).then_some(()));
    assert!(node.metric("millstream_unsent_bytes") <= 4_194_304.0);
    let grown = node.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes");
    // The last one was stuck for the shortest time.
    let last = sockets.pop().expect("there are some");
    last.shutdown(Shutdown::Write).expect("it is open");
    let reply = Reply::read(last);
    assert!(reply.status == 200 && reply.body.len() > 1_000_000, "{} bytes", reply.body.len());
}

#[test]
fn a_large_result_is_in_memory_once() {
    let source = Upstream::start(|_, socket| {
        let body = format!("\"{}\"", "x".repeat(5 << 20));
        let _ = write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    });
    let node = node(&source.allowed());
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "id": "big", "url": source.url("/") }] }));
    let job = job["jobId"].as_str().expect("an id").to_owned();
    eventually(|| (node.get(&format!("/api/jobs/{job}")).json()["status"] == "completed").then_some(()));
    let path = format!("/api/jobs/{job}/tasks/big/result");
    assert_eq!(node.get(&path).body.len(), (5 << 20) + 2);
    let before = node.resident();
    let sockets: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut socket = node.tight_socket();
            write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("send");
            socket
        })
        .collect();
    eventually(|| (node.metric("millstream_unsent_bytes") > 5_300_000.0).then_some(()));
    let grown = node.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "30 readers of 5 MiB cost {grown} bytes");
    assert_eq!(node.metric("millstream_answers_ended_total{reason=\"unsent_bytes\"}"), 0.0);
    assert_eq!(node.get(&path).body.len(), (5 << 20) + 2);
    drop(sockets);
}
