//! Short runs of each case: it measures, and its figures are right.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod program;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use rustix::process::Signal;
use serde_json::Value;

use self::program::{Node, Program};

/// Runs a case that must be clean; gives its line of JSON.
#[track_caller]
fn measure(arguments: &str) -> Value {
    let ended = Program::start(arguments).end().expect(0);
    assert!(ended.stderr.ends_with("clean\n"), "{}", ended.stderr);
    ended.row()
}

#[track_caller]
fn assert_positive(row: &Value, keys: &[&str]) {
    for key in keys {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {row}");
    }
}

#[test]
fn a_small_fan_out_is_clean() {
    let row = measure("fanout --subs 20 --topics 3 --publishers 2 --rate 40 --secs 1 --warmup 0");
    let published = row["published"].as_u64().unwrap();
    assert!((30..=40).contains(&published), "{row}");
    // Each event goes to a third of the subscribers: 7, 7 or 6 of them.
    let deliveries = row["deliveries"].as_u64().unwrap();
    assert!((published * 6..=published * 7).contains(&deliveries), "{row}");
    assert_eq!((&row["lost"], &row["clean"]), (&0.into(), &true.into()));
    assert!(row["serverRssPeakMib"].as_f64().unwrap() > 1.0, "{row}");
}

#[test]
fn a_running_node_is_measured_as_fast_as_it_acknowledges() {
    let node = Node::start();
    let row = measure(&format!("fanout --subs 5 --rate 0 --secs 1 --warmup 0 --url {}", node.url));
    assert!(row["deliveriesPerS"].as_f64().unwrap() > 100.0, "{row}");
    assert_eq!(row["serverCores"], Value::Null, "its process is unknown");
}

#[test]
fn idle_streams_and_replays_are_measured() {
    let row = measure("idle --subs 50 --hold 1");
    assert!(row["connectsPerS"].as_f64().unwrap() > 10.0, "{row}");
    assert!(row["serverRssBytesPerConnection"].as_u64().unwrap() > 1000, "{row}");
    // Nodes of other tests share the pages of the program, so this figure may be anything here.
    assert!(row["serverPssBytesPerConnection"].is_u64(), "{row}");
    let row = measure("replay --subs 20 --events 30 --missed 10");
    assert_eq!((&row["deliveries"], &row["gaps"]), (&200.into(), &0.into()));
}

#[test]
fn the_exit_code_is_2_when_nothing_was_measured() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ended = Program::start(&format!("fanout --subs 2 --secs 1 --url http://127.0.0.1:{port}")).end().expect(2);
    assert!(ended.stderr.contains("cannot connect"), "{}", ended.stderr);
}

#[test]
fn a_signal_ends_the_node_of_a_measurement_too() {
    let mut program = Program::start("idle --subs 5 --hold 600");
    let node = program.wait_until("the node runs", |program| program.children().first().copied());
    program.signal(Signal::TERM);
    program.end().expect(130);
    assert!(!std::path::Path::new(&format!("/proc/{node}")).exists());
}

#[test]
fn the_journal_is_measured_alone_behind_http_and_beside_laggards() {
    let row = |arguments: &str| -> Value {
        let ended = Program::start(arguments).end();
        // A report that is not clean is complete, too: this machine may be too slow for its bound.
        assert!(matches!(ended.code, Some(0 | 1)), "{}", ended.stderr);
        ended.row()
    };
    let alone = row("journal --events 5000 --topics 5 --paced-secs 1 --paced-per-s 1000");
    assert_eq!(
        (&alone["events"], &alone["resumedEvents"], &alone["clean"]),
        (&5000.into(), &1000.into(), &true.into())
    );
    assert_positive(
        &alone,
        &[
            "appendedPerS",
            "openedAfterCrashMs",
            "nodeReadyMs",
            "nodeRssMib",
            "diskBytesPerEvent",
            "resumeP99Ms",
            "commitMaxMs",
            "bareMaxMs",
        ],
    );
    let behind = row("publish --secs 1 --sync os");
    assert_positive(&behind, &["batchedPerS", "journalPerS", "journalToHttp", "eightToOne"]);
    let beside = row("laggards --rounds 1 --secs 1 --subs 5 --replays 5 --events 500 --stuck 10");
    for key in ["lost", "duplicated", "reordered", "gaps"] {
        assert_eq!(beside[key], 0, "{beside}");
    }
    assert_positive(
        &beside,
        &["aloneP99Ms", "replaysP99Ms", "replayedPerS", "stuckP99Ms", "rssStuckMib", "pssStuckMib"],
    );
    let number = |key: &str| beside[key].as_u64().unwrap_or_else(|| panic!("{key}: {beside}"));
    assert!(number("takenBytesPerStuckMin") > 10_000, "the kernel's buffers are full: {beside}");
    assert!(number("offeredBytesPerStuck") > number("takenBytesPerStuckMax") + (1 << 20), "and the outboxes: {beside}");
    assert!(number("outboxesFilled") >= 10, "{beside}");
}

