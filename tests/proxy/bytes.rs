//! The bytes that go to the remote, and those that return.

use std::{
    io::{Read, Write},
    sync::mpsc,
    time::Duration,
};

use crate::{
    chunk, node, open,
    support::{Node, PATIENCE, upstream::Upstream},
    whole,
};

#[test]
fn the_bytes_are_unchanged_however_they_are_cut() {
    const STREAM: &[u8] = b"\xEF\xBB\xBF: hello\r\nretry: 1234\r\n\r\nid: 7\revent: x\rdata: a\r\ndata: \xC3\xA9\r\r: c\n\nid\ndata\n\ndata: \xFF half";
    let upstream = Upstream::start(|request, socket| {
        open(socket);
        let size = request.path.rsplit('/').next().and_then(|size| size.parse().ok()).expect("a size");
        for part in STREAM.chunks(size) {
            chunk(socket, part);
        }
        let _ = socket.write_all(b"0\r\n\r\n");
    });
    let node = node(&upstream, "");
    for size in [1, 2, 3, 7, 1000] {
        let reply = whole(&node, &format!("/api/sse-proxy/up/s/{size}"), &[]);
        assert_eq!(reply.body, STREAM, "cut into {size}: {reply:?}");
        assert_eq!(reply.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(reply.header("Cache-Control"), Some("no-cache, no-transform"));
        assert_eq!(reply.header("X-Accel-Buffering"), Some("no"));
    }
}

#[test]
fn a_compressed_stream_is_passed_on_as_it_was() {
    let upstream = Upstream::start(|_, socket| {
        // `gzip` of "data: packed\n\n".
        const PACKED: &[u8] = &[
            0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0x03, 0x01, 14, 0, 0xf1, 0xff, b'd', b'a', b't', b'a', b':', b' ',
            b'p', b'a', b'c', b'k', b'e', b'd', b'\n', b'\n', 0x3f, 0x91, 0x96, 0x64, 14, 0, 0, 0,
        ];
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = socket.write_all(head.as_bytes());
        chunk(socket, PACKED);
        let _ = socket.read(&mut [0]);
    });
    let node = node(&upstream, "");
    let mut stream = node.stream("/api/sse-proxy/up/x", &[]);
    assert_eq!(stream.next().data, "packed");
    assert_eq!(stream.header("Content-Encoding"), None);
}

#[test]
fn the_head_and_each_event_come_at_once() {
    let (go, wait) = mpsc::channel::<&str>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |_, socket| {
        open(socket);
        while let Ok(text) = wait.lock().expect("no thread panics with it").recv_timeout(PATIENCE) {
            chunk(socket, text);
        }
    });
    let node = node(&upstream, "");
    // The head is there though no byte of the stream is.
    let mut stream = node.stream("/api/sse-proxy/up/x", &[]);
    assert_eq!(stream.status, 200);
    for text in ["data: 1\n\n", "id: 5\ndata: 2\n\n"] {
        go.send(text).expect("the upstream lives");
        assert!(stream.next_within(Duration::from_secs(2)).is_some());
    }
    drop(go);
}

#[test]
fn what_goes_up_is_the_position_and_the_remotes_own_credentials() {
    let upstream = Upstream::start(|_, socket| {
        open(socket);
        let _ = socket.write_all(b"0\r\n\r\n");
    });
    let node = node(&upstream, "headers = { \"X-Api-Key\" = \"the-remotes\" }\n");
    let mine = [
        ("Last-Event-ID", "abc-7"),
        ("Accept-Language", "de"),
        ("Authorization", "Bearer secret-1"),
        ("Cookie", "millstream_token=secret-2"),
        ("X-Auth-Token", "secret-3"),
        ("X-Api-Key", "secret-4"),
        ("X-Forwarded-For", "1.2.3.4"),
    ];
    let path = "/api/sse-proxy/up/a%20b?q=1&access_token=secret-5&ticket=secret-6&x=%26&lastEventId=stale";
    assert_eq!(whole(&node, path, &mine).status, 200);
    let seen = upstream.seen("/a%20b?q=1&x=%26");
    let [request] = &seen[..] else { panic!("one request: {seen:?}") };
    assert_eq!(request.header("Last-Event-ID"), Some("abc-7"));
    assert_eq!(request.header("Accept-Language"), Some("de"));
    assert_eq!(request.header("Accept"), Some("text/event-stream"));
    assert_eq!(request.header("X-Api-Key"), Some("the-remotes"));
    for absent in ["Authorization", "Cookie", "X-Auth-Token", "X-Forwarded-For"] {
        assert_eq!(request.header(absent), None);
    }
    assert!(!request.head.contains("secret"), "{}", request.head);
    assert_eq!(whole(&node, "/api/sse-proxy/up/b?lastEventId=from%20query", &[]).status, 200);
    assert_eq!(upstream.seen("/b")[0].header("Last-Event-ID"), Some("from query"));
}

