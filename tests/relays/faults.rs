//! Failing upstreams of every kind: no event is lost or duplicated if ids permit it, and possible losses are reported.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    rig::{
        HEAD, after, all_numbers, chunk, ended, events, finish, gone, history, node, numbered, relay, relay_of,
        relayed, reset, settings, states, stream, view,
    },
    support::{
        Node, eventually,
        upstream::{self, Request, Upstream},
    },
};

/// Ends a connection in its own way.
type Cut = fn(&mut TcpStream);

const TOTAL: usize = 60;
const PER_CONNECTION: usize = 7;

/// Sends a few numbers after the one that was asked for, then ends the connection.
fn some_numbers(request: &Request, socket: &mut TcpStream, cut: Cut) {
    let _ = socket.write_all(HEAD.as_bytes());
    let from = after(request);
    for number in (from + 1..=TOTAL).take(PER_CONNECTION) {
        chunk(socket, numbered(number, TOTAL));
    }
    cut(socket);
}

/// A relay of numbers, each connection of which ends so: all arrive, once, in order.
fn is_survived(cut: Cut, code: &str) -> Vec<Value> {
    let upstream = Upstream::start(move |request, socket| some_numbers(request, socket, cut));
    let node = node(&upstream);
    let id = relay(&node, &json!({ "endEvent": "done", "sources": [{ "path": "/n", "readTimeoutMs": 200 }] }));
    let rows = history(&node, &id);
    assert_eq!(relayed(&rows), all_numbers(TOTAL));
    let opens = states(&rows, "relay_open");
    let connections = TOTAL.div_ceil(PER_CONNECTION);
    assert_eq!(opens.len(), connections, "{opens:?}");
    for (number, open) in opens.iter().enumerate() {
        assert_eq!((&open["reconnects"], &open["mayHaveMissed"]), (&json!(number), &json!(false)), "{open}");
        let resumed = if number == 0 { Value::Null } else { json!((number * PER_CONNECTION).to_string()) };
        assert_eq!(open["resumedAfter"], resumed, "{open}");
    }
    let retries = states(&rows, "relay_retry");
    assert_eq!(retries.len(), connections - 1, "{retries:?}");
    assert!(retries.iter().all(|retry| retry["code"] == code && retry["source"] == "up"), "{retries:?}");
    let complete = &states(&rows, "relay_complete")[0];
    assert_eq!((&complete["events"], &complete["end"]), (&json!(TOTAL), &json!("end_event")), "{complete}");
    let end = &states(&rows, "relay_end")[0];
    assert_eq!(
        (&end["status"], &end["sources"], &end["events"]),
        (&json!("completed"), &json!(1), &json!(TOTAL)),
        "{end}"
    );
    rows
}

#[test]
fn an_upstream_that_closes_after_some_events_is_read_on() {
    is_survived(finish, "closed");
}

#[test]
fn a_chunk_that_is_cut_short_is_read_again() {
    let cut: Cut = |socket| drop(socket.write_all(b"40\r\nid: 1000\ndata: half"));
    is_survived(cut, "truncated");
}

#[test]
fn a_silent_upstream_is_left_and_read_on() {
    let cut: Cut = |socket| while !gone(socket, Duration::from_secs(5)) {};
    is_survived(cut, "idle_timeout");
}

/// The whole takes longer than the limit of a silence, each pause is far below it.
#[test]
fn an_upstream_that_sends_byte_by_byte_is_slow_and_not_silent() {
    let upstream = Upstream::start(|_, socket| {
        let _ = socket.write_all(HEAD.as_bytes());
        for byte in (1..=4).flat_map(|number| numbered(number, 4).into_bytes()) {
            chunk(socket, [byte]);
            #[expect(clippy::disallowed_methods, reason = "the test needs a slow server")]
            std::thread::sleep(Duration::from_millis(12));
        }
        finish(socket);
    });
    let node = node(&upstream);
    let id = relay(&node, &json!({ "sources": [{ "path": "/n", "readTimeoutMs": 400 }] }));
    let rows = history(&node, &id);
    assert_eq!(relayed(&rows), all_numbers(4));
    assert_eq!(states(&rows, "relay_retry"), Vec::<Value>::new());
}

#[test]
fn a_reset_connection_is_made_anew() {
    // A reset destroys sent bytes that were not read, so connections may deliver less than they sent.
    let upstream = Upstream::start(|request, socket| {
        some_numbers(request, socket, |socket| {
            gone(socket, Duration::from_millis(20));
            reset(socket);
        });
    });
    let node = node(&upstream);
    let id = relay(&node, &json!({ "endEvent": "done", "sources": [{ "path": "/n" }] }));
    let rows = history(&node, &id);
    assert_eq!(relayed(&rows), all_numbers(TOTAL));
    assert!(states(&rows, "relay_open").iter().all(|open| open["mayHaveMissed"] == false));
}

