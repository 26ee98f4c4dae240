//! Promise 2 under `kill -9`: a job that was accepted reaches `complete`, once, and its events do not contradict one
//! another, however often the node dies on the way.
//!
//! A lost answer is repeated with its `Idempotency-Key`, so each submission is one job.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    thread,
};

use serde_json::{Value, json};

use crate::{
    kills::{kill, kills, seeded},
    ledger::Ledger,
    support::{
        Event, Node, eventually,
        steady::{Asked, ask},
        upstream::{self, Upstream},
    },
};

/// The id of each job, by its submission.
type Accepted = Arc<Mutex<HashMap<String, String>>>;

const SUBMITTERS: u64 = 3;

/// Small tasks of both kinds; now and then one that fails.
fn spec(upstream: &str, number: u64) -> Value {
    let path = if number.is_multiple_of(5) { "broken" } else { "ok" };
    json!({ "tasks": [
        { "id": "stats", "run": "Calculate Stats" },
        { "id": "http", "url": format!("{upstream}{path}"), "retryCount": 1 },
    ] })
}

fn submit(addr: SocketAddr, ledger: &Ledger, key: &str, spec: &Value) -> String {
    let headers = [("Idempotency-Key", key)];
    let body = spec.to_string();
    eventually(|| match ask(addr, "POST", "/api/jobs", &headers, &body) {
        Asked::Answered(reply) if reply.status == 202 => {
            ledger.answered();
            Some(reply.json()["jobId"].as_str().expect("an id").to_owned())
        }
        Asked::Answered(reply) => {
            assert_eq!(reply.status, 503, "{reply:?}");
            None
        }
        Asked::Unsent => None,
        Asked::Lost => {
            ledger.lost.fetch_add(1, Relaxed);
            None
        }
    })
}

/// Each task has one end, the job has one `complete`, and it comes last.
fn check(job: &str, events: &[Event]) {
    let count = |name: &str, task: Option<&str>| {
        let of = |event: &&Event| event.event == name && task.is_none_or(|task| event.json()["taskId"] == task);
        events.iter().filter(of).count()
    };
    assert_eq!(count("gap", None), 0, "{job}: {events:?}");
    assert_eq!(count("complete", None), 1, "{job}: {events:?}");
    for task in ["stats", "http"] {
        assert_eq!(count("task_start", Some(task)), 1, "{job}, {task}: {events:?}");
        let ends = count("task_complete", Some(task)) + count("error", Some(task));
        assert_eq!(ends, 1, "{job}, {task}: {events:?}");
    }
    let last = events.iter().rfind(|event| !event.id.is_empty()).expect("it has events");
    assert_eq!(last.event, "complete", "{job}: {events:?}");
    let complete = last.json();
    let sum = complete["successCount"].as_u64().zip(complete["errorCount"].as_u64()).map(|(good, bad)| good + bad);
    assert_eq!(sum, Some(2), "{complete}");
}

/// Needs jobs that are taken up again after a crash.
#[test]
fn jobs_submitted_throughout_all_complete() {
    let mut rng = seeded();
    let upstream = Upstream::start(|request, socket| match request.path.as_str() {
        "/ok" => upstream::json(socket, &json!("ok")),
        _ => upstream::answer(socket, "404 Not Found", "text/plain", "no"),
    });
    let settings = "[telemetry]\nlog = \"warn\"\n";
    let mut node = Node::start(&format!("{}{settings}", upstream.allowed()));
    let (addr, ledger, accepted) = (node.addr, Arc::new(Ledger::default()), Accepted::default());
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|submitter| {
            let (ledger, accepted, url) = (ledger.clone(), accepted.clone(), upstream.url("/"));
            thread::spawn(move || {
                for number in 0.. {
                    if ledger.over.load(Relaxed) {
                        break;
                    }
                    let key = format!("{submitter}/{number}");
                    let job = submit(addr, &ledger, &key, &spec(&url, number));
                    accepted.lock().expect("no panic").insert(key, job);
                }
            })
        })
        .collect();
    for _ in 0..kills(6) {
        kill(&mut node, &mut rng, &ledger, || ledger.answers());
    }
    ledger.over.store(true, Relaxed);
    submitters.into_iter().for_each(|submitter| submitter.join().expect("the submitter is well"));

    let accepted = accepted.lock().expect("no panic").clone();
    let mut jobs: Vec<_> = accepted.values().collect();
    jobs.sort_unstable();
    jobs.dedup();
    assert_eq!(jobs.len(), accepted.len(), "two submissions, one job");
    for (key, job) in &accepted {
        let snapshot = eventually(|| {
            let snapshot = node.get(&format!("/api/jobs/{job}"));
            assert_eq!(snapshot.status, 200, "{key}: {snapshot:?}");
            let status = snapshot.json()["status"].as_str().expect("a status").to_owned();
            (!["queued", "running"].contains(&status.as_str())).then_some(status)
        });
        assert!(["completed", "partial", "failed"].contains(&snapshot.as_str()), "{key}: {snapshot}");
        check(job, &node.stream(&format!("/api/jobs/{job}/events"), &[]).rest());
        // The key still stands for the job.
        let number = key.rsplit_once('/').and_then(|(_, number)| number.parse().ok()).expect("a number");
        assert_eq!(submit(addr, &ledger, key, &spec(&upstream.url("/"), number)), *job);
    }
    println!("{} jobs, {} answers lost", accepted.len(), ledger.lost.load(Relaxed));
}
