//! Memory of a node under jobs that bring as much as they may: a short form of `scripts/bench-memory`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::json;

mod support;

use support::{
    Node,
    upstream::{self, Upstream},
};

const MIB: u64 = 1 << 20;

/// The highest memory of the node while `work` runs, beyond its memory before.
fn highest(node: &Node, work: impl FnOnce() + Send) -> u64 {
    let before = node.resident();
    let over = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let ended = over.clone();
        let sampling = scope.spawn(move || {
            let mut highest = 0;
            while !ended.load(Relaxed) {
                highest = highest.max(node.resident());
                #[expect(clippy::disallowed_methods, reason = "a sample every 5 ms; nothing waits for it")]
                thread::sleep(Duration::from_millis(5));
            }
            highest
        });
        // The scope would wait for ever for a thread that samples on after a panic.
        let done = catch_unwind(AssertUnwindSafe(work));
        over.store(true, Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic));
        sampling.join().expect("it samples").saturating_sub(before)
    })
}

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
    let specs = highest(&node, || block(40));
    assert!(specs < 80 * MIB, "{} MiB", specs / MIB);
    assert_eq!(node.metric("millstream_jobs_running"), 50.0);
}

#[test]
fn answers_of_tasks_stay_out_of_memory() {
    let text = "a \"line\" of text\n".repeat(9_500_000 / 17);
    let remote = Upstream::start(move |_, socket| upstream::answer(socket, "200 OK", "text/plain", &text));
    let node = Node::start(&format!("{}[jobs]\nmax_memory_bytes = 134217728\n", remote.allowed()));
    // Together they are 76 MB, and each has three copies.
    let tasks: Vec<_> = (0..8).map(|_| json!({ "url": remote.url("/") })).collect();
    let answers = highest(&node, || {
        let job = node.post("/api/jobs", &json!({ "tasks": tasks }));
        let path = format!("/api/jobs/{}", job["jobId"].as_str().expect("an id"));
        // One by one: on a busy machine all of them together take longer than the wait for one event may.
        for task in 1..=8 {
            let succeeded = || node.metric("millstream_tasks_succeeded_total") >= f64::from(task);
            support::eventually(|| succeeded().then_some(()));
        }
        support::eventually(|| (node.get(&path).json()["status"] == "completed").then_some(()));
    });
    assert!(answers < 130 * MIB, "{} MiB", answers / MIB);
}
