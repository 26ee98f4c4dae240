//! Malicious requests: each is refused with the right status or has no effect, and the node still works. Malformed
//! requests are in `requests.rs` (heads) and `abuse.rs` (bodies).

mod support;

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use support::{Node, assert_problem, upstream};

/// What may stand for a name in a path and should mean no file, no other path and no other header.
const SEGMENTS: [&str; 20] = [
    "..",
    ".",
    "%2e%2e",
    "%2E%2E%2F%2E%2E",
    ".%2e",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "..\\..\\etc\\passwd",
    "%2fetc%2fpasswd",
    "%2f",
    "%5c",
    "%252e%252e%252f",
    "..;%2fx",
    "%00",
    "passwd%00.json",
    "%0d%0aX-Injected:%20yes",
    "%0aX-Injected:%20yes",
    "%e2%80%ae",
    "%c0%ae%c0%ae",
    "file:%2f%2f%2fetc%2fpasswd",
];

/// Of every route with a name in its path, as the document lists them.
#[test]
fn no_name_in_a_path_leads_anywhere_else() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let names: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        for (method, name) in
            item.as_object().expect("operations").keys().flat_map(|m| names.iter().map(move |n| (m, n)))
        {
            for segment in SEGMENTS {
                let mut target = path.replace(&format!("{{{name}}}"), segment);
                for other in &names {
                    target = target.replace(&format!("{{{other}}}"), if *other == "remote" { "reactive" } else { "x" });
                }
                let what = format!("{} {target}", method.to_uppercase());
                let reply = node.raw(format!(
                    "{what} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{{\"data\":1}}",
                    node.addr
                ));
                tried += 1;
                assert!(matches!(reply.status, 200 | 204 | 400 | 403 | 404 | 405 | 409 | 422), "{what}: {reply:?}");
                assert_eq!(reply.header("X-Injected"), None, "{what}: {reply:?}");
                assert!(!reply.text().contains("root:"), "{what}: {reply:?}");
                if reply.status >= 400 && !reply.body.is_empty() {
                    assert_problem(&what, &reply, &[reply.status]);
                }
            }
        }
    }
    assert!(tried > 400, "{tried} requests");
    node.must_be_healthy();
}

#[test]
fn line_breaks_end_no_field_of_a_stream() {
    let node = Node::start("");
    let mut stream = node.stream("/events?topic=t", &[]);
    stream.until("connection");
    for field in ["event", "id"] {
        for text in ["a\nb", "a\rb", "a\r\n\r\ndata: forged", "a\0b"] {
            let mut event = json!({ "topic": "t", "data": 1 });
            event[field] = json!(text);
            let reply = node.json("POST", "/events", &event);
            assert!(reply.problem(422).contains(field), "{reply:?}");
        }
    }
    for path in ["/api/sse/managed/send/user/1", "/api/sse/managed/send/emitter/x"] {
        for text in ["a%0ab", "a%0d%0a%0d%0adata:%20forged", "a%00b"] {
            assert_problem(text, &node.raw_post(&format!("{path}?event={text}"), "1"), &[422]);
        }
    }
    // What may have line breaks keeps them to itself.
    let comment = json!({ "topic": "t", "event": "real", "data": "a\n\nevent: forged\ndata: b", "comment": "x\n\nevent: forged\rdata: y\r\n\r\n" });
    assert_eq!(node.json("POST", "/events", &comment).status, 200);
    let real = stream.next();
    assert_eq!((real.event.as_str(), real.data.as_str()), ("real", "a\n\nevent: forged\ndata: b"));
    node.publish("t", "last", &json!(1));
    assert_eq!(stream.next().event, "last", "nothing was forged between the two");
    node.must_be_healthy();
}

