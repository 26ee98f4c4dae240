//! Merged streams: all of each source, in its order, and no source that holds up another.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

mod loops;
#[path = "../support/mod.rs"]
mod support;
mod waiting;

use support::{
    Event, Node, PATIENCE, Stream, eventually,
    upstream::{self, Request, Upstream},
};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const MERGE: &str = "/api/sse-proxy/merge-streams/sse-emitter";

/// A node whose default remote is this upstream.
fn node(upstream: &Upstream, settings: &str) -> Node {
    let relay = "[relay]\ndefault_remote = \"up\"\ninitial_retry_ms = 20\nmax_retry_ms = 50\n";
    Node::start(&format!("{relay}[remotes.up]\nbase_url = \"{}\"\npaths = [\"/*\"]\n{settings}", upstream.url("")))
}

fn send(socket: &mut TcpStream, text: &str) -> bool {
    socket.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).is_ok()
}

fn open(socket: &mut TcpStream) {
    // The client may have gone; that is its right.
    let _ = socket.write_all(HEAD.as_bytes());
}

fn end(socket: &mut TcpStream) {
    let _ = socket.write_all(b"0\r\n\r\n");
}

/// `/count/N`: events that say who they are and which; `/stuck` and `/missing` are what they say.
fn counting(request: &Request, socket: &mut TcpStream) {
    if request.path.starts_with("/missing") {
        return upstream::answer(socket, "404 Not Found", "text/plain", "nothing here");
    }
    open(socket);
    if request.path.starts_with("/stuck") {
        let _ = socket.read(&mut [0]);
        return;
    }
    let count: u64 = request.path.rsplit('/').next().and_then(|count| count.parse().ok()).expect("a count");
    let name = request.path.split('/').nth(1).expect("a name");
    for n in 0..count {
        send(socket, &format!("id: {n}\nevent: tick\ndata: {{\"from\":\"{name}\",\"n\":{n}}}\n\n"));
    }
    end(socket);
}

fn start_of(stream: &mut Stream) -> Value {
    let start = stream.next();
    assert_eq!((start.event.as_str(), start.id.as_str()), ("merge_start", ""));
    start.json()
}

#[test]
fn the_guides_example_merges_three_streams_of_a_second_node() {
    let reactive = Node::start("");
    let node = Node::start(&format!("[remotes.reactive]\nbase_url = \"http://{}\"\n", reactive.addr));
    let paths = ["/api/sse/sample-parallel", "/api/sse/flow-example", "/api/sse/parallel-tasks-progress"];
    let headers = [("X-Auth-Token", "t"), ("Content-Type", "application/json")];
    let mut stream = Stream::open(node.socket(), "POST", MERGE, &headers, &json!(paths).to_string());
    assert_eq!((stream.status, stream.header("Content-Type")), (200, Some("text/event-stream")));
    let endpoints: Vec<Value> =
        paths.iter().map(|path| json!({ "source": path, "remote": "reactive", "path": path })).collect();
    assert_eq!(start_of(&mut stream), json!({ "totalStreams": 3, "endpoints": endpoints }));
    let mut events = stream.rest();
    let last = events.pop().expect("it has events");
    assert_eq!(last.event, "merge_complete");
    let ended = events.iter().filter(|event| event.event == "complete").count();
    let expected = json!({ "totalStreams": 3, "completed": 3, "failed": 0, "events": events.len() });
    assert_eq!((ended, last.json()), (3, expected));
    assert!(events.iter().all(|event| event.id.is_empty()), "positions of other journals mean nothing here");
    let control = ["connection", "heartbeat", "disconnect"];
    assert!(events.iter().all(|event| !control.contains(&event.event.as_str())), "{events:?}");
    assert!(stream.finished);
}

/// Reads to the end and checks that each source's events are all there, once, in order; the last frame.
fn assert_all(stream: &mut Stream, sources: usize, each: u64, also: impl Fn(&Event)) -> Value {
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let event = stream.next();
        match event.event.as_str() {
            "tick" => {
                let data = event.json();
                let n = next.entry(data["from"].as_str().expect("a name").to_owned()).or_default();
                assert_eq!(data["n"], *n, "{event:?}");
                *n += 1;
            }
            "merge_complete" => {
                assert_eq!((next.len(), next.values().all(|n| *n == each)), (sources, true), "{next:?}");
                return event.json();
            }
            _ => also(&event),
        }
    }
}

