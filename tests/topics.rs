//! Topics as JSON: what there is, a page of the past to begin with, the stream from there on, and purging.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

mod support;

use support::{Node, eventually};

fn names(page: &Value) -> Vec<&str> {
    page["topics"].as_array().expect("a list").iter().map(|topic| topic["topic"].as_str().expect("a name")).collect()
}

#[test]
fn topics_are_listed_with_counts_and_positions() {
    let node = Node::start("");
    let ids: Vec<String> = (0..3).map(|n| node.publish("order:1", "e", &json!(n))).collect();
    node.post("/events", &json!({ "topics": ["order:2", "news"], "data": 1 }));
    let page = node.get("/api/topics").json();
    assert_eq!(names(&page), ["news", "order:1", "order:2"]);
    let order = &page["topics"][1];
    assert_eq!((&order["events"], &order["first"], &order["last"]), (&json!(3), &json!(ids[0]), &json!(ids[2])));
    assert!(order["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{order}");
    assert_eq!(page["next"], Value::Null);
    assert_eq!(names(&node.get("/api/topics?pattern=order:*").json()), ["order:1", "order:2"]);
    assert_eq!(names(&node.get("/api/topics?pattern=news").json()), ["news"]);

    let first = node.get("/api/topics?limit=2").json();
    assert_eq!((names(&first), &first["next"]), (vec!["news", "order:1"], &json!("order:1")));
    let rest = node.get("/api/topics?limit=2&after=order:1").json();
    assert_eq!((names(&rest), &rest["next"]), (vec!["order:2"], &Value::Null));

    for wrong in ["limit=0", "limit=1001", "limit=some", "patern=a"] {
        node.get(&format!("/api/topics?{wrong}")).problem(400);
    }
    node.get("/api/topics?pattern=a*b").problem(422);
}

#[test]
fn a_topic_is_read_page_by_page() {
    let node = Node::start("");
    for n in 0..5 {
        node.publish("t", "e", &json!({ "n": n }));
        node.publish("other", "e", &json!("not this"));
    }
    node.post("/events", &json!({ "topics": ["t", "u"], "data": "text" }));
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("/api/topics/t/events?limit=2{after}")).json();
        assert_eq!(page["gap"], false, "{page}");
        let events = page["events"].as_array().expect("a list");
        assert!(events.len() <= 2);
        seen.extend(events.iter().cloned());
        after = format!("&after={}", page["lastEventId"].as_str().expect("an id"));
        if events.is_empty() {
            break;
        }
    }
    let data: Vec<&Value> = seen.iter().map(|event| &event["data"]).collect();
    assert_eq!(
        data,
        [
            &json!({ "n": 0 }),
            &json!({ "n": 1 }),
            &json!({ "n": 2 }),
            &json!({ "n": 3 }),
            &json!({ "n": 4 }),
            &json!("text")
        ]
    );
    assert_eq!(
        (&seen[0]["event"], &seen[5]["event"], &seen[5]["topics"]),
        (&json!("e"), &json!("message"), &json!(["t", "u"]))
    );
    assert!(seen[0]["timestamp"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000));

    let empty = node.get("/api/topics/nothing/events").json();
    assert_eq!((&empty["events"], &empty["gap"]), (&json!([]), &json!(false)));
    assert!(empty["lastEventId"].is_string(), "also from an empty page one can stream on");
    assert_eq!(node.get("/api/topics/t/events?after=abc-3").json()["gap"], true, "a position of another life");
    node.get("/api/topics/t/events?after=nonsense").problem(400);
    node.get("/api/topics/a%20b/events").problem(422);
}

/// The work of a page: render the stored events, then stream from there, while others continue to publish.
#[test]
fn render_first_then_stream_loses_nothing_and_doubles_nothing() {
    const EVENTS: u64 = 400;
    let node = Node::start("");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..EVENTS {
                node.publish("t", "e", &json!(n));
            }
            done.store(true, Relaxed);
        });
        let mut readers = 0;
        while readers < 3 || !done.load(Relaxed) {
            readers += 1;
            let page = node.get("/api/topics/t/events?limit=1000").json();
            let rendered = page["events"].as_array().expect("a list");
            let last = page["lastEventId"].as_str().expect("an id");
            let mut stream = node.stream(&format!("/events?topic=t&lastEventId={last}"), &[]);
            assert_eq!(stream.until("connection").json()["resume"]["status"], "resumed");
            let mut seen: Vec<u64> = rendered.iter().map(|event| event["data"].as_u64().expect("a number")).collect();
            let goal = (seen.len() as u64 + 30).min(EVENTS);
            while (seen.len() as u64) < goal {
                seen.push(stream.next_own().data.parse().expect("a number"));
            }
            assert_eq!(seen, (0..goal).collect::<Vec<u64>>());
        }
    });
}

