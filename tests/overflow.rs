//! Slow readers: the promise of each overflow policy, over real sockets, and the cost of a reader that stops.
//!
//! With `MILLSTREAM_LONG=1` 100,000 events pass the reader that stops, instead of 30,000.

mod support;

use std::{
    collections::VecDeque,
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Event, Node, PATIENCE, Stream, eventually};

/// A small kernel buffer on both sides and a small outbox: readers fall behind soon.
const TIGHT: &str = "[emitter]\noutbox_events = 16\nwrite_deadline_ms = 60000\n[server]\nsend_buffer_bytes = 4096\n\
                     [telemetry]\nlog = \"warn,millstream::hub=info\"";
const EVENTS: usize = 1000;

fn reader(node: &Node, path: &str, headers: &[(&str, &str)]) -> Stream {
    let mut stream = Stream::open(node.tight_socket(), "GET", path, headers, "");
    stream.until("connection");
    stream
}

fn rows(numbers: std::ops::Range<usize>) -> Value {
    let row = |n| json!({ "topic": "t", "event": "n", "data": format!("{n} {}", "x".repeat(1000)) });
    numbers.map(row).collect()
}

fn number(event: &Event) -> usize {
    event.data.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no number: {event:?}"))
}

/// Publishes all events while the reader takes nothing.
fn behind(node: &Node, policy: &str) -> Stream {
    let stream = reader(node, &format!("/events?topic=t&overflow={policy}"), &[]);
    // Few at a time, so that the socket gets what it takes before the outbox is full.
    for begin in (0..EVENTS).step_by(10) {
        node.post("/events", &rows(begin..begin + 10));
    }
    stream
}

/// Reads to the event with the last number: all numbers, and the number of events of each gap with its index.
fn read_on(stream: &mut Stream, last: usize) -> (Vec<usize>, Vec<(usize, u64)>) {
    let (mut numbers, mut gaps) = (Vec::new(), Vec::new());
    while numbers.last() != Some(&last) {
        let event = stream.next();
        match event.event.as_str() {
            "n" => numbers.push(number(&event)),
            "gap" => {
                assert_eq!(event.json()["reason"], "dropped");
                gaps.push((numbers.len(), event.json()["dropped"].as_u64().expect("a count")));
            }
            other => assert_eq!(other, "heartbeat"),
        }
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "order kept, nothing twice");
    (numbers, gaps)
}

#[test]
fn catch_up_loses_nothing() {
    let node = Node::start(TIGHT);
    let mut stream = behind(&node, "catch_up");
    let (numbers, gaps) = read_on(&mut stream, EVENTS - 1);
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
    assert!(gaps.is_empty(), "{gaps:?}");
    assert!(node.count("emitters_lagged_total") >= 1);
    assert_eq!(node.count("events_dropped_total"), 0);
    node.post("/events", &rows(EVENTS..EVENTS + 1));
    assert_eq!(number(&stream.next()), EVENTS, "live again");
}

#[test]
fn drop_oldest_keeps_the_newest_and_reports_the_number_of_dropped_events() {
    let node = Node::start(TIGHT);
    let mut stream = behind(&node, "drop_oldest");
    let (numbers, gaps) = read_on(&mut stream, EVENTS - 1);
    let dropped: u64 = gaps.iter().map(|(_, count)| count).sum();
    assert!(!gaps.is_empty() && numbers.len() as u64 + dropped == EVENTS as u64, "{} {gaps:?}", numbers.len());
    assert_eq!(numbers[numbers.len() - 16..], (EVENTS - 16..EVENTS).collect::<Vec<_>>(), "what waits is the newest");
    // Each gap stands where its events are missing.
    for (index, count) in gaps {
        let before = index.checked_sub(1).map_or(0, |last| numbers[last] + 1);
        assert_eq!((numbers[index] - before) as u64, count);
    }
    assert_eq!(node.count("events_dropped_total"), dropped);
    assert_eq!(node.get("/api/sse/managed/status").json()["droppedEvents"], dropped);
}

#[test]
fn drop_latest_keeps_waiting_events_and_reports_the_number_of_dropped_ones() {
    let node = Node::start(TIGHT);
    let mut stream = behind(&node, "drop_latest");
    let (mut numbers, mut dropped) = (Vec::new(), 0);
    while numbers.len() as u64 + dropped < EVENTS as u64 {
        let event = stream.next();
        match event.event.as_str() {
            "n" => numbers.push(number(&event)),
            _ => dropped += event.json()["dropped"].as_u64().expect("a count"),
        }
    }
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "what waits is the oldest");
    assert_eq!(node.count("events_dropped_total"), dropped);
    node.post("/events", &rows(EVENTS..EVENTS + 1));
    assert_eq!(number(&stream.next_own()), EVENTS, "live again");
}

