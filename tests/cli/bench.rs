//! `bench`: small runs, to see that it measures and that what it says is so.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Ended, Node, Program};

fn measured(ended: Ended) -> Value {
    let ended = ended.expect(0);
    assert!(ended.stderr.ends_with("clean\n"), "{}", ended.stderr);
    ended.rows().pop().expect("a line of JSON")
}

#[test]
fn a_small_fan_out_is_clean() {
    let arguments = [
        "bench",
        "fanout",
        "--subs",
        "20",
        "--topics",
        "3",
        "--publishers",
        "2",
        "--rate",
        "40",
        "--secs",
        "1",
        "--warmup",
        "0",
    ];
    let row = measured(Program::start(&arguments, None).end());
    let published = row["published"].as_u64().unwrap();
    assert!((30..=40).contains(&published), "{row}");
    // Each event goes to a third of the subscribers: 7, 7 or 6 of them.
    let deliveries = row["deliveries"].as_u64().unwrap();
    assert!((published * 6..=published * 7).contains(&deliveries), "{row}");
    assert_eq!((&row["lost"], &row["clean"]), (&0.into(), &true.into()));
    assert!(row["serverRssPeakMib"].as_f64().unwrap() > 1.0, "{row}");
}

#[test]
fn as_fast_as_acknowledged_a_running_node_is_measured() {
    let node = Node::start();
    let arguments =
        ["bench", "fanout", "--subs", "5", "--rate", "0", "--secs", "1", "--warmup", "0", "--url", &node.url()];
    let row = measured(Program::start(&arguments, None).end());
    assert!(row["deliveriesPerS"].as_f64().unwrap() > 100.0, "{row}");
    assert_eq!(row["serverCores"], Value::Null, "nobody said which process it is");
}

#[test]
fn silence_and_replay_are_measured() {
    let row = measured(Program::start(&["bench", "idle", "--subs", "50", "--hold", "1"], None).end());
    assert!(row["connectsPerS"].as_f64().unwrap() > 10.0, "{row}");
    assert!(row["serverPssBytesPerConnection"].as_u64().unwrap() > 1000, "{row}");
    let arguments = ["bench", "replay", "--subs", "20", "--events", "30", "--missed", "10"];
    let row = measured(Program::start(&arguments, None).end());
    assert_eq!((&row["deliveries"], &row["gaps"]), (&200.into(), &0.into()));
}

#[test]
fn what_cannot_be_measured_is_exit_code_2() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let ended = Program::start(&["bench", "fanout", "--subs", "2", "--secs", "1", "--url", &url], None).end().expect(2);
    assert!(ended.stderr.contains("cannot connect"), "{}", ended.stderr);
}

#[test]
fn a_measurement_that_is_stopped_takes_its_node_along() {
    let program = Program::start(&["bench", "idle", "--subs", "5", "--hold", "600"], None);
    program.wait_until("the node is there", |program| !program.children().is_empty());
    let node = program.children()[0];
    program.signal(Signal::TERM);
    program.end().expect(130);
    assert!(!std::path::Path::new(&format!("/proc/{node}")).exists());
}

#[test]
fn the_journal_is_measured_alone_behind_http_and_beside_laggards() {
    let row = |arguments: &[&str]| -> Value {
        let ended = Program::start(arguments, None).end();
        // What is not clean was measured all the same: it says that this machine was too slow for its bound.
        assert!(matches!(ended.code(), Some(0 | 1)), "{}", ended.stderr);
        serde_json::from_str(ended.stdout.trim()).unwrap()
    };
    let is_positive = |row: &Value, key: &str| assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{row}");
    let alone = row(&["bench", "journal", "--events", "5000", "--topics", "5"]);
    assert_eq!(
        (&alone["events"], &alone["resumedEvents"], &alone["clean"]),
        (&5000.into(), &1000.into(), &true.into())
    );
    for key in ["appendedPerS", "openedAfterCrashMs", "nodeReadyMs", "nodeRssMib", "diskBytesPerEvent", "resumeP99Ms"] {
        is_positive(&alone, key);
    }
    let behind = row(&["bench", "publish", "--secs", "1", "--sync", "os"]);
    ["batchedPerS", "journalPerS", "journalToHttp", "eightToOne"].iter().for_each(|key| is_positive(&behind, key));
    let small = ["--rounds", "1", "--secs", "1", "--subs", "5", "--replays", "5", "--events", "500", "--stuck", "10"];
    let beside = row(&[&["bench", "laggards"], &small[..]].concat());
    for key in ["lost", "duplicated", "reordered", "gaps"] {
        assert_eq!(beside[key], 0, "{beside}");
    }
    for key in ["aloneP99Ms", "replaysP99Ms", "replayedPerS", "stuckP99Ms", "rssStuckMib", "pssStuckMib"] {
        is_positive(&beside, key);
    }
    let number = |key: &str| beside[key].as_u64().unwrap_or_else(|| panic!("{key}: {beside}"));
    assert!(number("takenBytesPerStuckMin") > 10_000, "the kernel's buffers are full: {beside}");
    assert!(number("offeredBytesPerStuck") > number("takenBytesPerStuckMax") + (1 << 20), "and the outboxes: {beside}");
    assert!(number("outboxesFilled") >= 10, "{beside}");
}

