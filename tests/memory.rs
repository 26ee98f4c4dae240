//! Memory of a node under jobs that bring as much as they may: a short form of `scripts/bench-memory`.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

mod support;

use support::{
    Node,
    upstream::{self, Upstream},
};

const MIB: u64 = 1 << 20;

#[test]
fn specs_of_unfinished_jobs_stay_out_of_memory() {
    let node = Node::start(
        "[jobs]\nmax_memory_bytes = 33554432\n[handlers.block]\nkind = \"command\"\ncommand = [\"sleep\", \"600\"]\n",
    );
    // 3.9 MB each. The first ones fill what the journal itself keeps in memory; the others are 149 MiB together.
    let block = |jobs| {
        for _ in 0..jobs {
            node.post("/api/jobs", &json!({ "tasks": [{ "run": "block", "input": "x".repeat(3_900_000) }] }));
        }
    };
    block(10);
    let before = node.resident();
    block(40);
    // The journal merges tables for a while, and the allocator returns the memory of threads when they end.
    let deadline = Instant::now() + Duration::from_secs(90);
    while node.resident() > before + 80 * MIB {
        assert!(Instant::now() < deadline, "{} MiB more", (node.resident() - before) / MIB);
        #[expect(clippy::disallowed_methods, reason = "a sample every 50 ms, until the condition holds")]
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(node.metric("millstream_jobs_running"), 50.0);
}

#[test]
fn answers_of_tasks_stay_out_of_memory() {
    let text = "a \"line\" of text\n".repeat(9_500_000 / 17);
    let remote = Upstream::start(move |_, socket| upstream::answer(socket, "200 OK", "text/plain", &text));
    let node = Node::start(&format!("{}[jobs]\nmax_memory_bytes = 134217728\n", remote.allowed()));
    let run = |tasks: usize| {
        let tasks: Vec<_> = (0..tasks).map(|_| json!({ "url": remote.url("/") })).collect();
        let job = node.post("/api/jobs", &json!({ "tasks": tasks }));
        let path = format!("/api/jobs/{}", job["jobId"].as_str().expect("an id"));
        let mut highest = 0;
        support::eventually(|| {
            highest = highest.max(node.resident());
            (node.get(&path).json()["status"] == "completed").then_some(())
        });
        highest
    };
    let before = node.resident();
    // Together they are 76 MB, and each has three copies.
    let grown = run(8).saturating_sub(before);
    assert!(grown < 130 * MIB, "{} MiB more", grown / MIB);
}
