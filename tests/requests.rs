//! Requests that no well-behaved client sends: framing, headers, queries, paths. Every answer is a clear refusal or a
//! working stream, never a 5xx, and the node is well afterwards.

mod support;

use support::{Node, assert_problem, assert_refused};

#[test]
fn broken_framing_is_refused() {
    let node = Node::start("[server]\nbody_timeout_ms = 500");
    let with = |lines: &str| format!("POST /events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{lines}", node.addr);
    for lines in [
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        "Content-Length: -2\r\n\r\n{}",
        "Content-Length: +2\r\n\r\n{}",
        "Content-Length: 99999999999999999999999\r\n\r\n{}",
        "Content-Length: two\r\n\r\n{}",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n\r\n",
        "X: \x01\r\n\r\n",
        "X: a\x00b\r\n\r\n",
        "X : a\r\n\r\n",
        "\u{e9}: a\r\n\r\n",
        "no colon\r\n\r\n",
    ] {
        assert_refused(lines, &node.raw(with(lines)), 400);
    }
    for text in [
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        "GET /healthz HTTP/9.9\r\n\r\n",
        "GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        "{\"topic\":\"a\"}\r\n\r\n",
    ] {
        assert_refused(text, &node.raw(text), 400);
    }
    assert_problem("content coding", &node.raw(with("Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")), &[415]);
    assert_problem("media type", &node.raw(with("Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}")), &[415]);
    let unreadable = [with("Content-Type: ").as_bytes(), b"\xff\r\nContent-Length: 2\r\n\r\n{}"].concat();
    assert_problem("unreadable media type", &node.raw(unreadable), &[415]);
    node.must_be_healthy();
}

#[test]
fn bad_headers_are_refused() {
    let node = Node::start("");
    let path = "/api/sse/managed/connect";
    for name in ["X-Auth-Token", "X-User-ID"] {
        assert_problem(name, &node.raw_get(path, [name.as_bytes(), b": caf\xc3\xa9\r\n"].concat()), &[400]);
        assert_problem(name, &node.raw_get(path, format!("{name}: a b\r\n")), &[400]);
        assert_problem(name, &node.raw_get(path, format!("{name}: {}\r\n", "x".repeat(300))), &[400]);
    }
    assert_problem("bearer", &node.raw_get(path, b"Authorization: Bearer \xff\r\n"), &[400]);
    assert_problem("event id", &node.raw_get(path, format!("Last-Event-ID: {}\r\n", "x".repeat(2000))), &[400]);
    let many = "X: y\r\n".repeat(200);
    assert_refused("200 headers", &node.raw_get("/healthz", many), 431);
    assert_refused("1 MB of header", &node.raw_get("/healthz", format!("X: {}\r\n", "y".repeat(1 << 20))), 431);
    assert_refused("1 MB of header", &node.raw_get(path, format!("X-Auth-Token: {}\r\n", "y".repeat(1 << 20))), 431);
    // Any id opens a stream: at worst the client is told of a gap.
    for id in ["\u{e9}", "0-0", "ffffffffffffffffffff-99999999999999999999", "-", "1-2-3"] {
        let reply = node.raw_get(path, format!("Last-Event-ID: {id}\r\n"));
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{id}: {reply:?}");
    }
    node.must_be_healthy();
}

#[test]
fn bad_queries_are_refused_and_unknown_parameters_are_named() {
    let node = Node::start("");
    let huge = [format!("topic={}", "a".repeat(60_000)), "topic=a&".repeat(7000)];
    for path in ["/api/sse/managed/connect", "/events", "/api/sse/managed/connect/group/g"] {
        for query in [
            "topic=a*b",
            "topic=**",
            "topic=a%20b",
            "topic=%00",
            "topic=",
            "topic=%ff",
            "topics=a,b%0ac",
            "group=a%0ab",
            "nope=1",
            "overflow=x",
            "heartbeat=x",
            "heartbeatMs=1",
            "heartbeatMs=-1",
            "history=-1",
            "history=1&since=1",
            "history=99999999999999999999",
            "since=tomorrow",
            "timeoutMs=18446744073709551615",
            "envelope=maybe",
            "access_token=%0a",
            "access_token=a%20b",
            "=",
            "%",
            "topic=100%",
            &huge[0],
            &huge[1],
        ] {
            let reply = node.raw_get(&format!("{path}?{query}"), "");
            assert_problem(&query[..query.len().min(40)], &reply, &[400, 422]);
        }
        for query in [
            "",
            "&&&",
            "topics=,,,",
            "topic=*",
            "history=18446744073709551615",
            "since=18446744073709551615",
            "heartbeatMs=18446744073709551615",
            "timeoutMs=86400000",
            "retryMs=18446744073709551615",
            "lastEventId=%0d%0a",
        ] {
            let reply = node.raw_get(&format!("{path}?{query}"), "");
            assert_eq!(
                (reply.status, reply.header("content-type")),
                (200, Some("text/event-stream")),
                "{query}: {reply:?}"
            );
        }
    }
    assert_refused("more than any URI may have", &node.raw_get(&format!("/healthz?{}", "a".repeat(70_000)), ""), 414);
    assert_problem("a misspelt parameter", &node.raw_get("/api/jobs?limt=5", ""), &[400]);
    assert!(node.raw_get("/api/jobs?limt=5", "").text().contains("did you mean `limit`?"));
    node.must_be_healthy();
}

#[test]
fn nothing_in_a_path_parameter_does_harm() {
    let node = Node::start("");
    let routes = [
        ("GET", "/api/sse/managed/connect/group/{}"),
        ("GET", "/api/sse/managed/status/user/{}"),
        ("GET", "/api/sse/managed/status/group/{}"),
        ("PATCH", "/api/sse/managed/emitters/{}"),
        ("DELETE", "/api/sse/managed/emitters/{}"),
        ("DELETE", "/api/sse/managed/disconnect/user/{}"),
        ("DELETE", "/api/sse/managed/disconnect/group/{}"),
        ("GET", "/api/topics/{}/events"),
        ("DELETE", "/api/topics/{}"),
        ("POST", "/api/sse/managed/send/user/{}"),
        ("POST", "/api/sse/managed/send/emitter/{}"),
        ("POST", "/api/sse/managed/broadcast/group/{}"),
        ("GET", "/api/jobs/{}"),
        ("DELETE", "/api/jobs/{}"),
        ("GET", "/api/jobs/{}/events"),
        ("POST", "/api/jobs/{}/retry"),
        ("GET", "/api/jobs/{}/tasks/t/result"),
        ("GET", "/api/jobs/j/tasks/{}/result"),
    ];
    for (method, route) in routes {
        let ask = |segment: &str| {
            let path = route.replace("{}", segment);
            let body = if method == "PATCH" { "{}" } else { r#"{"data":1}"# };
            node.raw(format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                node.addr,
                body.len()
            ))
        };
        // Where the name may be anything, it is somebody unknown; nowhere is it a failure.
        for segment in [
            "%00",
            "%0d%0a",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e",
            "..",
            "a%20b",
            "a,b",
            "x*",
            &"x".repeat(300),
            "caf%c3%a9",
        ] {
            let reply = ask(segment);
            let good = reply.status == 200 || [404, 409, 422].contains(&reply.status);
            assert!(good, "{method} {route} with {segment}: {reply:?}");
        }
        for segment in ["../..", "", "a/b/c/d"] {
            assert_problem(&format!("{method} {route} with {segment}"), &ask(segment), &[404, 405]);
        }
        // Another name must not be put in its place: the event would go to the wrong user.
        for segment in ["%ff%fe", "%zz", "%", "%4", "a%e2%82"] {
            assert_problem(&format!("{method} {route} with {segment}"), &ask(segment), &[400]);
        }
        assert_refused(route, &ask("\u{e9}"), 400);
    }
    node.must_be_healthy();
}

#[test]
fn other_methods_and_versions_are_answered() {
    let node = Node::start("");
    let host = format!("Host: {}\r\nConnection: close\r\n", node.addr);
    assert_eq!(node.raw(format!("GET /healthz HTTP/1.0\r\n{host}\r\n")).status, 200);
    assert_eq!(node.raw(format!("GET http://localhost/healthz HTTP/1.1\r\n{host}\r\n")).status, 200);
    assert_problem("no Host in 1.0", &node.raw("GET /healthz HTTP/1.0\r\n\r\n"), &[403]);
    assert_problem("Host that is no text", &node.raw(b"GET /healthz HTTP/1.0\r\nHost: \xff\r\n\r\n"), &[403]);
    for method in ["BREW", "PUT", "TRACE", "DELETE"] {
        assert_problem(method, &node.raw(format!("{method} /events HTTP/1.1\r\n{host}\r\n")), &[405]);
    }
    for line in ["OPTIONS *", "CONNECT example.com:80", "GET /nothing/here"] {
        assert_refused(line, &node.raw(format!("{line} HTTP/1.1\r\n{host}\r\n")), 404);
    }
    for id in ["nobody", "01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        for path in
            [format!("/api/jobs/{id}"), format!("/api/jobs/{id}/events"), format!("/api/jobs/{id}/tasks/1/result")]
        {
            assert_problem(&path, &node.raw_get(&path, ""), &[404]);
        }
    }
    node.must_be_healthy();
}

/// Proxies still speak HTTP/1.0 to what is behind them; it knows no chunks: the stream goes on to the connection's end.
#[test]
fn a_stream_over_http_1_0_has_no_chunks() {
    use std::io::{Read, Write};
    let node = Node::start("");
    let mut socket = node.socket();
    write!(socket, "GET /events?topic=old HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n", node.addr)
        .expect("send");
    node.until_streams(1);
    node.publish("old", "first", &serde_json::json!("hello"));
    let mut text = String::new();
    while !text.contains("data: hello\n\n") {
        let mut buffer = [0; 1024];
        let count = socket.read(&mut buffer).expect("a part of the stream");
        assert_ne!(count, 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..count]).expect("text"));
    }
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("keep-alive"), "{head}");
    assert!(body.starts_with("event: connection\n"), "{body}");
}
