//! Streams as clients get them: headers, the first frame, topics, positions, silence, lifetimes. The status and the
//! changes of streams are in `emitters.rs`.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};

mod support;

use support::{Event, Node, Stream, eventually};

const CONNECT: &str = "/api/sse/managed/connect";

/// The first frame of a stream, as JSON.
fn connection(stream: &mut Stream) -> Value {
    let first = stream.next();
    assert_eq!(first.event, "connection", "{first:?}");
    assert!(!first.id.is_empty(), "it has the position from which the stream continues: {first:?}");
    first.json()
}

fn open(node: &Node, path: &str, headers: &[(&str, &str)]) -> Stream {
    let mut stream = node.stream(path, headers);
    connection(&mut stream);
    stream
}

/// The events until one named `end`, without control frames.
fn data_until(stream: &mut Stream, end: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let event = stream.next_own();
        if event.event == end {
            return all;
        }
        all.push(event.data);
    }
}

#[test]
fn every_stream_has_the_headers_that_keep_it_flowing() {
    let node = Node::start("");
    let job = json!({ "tasks": [{ "run": "Calculate Stats" }] });
    let submitted = node.post("/api/jobs", &job);
    let streams = [
        node.stream(CONNECT, &[]),
        node.stream("/api/sse/managed/connect/group/g", &[]),
        node.stream("/events", &[]),
        node.stream("/events?topics=a,b", &[]),
        node.stream(submitted["eventsUrl"].as_str().expect("a path"), &[]),
        node.stream("/api/sse/sample-parallel", &[]),
        node.stream("/api/sse/flow-example", &[]),
        node.stream("/api/sse/parallel-tasks-progress", &[]),
        node.post_stream("/api/sse/parallel-tasks-progress", &job),
        node.post_stream("/api/sse/emitter/parallel-tasks", &job),
        node.post_stream("/api/sse/parallel-tasks", &job),
        node.post_stream("/api/jobs", &job),
    ];
    for mut stream in streams {
        assert_eq!(stream.status, 200, "{}", stream.head);
        for (name, value) in [
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-cache, no-transform"),
            ("X-Accel-Buffering", "no"),
            ("X-Content-Type-Options", "nosniff"),
        ] {
            assert_eq!(stream.header(name), Some(value), "{}", stream.head);
        }
        assert_eq!(stream.header("Content-Length"), None, "{}", stream.head);
        assert_eq!(stream.header("Connection"), Some("close"), "it ends with its stream: {}", stream.head);
        let data = connection(&mut stream);
        assert_eq!(stream.retry, Some(3000), "the first frame brings the reconnection time");
        assert_eq!(data["status"], "connected");
    }
}

