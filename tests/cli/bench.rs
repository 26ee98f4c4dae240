//! `bench`: small runs, to see that it measures and that what it says is so.

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
    let arguments = ["bench", "replay", "--subs", "20", "--events", "30", "--missed", "10"];
    let row = measured(Program::start(&arguments, None).end());
    assert_eq!((&row["deliveries"], &row["gaps"]), (&200.into(), &0.into()));
}

#[test]
fn what_cannot_be_measured_is_exit_code_2() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
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
    let small = ["--rounds", "1", "--secs", "1", "--subs", "5", "--replays", "5", "--events", "500"];
    let beside = row(&[&["bench", "laggards"], &small[..]].concat());
    assert_eq!(beside["lost"], 0, "{beside}");
    ["aloneP99Ms", "besideP99Ms", "replayedPerS"].iter().for_each(|key| is_positive(&beside, key));
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