fn waiting(node: &Node) -> f64 {
    node.metric("millstream_requests_waiting")
}

/// A page for clients that no event stream reaches: it answers when there is something.
#[test]
fn a_page_waits_for_an_event() {
    let node = Node::start("");
    let first = node.publish("t", "e", &json!(1));
    // There is something: at once, however long the client would wait.
    let page = node.get("/api/topics/t/events?wait=60000").json();
    assert_eq!((&page["events"][0]["id"], &page["lastEventId"]), (&json!(first), &json!(first)));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| node.get(&format!("/api/topics/t/events?after={first}&wait=60000")).json());
        let other = scope.spawn(|| node.get("/api/topics/u/events?wait=60000").json());
        eventually(|| (waiting(&node) == 2.0).then_some(()));
        let second = node.publish("t", "e", &json!(2));
        let page = waits.join().expect("an answer");
        assert_eq!(
            (&page["events"][0]["data"], &page["lastEventId"], &page["gap"]),
            (&json!(2), &json!(second), &json!(false))
        );
        assert_eq!(waiting(&node), 1.0, "an event of another topic does not count");
        node.publish("u", "e", &json!(3));
        assert_eq!(other.join().expect("an answer")["events"][0]["data"], 3);
    });
    // Nothing comes: the client stands where it stood.
    let last = node.get("/api/topics/t/events").json()["lastEventId"].clone();
    let after = last.as_str().expect("an id");
    node.publish("elsewhere", "e", &json!(4));
    let begun = std::time::Instant::now();
    let page = node.get(&format!("/api/topics/t/events?after={after}&wait=300")).json();
    assert!(begun.elapsed().as_millis() >= 300);
    assert_eq!(page, json!({ "events": [], "lastEventId": after, "gap": false }));
    assert_eq!(node.get(&format!("/api/topics/t/events?after={after}")).json(), page, "the same without a wait");
    // A text that is not a position here is reported at once, as a gap.
    for position in ["abc-3".to_owned(), format!("{}-99999999", after.split('-').next().expect("an epoch"))] {
        let page = node.get(&format!("/api/topics/t/events?after={position}&wait=60000")).json();
        assert_eq!(
            (&page["gap"], page["events"].as_array().map(Vec::len)),
            (&json!(true), Some(2)),
            "{position}: {page}"
        );
    }
    node.get("/api/topics/t/events?wait=soon").problem(400);
    assert_eq!(
        node.request("HEAD", "/api/topics/nothing/events?wait=60000", &[], "").status,
        200,
        "HEAD waits for nothing"
    );
}

#[test]
fn a_client_that_leaves_waits_no_more_and_a_stop_answers_those_that_do() {
    use std::io::Write;
    let mut node = Node::start("[limits]\nconnections_per_user = 2\n[server]\nmax_wait_ms = 40000\n");
    let ask = |user: &str| {
        let mut socket = node.socket();
        write!(
            socket,
            "GET /api/topics/t/events?wait=99999999 HTTP/1.1\r\nHost: {}\r\nX-User-ID: {user}\r\n\r\n",
            node.addr
        )
        .expect("send");
        socket
    };
    let (one, two) = (ask("ann"), ask("ann"));
    eventually(|| (waiting(&node) == 2.0).then_some(()));
    // Each holds the place of a stream.
    let refused = node.request("GET", "/api/topics/t/events?wait=1000", &[("X-User-ID", "ann")], "");
    assert_eq!(refused.json()["code"], "too_many_streams", "{refused:?}");
    refused.problem(429);
    drop((one, two));
    eventually(|| (waiting(&node) == 0.0).then_some(()));
    let mut last = ask("ann");
    eventually(|| (waiting(&node) == 1.0).then_some(()));
    node.signal(rustix::process::Signal::TERM);
    let reply = support::Reply::read(last.try_clone().expect("a handle"));
    assert_eq!((reply.status, &reply.json()["events"]), (200, &json!([])), "{reply:?}");
    assert_eq!(node.exited(), Some(0));
    let _ = last.flush();
}

