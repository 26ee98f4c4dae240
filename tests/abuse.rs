//! Bodies that no well-behaved client sends: every answer is a clear refusal, never a 5xx, and the node is well
//! afterwards.

mod support;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use support::{Node, Reply, assert_problem};

#[test]
fn bodies_that_are_no_json_are_malformed() {
    let node = Node::start("");
    let deep = |levels: usize| format!("{{\"topic\":\"a\",\"data\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", b"".to_vec()),
        ("cut off", b"{\"topic\":\"a\",\"data\":".to_vec()),
        ("trailing", b"{\"topic\":\"a\",\"data\":1} x".to_vec()),
        ("no text", b"\xff\xfe\x00".to_vec()),
        ("bad UTF-8 in a string", b"{\"topic\":\"a\xff\",\"data\":1}".to_vec()),
        ("a NUL as it is", b"{\"topic\":\"a\",\"data\":\"x\x00y\"}".to_vec()),
        ("half a surrogate pair", br#"{"topic":"a","data":"\ud800"}"#.to_vec()),
        ("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf{\"topic\":\"a\",\"data\":1}".to_vec()),
        ("10,000 levels", deep(10_000).into_bytes()),
        ("10,000 levels that never close", "[".repeat(10_000).into_bytes()),
        ("10,000 objects", "{\"a\":".repeat(10_000).into_bytes()),
        ("not a number", br#"{"topic":"a","data":NaN}"#.to_vec()),
    ];
    for (what, body) in &bodies {
        for path in [
            "/events",
            "/api/sse/managed/send/user/1",
            "/api/sse/managed/send/filtered",
            "/api/sse/managed/broadcast/group/g",
            "/api/jobs",
        ] {
            assert_problem(&format!("{path}: {what}"), &node.raw_post(path, body), &[400]);
        }
    }
    node.must_be_healthy();
}

#[test]
fn json_of_the_wrong_shape_is_refused_with_the_field() {
    let node = Node::start("");
    let events = [
        "null",
        "1",
        "\"text\"",
        "{}",
        "[{}]",
        "[1]",
        r#"{"topic":"a"}"#,
        r#"{"topic":"a","data":1,"dta":2}"#,
        r#"[{"topic":"a","data":1},{"topic":"a","data":1,"dta":2}]"#,
        r#"{"topic":"a","topics":["b"],"data":1}"#,
        r#"{"topics":[],"data":1}"#,
        r#"{"topic":"","data":1}"#,
        r#"{"topic":"a b","data":1}"#,
        r#"{"topic":"a*","data":1}"#,
        r#"{"topic":"a,b","data":1}"#,
        r#"{"topic":"a\u0000","data":1}"#,
        r#"{"topic":"job:1","data":1}"#,
        r#"{"topic":"emitter:1","data":1}"#,
        r#"{"topic":"a","data":1,"id":"a\nb"}"#,
        r#"{"topic":"a","data":1,"id":"a\rb"}"#,
        r#"{"topic":"a","data":1,"id":"a\u0000b"}"#,
        r#"{"topic":"a","data":1,"event":"a\nb"}"#,
        r#"{"topic":"a","data":1,"event":5}"#,
        r#"{"topic":"a","data":1,"retry":-1}"#,
        r#"{"topic":"a","data":1,"retry":1e99}"#,
        r#"{"topic":"a","data":1,"ttlMs":18446744073709551616}"#,
    ];
    for body in events {
        assert_problem(body, &node.raw_post("/events", body), &[422]);
    }
    let long = format!(r#"{{"topic":"{}","data":1}}"#, "t".repeat(256));
    assert_problem("256 bytes of topic", &node.raw_post("/events", long), &[422]);
    let many = serde_json::json!({ "topics": (0..1000).map(|n| format!("t{n}")).collect::<Vec<_>>(), "data": 1 });
    assert_problem("1,000 topics", &node.raw_post("/events", many.to_string()), &[422]);
    let large = format!(r#"{{"topic":"a","data":"{}"}}"#, "x".repeat(1_100_000));
    assert_problem("an event above max_event_bytes", &node.raw_post("/events", large), &[413]);
    let filtered = [r#"{"data":1}"#, r#"{"filter":{"a":1}}"#, r#"{"filter":5,"data":1}"#];
    for body in filtered {
        assert_problem(body, &node.raw_post("/api/sse/managed/send/filtered", body), &[422]);
    }
    let jobs = [
        "{}",
        r#"{"tasks":[]}"#,
        r#"{"tasks":{}}"#,
        r#"{"tasks":[{}]}"#,
        r#"{"tasks":[{"run":"task1"}],"taks":1}"#,
        r#"{"tasks":[{"run":"task1","nope":1}]}"#,
        r#"{"tasks":[{"run":"nobody"}]}"#,
        r#"{"tasks":[{"run":"task1","id":"a\nb"}]}"#,
        r#"{"tasks":[{"run":"task1","id":"a"},{"run":"task1","id":"a"}]}"#,
        r#"{"tasks":[{"url":"file:///etc/passwd"}]}"#,
        r#"{"tasks":[{"url":"http://[::1"}]}"#,
        r#"{"tasks":[{"url":"http://x","method":"G ET"}]}"#,
        r#"{"tasks":[{"url":"http://x","headers":{"a\nb":"c"}}]}"#,
        r#"{"tasks":[{"url":"http://x","headers":{"a":"b\nc"}}]}"#,
        r#"{"tasks":[{"run":"task1","timeoutMs":99999999999999999999}]}"#,
        r#"{"tasks":[{"run":"task1"}],"notify":{"topic":"a b"}}"#,
    ];
    for body in jobs {
        assert_problem(body, &node.raw_post("/api/jobs", body), &[422]);
        assert_problem(body, &node.raw_post("/api/sse/emitter/parallel-tasks", body), &[422]);
    }
    assert_eq!(node.count("journal_events"), 0, "nothing of all that was appended");
    node.must_be_healthy();
}

/// What a string may hold by the rules arrives, also where it looks dangerous.
#[test]
fn odd_but_valid_data_arrives_as_it_was_sent() {
    let node = Node::start("");
    let mut stream = node.stream("/events?topic=odd", &[]);
    stream.until("connection");
    for data in ["a\nb\r\nc", "data: x\n\nid: 7", "", " ", "\u{0}", "\u{feff}x", "\u{2028}", "0\r\n\r\n"] {
        node.publish("odd", "message", &serde_json::json!(data));
        let expected = data.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(stream.next().data, expected, "{data:?}");
    }
}

#[test]
fn a_body_that_is_too_large_or_too_slow_is_refused() {
    let node = Node::start("[server]\nbody_timeout_ms = 500");
    let head =
        |lines: &str| format!("POST /events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{lines}\r\n", node.addr);
    let large = vec![b' '; 50 << 20];
    let before = node.resident();

    let declared = head(&format!("Content-Length: {}\r\n", large.len())).into_bytes();
    assert_problem("50 MB, only declared", &node.raw(&declared), &[413]);
    assert_problem("50 MB, declared and sent", &node.raw([&declared[..], &large].concat()), &[413]);
    let mut chunks = head("Transfer-Encoding: chunked\r\n").into_bytes();
    for part in large.chunks(1 << 20) {
        chunks.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        chunks.extend_from_slice(part);
        chunks.extend_from_slice(b"\r\n");
    }
    assert_problem("50 MB in chunks without an end", &node.raw(&chunks), &[413]);
    let one_chunk = [head("Transfer-Encoding: chunked\r\n").as_bytes(), b"3200000\r\n", &large].concat();
    assert_problem("50 MB in one chunk", &node.raw(&one_chunk), &[413]);
    let grown = node.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "200 MB of refused bodies cost {grown} bytes");

    for slow in ["Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"] {
        let begin = Instant::now();
        assert_problem(slow, &node.raw(format!("{}1\r\n{{\r\n", head(slow))), &[408]);
        let took = begin.elapsed();
        assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&took), "{slow}: {took:?}");
    }
    node.must_be_healthy();
}

#[test]
fn a_gigabyte_is_refused_before_it_has_come() {
    let node = Node::start("");
    let head = |lines: &str| format!("POST /events HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", node.addr);
    let before = node.resident();
    let begin = Instant::now();
    let declared = node.raw(head("Content-Length: 1073741824\r\n"));
    assert_problem("a gigabyte, declared", &declared, &[413]);
    assert!(begin.elapsed() < Duration::from_secs(5), "the node does not wait for it");

    let mut socket = node.socket();
    let mut sending = socket.try_clone().expect("a second handle");
    socket.write_all(head("Transfer-Encoding: chunked\r\n").as_bytes()).expect("send the head");
    let sent = std::thread::spawn(move || {
        let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
        let begin = Instant::now();
        // Until the node accepts no more of it. After the refusal it reads incoming bytes for a second, so that a reset
        // does not destroy the response.
        while sending.write_all(&chunk).is_ok() && begin.elapsed() < support::PATIENCE {}
        begin.elapsed()
    });
    assert_problem("gigabytes in chunks", &Reply::read(socket), &[413]);
    let took = sent.join().expect("the sender is done");
    assert!(took < Duration::from_secs(5), "the node took more of it for {took:?}");
    let grown = node.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "two gigabytes of refused bodies cost {grown} bytes");
    node.must_be_healthy();
}

/// Each byte comes soon after the last; all of them never come.
#[test]
fn a_body_that_dribbles_is_given_up_in_time() {
    let node = Node::start("[server]\nbody_timeout_ms = 500");
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut socket = node.socket();
        let head = format!("POST /events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{framing}\r\n\r\n", node.addr);
        socket.write_all(head.as_bytes()).expect("send the head");
        let mut sending = socket.try_clone().expect("a second handle");
        let part: &[u8] = if framing.starts_with('C') { b" " } else { b"1\r\n \r\n" };
        let begin = Instant::now();
        let dribbling = std::thread::spawn(move || {
            while begin.elapsed() < support::PATIENCE && sending.write_all(part).is_ok() {
                #[expect(clippy::disallowed_methods, reason = "the test needs a slow client")]
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_problem(framing, &Reply::read(socket), &[408]);
        assert!(begin.elapsed() < Duration::from_secs(5), "{framing}: {:?}", begin.elapsed());
        dribbling.join().expect("it has noticed");
    }
    node.must_be_healthy();
}
