//! Refusals of the node and of the upstream, and their responses.

use std::io::Write;

use crate::{
    node,
    support::{
        Node, assert_problem,
        upstream::{self, Upstream},
    },
    whole,
};

#[test]
fn what_the_upstream_refuses_is_refused_with_its_reason() {
    let upstream = Upstream::start(|request, socket| match request.path.as_str() {
        "/204" => upstream::answer(socket, "204 No Content", "text/plain", ""),
        "/404" => upstream::answer(socket, "404 Not Found", "text/plain", "no such\r\nstream here"),
        "/429" => {
            let _ = socket.write_all(b"HTTP/1.1 429 Slow\r\nRetry-After: 77\r\nContent-Length: 0\r\n\r\n");
        }
        "/500" => upstream::answer(socket, "500 Internal Server Error", "text/plain", "it broke"),
        "/json" => upstream::json(socket, &serde_json::json!({ "a": 1 })),
        "/br" => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: br\r\n\r\n";
            let _ = socket.write_all(head.as_bytes());
        }
        _ => upstream::silence(socket),
    });
    let node = node(&upstream, "read_timeout_ms = 300\n");
    let ask = |path: &str| whole(&node, &format!("/api/sse-proxy/up/{path}"), &[]);
    assert_eq!((ask("204").status, ask("204").body.len()), (204, 0));
    let gone = ask("404").problem(404);
    assert!(gone.contains("`up`") && gone.contains("no such stream here"), "{gone}");
    let slow = ask("429");
    slow.problem(429);
    assert_eq!(slow.header("Retry-After"), Some("77"));
    assert!(ask("500").problem(502).contains("it broke"));
    assert!(ask("json").problem(502).contains("application/json"));
    assert!(ask("br").problem(502).contains("br"));
    assert!(ask("mute").problem(504).contains("no response"));
    assert!(ask("mute").problem(504).contains("`up`"));
    assert!(whole(&node, "/api/sse-proxy/other/x", &[]).problem(404).contains("`up`"));
    let wrong = node.request("TRACE", "/api/sse-proxy/up/x", &[], "");
    assert!(wrong.problem(405).contains("GET, HEAD, POST"), "{wrong:?}");
}

/// RFC 9110, section 9.1: a method is any token; those that open a tunnel or reflect credentials are not passed on.
#[test]
fn any_method_is_passed_on_with_its_body() {
    let upstream = Upstream::start(|request, socket| {
        let text = format!("data: {} {}\n\n", request.method, String::from_utf8_lossy(&request.body));
        upstream::answer(socket, "200 OK", "text/event-stream", text);
    });
    let node = node(&upstream, "");
    for method in ["POST", "QUERY", "REPORT", "PUT", "PATCH", "DELETE", "X-ANY"] {
        let headers = [("Content-Type", "text/plain")];
        let mut stream = crate::support::Stream::open(node.socket(), method, "/api/sse-proxy/up/x", &headers, "why");
        assert_eq!((stream.status, stream.next().data), (200, format!("{method} why")));
    }
}

#[test]
fn paths_that_are_not_permitted_are_refused_and_nothing_is_asked() {
    let upstream = Upstream::start(|_, socket| upstream::silence(socket));
    let node = Node::start(&format!("[remotes.up]\nbase_url = \"{}\"\npaths = [\"/ok/*\"]\n", upstream.url("/base")));
    for path in ["x", "", "ok", "ok/../x", "ok/%2e%2e/x", "ok/%2E./x"] {
        let reply = node.raw_get(&format!("/api/sse-proxy/up/{path}"), "");
        assert_problem(path, &reply, &[403]);
        assert!(reply.problem(403).contains("`/ok/*`"), "{path}: {reply:?}");
    }
    for path in ["/ok", "ok/%2f", "ok/%5cx", "ok/a%00", "ok//x", "../../x", "ok/../../../x", "\\x"] {
        assert_problem(path, &node.raw_get(&format!("/api/sse-proxy/up/{path}"), ""), &[400, 403]);
    }
    assert_problem("sample", &node.get("/api/sse-proxy/up/sample-parallel/sse-emitter"), &[403]);
    assert!(upstream.seen("/base/x").is_empty() && upstream.seen("/x").is_empty());
}

/// Any status but 200 would end a browser's EventSource for good.
#[test]
fn an_event_source_gets_the_time_to_reconnect_after_a_temporary_failure() {
    let upstream = Upstream::start(|request, socket| match request.path.as_str() {
        "/503" => {
            let _ = socket.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n");
        }
        "/404" => upstream::answer(socket, "404 Not Found", "text/plain", ""),
        "/529" => upstream::answer(socket, "529 Overloaded", "text/plain", ""),
        _ => upstream::silence(socket),
    });
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound");
    let settings = format!("read_timeout_ms = 300\n[remotes.dead]\nbase_url = \"http://{dead}\"\npaths = [\"/*\"]\n");
    let node = node(&upstream, &settings);
    assert!(whole(&node, "/api/sse-proxy/dead/x", &[]).problem(502).contains("cannot connect"));
    for (path, least, most) in
        [("dead/x", 1500, 4500), ("up/503", 60_000, 63_000), ("up/mute", 1500, 4500), ("up/529", 1500, 4500)]
    {
        let mut stream = node.stream(&format!("/api/sse-proxy/{path}"), &[]);
        assert_eq!((stream.status, stream.header("Content-Type")), (200, Some("text/event-stream")), "{path}");
        let last = stream.next();
        assert_eq!((last.event.as_str(), &last.json()["reason"]), ("disconnect", &"upstream_unavailable".into()));
        assert!(last.json()["detail"].as_str().is_some_and(|detail| detail.starts_with("remote `")), "{last:?}");
        let retry = stream.retry.expect("the time to reconnect");
        assert!((least..=most).contains(&retry), "{path}: {retry}");
        assert!(stream.rest().is_empty());
    }
    assert_eq!(node.stream("/api/sse-proxy/up/404", &[]).status, 404, "a lasting failure keeps its status");
    let post = node.request("POST", "/api/sse-proxy/dead/x", &[("Accept", "text/event-stream")], "{}");
    post.problem(502);
}
