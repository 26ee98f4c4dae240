//! Unread responses: they end in time, on every protocol, and cost little until then.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    client::{Client, Pair, soon},
    http2::frame,
    support::{
        Node, PATIENCE, Reply, eventually,
        upstream::{self, Upstream},
    },
};

/// The request: an asset, the document, a small response, a page of JSON, the export, events, events of a remote,
/// several merged streams, metrics, nothing.
const PATHS: [&str; 10] = [
    "/dashboard.js",
    "/openapi.json",
    "/healthz",
    "/api/topics/t/events?limit=100",
    "/api/admin/journal/export",
    "/events?topic=t&history=100",
    "/api/sse-proxy/up/events?topic=t&history=100",
    "POST /api/sse-proxy/merge-streams/sse-emitter",
    "/metrics",
    "/nowhere",
];
/// The merged sources.
const MERGE: &[u8] = br#"[{"remote":"up","path":"/events?topic=t&history=100"}]"#;
/// With all rights.
const TOKEN: &str = "unread";
const TOKEN_HASH: &str = "2cc1c371db104eb5ce6b02f54dec7429154bdbfe83b5ececd3822c596dd03f28";
const DEADLINE: Duration = Duration::from_secs(1);
/// How much later than its deadline an answer may end on a busy machine.
const LATER: Duration = Duration::from_secs(10);

/// A node with a megabyte of history and small buffers.
fn node(settings: &str) -> Node {
    let node = Node::start(&format!("[server]\nsend_buffer_bytes = 4096\n{settings}"));
    node.json("POST", "/events", &history());
    node
}

fn history() -> Value {
    json!(vec![json!({ "topic": "t", "data": "x".repeat(10_000) }); 100])
}

/// With another node as its remote, and room for all responses until their deadline. With `token` it asks for one.
fn with_remote(remote: &Node, token: bool) -> Node {
    let access = format!(
        "[access]\nmode = \"token\"\n[[access.tokens]]\nname = \"a\"\nsha256 = \"{TOKEN_HASH}\"\nadmin = true\n\
         publish = [\"*\"]\nsubscribe = [\"*\"]\n[limits]\nrequests_per_minute = 0\n"
    );
    let up = format!("[remotes.up]\nbase_url = \"http://{}\"\npaths = [\"/*\"]\n", remote.addr);
    Node::start(&format!(
        "[server]\nsend_buffer_bytes = 4096\nmax_connections = 40\nmax_unsent_bytes = 268435456\n[emitter]\nwrite_deadline_ms = {}\n{up}{}",
        DEADLINE.as_millis(),
        if token { &*access } else { "" }
    ))
}

fn quick(settings: &str) -> Node {
    node(&format!("{settings}[emitter]\nwrite_deadline_ms = {}\n", DEADLINE.as_millis()))
}

/// The bytes of an HTTP/2 client that requests this number of these responses, and gives them no window.
fn asks(paths: &[&str], streams: u32, token: bool) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let text = |text: &str| [&[u8::try_from(text.len()).expect("it is short")], text.as_bytes()].concat();
    for (number, path) in (0..streams).zip(paths.iter().cycle()) {
        let (posts, path) = path.strip_prefix("POST ").map_or((false, *path), |path| (true, path));
        let method = if posts { 0x83 } else { 0x82 };
        let mut head = [&[method, 0x86, 0x04], &*text(path), &[0x01], &*text("localhost")].concat();
        if token {
            head.extend([&[0], &*text("x-auth-token"), &*text(TOKEN)].concat());
        }
        if posts {
            head.extend([&[0], &*text("content-type"), &*text("application/json")].concat());
            frame(&mut bytes, 1, 0x4, 2 * number + 1, &head);
            frame(&mut bytes, 0, 0x1, 2 * number + 1, MERGE);
        } else {
            frame(&mut bytes, 1, 0x5, 2 * number + 1, &head);
        }
    }
    bytes
}

/// A connection with these words.
fn shut(node: &Node, words: &[u8]) -> TcpStream {
    let mut socket = node.socket();
    socket.write_all(words).expect("send");
    socket
}