#[test]
fn the_connection_frame_contains_user_topics_and_position() {
    let node = Node::start("");
    let mut named =
        node.stream("/api/sse/managed/connect/group/g1?topic=order:*&topics=b,a&groups=g2", &[("X-Auth-Token", "123")]);
    let data = connection(&mut named);
    let id = data["emitterId"].as_str().expect("an id");
    assert!(id.strip_prefix("user_123_").is_some_and(|uuid| uuid.len() == 36), "{id}");
    assert_eq!((&data["userId"], &data["groups"]), (&json!("123"), &json!(["g1", "g2"])));
    let topics: HashSet<&str> = data["topics"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(topics, ["user:123", "all", "group:g1", "group:g2", "order:*", "a", "b"].into());
    assert!(data["timestamp"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{data}");
    assert_eq!(data["resume"]["status"], "live");

    let data = connection(&mut node.stream(CONNECT, &[]));
    assert!(data["emitterId"].as_str().is_some_and(|id| id.starts_with("anonymous_")), "{data}");
    assert_eq!(data["userId"], Value::Null);
}

#[test]
fn a_user_is_named_by_header_cookie_or_query() {
    let node = Node::start("");
    let user = |path: &str, headers: &[(&str, &str)]| connection(&mut node.stream(path, headers))["userId"].clone();
    assert_eq!(user(CONNECT, &[("X-Auth-Token", "a")]), "a");
    assert_eq!(user(CONNECT, &[("X-User-ID", "b"), ("X-Auth-Token", "a")]), "b");
    assert_eq!(user(CONNECT, &[("Authorization", "Bearer c")]), "c");
    assert_eq!(user(CONNECT, &[("Cookie", "other=1; millstream_token=d")]), "d");
    assert_eq!(user(&format!("{CONNECT}?access_token=e"), &[]), "e");
    let refused = node.request("GET", CONNECT, &[("X-Auth-Token", "two words")], "").problem(400);
    assert!(refused.contains("user"), "{refused}");
}

#[test]
fn each_stream_receives_only_its_own_topics() {
    let node = Node::start("");
    let mut mine = open(&node, &format!("{CONNECT}?topic=order:*&group=g"), &[("X-User-ID", "1")]);
    let mut everything = open(&node, "/events", &[]);
    let mut some = open(&node, "/events?topic=order:7", &[]);
    let sent = [
        ("order:7", "a"),
        ("orders", "b"),
        ("user:1", "c"),
        ("user:2", "d"),
        ("group:g", "e"),
        ("group:h", "f"),
        ("all", "g"),
    ];
    for (topic, data) in sent {
        node.publish(topic, "e", &json!(data));
    }
    node.publish("all", "end", &json!(""));
    assert_eq!(data_until(&mut mine, "end"), ["a", "c", "e", "g"]);
    assert_eq!(data_until(&mut everything, "end"), ["a", "b", "c", "d", "e", "f", "g"]);
    assert_eq!(data_until(&mut some, "end"), ["a", "g"], "broadcasts reach connect and /events alike");
}

#[test]
fn an_event_in_several_topics_is_one_event_and_comes_once() {
    let node = Node::start("");
    let mut stream = open(&node, "/events?topics=a,b,c*", &[]);
    let answer = node.post("/events", &json!({ "topics": ["a", "b", "c1", "c2"], "data": 1 }));
    node.publish("a", "end", &json!(""));
    let event = stream.next_own();
    assert_eq!((&event.data, &json!(event.id)), (&"1".to_owned(), &answer["id"]));
    assert_eq!(stream.next_own().event, "end");
}

#[test]
fn the_header_wins_over_the_query_when_a_stream_resumes() {
    let node = Node::start("");
    let ids: Vec<String> = (0..4).map(|n| node.publish("t", "e", &json!(n))).collect();
    let events = |mut stream: Stream| {
        let resume = connection(&mut stream)["resume"].clone();
        assert_eq!(resume["status"], "resumed", "{resume}");
        (resume["from"].clone(), stream.next_own())
    };
    let (from, next) = events(node.stream(&format!("/events?topic=t&lastEventId={}", ids[0]), &[]));
    assert_eq!((&from, &next.id, next.data.as_str()), (&json!(ids[0]), &ids[1], "1"));
    let (from, next) =
        events(node.stream(&format!("/events?topic=t&lastEventId={}", ids[0]), &[("Last-Event-ID", &ids[2])]));
    assert_eq!((&from, &next.id, next.data.as_str()), (&json!(ids[2]), &ids[3], "3"));

    let mut caught_up = open(&node, "/events?topic=t", &[("Last-Event-ID", &ids[3])]);
    let live = node.publish("t", "e", &json!("live"));
    assert_eq!(caught_up.next_own().id, live, "nothing twice");
}

#[test]
fn a_position_that_cannot_be_resumed_is_answered_with_a_gap() {
    let mut node = Node::start("[journal]\nkind = \"memory\"\nretention_events = 3\n");
    let ids: Vec<String> = (0..6).map(|n| node.publish("t", "e", &json!(n))).collect();
    let epoch = ids[0].split('-').next().expect("an epoch");
    let future = format!("{epoch}-1000000");
    let gap = |node: &Node, requested: &str| {
        let mut stream = node.stream("/events?topic=t", &[("Last-Event-ID", requested)]);
        let resume = connection(&mut stream)["resume"].clone();
        assert_eq!((&resume["from"], &resume["status"]), (&json!(requested), &json!("gap")));
        let gap = stream.next();
        assert_eq!((gap.event.as_str(), gap.id.as_str()), ("gap", ""));
        assert_eq!(gap.json()["requested"], requested);
        (gap.json(), stream)
    };
    for (requested, reason) in
        [("nonsense", "unknown"), ("abc-7", "foreign"), (&future, "future"), (ids[0].as_str(), "trimmed")]
    {
        let (reported, mut stream) = gap(&node, requested);
        assert_eq!(reported["reason"], reason, "{reported}");
        let topics = reported["topics"].as_array().expect("a list");
        assert!(topics.contains(&json!({ "topic": "t", "earliest": ids[3] })), "{reported}");
        let next: Vec<String> = (0..3).map(|_| stream.next_own().id).collect();
        assert_eq!(next, ids[3..], "it continues with the earliest existing event");
    }
    node.restart();
    let (reported, mut stream) = gap(&node, &ids[5]);
    assert_eq!((&reported["reason"], &reported["topics"]), (&json!("foreign"), &json!([])));
    assert_eq!(node.publish("t", "e", &json!(0)), stream.next_own().id);
}

#[test]
fn what_only_expired_is_no_gap() {
    let node = Node::start("");
    let first = node.publish("t", "e", &json!("first"));
    node.post("/events", &json!({ "topic": "t", "data": "short", "ttlMs": 1 }));
    let last = node.publish("t", "e", &json!("last"));
    let resumed = eventually(|| {
        let mut stream = node.stream("/events?topic=t", &[("Last-Event-ID", &first)]);
        assert_eq!(connection(&mut stream)["resume"]["status"], "resumed");
        let next = stream.next();
        (next.data != "short").then_some(next)
    });
    assert_eq!(resumed.id, last);
}

#[test]
fn a_stream_may_begin_with_the_last_events_or_since_a_time() {
    let node = Node::start("");
    for n in 0..5 {
        node.publish("t", "e", &json!(n));
        node.publish("other", "e", &json!(n));
    }
    let mut last = open(&node, "/events?topic=t&history=2", &[]);
    assert_eq!([last.next_own().data, last.next_own().data], ["3", "4"]);
    let mut more = open(&node, "/events?topic=t&history=100", &[]);
    assert_eq!(more.next().data, "0", "who asks for more than there is misses nothing");

    let page = node.get("/api/topics/t/events").json();
    let before = page["events"][4]["timestamp"].as_u64().expect("a time");
    eventually(|| (now_ms() > before + 1).then_some(()));
    let marker = now_ms();
    node.publish("t", "e", &json!("after"));
    let mut since = open(&node, &format!("/events?topic=t&since={marker}"), &[]);
    assert_eq!(since.next_own().data, "after");
    assert!(node.get("/events?topic=t&history=many").problem(400).contains("history"));
    assert!(node.get("/events?topic=t&since=yesterday").problem(400).contains("since"));
}

#[expect(clippy::disallowed_methods, reason = "the wall clock of a client")]
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("before the year 500 million")
}

#[test]
fn an_envelope_names_the_topic_of_an_event() {
    let node = Node::start("");
    let mut stream = open(&node, "/events?topic=t&envelope=true", &[]);
    let id = node.publish("t", "named", &json!({ "a": 1 }));
    let event = stream.next();
    assert_eq!((event.id.as_str(), event.event.as_str()), (id.as_str(), "named"));
    let data = event.json();
    let (mut fields, _): (Vec<&str>, Vec<&Value>) =
        data.as_object().expect("an object").iter().map(|(k, v)| (k.as_str(), v)).unzip();
    fields.sort_unstable();
    assert_eq!(fields, ["data", "event", "id", "timestamp", "topic"]);
    assert_eq!(
        (&data["topic"], &data["id"], &data["event"], &data["data"]),
        (&json!("t"), &json!(id), &json!("named"), &json!({ "a": 1 }))
    );
    node.publish("t", "text", &json!("plain"));
    assert_eq!(stream.next().json()["data"], "plain");
}

/// A second of silence brings a heartbeat in the form that was asked for; who asked for none has got none by then.
#[test]
fn silence_is_filled_as_the_client_likes_it() {
    let node = Node::start("");
    let mut events = open(&node, "/events?heartbeatMs=1000", &[]);
    let mut comments = open(&node, "/events?heartbeatMs=1000&heartbeat=comment", &[]);
    let mut none = open(&node, "/events?heartbeatMs=1000&heartbeat=none", &[]);
    for _ in 0..2 {
        let beat = events.next();
        assert_eq!((beat.event.as_str(), beat.id.as_str()), ("heartbeat", ""));
        assert!(beat.json()["timestamp"].is_u64(), "{beat:?}");
    }
    eventually(|| {
        assert_eq!(comments.next_within(Duration::from_millis(50)), None);
        (comments.comments >= 1).then_some(())
    });
    assert_eq!(none.next_within(Duration::from_millis(1)), None);
    assert_eq!(none.comments, 0);
    for (query, name) in
        [("heartbeat=loud", "heartbeat"), ("heartbeatMs=999", "heartbeatMs"), ("heartbeatMs=soon", "heartbeatMs")]
    {
        assert!(node.get(&format!("/events?{query}")).problem(400).contains(name));
    }
}

#[test]
fn a_stream_lives_as_long_as_it_was_asked_to() {
    let node = Node::start("[emitter]\nmax_timeout_ms = 60000\n");
    let mut stream = open(&node, "/events?timeoutMs=300&retryMs=5000", &[]);
    assert_eq!(stream.retry, Some(5000));
    let end: Vec<Event> = stream.rest();
    assert_eq!((end.len(), end[0].event.as_str(), end[0].json()), (1, "disconnect", json!({ "reason": "lifetime" })));
    assert!(stream.finished, "it ends well");
    assert!(stream.retry.is_some_and(|ms| (2500..=7500).contains(&ms)), "{:?}", stream.retry);
    assert!(node.get("/events?timeoutMs=60001").problem(400).contains("timeoutMs"));
    eventually(|| node.log().contains("lifetime").then_some(()));
}

#[test]
fn a_topic_that_cannot_exist_is_refused_with_its_reason() {
    let node = Node::start("");
    let unknown = node.get(&format!("{CONNECT}?topc=a")).problem(400);
    assert!(unknown.contains("`topc`") && unknown.contains("`topic`"), "{unknown}");
    for (query, part) in [
        ("topic=a%20b", "white space"),
        ("topic=a*b", "`*`"),
        ("topic=a%00", "control"),
        (&format!("topic={}", "x".repeat(256)), "255"),
        ("group=a,b%0a", "control"),
        ("topic=", "1 to 255"),
    ] {
        let detail = node.get(&format!("/events?{query}")).problem(422);
        assert!(detail.contains(part), "{query}: {detail}");
    }
    let many: Vec<String> = (0..257).map(|n| format!("t{n}")).collect();
    assert!(node.get(&format!("/events?topics={}", many.join(","))).problem(422).contains("256"));
    assert!(node.get("/events?envelope=yes").problem(400).contains("envelope"));
    assert!(node.get("/events?overflow=explode").problem(400).contains("drop_oldest"));
    let long = "x".repeat(1025);
    assert!(node.request("GET", "/events", &[("Last-Event-ID", &long)], "").problem(400).contains("1024"));
}