#[test]
fn an_overloaded_upstream_is_asked_again_at_its_requested_time() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, socket| match asked.fetch_add(1, SeqCst) {
        0..3 => {
            let _ = socket.write_all(
                b"HTTP/1.1 503 Later\r\nRetry-After: 1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy",
            );
        }
        _ => stream(socket, "data: a\n\n"),
    });
    let node = node(&upstream);
    let begin = Instant::now();
    let rows = history(&node, &relay_of(&node, "/x"));
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
    let retries = states(&rows, "relay_retry");
    let attempts: Vec<_> = retries.iter().map(|retry| retry["attempt"].as_u64().expect("a number")).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(retries.iter().all(|retry| retry["retryInMs"].as_u64() >= Some(1000) && retry["code"] == "http_status"));
    assert!(retries[0]["error"].as_str().expect("a text").contains("busy"), "{retries:?}");
    assert_eq!(relayed(&rows).len(), 1);
}

#[test]
fn a_redirect_to_another_origin_leaves_the_credentials_behind() {
    let other = Upstream::start(|_, socket| stream(socket, "data: elsewhere\n\n"));
    let target = other.url("/there");
    let first = Upstream::start(move |_, socket| {
        let head =
            format!("HTTP/1.1 301 Moved\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = socket.write_all(head.as_bytes());
    });
    let settings = format!(
        "{}headers = {{ X-Api-Key = \"of-the-remote\", Authorization = \"Bearer of-the-remote\" }}\n{}",
        settings(first.addr),
        other.allowed()
    );
    let node = Node::start(&settings);
    let spec =
        json!({ "sources": [{ "path": "/here", "headers": { "X-Own": "of-the-client", "X-Api-Key": "forged" } }] });
    let rows = history(&node, &relay(&node, &spec));
    assert_eq!(relayed(&rows)[0].1, "elsewhere");
    let asked = &first.seen("/here")[0];
    assert_eq!((asked.header("X-Api-Key"), asked.header("X-Own")), (Some("of-the-remote"), Some("of-the-client")));
    let there = &other.seen("/there")[0];
    assert!(!there.head.contains("of-the-"), "{}", there.head);
}

/// Fails permanently with this code, and reports that in band.
fn is_given_up(answer: impl Into<Vec<u8>>, code: &str) {
    let answer = answer.into();
    let upstream = Upstream::start(move |_, socket| {
        let _ = socket.write_all(&answer);
        gone(socket, Duration::from_secs(5));
    });
    let node = Node::start(&format!("{}max_event_bytes = 4096\n", settings(upstream.addr)));
    let id = relay_of(&node, "/x");
    assert_eq!(ended(&node, &id), "failed");
    let rows = history(&node, &id);
    let error = &states(&rows, "relay_error")[0];
    assert_eq!(
        (&error["code"], &error["source"], &error["relayId"]),
        (&json!(code), &json!("up"), &json!(id)),
        "{error}"
    );
    assert_eq!(states(&rows, "relay_end")[0]["status"], "failed");
    let source = view(&node, &id)["sources"][0].clone();
    assert_eq!((&source["state"], &source["lastError"]), (&json!("failed"), &error["error"]), "{source}");
}

#[test]
fn what_is_no_event_stream_is_given_up() {
    is_given_up(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", "content_type");
}

#[test]
fn a_refusal_is_given_up() {
    is_given_up(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", "http_status");
}

#[test]
fn an_endless_line_is_given_up() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ";
    is_given_up([head.as_slice(), &[b'x'; 9000]].concat(), "event_too_large");
}

#[test]
fn a_stream_that_comes_compressed_unasked_is_read() {
    let plain: String = (1..=TOTAL).map(|number| numbered(number, TOTAL)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let packed = runtime.block_on(async {
        let mut encoder = async_compression::tokio::write::GzipEncoder::new(Vec::new());
        encoder.write_all(plain.as_bytes()).await.expect("memory");
        encoder.shutdown().await.expect("memory");
        encoder.into_inner()
    });
    let upstream = Upstream::start(move |_, socket| {
        let _ = socket.write_all(HEAD.replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n").as_bytes());
        packed.chunks(10).for_each(|part| assert!(chunk(socket, part)));
        finish(socket);
    });
    let node = node(&upstream);
    assert_eq!(relayed(&history(&node, &relay_of(&node, "/x"))), all_numbers(TOTAL));
}

#[test]
fn a_stream_that_ends_with_its_connection_is_read_and_its_end_is_unknown() {
    let upstream = Upstream::start(|_, socket| {
        let _ = socket.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: a\n\ndata: b\n\n");
    });
    let node = node(&upstream);
    let rows = history(&node, &relay_of(&node, "/x"));
    assert_eq!(relayed(&rows).len(), 2);
    assert_eq!(states(&rows, "relay_complete")[0]["end"], "unknown");
}

#[test]
fn the_status_204_ends_even_what_goes_on_for_ever() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, socket| match asked.fetch_add(1, SeqCst) {
        0..2 => stream(socket, "data: a\n\n"),
        _ => drop(socket.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")),
    });
    let node = node(&upstream);
    let id = relay(&node, &json!({ "repeat": "forever", "sources": [{ "path": "/x" }] }));
    let rows = history(&node, &id);
    assert_eq!(relayed(&rows).len(), 2);
    assert_eq!(states(&rows, "relay_complete")[0]["end"], "204");
}

#[test]
fn without_ids_possibly_missing_events_are_reported() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, socket| match asked.fetch_add(1, SeqCst) {
        0 => {
            let _ = socket.write_all(HEAD.as_bytes());
            chunk(socket, "data: a\n\n");
        }
        _ => stream(socket, "data: b\n\n"),
    });
    let node = node(&upstream);
    let rows = history(&node, &relay_of(&node, "/x"));
    let missed: Vec<_> = states(&rows, "relay_open").iter().map(|open| open["mayHaveMissed"].clone()).collect();
    assert_eq!(missed, [json!(false), json!(true)]);
    assert_eq!(relayed(&rows).len(), 2);
}

#[test]
fn an_upstream_that_restarts_in_the_middle_is_read_on() {
    let stopped = Arc::new(AtomicBool::new(false));
    let serve = |stopped: Arc<AtomicBool>, most: usize| {
        move |request: &Request, socket: &mut TcpStream| {
            let _ = socket.write_all(HEAD.as_bytes());
            for number in after(request) + 1..=most {
                chunk(socket, numbered(number, TOTAL));
            }
            while !stopped.load(SeqCst) && !gone(socket, Duration::from_millis(5)) {}
        }
    };
    let first = Upstream::start(serve(stopped.clone(), 25));
    let addr = first.addr;
    let node = node(&first);
    let id = relay(&node, &json!({ "repeat": "forever", "endEvent": "done", "sources": [{ "path": "/n" }] }));
    events(&node, &id, 25);
    // Its port goes with it, and refuses for a while.
    stopped.store(true, SeqCst);
    drop(first);
    eventually(|| (view(&node, &id)["sources"][0]["state"] == "waiting").then_some(()));
    let listener = eventually(|| TcpListener::bind(addr).ok());
    let _second = Upstream::start_on(listener, serve(Arc::default(), TOTAL));
    assert_eq!(relayed(&history(&node, &id)), all_numbers(TOTAL));
}

#[test]
fn an_event_that_the_journal_rejects_is_reported_and_the_others_continue() {
    let large = "x".repeat(5000);
    let upstream = Upstream::start(move |_, socket| {
        stream(
            socket,
            format!("id: 1\ndata: a\n\nid: 2\ndata: {large}\n\nid: 3\nevent: a\0b\ndata: c\n\nid: 4\ndata: d\n\n"),
        );
    });
    let node = Node::start(&format!("{}[journal]\nmax_event_bytes = 4096\n", settings(upstream.addr)));
    let rows = history(&node, &relay_of(&node, "/x"));
    let data: Vec<_> = relayed(&rows).into_iter().map(|(_, data, _)| data).collect();
    assert_eq!(data, ["a", "d"]);
    let skipped = states(&rows, "relay_skipped");
    let reported = |index: usize, name: &str| skipped[index][name].clone();
    assert_eq!(
        (reported(0, "code"), reported(0, "origin"), reported(0, "bytes")),
        (json!("event_too_large"), json!("2"), json!(5000))
    );
    assert_eq!((reported(1, "code"), reported(1, "origin")), (json!("event_name"), json!("3")));
    assert_eq!(node.metric("millstream_relay_events_skipped_total"), 2.0);
}

#[test]
fn a_gap_of_another_node_is_reported_and_its_other_frames_are_not() {
    let upstream = Upstream::start(|_, socket| {
        let greeting = r#"{"status":"connected","emitterId":"e","resume":{"status":"gap"}}"#;
        let gap = r#"{"requested":"1-1","reason":"trimmed"}"#;
        stream(
            socket,
            format!(
                "event: connection\ndata: {greeting}\n\nevent: gap\ndata: {gap}\n\nevent: heartbeat\ndata: {{}}\n\nid: 1-9\ndata: a\n\n"
            ),
        );
    });
    let node = node(&upstream);
    let rows = history(&node, &relay_of(&node, "/x"));
    assert_eq!(relayed(&rows), [("message".into(), "a".into(), "1-9".into())]);
    assert_eq!(states(&rows, "relay_gap")[0]["gap"]["reason"], "trimmed");
}

#[test]
fn a_source_that_fails_leaves_the_others_alone() {
    let upstream = Upstream::start(|request, socket| match request.path.as_str() {
        "/good" => stream(socket, "data: a\n\n"),
        _ => upstream::answer(socket, "404 Not Found", "text/plain", "no"),
    });
    let node = node(&upstream);
    let spec = json!({ "topic": "mixed", "sources": [{ "path": "/bad" }, { "path": "/good" }] });
    let rows = history(&node, &relay(&node, &spec));
    let end = &states(&rows, "relay_end")[0];
    assert_eq!((&end["status"], &end["sources"]), (&json!("partial"), &json!(2)), "{end}");
    assert_eq!(states(&rows, "relay_complete")[0]["source"], "up-2");
    // The target has the same events, not copies.
    assert_eq!(crate::rig::rows(&node, "mixed"), rows);
}