#[test]
fn disconnect_ends_the_stream_and_the_rest_comes_on_resume() {
    let node = Node::start(TIGHT);
    let mut stream = behind(&node, "disconnect");
    let events = stream.rest();
    assert!(stream.finished, "the response ends well");
    let (last, before) = events.split_last().expect("events came");
    assert_eq!((last.event.as_str(), last.json()), ("disconnect", json!({ "reason": "slow" })));
    assert!(stream.retry.is_some());
    let mut numbers: Vec<usize> = before.iter().map(number).collect();
    eventually(|| (node.closed("slow") == 1).then_some(()));
    let id = &before.last().expect("an event").id;
    let mut stream = reader(&node, "/events?topic=t", &[("Last-Event-ID", id)]);
    numbers.extend(read_on(&mut stream, EVENTS - 1).0);
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
}

/// Publishes in batches while `healthy` reads; never more than a few batches ahead of it, so that a delay shows. How
/// long the slowest batch took to arrive.
fn pour(node: &Node, healthy: &mut Stream, batches: std::ops::Range<usize>) -> Duration {
    const BATCH: usize = 100;
    const AHEAD: usize = 5;
    let (done, wait) = mpsc::sync_channel(AHEAD);
    let numbers = batches.start * BATCH..batches.end * BATCH;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for expected in numbers {
                assert_eq!(number(&healthy.next_own()), expected, "the healthy reader loses nothing");
                if expected % BATCH == BATCH - 1 {
                    done.send(Instant::now()).expect("the publisher waits for each batch");
                }
            }
        });
        let (mut on_the_way, mut slowest) = (VecDeque::new(), Duration::ZERO);
        let mut arrived = |on_the_way: &mut VecDeque<Instant>| {
            let sent = on_the_way.pop_front().expect("a batch is on the way");
            let came = wait.recv_timeout(PATIENCE).expect("the fast reader gets everything without delay");
            slowest = slowest.max(came - sent);
        };
        for batch in batches {
            on_the_way.push_back(Instant::now());
            node.post("/events", &rows(batch * BATCH..(batch + 1) * BATCH));
            if on_the_way.len() > AHEAD {
                arrived(&mut on_the_way);
            }
        }
        while !on_the_way.is_empty() {
            arrived(&mut on_the_way);
        }
        slowest
    })
}

#[test]
fn a_reader_that_stops_costs_little_and_delays_no_other() {
    let long = std::env::var_os("MILLSTREAM_LONG").is_some();
    let batches = if long { 1000 } else { 300 };
    let node = Node::start(
        "[emitter]\nwrite_deadline_ms = 600000\n[journal]\nkind = \"memory\"\nretention_events = 2000\n\
         [telemetry]\nlog = \"warn,millstream::hub=info\"",
    );
    let mut healthy = node.stream("/events?topic=t", &[]);
    healthy.until("connection");
    // The journal is full and the allocator has seen everything before memory is counted.
    pour(&node, &mut healthy, 0..100);
    let mut stopped = node.stream("/events?topic=t", &[("X-User-ID", "42")]);
    stopped.until("connection");
    let before = node.resident();
    let begin = Instant::now();
    let slowest = pour(&node, &mut healthy, 100..100 + batches);
    let (cost, took) = (node.resident().saturating_sub(before), begin.elapsed());
    let events = batches * 100;
    println!("{events} events in {took:?}: {cost} bytes for a stopped reader, the slowest batch took {slowest:?}");
    assert!(cost < 2 << 20, "a reader who stopped costs {cost} bytes");
    assert!(slowest < Duration::from_secs(3), "others were delayed by {slowest:?}");
    let state = &node.get("/api/sse/managed/status/user/42").json()["emitters"][0];
    assert_eq!(state["state"], "catch_up", "{state}");
    assert!(state["queuedBytes"].as_u64() <= Some(256 << 10), "{state}");

    // Now it reads again: the remaining events in order, with a report for missing ones.
    let last = (100 + batches) * 100 - 1;
    let mut numbers = Vec::new();
    let mut gaps = Vec::new();
    while numbers.last() != Some(&last) {
        let event = stopped.next();
        match event.event.as_str() {
            "n" => numbers.push(number(&event)),
            "gap" => gaps.push((numbers.len(), event)),
            other => assert_eq!(other, "heartbeat"),
        }
    }
    let [(index, gap)] = &gaps[..] else { panic!("one gap: {gaps:?}") };
    assert_eq!((&gap.json()["reason"], &gap.json()["topics"][0]["topic"]), (&json!("trimmed"), &json!("t")));
    assert_eq!(numbers[..*index], (10_000..10_000 + index).collect::<Vec<_>>(), "what the buffers held");
    assert_eq!(numbers[*index..], (last + 1 - 2000..=last).collect::<Vec<_>>(), "what the journal keeps");
    pour(&node, &mut healthy, 100 + batches..102 + batches);
    eventually(|| Some(number(&stopped.next_own())).filter(|n| *n == last + 200));
}