/// Reads until the node ends the connection; how long that took.
fn ended(socket: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut bytes = [0; 4096];
    while socket.read(&mut bytes).is_ok_and(|count| count > 0) {
        assert!(began.elapsed() < PATIENCE, "it continues");
    }
    began.elapsed()
}

/// All connections but that of the question are gone.
fn none_is_left(node: &Node) {
    eventually(|| (node.count("connections") <= 1).then_some(()));
    node.must_be_healthy();
}

/// Figures of a node that may ask for a token.
fn figure(node: &Node, name: &str) -> f64 {
    let text = node.request("GET", "/metrics", &[("X-Auth-Token", TOKEN)], "").text();
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[test]
fn unread_responses_over_http_2_end_with_their_connection() {
    let remote = node("");
    for (asks_for_token, token) in [(false, false), (true, true), (true, false)] {
        let node = with_remote(&remote, asks_for_token);
        let reply = node.request("POST", "/events", &[("X-Auth-Token", TOKEN)], history().to_string());
        assert_eq!(reply.status, 200, "{reply:?}");
        let words = asks(&PATHS, 20, token);
        let mut sockets: Vec<TcpStream> = (0..10).map(|_| shut(&node, &words)).collect();
        eventually(|| (figure(&node, "millstream_unsent_bytes") > 100_000.0).then_some(()));
        for socket in &mut sockets {
            let took = ended(socket);
            assert!(took < DEADLINE + LATER, "{took:?}");
        }
        eventually(|| (figure(&node, "millstream_connections") <= 1.0).then_some(()));
        assert!(figure(&node, "millstream_answers_ended_total{reason=\"write_deadline\"}") >= 10.0);
        assert_eq!(figure(&node, "millstream_unsent_bytes"), 0.0);
    }
}

#[tokio::test]
async fn unread_responses_over_tls_end_with_their_connection() {
    let pair = Pair::new();
    let deadline = DEADLINE.as_millis();
    let node = Node::start(&format!(
        "{}send_buffer_bytes = 4096\n[emitter]\nwrite_deadline_ms = {deadline}\n",
        pair.settings()
    ));
    for alpn in ["h2", "http/1.1"] {
        let mut tls = pair.connect(&node, &[alpn]).await.expect("a handshake");
        let words = match alpn {
            "h2" => asks(&["/dashboard.js", "/openapi.json", "/healthz"], 6, false),
            _ => b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(30),
        };
        tls.write_all(&words).await.expect("send");
        let client = Client::tls(&node, &pair).await;
        soon(async { while client.metric("unsent_bytes").await == 0 {} }).await;
        soon(async { while client.metric("connections").await > 1 {} }).await;
    }
}

#[test]
fn windows_that_grow_by_a_few_bytes_do_not_help() {
    let node = quick("");
    let paths: Vec<&str> = PATHS.into_iter().filter(|path| !path.contains("sse-proxy")).collect();
    let streams = 16;
    let mut socket = shut(&node, &asks(&paths, streams, false));
    let mut more = Vec::new();
    for (number, step) in (0..streams).zip([1_u8, 16].iter().cycle()) {
        frame(&mut more, 8, 0, 2 * number + 1, &[0, 0, 0, *step]);
    }
    let mut sending = socket.try_clone().expect("a second handle");
    let growing = std::thread::spawn(move || {
        let began = Instant::now();
        while began.elapsed() < PATIENCE && sending.write_all(&more).is_ok() {
            #[expect(clippy::disallowed_methods, reason = "the pause is what this client does")]
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let took = ended(&mut socket);
    assert!(took < DEADLINE * 2 + LATER, "{took:?}");
    let _ = socket.shutdown(Shutdown::Both);
    growing.join().expect("it has noticed");
    none_is_left(&node);
}

#[test]
fn a_flood_of_large_answers_is_made_a_few_at_a_time() {
    let node = quick("max_unsent_bytes = 4194304\n");
    let before = node.resident();
    // 600 answers of a megabyte.
    let words = asks(&["/api/topics/t/events?limit=100", "/api/admin/journal/export"], 30, false);
    let mut sockets: Vec<TcpStream> = (0..20).map(|_| shut(&node, &words)).collect();
    let mut highest = 0;
    eventually(|| {
        highest = highest.max(node.resident());
        (node.count("connections") <= 1).then_some(())
    });
    let grown = highest.saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    for socket in &mut sockets {
        ended(socket);
    }
    assert_eq!(node.metric("millstream_unsent_bytes"), 0.0);
    // And then there is room again.
    assert_eq!(node.get("/api/topics/t/events?limit=100").status, 200);
}

#[test]
fn requests_over_http_2_that_wait_for_a_remote_are_few_at_a_time() {
    let remote = Upstream::start(|_, socket| upstream::silence(socket));
    let node = Node::start(&format!(
        "[remotes.up]\nbase_url = \"{}\"\npaths = [\"/*\"]\nmax_connections = 1000\n[relay]\nmax_upstreams = 1000\n",
        remote.url("")
    ));
    let words = asks(&["/api/sse-proxy/up/slow"], 100, false);
    let _sockets: Vec<TcpStream> = (0..4).map(|_| shut(&node, &words)).collect();
    eventually(|| (remote.seen("/slow").len() >= 64).then_some(()));
    // Requests of others are answered meanwhile, also on a connection of HTTP/2 with a remote that is slow.
    assert_eq!(node.get("/api/topics").status, 200);
    let seen = remote.seen("/slow").len();
    assert!(seen <= 64 + 4, "{seen} requests at a time");
}

#[test]
fn a_connection_with_many_blocked_responses_waits_and_then_goes_on() {
    let node = node("");
    let mut socket = shut(&node, &asks(&["/openapi.json"], 20, false));
    eventually(|| (node.metric("millstream_unsent_bytes") > 20.0 * 4096.0).then_some(()));
    let mut more = Vec::new();
    let head = [&[0x82, 0x86, 0x04, 8][..], b"/nowhere", &[0x01, 0x09], b"localhost"].concat();
    for stream in 20..23 {
        frame(&mut more, 1, 0x5, 2 * stream + 1, &head);
    }
    frame(&mut more, 6, 0, 0, b"a ping..");
    socket.write_all(&more).expect("send");
    // The acknowledgement of the PING comes after the requests have been read.
    let mut bytes = Vec::new();
    eventually(|| {
        let mut part = [0; 4096];
        let count = socket.read(&mut part).expect("it is open");
        bytes.extend_from_slice(&part[..count]);
        bytes.windows(8).any(|window| window == b"a ping..").then_some(())
    });
    let refused = || node.metric("millstream_http_responses_total{class=\"4xx\"}");
    // The connection was ready to accept one before the responses were blocked.
    assert!(refused() <= 1.0, "20 responses are blocked");
    let mut resets = Vec::new();
    (0..20).for_each(|stream| frame(&mut resets, 3, 0, 2 * stream + 1, &[0, 0, 0, 8]));
    socket.write_all(&resets).expect("send");
    eventually(|| (refused() >= 3.0).then_some(()));
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
    let ask = || {
        let mut socket = node.tight_socket();
        socket.write_all(b"GET /api/topics/t/events?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
        socket
    };
    // Each has a megabyte.
    let _sockets: Vec<TcpStream> = (0..29).map(|_| ask()).collect();
    let ended = || node.metric("millstream_answers_ended_total{reason=\"unsent_bytes\"}");
    eventually(|| (ended() >= 25.0).then_some(()));
    eventually(|| (node.metric("millstream_unsent_bytes") <= 4_194_304.0).then_some(()));
    let grown = node.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes");
    // The last one is stuck for the shortest time, until it reads.
    let before = ended();
    let last: Vec<TcpStream> = (0..3).map(|_| ask()).collect();
    eventually(|| (ended() > before).then_some(()));
    let last = last.into_iter().next_back().expect("there are some");
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