#[test]
fn a_purged_topic_is_empty_and_late_clients_get_a_gap() {
    let node = Node::start("");
    let first = node.publish("t", "e", &json!(1));
    node.publish("t", "e", &json!(2));
    node.publish("kept", "e", &json!(3));
    assert_eq!(node.request("DELETE", "/api/topics/t", &[], "").json(), json!({ "purged": 2 }));
    assert_eq!(node.get("/api/topics/t/events").json()["events"], json!([]));
    assert_eq!(node.get("/api/topics/kept/events").json()["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(node.get(&format!("/api/topics/t/events?after={first}")).json()["gap"], true);

    let mut stream = node.stream("/events?topics=t,kept", &[("Last-Event-ID", &first)]);
    assert_eq!(stream.until("connection").json()["resume"]["status"], "gap");
    let gap = stream.next();
    assert_eq!((gap.event.as_str(), &gap.json()["reason"]), ("gap", &json!("trimmed")));
    assert_eq!(stream.next_own().data, "3");
    let again = node.publish("t", "e", &json!(4));
    assert_eq!(stream.next_own().id, again);
    assert_eq!(node.request("DELETE", "/api/topics/nothing", &[], "").json(), json!({ "purged": 0 }));
}

#[test]
fn the_history_of_a_job_is_not_purged() {
    let node = Node::start("");
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "run": "Calculate Stats" }] }));
    let id = job["jobId"].as_str().expect("an id");
    let refused = node.request("DELETE", &format!("/api/topics/job:{id}"), &[], "").problem(409);
    assert!(refused.contains(id), "{refused}");
    let mut stream = node.stream(job["eventsUrl"].as_str().expect("a path"), &[]);
    stream.until("complete");
}

/// Callers without a name cannot be distinguished: they share one scope per topic.
#[test]
fn readers_see_the_publishers_id_and_anonymous_publishers_share_theirs() {
    let node = Node::start("");
    let mut stream = node.stream("/events?topic=t&envelope=true", &[]);
    stream.until("connection");
    let first = node.post("/events", &json!({ "topic": "t", "data": 1, "id": "row 7" }));
    node.post("/events", &json!({ "topic": "t", "data": 2 }));
    assert_eq!(stream.next_own().json()["publisherId"], "row 7");
    assert!(stream.next_own().json()["publisherId"].is_null());
    let rows = node.get("/api/topics/t/events").json()["events"].clone();
    assert_eq!([&rows[0]["publisherId"], &rows[1]["publisherId"]], [&json!("row 7"), &Value::Null]);
    let export = node.get("/api/admin/journal/export?topic=t").text();
    assert!(export.lines().next().is_some_and(|row| row.contains("\"publisherId\":\"row 7\"")), "{export}");
    assert_eq!(node.post("/events", &json!({ "topic": "t", "data": 1, "id": "row 7" }))["id"], first["id"]);
    assert_eq!(node.json("POST", "/events", &json!({ "topic": "t", "data": 9, "id": "row 7" })).status, 422);
}

#[test]
fn an_id_has_a_bound_and_equal_topics_are_one() {
    let node = Node::start("");
    let mut stream = node.stream("/events?topics=t,u*", &[]);
    stream.until("connection");
    let with = |id: String| node.json("POST", "/events", &json!({ "topic": "t", "data": 1, "id": id }));
    assert_eq!(with("k".repeat(255)).status, 200);
    for long in ["k".repeat(256), "é".repeat(128), "k".repeat(600_000)] {
        assert!(with(long).problem(422).contains("255"));
    }
    for path in ["broadcast", "broadcast/group/g", "send/filtered"] {
        let mut body = json!({ "data": 1, "id": "k".repeat(256) });
        if path == "send/filtered" {
            body["filter"] = json!({ "a": 1 });
        }
        node.json("POST", &format!("/api/sse/managed/{path}"), &body).problem(422);
    }
    let equal = node.post("/events", &json!({ "topics": vec!["t"; 64], "data": 2 }));
    assert_eq!((&equal["topic"], &equal["delivered"]), (&json!("t"), &json!(1)));
    let several = node.post("/events", &json!({ "topics": ["t", "u1", "u2", "t"], "data": 3 }));
    assert_eq!(&several["delivered"], &json!(1), "an emitter counts once");
    let received: Vec<String> = (0..3).map(|_| stream.next_own().data).collect();
    assert_eq!(received, ["1", "2", "3"]);
    assert_eq!(node.get("/api/topics/t/events").json()["events"][2]["topics"], json!(["t", "u1", "u2"]));
}
