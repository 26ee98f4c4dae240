//! One user takes everything that it may, and what a second one still gets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    rig::{ADMIN, ALICE, BOB, ask, stream, token},
    support::{
        Node, eventually,
        upstream::{Upstream, silence},
    },
};

/// How long the job of the second user may take.
const SOON: Duration = Duration::from_secs(5);

/// Two users with the same rights on a small node whose remote sends nothing.
fn node(upstream: &Upstream) -> Node {
    let rights = "jobs = true\nremotes = [\"far\"]\npublish = [\"*\"]\nsubscribe = [\"*\"]";
    let handler = |name: &str, script: &str, more: &str| {
        let script = json!(script);
        format!("[handlers.{name}]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", {script}]\n{more}\n")
    };
    let settings = [
        "[access]\nmode = \"token\"\n".to_owned(),
        token("admin", ADMIN, "admin = true"),
        token("alice", ALICE, rights),
        token("bob", BOB, rights),
        "[jobs]\nconcurrency = 8\n[relay]\nmax_relays = 8\n[journal]\nmax_bytes = 16777216\n".to_owned(),
        format!("[remotes.far]\nbase_url = \"http://{}\"\npaths = [\"/*\"]\nmax_connections = 8\n", upstream.addr),
        handler("block", "sleep 600", ""),
        handler("rare", "sleep 600", "concurrency = 2"),
        handler("quick", "echo '{\"result\": 1}'", ""),
        handler("large", "head -c 900000 /dev/zero | tr '\\0' x | sed 's/.*/{\"result\": \"&\"}/'", ""),
    ];
    Node::start(&settings.concat())
}

fn tasks(run: &str, count: usize) -> Value {
    let tasks: Vec<Value> = (0..count).map(|_| json!({ "run": run })).collect();
    json!({ "tasks": tasks })
}

fn submit(node: &Node, token: &str, spec: &Value) -> String {
    let reply = ask(node, Some(token), "POST", "/api/jobs", Some(spec));
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.json()["jobId"].as_str().expect("an id").to_owned()
}

fn status(node: &Node, token: &str, job: &str) -> Value {
    ask(node, Some(token), "GET", &format!("/api/jobs/{job}"), None).json()
}

/// Submits a quick job and waits for its end, which must come soon.
fn quick(node: &Node, token: &str) {
    let begun = Instant::now();
    let job = submit(node, token, &tasks("quick", 1));
    eventually(|| (status(node, token, &job)["status"] == "completed").then_some(()));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

fn figure(node: &Node, name: &str) -> u64 {
    let text = ask(node, Some(ADMIN), "GET", "/metrics", None).text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().trim_end_matches(".0").parse().expect("a whole number")
}

fn relay(node: &Node, token: &str, sources: usize) -> u16 {
    // Different paths, so that they do not share a connection.
    let sources: Vec<Value> =
        (0..sources).map(|_| json!({ "remote": "far", "path": format!("/{:08x}", rand::random::<u32>()) })).collect();
    let spec = json!({ "topic": "orders:all", "sources": sources, "repeat": "forever" });
    ask(node, Some(token), "POST", "/api/relays", Some(&spec)).status
}

#[test]
fn a_second_user_gets_its_share_while_the_first_takes_all_that_it_may() {
    let upstream = Upstream::start(|_, socket| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        std::io::Write::write_all(socket, head.as_bytes()).expect("send the head");
        silence(socket);
    });
    let node = node(&upstream);

    // All slots, and more tasks that wait.
    let job = submit(&node, ALICE, &tasks("block", 100));
    let running = |job: &str| {
        let tasks = status(&node, ALICE, job)["tasks"].as_array().cloned().unwrap_or_default();
        tasks.iter().filter(|task| task["status"] == "running").count()
    };
    eventually(|| (running(&job) == 6).then_some(()));
    quick(&node, BOB);

    // All slots of a handler.
    let rare = submit(&node, BOB, &tasks("rare", 2));
    let second = submit(&node, ALICE, &tasks("rare", 2));
    eventually(|| (status(&node, BOB, &rare)["startedAt"].is_u64()).then_some(()));
    ask(&node, Some(ALICE), "DELETE", &format!("/api/jobs/{job}"), None);
    eventually(|| (status(&node, ALICE, &second)["startedAt"].is_u64()).then_some(()));

    // All streams of a remote, then all relays.
    assert_eq!(relay(&node, ALICE, 8), 201);
    eventually(|| (figure(&node, "millstream_upstream_streams_open ") == 6).then_some(()));
    assert_eq!(relay(&node, BOB, 1), 201);
    eventually(|| (figure(&node, "millstream_upstream_streams_open ") == 7).then_some(()));
    let accepted = (0..8).filter(|_| relay(&node, ALICE, 1) == 201).count();
    assert_eq!(accepted, 3, "four of eight relays are its share");
    assert_eq!(relay(&node, ALICE, 1), 429);
    assert_eq!(relay(&node, BOB, 1), 201);

    // The room for results of unfinished jobs.
    let mut large = tasks("large", 30);
    large["tasks"].as_array_mut().expect("a list").push(json!({ "run": "block" }));
    let large = submit(&node, ALICE, &large);
    eventually(|| (status(&node, ALICE, &large)["errorCount"].as_u64() > Some(0)).then_some(()));
    let refused = eventually(|| {
        let reply = ask(&node, Some(ALICE), "POST", "/api/jobs", Some(&tasks("quick", 1)));
        (reply.status != 202).then_some(reply)
    });
    assert!(refused.problem(429).contains("share_percent"), "{refused:?}");
    quick(&node, BOB);
    drop(stream(&node, BOB, "/events"));
    for pool in ["jobs", "relays", "upstreams"] {
        assert!(figure(&node, &format!("millstream_shares_refused_total{{pool=\"{pool}\"}} ")) > 0, "{pool}");
    }
}