#[test]
fn two_hundred_streams_become_one_and_nothing_is_missing_or_twice() {
    let upstream = Upstream::start(counting);
    let node = node(&upstream, "");
    let paths: Vec<String> = (0..200).map(|n| format!("/s{n}/100")).collect();
    let begin = Instant::now();
    let mut stream = node.post_stream(MERGE, &json!(paths));
    assert_eq!(start_of(&mut stream)["totalStreams"], 200);
    let whole = assert_all(&mut stream, 200, 100, |event| panic!("unexpected: {event:?}"));
    println!("20,000 events of 200 streams in {:?}", begin.elapsed());
    assert_eq!(whole, json!({ "totalStreams": 200, "completed": 200, "failed": 0, "events": 20_000 }));
    assert!(stream.rest().is_empty() && stream.finished);
    eventually(|| (node.get("/api/sse-proxy/connections").json()["total"] == 0).then_some(()));
}

#[test]
fn a_failed_source_is_reported_and_the_others_complete() {
    let upstream = Upstream::start(counting);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound");
    let settings = format!("[remotes.dead]\nbase_url = \"http://{dead}\"\npaths = [\"/*\"]\nmax_retries = 1\n");
    let node = node(&upstream, &settings);
    let sources = json!(["/a/50", "/missing", { "remote": "dead", "path": "/x", "label": "the dead one" }, "/b/50"]);
    let mut stream = node.post_stream(MERGE, &sources);
    assert_eq!(
        start_of(&mut stream)["endpoints"][2],
        json!({ "source": "the dead one", "remote": "dead", "path": "/x" })
    );
    let reported = std::cell::RefCell::new(Vec::new());
    let whole = assert_all(&mut stream, 2, 50, |event| {
        assert_eq!(event.event, "merge_error");
        reported.borrow_mut().push(event.json());
    });
    assert_eq!(whole, json!({ "totalStreams": 4, "completed": 2, "failed": 2, "events": 100 }));
    let reported = reported.into_inner();
    let of = |source: &str| reported.iter().find(|error| error["source"] == source).expect("it is reported");
    assert_eq!(of("/missing")["code"], "http_status");
    assert!(
        of("/missing")["error"].as_str().is_some_and(|error| error.contains("404") && error.contains("nothing here"))
    );
    assert_eq!((reported.len(), &of("the dead one")["code"]), (2, &"connect_failed".into()));
}

#[test]
fn a_stuck_source_and_a_fast_one_delay_no_other() {
    let upstream = Upstream::start(|request, socket| {
        if request.path != "/firehose" {
            return counting(request, socket);
        }
        open(socket);
        let piece = format!("event: noise\ndata: {}\n\n", "x".repeat(200)).repeat(50);
        while send(socket, &piece) {}
    });
    let node = node(&upstream, "");
    let mut stream = node.post_stream(MERGE, &json!(["/firehose", "/stuck", "/a/2000", "/b/2000"]));
    start_of(&mut stream);
    let (mut ticks, mut noise) = (0, 0);
    while ticks < 4000 {
        match stream.next().event.as_str() {
            "tick" => ticks += 1,
            _ => noise += 1,
        }
    }
    assert!(noise > 0, "the firehose runs meanwhile");
    println!("4,000 events beside {noise} of a firehose");
    // Who leaves closes all of them.
    drop(stream);
    eventually(|| (node.get("/api/sse-proxy/connections").json()["total"] == 0).then_some(()));
}

#[test]
fn a_source_that_breaks_goes_on_where_it_was_without_a_word() {
    let upstream = Upstream::start(|request, socket| {
        let after: Option<u64> = request.header("Last-Event-ID").and_then(|id| id.parse().ok());
        let first = after.map_or(0, |id| id + 1);
        open(socket);
        for n in first..first + 3 {
            send(socket, &format!("id: {n}\nevent: tick\ndata: {{\"from\":\"a\",\"n\":{n}}}\n\n"));
        }
        if first >= 9 {
            end(socket);
        }
    });
    let node = node(&upstream, "");
    let mut stream = node.post_stream(MERGE, &json!(["/broken"]));
    start_of(&mut stream);
    let whole = assert_all(&mut stream, 1, 12, |event| panic!("unexpected: {event:?}"));
    assert_eq!(whole, json!({ "totalStreams": 1, "completed": 1, "failed": 0, "events": 12 }));
    assert_eq!(upstream.seen("/broken").len(), 4);
}

