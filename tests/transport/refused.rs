//! Heads that are refused, and what else a head may ask for.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use serde_json::json;

use crate::{
    client::{Client, soon},
    http2::frame,
    support::{Node, PATIENCE, Reply, assert_problem},
};

#[test]
fn a_head_that_is_refused_is_answered_with_a_problem() {
    let node = Node::start("");
    let get = |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let long = format!("/healthz?{}", "x".repeat(70_000));
    let longer = format!("/healthz?{}", "x".repeat(300_000));
    for (text, status) in [
        (get(&long, ""), 414),
        (get(&longer, ""), 414),
        (get("/healthz", &format!("X: {}\r\n", "y".repeat(300_000))), 431),
        (get("/healthz", &"X: y\r\n".repeat(200)), 431),
        (get("/healthz", "X : y\r\n"), 400),
        ("GET /healthz HTTP/1.1\r\n\r\n".into(), 400),
        ("G(T /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 400),
        (get("/healthz", "Host: other\r\n"), 400),
        (get("/healthz", "Content-Length: two\r\n"), 400),
        ("POST /events HTTP/1.0\r\nHost: localhost\r\n\r\n".into(), 411),
    ] {
        let what = &text[..text.len().min(80)];
        let reply = node.raw(&text);
        assert_problem(what, &reply, &[status]);
        assert_eq!(reply.header("connection"), Some("close"), "{what}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{what}");
    }
    // Behind a request that is well.
    let mut socket = node.socket();
    socket.write_all([get("/healthz", ""), get(&long, "")].concat().as_bytes()).expect("send");
    let mut both = String::new();
    socket.read_to_string(&mut both).expect("two answers");
    assert!(both.starts_with("HTTP/1.1 200") && both.contains("HTTP/1.1 414"), "{both}");
    node.must_be_healthy();
}

#[tokio::test]
async fn a_head_over_http_2_that_is_refused_is_answered_with_a_problem() {
    let node = Node::start("");
    let client = Client::plain(&node).await;
    let large = [("x", "y".repeat(50_000)), ("z", "y".repeat(50_000))];
    let zero = ("content-length", "0".to_owned());
    for (fields, status) in [
        (&large[..], 431),
        (&[("host", "evil.test".to_owned())][..], 400),
        (&[("host", client.host.clone())][..], 200),
        (&[zero.clone()][..], 200),
        (&[zero.clone(), zero][..], 400),
    ] {
        let answer = soon(client.send_with("GET", "/healthz", fields)).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), status);
        if status >= 400 {
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert!(answer.text().await.contains("\"detail\""));
        }
    }
}

/// No client of the `http` crate has such a target. One that is longer still is malformed for the `h2` crate, which resets
/// the stream.
#[test]
fn a_target_over_http_2_that_is_too_long_is_answered_with_a_problem() {
    let node = Node::start("");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    // The length of the path as HPACK has it: 127, and 65,500 - 127 in three groups of seven bits.
    let path = [&b"/healthz?"[..], &[b'x'; 65_500 - 9]].concat();
    let head = [&[0x82, 0x86, 0x04, 0x7f, 0xdd, 0xfe, 0x03][..], &path, &[0x01, 0x09], b"localhost"].concat();
    let pieces: Vec<&[u8]> = head.chunks(16_000).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let last = if number + 1 == pieces.len() { 4 } else { 0 };
        let (kind, flags) = if number == 0 { (1, 1 | last) } else { (9, last) };
        frame(&mut bytes, kind, flags, 1, piece);
    }
    let mut socket = node.socket();
    socket.write_all(&bytes).expect("send");
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("\"status\":414") {
        let count = socket.read(&mut buffer).expect("an answer");
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

#[test]
fn a_request_that_asks_for_another_protocol_is_answered_in_this_one() {
    let node = Node::start("");
    let body = json!({ "topic": "t", "data": 1 }).to_string();
    for lines in [
        "Connection: upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    ] {
        let mut socket = node.socket();
        // Twice: the connection stays.
        for _ in 0..2 {
            let head = format!(
                "POST /events HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(head.as_bytes()).expect("send");
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            while !text.ends_with('}') {
                let count = socket.read(&mut buffer).expect("an answer");
                assert!(count > 0, "{lines:?}: {text}");
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            assert!(text.starts_with("HTTP/1.1 200"), "{lines:?}: {text}");
            assert!(!text.to_ascii_lowercase().contains("upgrade"), "{lines:?}: {text}");
        }
    }
}

#[test]
fn a_complete_request_is_answered_after_its_client_closed_its_sending_side() {
    let node = Node::start("");
    for _ in 0..20 {
        let mut socket = node.socket();
        let body = json!({ "topic": "t", "data": 1 }).to_string();
        let head = format!(
            "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all((head + &body).as_bytes()).expect("send");
        socket.shutdown(Shutdown::Write).expect("it is open");
        let reply = Reply::read(socket);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.json()["id"].is_string(), "{reply:?}");
    }
    let mut socket = node.socket();
    let two = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    socket.write_all(two.as_bytes()).expect("send");
    socket.shutdown(Shutdown::Write).expect("it is open");
    let mut both = String::new();
    socket.read_to_string(&mut both).expect("two answers");
    assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{both}");
    // A stream has no reader any more.
    let mut stream = node.stream("/events?topic=t", &[]);
    stream.until("connection");
    stream.socket.shutdown(Shutdown::Write).expect("it is open");
    assert!(node.until_streams(0) < PATIENCE);
}

#[test]
fn the_host_that_the_target_names_is_the_one_that_counts() {
    let node = Node::start("");
    let ask = |target: &str, host: &str| node.raw(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status;
    assert_eq!(ask("http://evil.test/api/jobs", "localhost"), 403);
    assert_eq!(ask(&format!("http://{}/api/jobs", node.addr), "evil.test"), 200);
    assert_eq!(ask("/api/jobs", "evil.test"), 403);
    assert_eq!(ask("http://localhost@evil.test/api/jobs", "localhost"), 403);
}

#[test]
fn a_client_is_asked_for_its_body_by_those_who_read_it() {
    let node = Node::start("");
    let ask = |path: &str, length: usize| {
        let mut socket = node.socket();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).expect("send");
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.contains("\r\n\r\n") {
            let count = socket.read(&mut buffer).expect("an answer");
            assert!(count > 0, "{path}: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        (text, socket)
    };
    for (path, length, status) in [("/nowhere", 10, 404), ("/events", 100 << 20, 413), ("/healthz", 10, 405)] {
        let (text, _) = ask(path, length);
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {text}");
    }
    let body = json!({ "topic": "t", "data": 1 }).to_string();
    let (text, mut socket) = ask("/events", body.len());
    assert_eq!(text, "HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(body.as_bytes()).expect("send");
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.ends_with('}') {
        let count = socket.read(&mut buffer).expect("an answer");
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
