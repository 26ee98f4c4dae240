//! Limits per user and per address: the refusals, their responses, and the independence of other callers.

use std::{
    cell::Cell,
    io::Write,
    net::{IpAddr, SocketAddr, TcpStream},
};

use serde_json::json;
use socket2::{Domain, Socket, Type};

mod support;

use support::{Event, Node, PATIENCE, Reply, Stream, eventually, steady::noise};

const CONNECT: &str = "/api/sse/managed/connect";
const TOPICS: &str = "/api/topics";
const ME: (&str, &str) = ("X-User-ID", "me");
const YOU: (&str, &str) = ("X-User-ID", "you");

/// A connection from another address of this machine.
fn socket_from(node: &Node, source: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source: IpAddr = source.parse().expect("an address");
    socket.bind(&SocketAddr::new(source, 0).into()).expect("all of 127.0.0.0/8 is this machine's");
    socket.connect(&node.addr.into()).expect("connect");
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn get_from(node: &Node, source: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut socket = socket_from(node, source);
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", node.addr);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    socket.write_all(format!("{head}\r\n").as_bytes()).expect("send");
    Reply::read(socket)
}

fn stream_from(node: &Node, source: &str, path: &str, headers: &[(&str, &str)]) -> Stream {
    Stream::open(socket_from(node, source), "GET", path, headers, "")
}

fn number(reply: &Reply, name: &str) -> u64 {
    reply.header(name).unwrap_or_else(|| panic!("no {name}: {reply:?}")).parse().expect("a number")
}

/// A stream that is refused for now: 200, when to come back, why, and the end.
#[track_caller]
fn assert_refused_for_now(mut stream: Stream, reason: &str) {
    let message = stream.next();
    assert_refusal(stream, &message, reason);
}

#[track_caller]
fn assert_refusal(mut stream: Stream, message: &Event, reason: &str) {
    assert_eq!((stream.status, stream.header("Content-Type")), (200, Some("text/event-stream")), "{}", stream.head);
    assert_eq!(
        (message.event.as_str(), message.json()["reason"].as_str()),
        ("disconnect", Some(reason)),
        "{message:?}"
    );
    assert!(message.json()["detail"].is_string(), "{message:?}");
    assert!(stream.retry.is_some_and(|retry| retry > 0));
    assert!(stream.rest().is_empty());
}

/// A refusal by a rate: on a slow machine a part may have been refilled meanwhile.
#[track_caller]
fn assert_soon_refused_for_now(open: impl Fn() -> Stream, reason: &str) {
    let refused = (0..50).find_map(|_| {
        let mut stream = open();
        let message = stream.next();
        (message.event == "disconnect").then_some((stream, message))
    });
    let (stream, message) = refused.expect("the rate refuses");
    assert_refusal(stream, &message, reason);
}

/// The first answer that is a refusal.
#[track_caller]
fn refusal(ask: impl FnMut() -> Reply) -> Reply {
    std::iter::repeat_with(ask).take(150).find(|reply| reply.status == 429).expect("a refusal")
}

/// An open stream: its first frame has come.
#[track_caller]
fn assert_open(mut stream: Stream) -> Stream {
    assert_eq!(stream.next().event, "connection", "{}", stream.head);
    stream
}

#[test]
fn above_its_rate_a_user_gets_429_and_the_time_to_retry() {
    let node = Node::start("[limits]\nrequests_per_minute = 12");
    let get = |user| node.request("GET", TOPICS, &[user], "");
    let first = get(ME);
    assert_eq!((first.status, number(&first, "RateLimit-Limit"), number(&first, "RateLimit-Remaining")), (200, 12, 11));
    assert!(number(&first, "RateLimit-Reset") <= 5);
    let refused = refusal(|| get(ME));
    assert!(refused.problem(429).contains("limits.requests_per_minute"), "{refused:?}");
    assert_eq!((number(&refused, "RateLimit-Limit"), number(&refused, "RateLimit-Remaining")), (12, 0));
    let wait = number(&refused, "Retry-After");
    assert!((1..=5).contains(&wait), "{refused:?}");
    assert!((50..=60).contains(&number(&refused, "RateLimit-Reset")));
    assert_eq!(get(YOU).status, 200, "another user is not concerned");
    assert_eq!(node.get(TOPICS).status, 200, "nor who gives no name");
    assert_soon_refused_for_now(|| node.stream("/events", &[ME]), "rate_limited");
    assert_eq!(node.get("/healthz").header("RateLimit-Limit"), None, "health is never limited");
    let again = eventually(|| Some(get(ME)).filter(|reply| reply.status == 200));
    assert_eq!(number(&again, "RateLimit-Remaining"), 0);
    assert!(node.metric("millstream_limited_total{limit=\"requests_per_minute\"}") >= 2.0);
    assert!(node.metric("millstream_limited_callers") >= 2.0);
}

#[test]
fn an_address_is_limited_whatever_users_it_names() {
    let node = Node::start("[limits]\nrequests_per_minute_per_address = 10");
    let from = |source, user: &str| get_from(&node, source, TOPICS, &[("X-User-ID", user)]);
    let passed = (0..30).filter(|n| from("127.0.0.2", &format!("u{n}")).status == 200).count();
    assert!((10..=16).contains(&passed), "{passed}");
    assert!(refusal(|| from("127.0.0.2", "another")).problem(429).contains("requests_per_minute_per_address"));
    assert_eq!(from("127.0.0.3", "another").status, 200);
}

#[test]
fn who_gives_no_name_is_counted_by_address() {
    let node = Node::start("[limits]\nrequests_per_minute = 5");
    let passed = (0..20).filter(|_| get_from(&node, "127.0.0.2", TOPICS, &[]).status == 200).count();
    assert!((5..=8).contains(&passed), "{passed}");
    assert_eq!(get_from(&node, "127.0.0.3", TOPICS, &[]).status, 200);
    assert_eq!(get_from(&node, "127.0.0.2", TOPICS, &[ME]).status, 200);
}

#[test]
fn forwarded_addresses_are_believed_from_trusted_proxies_alone() {
    let limits = "[limits]\nrequests_per_minute_per_address = 3";
    let direct = Node::start(limits);
    for (source, header, prefix) in [("127.0.0.2", "X-Forwarded-For", ""), ("127.0.0.3", "Forwarded", "for=")] {
        let get = |n: usize| get_from(&direct, source, TOPICS, &[(header, &format!("{prefix}192.0.2.{n}"))]);
        let passed = (0..9).filter(|n| get(*n).status == 200).count();
        assert!((3..=4).contains(&passed), "{header} of a stranger is not believed: {passed}");
    }
    let behind = Node::start(&format!("[server]\ntrusted_proxies = [\"127.0.0.9\"]\n{limits}"));
    let via = |source, client: &str| get_from(&behind, source, TOPICS, &[("X-Forwarded-For", client)]).status;
    for n in 0..9 {
        assert_eq!(via("127.0.0.9", &format!("192.0.2.{n}")), 200);
    }
    let one = (0..9).filter(|n| via("127.0.0.9", &format!("6.6.6.{n}, 192.0.2.100")) == 200).count();
    assert!((3..=4).contains(&one), "what a client writes before the proxy's own entry counts for nothing: {one}");
    let stranger = (0..9).filter(|n| via("127.0.0.8", &format!("192.0.2.{n}")) == 200).count();
    assert!((3..=4).contains(&stranger), "{stranger}");
}

#[test]
fn a_user_has_a_number_of_streams_and_gets_a_permit_back_when_one_ends() {
    let node = Node::start("[limits]\nconnections_per_user = 2");
    let first = assert_open(node.stream(CONNECT, &[ME]));
    let _second = assert_open(node.stream("/events", &[ME]));
    assert_refused_for_now(node.stream(CONNECT, &[ME]), "too_many_streams");
    assert_refused_for_now(node.stream("/api/sse/sample-parallel", &[ME]), "too_many_streams");
    let _other = assert_open(node.stream(CONNECT, &[YOU]));
    let post = node.request(
        "POST",
        "/api/jobs",
        &[ME, ("Accept", "text/event-stream"), ("Content-Type", "application/json")],
        json!({ "tasks": [{ "run": "Calculate Stats" }] }).to_string(),
    );
    assert!(post.problem(429).contains("limits.connections_per_user"), "{post:?}");
    assert!(number(&post, "Retry-After") >= 1);
    assert_eq!(node.get("/api/jobs").json()["jobs"], json!([]), "a job that cannot be watched was not begun");
    let plain = node.request("GET", CONNECT, &[ME, ("Accept", "*/*")], "");
    assert!(plain.problem(429).contains("close one"), "who does not ask for an event stream gets the status");
    drop(first);
    eventually(|| {
        let mut stream = node.stream(CONNECT, &[ME]);
        (stream.next().event == "connection").then_some(())
    });
    assert!(node.metric("millstream_limited_total{limit=\"connections_per_user\"}") >= 4.0);
}

#[test]
fn an_address_that_opens_a_thousand_streams_leaves_room_for_others() {
    let node = Node::start("[limits]\nconnections_per_address = 200");
    let mut open = Vec::new();
    let mut refused = 0;
    for n in 0..1000 {
        let mut stream = stream_from(&node, "127.0.0.2", CONNECT, &[("X-User-ID", &format!("u{n}"))]);
        match stream.next().event.as_str() {
            "connection" => open.push(stream),
            "disconnect" => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((open.len(), refused), (200, 800));
    let _other = assert_open(stream_from(&node, "127.0.0.3", CONNECT, &[ME]));
    assert_eq!(node.metric("millstream_streams_open"), 201.0);
    drop(open);
    eventually(|| {
        let mut stream = stream_from(&node, "127.0.0.2", CONNECT, &[]);
        (stream.next().event == "connection").then_some(())
    });
}

#[test]
fn pulled_streams_take_permits_too() {
    let node = Node::start("[limits]\nconnections_per_user = 1");
    let settings = format!(
        "[limits]\nconnections_per_user = 1\n[remotes.reactive]\nbase_url = \"http://{}\"\nbase_url_env = \"NONE_SUCH\"",
        node.addr
    );
    let near = Node::start(&settings);
    let proxied = assert_open(near.stream("/api/sse-proxy/reactive/events", &[ME]));
    assert_refused_for_now(near.stream("/api/sse-proxy/reactive/events", &[ME]), "too_many_streams");
    let merge = near.request(
        "POST",
        "/api/sse-proxy/merge-streams/sse-emitter",
        &[ME, ("Content-Type", "application/json")],
        "[\"/events\"]",
    );
    assert!(merge.problem(429).contains("connections_per_user"), "{merge:?}");
    drop(proxied);
    eventually(|| {
        let mut stream = near.stream(CONNECT, &[ME]);
        (stream.next().event == "connection").then_some(())
    });
}

#[test]
fn a_user_has_so_many_unfinished_jobs() {
    let node =
        Node::start("[limits]\njobs_per_user = 2\n[handlers.wait]\nkind = \"command\"\ncommand = [\"sleep\", \"600\"]");
    let submit = |user| {
        let job = json!({ "tasks": [{ "run": "wait" }] }).to_string();
        node.request("POST", "/api/jobs", &[user, ("Content-Type", "application/json")], job)
    };
    let first = submit(ME);
    assert_eq!((first.status, submit(ME).status), (202, 202));
    let refused = submit(ME);
    assert!(refused.problem(429).contains("limits.jobs_per_user"), "{refused:?}");
    assert!(number(&refused, "Retry-After") >= 1);
    assert_eq!(submit(YOU).status, 202);
    assert_refused_for_now(node.stream("/api/sse/sample-parallel", &[ME]), "too_many_jobs");
    let id = first.json()["jobId"].as_str().expect("an id").to_owned();
    assert_eq!(node.request("DELETE", &format!("/api/jobs/{id}"), &[], "").status, 202);
    eventually(|| (submit(ME).status == 202).then_some(()));
}

#[test]
fn publishing_is_counted_by_event() {
    let node = Node::start("[limits]\npublishes_per_second = 20");
    let sent = Cell::new(0);
    let publish = |user, events: usize| {
        let body = json!(vec![json!({ "topic": "t", "data": 1 }); events]).to_string();
        let reply = node.request("POST", "/events", &[user, ("Content-Type", "application/json")], body);
        sent.set(sent.get() + if reply.status == 200 { events } else { 0 });
        reply
    };
    assert_eq!(publish(ME, 20).status, 200);
    let refused = refusal(|| publish(ME, 20));
    assert!(refused.problem(429).contains("limits.publishes_per_second"), "{refused:?}");
    assert_eq!((number(&refused, "Retry-After"), number(&refused, "RateLimit-Limit")), (1, 20));
    assert_eq!(publish(YOU, 20).status, 200);
    assert!(publish(ME, 21).problem(413).contains("smaller arrays"));
    eventually(|| (publish(ME, 20).status == 200).then_some(()));
    let kept = node.get("/api/topics/t/events?limit=1000").json()["events"].as_array().map(Vec::len);
    assert_eq!(kept, Some(sent.get()), "a refused array was not published in part");
}

/// Beyond the bound their outboxes are full: they read from the journal, and lose nothing.
#[test]
fn what_waits_for_one_user_is_bounded_over_all_its_streams() {
    let node = Node::start("[limits]\nqueued_bytes_per_user = 100000");
    let mut streams: Vec<Stream> = (0..6).map(|_| assert_open(node.stream("/events?topic=t", &[ME]))).collect();
    let (count, size) = (200, 20_000);
    for n in 0..count {
        node.publish("t", "", &json!(format!("{n} {}", noise(size))));
    }
    let queued = || -> Vec<u64> {
        let all = node.get("/api/sse/managed/emitters").json();
        let all = all["emitters"].as_array().expect("a list").clone();
        all.iter().map(|emitter| emitter["queuedBytes"].as_u64().expect("a number")).collect()
    };
    let waiting: u64 = queued().iter().sum();
    assert!(waiting > 0, "without a reader some events wait");
    assert!(waiting <= 100_000 + 6 * (24 * 1024 + 21_000), "{waiting} bytes wait");
    for stream in &mut streams {
        for n in 0..count {
            let event = stream.next_own();
            assert!(event.data.starts_with(&format!("{n} ")), "{n}: {}", &event.data[..20]);
        }
    }
    eventually(|| (queued().iter().sum::<u64>() == 0).then_some(()));
}

#[test]
fn the_rate_limited_sample_lets_one_caller_ask_a_hundred_times_in_a_minute() {
    let node = Node::start("[jobs]\nconcurrency = 1");
    let path = "/api/sse/rate-limited-sse";
    let first = node.request("GET", path, &[ME, ("Accept", "text/event-stream")], "");
    assert_eq!((number(&first, "RateLimit-Limit"), number(&first, "RateLimit-Remaining")), (100, 99));
    assert!(first.text().contains("event: complete"), "{first:?}");
    // Another spelling of the path is the same route.
    let spelled = "/api/sse/rate%2Dlimited%2dsse";
    let asked =
        (0..130).map(|n| node.request("HEAD", if n % 2 == 0 { path } else { spelled }, &[ME], "")).collect::<Vec<_>>();
    let passed = asked.iter().filter(|reply| reply.status != 429).count();
    assert!((95..=125).contains(&passed), "{passed}");
    assert_soon_refused_for_now(|| node.stream(path, &[ME]), "rate_limited");
    let plain = refusal(|| node.request("GET", path, &[ME], ""));
    assert!(plain.problem(429).contains("limits.routes"));
    assert!(number(&plain, "Retry-After") >= 1);
    assert_eq!(node.request("HEAD", path, &[YOU], "").header("RateLimit-Remaining"), Some("99"));
    assert_eq!(node.request("GET", TOPICS, &[ME], "").header("RateLimit-Limit"), None, "other routes have no limit");
}

#[test]
fn without_limits_responses_mention_none() {
    let node = Node::start("");
    for _ in 0..150 {
        let reply = node.request("GET", TOPICS, &[ME], "");
        assert_eq!((reply.status, reply.header("RateLimit-Limit")), (200, None));
    }
    assert_eq!(node.metric("millstream_limited_callers"), 0.0);
}

/// Limits that cannot be are refused with their name before the node listens.
#[test]
fn wrong_limits_are_named() {
    for (settings, name) in [
        ("[[limits.routes]]\npath = \"x\"\nrequests = 1\nwindow_ms = 1", "limits.routes[0]"),
        ("[[limits.routes]]\npath = \"/x\"\nwindow_ms = 1", "`requests`"),
        ("[limits]\nrequests_per_minute = 99999999999", "limits.requests_per_minute"),
        ("[limits]\nmax_callers = 1", "limits.max_callers"),
        ("[limits]\nrequest_per_minute = 1", "did you mean `requests_per_minute`"),
        ("[server]\ntrusted_proxies = [\"10.1.2.3/8\"]", "server.trusted_proxies"),
        ("[server]\ntrusted_proxies = [\"proxy.internal\"]", "is not a network"),
    ] {
        let error = millstream::config::Config::read(settings, "test.toml").expect_err(settings).to_string();
        assert!(error.contains(name), "{settings}: {error}");
    }
}