/// Data without a reader is not requested: the upstream cannot continue to write, and the node holds almost nothing.
#[test]
fn a_reader_that_does_not_read_slows_the_sources_down() {
    const PIECE: usize = 64 << 10;
    let (written, total) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (own, count) = (written.clone(), total.clone());
    let upstream = Upstream::start(move |_, socket| {
        open(socket);
        let _ = socket2::SockRef::from(&*socket).set_send_buffer_size(64 << 10);
        let piece = format!("data: {}\n\n", "x".repeat(PIECE - 8));
        for _ in 0..1000 {
            if !send(socket, &piece) {
                return;
            }
            own.fetch_add(piece.len(), Relaxed);
        }
        count.fetch_add(1, Relaxed);
        end(socket);
    });
    let node = node(&upstream, "[server]\nsend_buffer_bytes = 16384\n");
    let before = node.resident();
    let body = json!(["/a", "/b"]).to_string();
    let mut socket = node.tight_socket();
    write!(
        socket,
        "POST {MERGE} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        node.addr,
        body.len()
    )
    .expect("send");
    // It comes to a halt.
    let mut last = (0, Instant::now());
    eventually(|| {
        let now = written.load(Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let grown = node.resident().saturating_sub(before);
    println!("stalled after {} bytes of two sources, {grown} bytes more in the node", last.0);
    assert!(last.0 < 8 << 20, "{} bytes could be written to a node whose client reads nothing", last.0);
    // A fresh process grows by some with its first stream, whatever that brings.
    assert!(grown < 16 << 20, "{grown} bytes more");
    // It continues when it reads.
    let mut sink = vec![0; 1 << 20];
    let deadline = Instant::now() + PATIENCE * 3;
    while total.load(Relaxed) < 2 {
        assert!(Instant::now() < deadline, "only {} bytes", written.load(Relaxed));
        assert!(socket.read(&mut sink).expect("it continues") > 0);
    }
    assert!(node.resident().saturating_sub(before) < 24 << 20);
}

#[test]
fn an_envelope_names_the_source_of_an_event() {
    let upstream = Upstream::start(|_, socket| {
        open(socket);
        send(socket, "id: 7\nevent: x\ndata: {\"n\":1}\n\ndata: text\n\n");
        end(socket);
    });
    let node = node(&upstream, "");
    let sources = json!([{ "path": "/a?b=c", "label": "first" }]);
    let mut stream = node.post_stream(&format!("{MERGE}?envelope=true"), &sources);
    start_of(&mut stream);
    let first = stream.next();
    assert_eq!(first.json(), json!({ "source": "first", "event": "x", "id": "7", "data": { "n": 1 } }));
    assert_eq!((first.event.as_str(), first.id.as_str()), ("x", ""));
    let second = stream.next();
    assert_eq!(second.json(), json!({ "source": "first", "event": "message", "id": "7", "data": "text" }));
    assert_eq!(second.event, "message");
}

#[test]
fn each_source_is_asked_as_it_was_written() {
    let upstream = Upstream::start(|_, socket| {
        open(socket);
        end(socket);
    });
    let node = node(&upstream, "headers = { \"X-Key\" = \"the-remotes\" }\n");
    let headers = json!({ "X-Mine": "1", "X-Key": "forged" });
    let sources = json!([{ "path": "/post", "method": "POST", "headers": headers, "body": { "a": [1] } }, "/get?q=1"]);
    let mut stream = node.post_stream(MERGE, &sources);
    assert_eq!(stream.rest().last().map(|event| event.event.as_str()), Some("merge_complete"));
    let post = &upstream.seen("/post")[0];
    assert_eq!((post.method.as_str(), post.body.as_slice()), ("POST", &b"{\"a\":[1]}"[..]));
    assert_eq!((post.header("X-Mine"), post.header("X-Key")), (Some("1"), Some("the-remotes")));
    assert_eq!(post.header("Content-Type"), Some("application/json"));
    assert_eq!(upstream.seen("/get?q=1")[0].header("Accept"), Some("text/event-stream"));
}

#[test]
fn mistakes_are_found_before_anything_is_asked_for() {
    let upstream = Upstream::start(|_, socket| upstream::silence(socket));
    let node = Node::start(&format!(
        "[relay]\nmax_sources = 3\ndefault_remote = \"up\"\n[remotes.up]\nbase_url = \"{}\"\n",
        upstream.url("")
    ));
    let ask = |body: Value| node.json("POST", MERGE, &body);
    let wrong = ask(json!(["/api/sse/a", "/other", { "path": "/api/sse/a", "remote": "b" }]));
    wrong.problem(422);
    let fields: Vec<Value> =
        wrong.json()["errors"].as_array().expect("errors").iter().map(|error| error["field"].clone()).collect();
    assert_eq!(fields, ["[1].path", "[2].remote"]);
    assert!(ask(json!([])).problem(422).contains("1 to 3"));
    assert!(ask(json!(["/a", "/a", "/a", "/a"])).problem(422).contains("max_sources"));
    assert!(ask(json!([{ "path": "/api/sse/a", "lable": "x" }])).problem(422).contains("lable"));
    ask(json!({ "path": "/api/sse/a" })).problem(422);
    assert_eq!(node.raw_post(MERGE, "[").status, 400);
    let query = |query: &str| node.json("POST", &format!("{MERGE}?{query}"), &json!(["/api/sse/a"])).problem(400);
    assert!(query("heartbeatMs=5").contains("1000"));
    assert!(query("envelop=true").contains("`envelope`"));
    assert!(upstream.seen("/api/sse/a").is_empty());
}

#[test]
fn silence_is_filled_and_a_stop_is_announced() {
    let upstream = Upstream::start(counting);
    let mut node = node(&upstream, "[server]\ndrain_ms = 800\n");
    let mut stream = node.post_stream(&format!("{MERGE}?heartbeatMs=1000"), &json!(["/stuck", "/stuck"]));
    assert_eq!(start_of(&mut stream)["endpoints"][1]["source"], "/stuck#2");
    let beat = stream.next();
    assert_eq!(beat.event, "heartbeat");
    assert!(beat.json()["timestamp"].is_u64());
    assert_eq!(stream.next().event, "heartbeat");
    let begin = Instant::now();
    node.signal(Signal::TERM);
    let last = stream.until("disconnect");
    assert_eq!(last.json(), json!({ "reason": "shutdown" }));
    assert!(stream.rest().is_empty() && stream.finished && stream.retry.is_some());
    assert_eq!(node.exited(), Some(0));
    assert!(begin.elapsed() < Duration::from_millis(2800), "{:?}", begin.elapsed());
}

#[test]
fn a_gap_of_a_remote_node_is_reported_and_its_other_frames_are_not() {
    let upstream = Upstream::start(|_, socket| {
        open(socket);
        let greeting =
            json!({ "status": "connected", "emitterId": "e", "resume": { "from": "a-1", "status": "live" } });
        send(socket, &format!("event: connection\nretry: 10\ndata: {greeting}\n\n"));
        send(socket, "event: heartbeat\ndata: {}\n\nevent: gap\ndata: {\"reason\":\"trimmed\"}\n\n");
        send(socket, "id: a-2\nevent: heartbeat\ndata: published\n\n");
        end(socket);
    });
    let node = node(&upstream, "");
    let mut stream = node.post_stream(MERGE, &json!(["/events"]));
    let names: Vec<(String, String)> = stream
        .rest()
        .into_iter()
        .map(|event| (event.event, event.data))
        .filter(|(name, _)| !name.starts_with("merge"))
        .collect();
    let passed = [("remote.gap", "{\"reason\":\"trimmed\"}"), ("remote.heartbeat", "published")];
    assert_eq!(names, passed.map(|(name, data)| (name.to_owned(), data.to_owned())));
}

/// The guard against clients that flood their connection counts polls that bring nothing; upstreams cause such, too.
#[test]
fn an_event_that_comes_in_very_many_pieces_ends_nothing() {
    const LENGTH: usize = 15_000;
    let upstream = Upstream::start(|_, socket| {
        let _ = socket.set_nodelay(true);
        open(socket);
        send(socket, "data: ");
        for _ in 0..LENGTH {
            send(socket, "x");
        }
        send(socket, "\n\n");
        end(socket);
    });
    let node = node(&upstream, "");
    let mut stream = node.post_stream(MERGE, &json!(["/a", "/b"]));
    start_of(&mut stream);
    let events = stream.rest();
    assert_eq!(events.len(), 3, "{:?}", events.iter().map(|event| &event.event).collect::<Vec<_>>());
    assert!(events[..2].iter().all(|event| event.data.len() == LENGTH) && stream.finished);
}
