//! Requests that no well-behaved client sends: framing, headers, queries, paths. Every answer is a clear refusal or a
//! working stream, never a 5xx, and the node is well afterwards.

mod support;

use support::{Node, assert_problem, assert_refused, eventually};

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
    let packed = node.raw(with("Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"));
    assert_problem("content coding", &packed, &[415]);
    assert_eq!((packed.header("Accept-Encoding"), packed.header("Accept")), (Some("identity"), None), "{packed:?}");
    let plain = node.raw(with("Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"));
    assert_problem("media type", &plain, &[415]);
    assert_eq!(
        (plain.header("Accept-Encoding"), plain.header("Accept")),
        (None, Some("application/json")),
        "{plain:?}"
    );
    for coding in ["identity", "Identity", "identity, identity", ""] {
        let lines = format!("Content-Encoding: {coding}\r\nContent-Length: 22\r\n\r\n{{\"topic\":\"t\",\"data\":1}}");
        assert_eq!(node.raw(with(&lines)).status, 200, "{coding}");
    }
    let unreadable = [with("Content-Type: ").as_bytes(), b"\xff\r\nContent-Length: 2\r\n\r\n{}"].concat();
    assert_problem("unreadable media type", &node.raw(unreadable), &[415]);
    node.must_be_healthy();
}

