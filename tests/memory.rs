//! Memory of a node under jobs that bring as much as they may: a short form of `scripts/bench-memory`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

mod support;

use support::Node;

const MIB: u64 = 1 << 20;

/// The highest memory of the node while `work` goes on, beyond what it had before.
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
        work();
        over.store(true, Relaxed);
        sampling.join().expect("it samples").saturating_sub(before)
    })
}

#[test]
fn specs_of_unfinished_jobs_stay_out_of_memory() {
    let node = Node::start(
        "[jobs]\nmax_memory_bytes = 33554432\n[handlers.block]\nkind = \"command\"\ncommand = [\"sleep\", \"600\"]\n",
    );
    let submit = |tasks: Vec<Value>| {
        node.post("/api/jobs", &json!({ "tasks": tasks }))["jobId"].as_str().expect("an id").to_owned()
    };

    // Specs of unfinished jobs: 3.9 MB each. The first ones fill what the journal itself keeps in memory. The others are
    // 149 MiB together; the bound leaves room for the copies of one submission and for tables that wait for a slow disk.
    let block =
        |jobs| (0..jobs).for_each(|_| drop(submit(vec![json!({ "run": "block", "input": "x".repeat(3_900_000) })])));
    block(10);
    let specs = highest(&node, || block(40));
    assert!(specs < 120 * MIB, "{} MiB", specs / MIB);
}