#[test]
fn line_breaks_end_no_field_of_a_request_that_goes_out() {
    let source = upstream::Upstream::start(|_, socket| {
        upstream::answer(socket, "200 OK", "text/event-stream", "id: 1\r\nX-Injected: yes\rdata: a\n\n");
    });
    let node = Node::start(&format!(
        "{}[remotes.far]\nbase_url = \"{}\"\npaths = [\"/s\"]\n",
        source.allowed(),
        source.url("")
    ));
    for value in ["a\nX-Injected: yes", "a\r\nX-Injected: yes", "a\0b"] {
        let task = json!({ "tasks": [{ "url": source.url("/task"), "headers": { "X-Own": value } }] });
        assert!(node.json("POST", "/api/jobs", &task).problem(422).contains("headers"));
        let task = json!({ "tasks": [{ "url": source.url("/task"), "headers": { value: "x" } }] });
        assert!(node.json("POST", "/api/jobs", &task).problem(422).contains("headers"));
        let relay =
            json!({ "topic": "t", "sources": [{ "remote": "far", "path": "/s", "headers": { "X-Own": value } }] });
        assert_problem(value, &node.json("POST", "/api/relays", &relay), &[422]);
        let merge = json!([{ "remote": "far", "path": "/s", "headers": { "X-Own": value } }]);
        assert_problem(value, &node.json("POST", "/api/sse-proxy/merge-streams/sse-emitter", &merge), &[422]);
    }
    assert!(source.seen("/task").is_empty() && source.seen("/s").is_empty(), "nothing was sent");
    let reply = node.raw_get("/api/sse-proxy/far/s?lastEventId=a%0d%0aX-Injected:%20yes", "");
    assert_eq!((reply.status, reply.header("X-Injected")), (200, None), "{reply:?}");
    let asked = source.seen("/s");
    assert_eq!((asked.len(), asked[0].header("X-Injected"), asked[0].header("Last-Event-ID")), (1, None, None));
    node.must_be_healthy();
}

/// A few kilobytes that unpack to very much more.
#[test]
fn a_zip_bomb_as_the_answer_to_a_task_is_unpacked_no_further_than_its_bound() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..256 {
        packed.write_all(&vec![b' '; 1 << 20]).expect("into memory");
    }
    let bomb = packed.finish().expect("into memory");
    assert!(bomb.len() < 1 << 20);
    let source = upstream::Upstream::start(move |request, socket| {
        let media = if request.path == "/stream" { "text/event-stream" } else { "application/json" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            bomb.len()
        );
        let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&bomb));
    });
    let node = Node::start(&source.allowed());
    let before = node.resident();
    for path in ["/json", "/stream"] {
        let mut job = node.post_stream("/api/sse/parallel-tasks", &json!({ "tasks": [{ "url": source.url(path) }] }));
        let error = job.until("error").json();
        let code = error["code"].as_str().unwrap_or_default();
        assert!(["response_too_large", "event_too_large", "bad_stream"].contains(&code), "{error}");
        assert_eq!(job.until("complete").json()["status"], "failed");
    }
    let grown = node.resident().saturating_sub(before);
    assert!(grown < 32 << 20, "512 MiB in two answers cost {grown} bytes");
    node.must_be_healthy();
}

#[test]
fn the_metadata_of_a_connection_are_bounded() {
    let node = Node::start("");
    let mut own = node.stream("/events?topic=t&meta.a=1", &[]);
    let emitter = own.until("connection").json()["emitterId"].as_str().expect("an id").to_owned();
    let many: Vec<String> = (0..33).map(|n| format!("meta.k{n}=1")).collect();
    let long = format!("meta.a={}", "x".repeat(4096));
    let name = format!("meta.{}=1", "x".repeat(4096));
    for query in [many.join("&"), long, name] {
        assert_problem(&query[..20], &node.raw_get(&format!("/events?{query}"), ""), &[400]);
    }
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("k{n}"), json!(1))).collect();
    for meta in [Value::from(many), json!({ "a": "x".repeat(4096) }), json!({ "a": { "b": 1 } }), json!({ "a": [1] })] {
        let path = format!("/api/sse/managed/emitters/{emitter}");
        assert_problem("metadata", &node.json("PATCH", &path, &json!({ "meta": meta })), &[422]);
    }
    let topics: Vec<String> = (0..257).map(|n| format!("topic=t{n}")).collect();
    assert_problem("257 topics", &node.raw_get(&format!("/events?{}", topics.join("&")), ""), &[422]);
    node.publish("t", "after", &json!(1));
    assert_eq!(own.next().event, "after", "others are unaffected");
    node.must_be_healthy();
}