#[test]
fn bad_headers_are_refused() {
    let node = Node::start("");
    let path = "/api/sse/managed/connect";
    for name in ["X-Auth-Token", "X-User-ID"] {
        assert_problem(name, &node.raw_get(path, [name.as_bytes(), b": caf\xe9\r\n"].concat()), &[400]);
        let utf8 = node.raw_get(path, [name.as_bytes(), b": caf\xc3\xa9\r\n"].concat());
        assert_eq!(utf8.status, 200, "{name} takes UTF-8: {utf8:?}");
        assert_problem(name, &node.raw_get(path, format!("{name}: a b\r\n")), &[400]);
        assert_problem(name, &node.raw_get(path, format!("{name}: {}\r\n", "x".repeat(300))), &[400]);
    }
    assert_problem("bearer", &node.raw_get(path, b"Authorization: Bearer \xff\r\n"), &[400]);
    assert_problem("event id", &node.raw_get(path, format!("Last-Event-ID: {}\r\n", "x".repeat(2000))), &[400]);
    let many = "X: y\r\n".repeat(200);
    assert_refused("200 headers", &node.raw_get("/healthz", many), 431);
    assert_refused("1 MB of header", &node.raw_get("/healthz", format!("X: {}\r\n", "y".repeat(1 << 20))), 431);
    assert_refused("1 MB of header", &node.raw_get(path, format!("X-Auth-Token: {}\r\n", "y".repeat(1 << 20))), 431);
    // Any id opens a stream: at worst the client gets a gap.
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
        // If the name may be any text, it is an unknown user; it is never a failure.
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
    assert_problem("no Host in 1.0", &node.raw("GET /api/jobs HTTP/1.0\r\n\r\n"), &[403]);
    assert_problem("Host that is no text", &node.raw(b"GET /api/jobs HTTP/1.0\r\nHost: \xff\r\n\r\n"), &[403]);
    for method in ["BREW", "PUT", "TRACE", "DELETE"] {
        assert_problem(method, &node.raw(format!("{method} /events HTTP/1.1\r\n{host}\r\n")), &[405]);
    }
    let all = node.raw(format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"));
    assert_eq!(all.status, 204, "{all:?}");
    assert!(all.header("Allow").is_some_and(|methods| methods.contains("PATCH")), "{all:?}");
    // The host that the target names is not one of this machine.
    assert_problem("CONNECT", &node.raw(format!("CONNECT example.com:80 HTTP/1.1\r\n{host}\r\n")), &[403]);
    for line in ["GET /nothing/here", "OPTIONS /nothing/here"] {
        assert_problem(line, &node.raw(format!("{line} HTTP/1.1\r\n{host}\r\n")), &[404]);
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

/// A browser's EventSource does not come back after a 400, and proxies, links and libraries add parameters of their own.
#[test]
fn unknown_parameters_of_streams_are_ignored_and_named() {
    let node = Node::start("[streams.shop]\ntopics = [\"orders\"]\nconnected_event = \"connected\"\n");
    let job = node.post("/api/jobs", &serde_json::json!({ "tasks": [{ "run": "Calculate Stats" }] }));
    let of_job = job["eventsUrl"].as_str().expect("a path");
    for (path, first) in [
        ("/events", "connection"),
        ("/api/sse/managed/connect", "connection"),
        ("/api/sse/managed/connect/group/g", "connection"),
        ("/api/sse/shop", "connected"),
        ("/api/sse/rate-limited-sse", "connection"),
        (of_job, "connection"),
    ] {
        let added = node.raw_get(&format!("{path}?_=17&utm_source=mail&_sid=x"), "");
        assert_eq!(added.status, 200, "{path}: {added:?}");
        let strange = node.raw_get(&format!("{path}?_=17&lastEventld=9&foo=1&foo=2"), "");
        assert_eq!(strange.json()["code"], "unknown_parameter", "{path}: {strange:?}");
        assert!(strange.problem(400).contains("did you mean `lastEventId`?"), "{path}: {strange:?}");
        let mut stream = node.stream(&format!("{path}?_=17&lastEventld=9&foo=1&foo=2&heartbeat=none"), &[]);
        let frame = stream.until(first).json();
        assert_eq!(frame["ignored"], serde_json::json!(["lastEventld", "foo"]), "{path}: {frame}");
        assert_eq!(node.stream(path, &[]).until(first).json()["ignored"], serde_json::Value::Null, "{path}");
        let refuses = [("Accept", "text/event-stream;q=0, */*")];
        node.request("GET", &format!("{path}?foo=1"), &refuses, "").problem(400);
    }
    let merge = "/api/sse-proxy/merge-streams/sse-emitter?_=17&utm_source=mail&foo=1";
    let headers = [("Content-Type", "application/json")];
    let mut merged = support::Stream::open(node.socket(), "POST", merge, &headers, "[\"/events\"]");
    assert_eq!(merged.until("merge_start").json()["ignored"], serde_json::json!(["foo"]));
    // As many and as long as they like: the frame stays small.
    let many = (0..100).map(|n| format!("&x{n}{}=1", "y".repeat(300))).collect::<Vec<_>>().concat();
    let frame = node.stream(&format!("/events?topic=a{many}"), &[]).until("connection");
    assert_eq!(frame.json()["ignored"].as_array().map(Vec::len), Some(16));
    assert!(frame.data.len() < 3000, "{}", frame.data.len());
    node.get("/api/topics?_=17").problem(400);
}

/// Programs distinguish refusals by their code, and requests by their id.
#[test]
fn a_problem_has_a_code_and_every_answer_an_id() {
    let node = Node::start("");
    let json = [("Content-Type", "application/json")];
    let post = |path: &str, body: &str| node.request("POST", path, &json, body);
    for (code, reply) in [
        ("unknown_route", node.get("/nothing/here")),
        ("unknown_job", node.get("/api/jobs/none")),
        ("unknown_relay", node.get("/api/relays/none")),
        ("unknown_stream", node.get("/api/sse/none")),
        ("unknown_remote", node.get("/api/sse-proxy/none/events")),
        ("path_not_allowed", node.get("/api/sse-proxy/reactive/metrics")),
        ("unknown_webhook", post("/api/webhooks/none", "{}")),
        ("unknown_emitter", node.request("DELETE", "/api/sse/managed/emitters/none", &[], "")),
        ("unknown_parameter", node.get("/api/jobs?limt=1")),
        ("invalid_parameter", node.get("/api/jobs?limit=0")),
        ("method_not_allowed", node.request("PUT", "/events", &[], "")),
        ("malformed_json", post("/events", "{")),
        ("invalid", post("/events", "{\"topic\":1}")),
        ("invalid_topic", post("/events", "{\"topic\":\"a b\",\"data\":1}")),
        ("unsupported_media_type", node.request("POST", "/events", &[("Content-Type", "text/plain")], "{}")),
        ("host_not_allowed", node.raw("GET /events HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")),
        ("origin_not_allowed", node.request("GET", "/events", &[("Origin", "http://evil.example")], "")),
        ("malformed", node.request("GET", "/events", &[("X-User-ID", "a b")], "")),
    ] {
        assert_eq!(reply.json()["code"], code, "{reply:?}");
        let made = reply.header("X-Request-Id").unwrap_or_default();
        assert_eq!(made.len(), 32, "{reply:?}");
    }
    assert!(post("/events", "{\"topic\":1}").json()["errors"][0]["field"] == "topic");
    for (method, path) in
        [("GET", "/healthz"), ("GET", "/"), ("HEAD", "/events"), ("OPTIONS", "/events"), ("GET", "/docs/")]
    {
        let mine = format!("mine-{method}-{}", path.len());
        let reply = node.request(method, path, &[("X-Request-Id", &mine)], "");
        assert_eq!(reply.header("X-Request-Id"), Some(&*mine), "{method} {path}: {reply:?}");
    }
    let stream = node.stream("/events?topic=a", &[("X-Request-Id", "of-a-stream")]);
    assert_eq!(stream.header("X-Request-Id"), Some("of-a-stream"));
    for foul in ["a b", "x\u{e9}", &"x".repeat(129), "{}"] {
        let id = node.request("GET", "/healthz", &[("X-Request-Id", foul)], "");
        assert!(id.header("X-Request-Id").is_some_and(|id| id.len() == 32 && id != foul), "{id:?}");
    }
    let event = "{\"topic\":\"t\",\"data\":1}";
    let headers = [json[0], ("X-Request-Id", "known-by-its-line")];
    assert_eq!(node.request("POST", "/events", &headers, event).status, 200);
    // A thread of its own writes the log, so the line may come after the response.
    let line = eventually(|| node.log().lines().find(|line| line.contains("event published")).map(str::to_owned));
    assert!(line.contains("known-by-its-line"), "{line}");
}

/// A trace of a request continues in the requests of its job; without one nothing claims to be sampled.
#[test]
fn a_trace_goes_on_in_the_requests_of_tasks() {
    use support::upstream::Upstream;
    let upstream = Upstream::start(|_, socket| support::upstream::json(socket, &serde_json::json!(1)));
    let node = Node::start(&upstream.allowed());
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let own = format!("00-{trace}-00f067aa0ba902b7-01");
    for (path, headers, begins, ends) in [
        ("/traced", vec![("traceparent", own.as_str())], format!("00-{trace}-"), "-01"),
        ("/plain", vec![], "00-".to_owned(), "-00"),
        ("/foul", vec![("traceparent", "00-x-y-01")], "00-".to_owned(), "-00"),
    ] {
        let job = serde_json::json!({ "tasks": [{ "url": upstream.url(path) }] }).to_string();
        let headers = [vec![("Content-Type", "application/json")], headers].concat();
        assert_eq!(node.request("POST", "/api/jobs", &headers, job).status, 202);
        let request = eventually(|| upstream.seen(path).pop());
        let sent = request.header("traceparent").expect("it is sent");
        assert!(sent.starts_with(&begins) && sent.ends_with(ends) && sent != own, "{path}: {sent}");
    }
}

/// A byte order mark before JSON may be ignored (RFC 8259, section 8.1).
#[test]
fn a_byte_order_mark_before_a_body_is_ignored() {
    let node = Node::start("");
    for (path, body, status) in [
        ("/events", "{\"topic\":\"t\",\"data\":1}", 200),
        ("/api/sse/managed/send/user/u", "{\"a\":1}", 200),
        ("/api/jobs", "{\"tasks\":[{\"run\":\"Calculate Stats\"}]}", 202),
    ] {
        let reply = node.raw_post(path, format!("\u{feff}{body}"));
        assert_eq!(reply.status, status, "{path}: {reply:?}");
    }
    assert_problem("only a mark", &node.raw_post("/events", "\u{feff}"), &[400]);
    assert_problem("two marks", &node.raw_post("/events", "\u{feff}\u{feff}{}"), &[400]);
}

/// Proxies still use HTTP/1.0 to their servers. It has no chunks: the stream lasts to the connection's end.
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
    assert!(body.starts_with("id: ") && body.lines().nth(1) == Some("event: connection"), "{body}");
}
