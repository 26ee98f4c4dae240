//! `publish` and `watch`.

use rustix::process::Signal;
use serde_json::json;

use crate::program::{Node, Program};

/// A node whose clients come back soon.
fn node(listen: &str) -> Node {
    Node::start_with(listen, &[], &[("MILLSTREAM__EMITTER__RECONNECT_TIME_MS", "100")])
}

fn watching(node: &Node, arguments: &[&str]) -> Program {
    let program = node.begin(&[&["watch", "--all"], arguments].concat(), None);
    program.wait_until("it is connected", |program| program.stdout().contains("- connection "));
    program
}

/// What the `date` of the system makes of Unix milliseconds.
fn date(ms: u64) -> String {
    let at = format!("@{}.{:03}", ms / 1000, ms % 1000);
    let output = std::process::Command::new("date").args(["-u", "-d", &at, "+%Y-%m-%dT%H:%M:%S.%3NZ"]).output();
    String::from_utf8_lossy(&output.expect("`date` runs").stdout).trim().to_owned()
}

#[test]
fn what_is_published_is_seen() {
    let node = Node::start();
    let program = watching(&node, &["order:*", "--until", "shipped"]);
    let answer =
        node.run(&["publish", "order:1", r#"{"a": 1}"#, "--event", "paid", "--id", "k1"], None).expect(0).rows();
    assert_eq!((&answer[0]["topic"], &answer[0]["delivered"]), (&"order:1".into(), &1.into()));
    let again =
        node.run(&["publish", "order:1", r#"{"a": 1}"#, "--event", "paid", "--id", "k1"], None).expect(0).rows();
    assert_eq!((&again[0]["id"], &again[0]["duplicate"]), (&answer[0]["id"], &true.into()));
    node.run(&["publish", "order:2", "-", "--event", "note"], Some("two\nlines\n")).expect(0);
    node.run(&["publish", "other", "x"], None).expect(0);
    node.run(&["publish", "order:3", "--event", "shipped"], None).expect(0);
    let ended = program.end().expect(0);
    let lines: Vec<&str> = ended.stdout.lines().filter(|line| !line.starts_with('-')).collect();
    let id = answer[0]["id"].as_str().unwrap();
    // Time in UTC, topic, id, event, data.
    let (time, rest) = lines[0].split_once(' ').unwrap();
    assert_eq!(rest, format!(r#"order:1 {id} paid {{"a":1}}"#));
    let kept = node.run(&["watch", "order:1", "--json", "--history", "1", "--count", "1"], None).expect(0).rows();
    assert_eq!(time, date(kept[0]["timestamp"].as_u64().unwrap()));
    assert!(lines[1].contains("Z order:2 ") && lines[1].ends_with(" note two\\nlines"), "{lines:?}");
    assert!(lines[2].contains("Z order:3 ") && lines[2].ends_with(" shipped "), "{lines:?}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn the_past_comes_as_rows_from_where_one_wants() {
    let node = Node::start();
    for n in 1..=4 {
        node.run(&["publish", "t", &format!(r#"{{"n":{n}}}"#), "--event", "step"], None).expect(0);
    }
    let rows = node.run(&["watch", "t", "--json", "--history", "3", "--count", "3"], None).expect(0).rows();
    let numbers: Vec<_> = rows.iter().map(|row| row["data"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [2, 3, 4]);
    assert_eq!((&rows[0]["topic"], &rows[0]["event"]), (&json!("t"), &json!("step")));
    assert!(rows[0]["timestamp"].is_u64(), "{}", rows[0]);
    let since = rows[1]["id"].as_str().unwrap();
    let rest = node.run(&["watch", "t", "--json", "--since-id", since, "--count", "1"], None).expect(0).rows();
    assert_eq!(rest[0], rows[2]);
}

#[test]
fn a_refused_publication_is_reported() {
    let node = Node::start();
    let ended = node.run(&["publish", "job:1", "x"], None).expect(1);
    assert!(ended.stderr.starts_with("millstream: 422: `topic`: "), "{}", ended.stderr);
}

#[test]
fn a_url_is_watched_to_the_end_of_its_stream() {
    let node = Node::start();
    let job = node.run(&["run", "-", "--json"], Some(r#"{"tasks":[{"run":"Calculate Stats"}]}"#)).expect(0).rows();
    let id = job[0]["data"]["jobId"].as_str().unwrap();
    let url = format!("{}/api/jobs/{id}/events", node.url());
    // The node ends the stream after the last event, and responds with 204 to a client that has received it.
    let ended = Program::start(&["watch", &url, "--json"], None).end().expect(0);
    assert_eq!(ended.rows(), job);
    let ended = Program::start(&["watch", &url, "--until", "nothing"], None).end().expect(1);
    assert!(ended.stderr.contains("ended before an event `nothing`"), "{}", ended.stderr);
    let ended = Program::start(&["watch", &format!("{}/api/jobs/none/events", node.url())], None).end().expect(1);
    assert!(ended.stderr.starts_with("millstream: 404: "), "{}", ended.stderr);
}

#[test]
fn a_watcher_goes_on_when_its_node_was_killed_and_comes_back() {
    let first = node("127.0.0.1:0");
    let listen = first.addr.to_string();
    let program = watching(&first, &["t", "--until", "end"]);
    first.run(&["publish", "t", "before"], None).expect(0);
    program.wait_until("the event is there", |program| program.stdout().contains("before"));
    first.program.signal(Signal::KILL);
    drop(first);
    program.wait_until("it notices", |program| program.stderr().contains("connection lost"));
    let second = node(&listen);
    second.run(&["publish", "t", "after"], None).expect(0);
    program.wait_until("it continues", |program| program.stdout().contains("message after"));
    second.run(&["publish", "t", "--event", "end"], None).expect(0);
    let ended = program.end().expect(0);
    // The journal was in memory: what the old node had is gone, and that is not hidden.
    assert!(ended.stderr.contains("gap (foreign)"), "{}", ended.stderr);
    assert_eq!(ended.stdout.matches("message after").count(), 1, "{}", ended.stdout);
}

#[test]
fn a_reader_that_disconnects_ends_it_without_a_message() {
    let node = Node::start();
    for n in 0..3 {
        node.run(&["publish", "t", &format!("{n}")], None).expect(0);
    }
    let shell = format!("'{}' watch t --history 3 --url {} | head -n 1", env!("CARGO_BIN_EXE_millstream"), node.url());
    let mut child = std::process::Command::new("sh")
        .args(["-c", &shell])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let until = std::time::Instant::now() + crate::program::PATIENCE;
    // The program learns of it at its next line.
    while child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < until, "it hangs");
        node.run(&["publish", "t", "more"], None).expect(0);
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