/// A server that is no node: it takes two streams and hands each event on as it came, without an id.
#[test]
fn another_server_is_measured_in_its_own_words() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || broadcast(&listener, 2));
    let url = |what: &str| format!("http://127.0.0.1:{port}/{what}/{{topic}}");
    let (subscribe, publish) = (url("sub"), url("pub"));
    let pid = std::process::id().to_string();
    let base = ["--subscribe-url", &subscribe, "--publish-url", &publish, "--server-pid", &pid];
    let small = ["bench", "fanout", "--subs", "2", "--rate", "40", "--secs", "1", "--warmup", "0"];
    let row = measured(Program::start(&[&small[..], &base].concat(), None).end());
    let published = row["published"].as_u64().expect("the other end is there");
    assert!((30..=40).contains(&published), "{row}");
    assert_eq!((&row["deliveries"], &row["lost"]), (&(published * 2).into(), &0.into()), "{row}");
    assert!(row["serverRssPeakMib"].as_f64().expect("the other end is there") > 1.0, "{row}");
    assert!(serving.join().expect("the other end is there").contains("POST /pub/bench:"));
}

/// Serves until all have left; gives what came first from the publisher.
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
        Some(String::from_utf8(bytes).expect("the other end is there"))
    };
    let mut subscribers = Vec::new();
    for _ in 0..streams {
        let mut socket = listener.accept().expect("the other end is there").0;
        assert!(head(&mut socket).expect("the other end is there").starts_with("GET /sub/bench:"));
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            .expect("the other end is there");
        subscribers.push(socket);
    }
    let mut publisher = listener.accept().expect("the other end is there").0;
    let mut first = String::new();
    while let Some(request) = head(&mut publisher) {
        let length = request
            .split_once("content-length: ")
            .expect("the other end is there")
            .1
            .split_once("\r\n")
            .expect("the other end is there")
            .0;
        let mut body = vec![0; length.parse().expect("the other end is there")];
        publisher.read_exact(&mut body).expect("the other end is there");
        if first.is_empty() {
            first = request;
        }
        for socket in &mut subscribers {
            // Whoever measures may leave at any moment.
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
fn nobody_behind_and_nowhere_to_publish_are_refused() {
    let refused = |arguments: &[&str]| Program::start(arguments, None).end().expect(2).stderr;
    let message = refused(&["bench", "laggards", "--replays", "0", "--stuck", "0"]);
    assert!(message.contains("nobody is behind"), "{message}");
    let node = Node::start();
    let url = format!("{}/events?topic={{topic}}", node.url());
    let message = refused(&["bench", "fanout", "--subs", "1", "--secs", "1", "--subscribe-url", &url]);
    assert!(message.contains("--publish-url"), "{message}");
}

/// Beside nginx where that is installed; the figures are there either way.
#[test]
fn reading_through_the_node_is_measured_beside_the_source() {
    let small =
        ["bench", "relay", "--events", "3000", "--streams", "2", "--rounds", "1", "--secs", "1", "--rate", "50"];
    let row = measured(Program::start(&small, None).end());
    assert_eq!(row["lost"], 0, "{row}");
    for key in ["directPerS", "proxyPerS", "proxyToDirect", "directP99Ms", "proxyP50Ms"] {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {row}");
    }
}

/// Beside the bare loop where that was built; a stranger in its place is named.
#[test]
fn jobs_of_http_tasks_are_measured_and_every_end_is_counted() {
    let small = ["bench", "jobs", "--tasks", "1000", "--concurrency", "100", "--rounds", "2"];
    let row = measured(Program::start(&small, None).end());
    assert_eq!((&row["lost"], &row["duplicated"], &row["failed"]), (&0.into(), &0.into(), &0.into()), "{row}");
    // Two rounds on two nodes; the peer's come on top.
    assert!(row["answered"].as_u64().unwrap() >= 4000, "{row}");
    // Each node keeps a connection for each task at once, however many end at the same moment.
    assert!(row["nodeConnections"].as_u64().is_some_and(|made| (1..=600).contains(&made)), "{row}");
    for key in ["diskPerS", "memoryPerS", "diskCpuUsPerTask", "memoryCpuUsPerTask", "diskRssPeakMib"] {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {row}");
    }
    let stranger = ["bench", "jobs", "--tasks", "5", "--rounds", "1", "--peer", "/bin/false"];
    let ended = Program::start(&stranger, None).end().expect(2);
    assert!(ended.stderr.contains("`/bin/false` is no peer"), "{}", ended.stderr);
}