/// The other server is no node: it takes two streams and forwards each event as it came, without an id.
#[test]
fn another_server_is_measured_by_templates_of_its_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || broadcast(&listener, 2));
    let row = measure(&format!(
        "fanout --subs 2 --rate 40 --secs 1 --warmup 0 --subscribe-url http://127.0.0.1:{port}/sub/{{topic}} \
         --publish-url http://127.0.0.1:{port}/pub/{{topic}} --server-pid {}",
        std::process::id()
    ));
    let published = row["published"].as_u64().unwrap();
    assert!((30..=40).contains(&published), "{row}");
    assert_eq!((&row["deliveries"], &row["lost"]), (&(published * 2).into(), &0.into()), "{row}");
    assert!(row["serverRssPeakMib"].as_f64().unwrap() > 1.0, "{row}");
    assert!(serving.join().unwrap().contains("POST /pub/bench:"));
}

/// Serves until all clients have left; gives the publisher's first request head.
fn broadcast(listener: &TcpListener, streams: usize) -> String {
    let head = |socket: &mut TcpStream| {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if socket.read(&mut byte).unwrap_or(0) == 0 {
                return None;
            }
            bytes.extend_from_slice(&byte);
        }
        Some(String::from_utf8(bytes).unwrap())
    };
    let mut subscribers = Vec::new();
    for _ in 0..streams {
        let mut socket = listener.accept().unwrap().0;
        assert!(head(&mut socket).unwrap().starts_with("GET /sub/bench:"));
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
        subscribers.push(socket);
    }
    let mut publisher = listener.accept().unwrap().0;
    let mut first = String::new();
    while let Some(request) = head(&mut publisher) {
        let length = request.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        publisher.read_exact(&mut body).unwrap();
        if first.is_empty() {
            first = request;
        }
        for socket in &mut subscribers {
            // The load generator may close its streams at any moment.
            let _ = socket.write_all(&[b"data: ", &body[..], b"\n\n"].concat());
        }
        let _ = publisher.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok");
    }
    for socket in &mut subscribers {
        let _ = socket.read(&mut [0]);
    }
    first
}

#[test]
fn a_case_with_nothing_to_measure_is_refused() {
    let ended = Program::start("laggards --replays 0 --stuck 0").end().expect(2);
    assert!(ended.stderr.contains("nothing to measure"), "{}", ended.stderr);
    let node = Node::start();
    let ended =
        Program::start(&format!("fanout --subs 1 --secs 1 --subscribe-url {}/events?topic={{topic}}", node.url));
    let ended = ended.end().expect(2);
    assert!(ended.stderr.contains("--publish-url"), "{}", ended.stderr);
}

/// Beside nginx where it is installed; the other figures do not need it.
#[test]
fn reading_through_the_node_is_measured_beside_the_source() {
    let row = measure("relay --events 3000 --streams 2 --rounds 1 --secs 1 --rate 50");
    assert_eq!(row["lost"], 0, "{row}");
    assert_positive(&row, &["directPerS", "proxyPerS", "proxyToDirect", "directP99Ms", "proxyP50Ms"]);
}

/// Beside the bare loop where it was built. A program that is not one is named in the error.
#[test]
fn jobs_of_http_tasks_are_measured_and_every_end_is_counted() {
    let row = measure("jobs --tasks 1000 --concurrency 100 --rounds 2");
    assert_eq!((&row["lost"], &row["duplicated"], &row["failed"]), (&0.into(), &0.into(), &0.into()), "{row}");
    // Two rounds on two nodes; the bare loop adds its own.
    assert!(row["answered"].as_u64().unwrap() >= 4000, "{row}");
    // Each node keeps a connection for each task at once, however many end at the same moment.
    assert!(row["nodeConnections"].as_u64().is_some_and(|made| (1..=600).contains(&made)), "{row}");
    assert_positive(&row, &["diskPerS", "memoryPerS", "diskCpuUsPerTask", "memoryCpuUsPerTask", "diskRssPeakMib"]);
    let ended = Program::start("jobs --tasks 5 --rounds 1 --peer /bin/false").end().expect(2);
    assert!(ended.stderr.contains("`/bin/false` is no peer"), "{}", ended.stderr);
}

#[test]
fn only_loopback_is_put_under_load() {
    let ended = Program::start("fanout --url http://192.0.2.1:8090").end().expect(64);
    assert!(ended.stderr.contains("loopback"), "{}", ended.stderr);
}

#[test]
fn every_case_prints_its_version() {
    for arguments in ["--version", "idle --version"] {
        let ended = Program::start(arguments).end().expect(0);
        assert!(ended.stdout.contains(env!("CARGO_PKG_VERSION")), "{arguments}: {}", ended.stdout);
    }
}