#[test]
fn a_post_goes_up_with_its_body_and_its_tokens_come_back() {
    let upstream = Upstream::start(|_, socket| {
        open(socket);
        for token in ["{\"delta\":\"Hel\"}", "{\"delta\":\"lo\"}", "[DONE]"] {
            chunk(socket, format!("data: {token}\n\n"));
        }
        let _ = socket.write_all(b"0\r\n\r\n");
    });
    let node = node(&upstream, "[server]\nbody_limit_bytes = 2000\n");
    let body = serde_json::json!({ "model": "m", "stream": true });
    let mut stream = node.post_stream("/api/sse-proxy/up/v1/chat/completions", &body);
    let data: Vec<String> = stream.rest().into_iter().map(|event| event.data).collect();
    assert_eq!(data, ["{\"delta\":\"Hel\"}", "{\"delta\":\"lo\"}", "[DONE]"]);
    assert!(stream.finished);
    let request = &upstream.seen("/v1/chat/completions")[0];
    assert_eq!((request.method.as_str(), request.body.as_slice()), ("POST", body.to_string().as_bytes()));
    assert_eq!(request.header("Content-Type"), Some("application/json"));
    let large = node.request("POST", "/api/sse-proxy/up/v1", &[], "x".repeat(2001));
    assert!(large.problem(413).contains("2000"));
    let packed = node.request("POST", "/api/sse-proxy/up/v1", &[("Content-Encoding", "gzip")], "x");
    packed.problem(415);
}

#[test]
fn the_guides_sample_comes_through_a_second_node() {
    let reactive = Node::start("");
    let node = Node::start(&format!("[remotes.reactive]\nbase_url = \"http://{}\"\n", reactive.addr));
    for path in ["sample-parallel/sse-emitter", "api/sse/sample-parallel"] {
        let mut stream = node.stream(&format!("/api/sse-proxy/reactive/{path}"), &[("X-Auth-Token", "test-token")]);
        let events = stream.rest();
        assert_eq!(events.first().map(|event| event.event.as_str()), Some("connection"));
        assert_eq!(events.last().map(|event| event.event.as_str()), Some("complete"), "{events:?}");
        assert!(events[1..].iter().all(|event| !event.id.is_empty()) && stream.finished);
    }
}

#[test]
fn silence_is_filled_with_comments_but_never_inside_a_line() {
    let upstream = Upstream::start(|request, socket| {
        open(socket);
        if request.path == "/half" {
            chunk(socket, "event: e\nda");
        }
        let _ = socket.set_read_timeout(Some(Duration::from_millis(2500)));
        let _ = socket.read(&mut [0]);
        chunk(socket, if request.path == "/half" { "ta: 1\n\n" } else { "\u{FEFF}data: 1\n\n" });
        let _ = socket.write_all(b"0\r\n\r\n");
    });
    let node = node(&upstream, "[emitter]\nheartbeat_ms = 1000\n");
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(whole(&node, "/api/sse-proxy/up/half", &[]).text(), "event: e\ndata: 1\n\n"));
        let reply = whole(&node, "/api/sse-proxy/up/mute", &[]);
        assert_eq!(reply.text(), ":\n:\ndata: 1\n\n");
    });
}
