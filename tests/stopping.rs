//! The stop of a node: every client gets a last frame, no new work is begun, and a second signal ends everything at
//! once.

use rustix::process::Signal;
use serde_json::json;

mod support;

use support::{
    Node, Stream, eventually,
    upstream::{self, Upstream},
};

fn streams(node: &Node, count: usize) -> Vec<Stream> {
    let mut streams: Vec<Stream> = (0..count).map(|_| node.stream("/events", &[])).collect();
    for stream in &mut streams {
        stream.until("connection");
    }
    streams
}

fn draining(node: &Node) {
    eventually(|| node.get("/readyz").text().contains("the node is stopping").then_some(()));
}

#[test]
fn every_stream_gets_the_reason_of_the_stop_and_the_exit_status_is_0() {
    let mut node = Node::start("[server]\ndrain_ms = 300\n");
    let mut streams = streams(&node, 12);
    let last = node.publish("t", "e", &json!(1));
    node.signal(Signal::TERM);
    let mut retries = Vec::new();
    for stream in &mut streams {
        assert_eq!(stream.next_own().id, last, "published events come first");
        let rest = stream.rest();
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!(
            (rest[0].event.as_str(), rest[0].json(), rest[0].id.as_str()),
            ("disconnect", json!({ "reason": "shutdown" }), "")
        );
        assert!(stream.finished, "it ends well");
        retries.push(stream.retry.expect("the time to reconnect"));
    }
    assert!(retries.iter().all(|ms| (1500..=4500).contains(ms)), "{retries:?}");
    assert!(retries.iter().any(|ms| *ms != retries[0]), "not all at once: {retries:?}");
    assert_eq!(node.exited(), Some(0));
    let log = node.log();
    assert_eq!(log.matches("reason=\"shutdown\"").count(), 12, "{log}");
    assert!(log.contains("millstream::app: stopped"), "{log}");
}

/// Twenty streams that end at random moments of four seconds: the drain lasts long enough to look at it.
#[test]
fn while_it_drains_nothing_new_is_begun() {
    let mut node = Node::start("[server]\ndrain_ms = 4000\n");
    let watchers = streams(&node, 20);
    node.signal(Signal::INT);
    draining(&node);
    let refused = node.json("POST", "/events", &json!({ "topic": "t", "data": 1 }));
    assert!(refused.problem(503).contains("stopping"));
    assert!(refused.header("Retry-After").is_some(), "{refused:?}");
    node.json("POST", "/api/jobs", &json!({ "tasks": [{ "run": "task1" }] })).problem(503);
    node.request("DELETE", "/api/topics/t", &[], "").problem(503);
    for path in ["/events", "/api/sse/managed/connect", "/api/sse/sample-parallel", "/api/jobs/unknown/events"] {
        let mut stream = node.stream(path, &[]);
        assert_eq!((stream.status, stream.header("Content-Type")), (200, Some("text/event-stream")), "{path}");
        let frame = stream.next();
        assert_eq!((frame.event.as_str(), frame.json()), ("disconnect", json!({ "reason": "shutdown" })), "{path}");
        assert!(stream.retry.is_some() && stream.rest().is_empty(), "{path}");
    }
    let reads = node.get("/healthz");
    assert_eq!(reads.status, 200, "it is still alive");
    assert_eq!(node.metric("millstream_ready"), 0.0);
    assert_eq!(node.metric("millstream_jobs_accepted_total"), 0.0);
    drop(watchers);
    assert_eq!(node.exited(), Some(0));
}

/// A job that never ends and streams that are given a minute: patience is over with the second signal.
#[test]
fn the_second_signal_ends_it_at_once() {
    let upstream = Upstream::start(|_, socket| upstream::silence(socket));
    let mut node = Node::start(&format!("{}[server]\ndrain_ms = 60000\n", upstream.allowed()));
    node.post("/api/jobs", &json!({ "tasks": [{ "url": upstream.url("/") }] }));
    let _streams = streams(&node, 20);
    node.signal(Signal::TERM);
    draining(&node);
    node.signal(Signal::TERM);
    assert_eq!(node.exited(), Some(130));
}

/// It would be forgotten: with a journal on disk it is left standing, see `tests/recovery.rs`.
#[test]
fn a_job_of_a_journal_in_memory_that_does_not_end_in_time_is_cancelled() {
    let upstream = Upstream::start(|_, socket| upstream::silence(socket));
    let mut node = Node::start(&format!("{}[journal]\nkind = \"memory\"\n", upstream.allowed()));
    node.post("/api/jobs", &json!({ "tasks": [{ "url": upstream.url("/") }] }));
    eventually(|| (!upstream.seen("/").is_empty()).then_some(()));
    assert_eq!(node.terminate(), Some(0));
    let log = node.log();
    assert!(log.contains("job ended") && log.contains("status=\"cancelled\""), "{log}");
}
