//! Many tasks, many jobs, narrow handlers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, pause, sleep};

use super::rig::{Rig, Setup, good};
use crate::jobs::{Config, handler::TaskError};

#[actix_rt::test]
async fn ten_thousand_tasks_have_a_consistent_history() {
    let rig = Setup::usual().start();
    let tasks: Vec<_> = (0..10_000).map(|n| json!({"run": "echo", "input": n})).collect();
    let id = rig.submit(json!({ "tasks": tasks })).await;
    let history = rig.ended(&id).await;
    let mut names: HashMap<String, Vec<&str>> = HashMap::new();
    for event in &history.0 {
        let task = event.data_value()["taskId"].as_str().unwrap_or("").to_owned();
        names.entry(task).or_default().push(event.name());
    }
    let own = names.remove("").unwrap();
    assert_eq!(own.len(), 10_002);
    assert_eq!(own[10_000..], ["aggregated_result", "complete"]);
    assert_eq!(names.len(), 10_000);
    assert!(names.values().all(|names| *names == ["task_start", "task_complete"]));
    let steps: Vec<_> = history.all("progress").iter().map(|p| p["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=10_000).collect::<Vec<_>>());
    assert_eq!(history.verdict(), ("completed".into(), 10_000, 0));
    let results = history.one("aggregated_result", "")["results"].clone();
    assert_eq!(results["10000"], 9_999, "small results fit all together");
    let live = rig.snapshot(&id).await;
    assert_eq!(Rig::refold(&live, &history), live);
}

#[actix_rt::test]
async fn cancelling_ten_thousand_tasks_reports_each_within_the_bound() {
    let rig = Setup::usual().start();
    let tasks: Vec<_> = (0..10_000).map(|_| json!({"run": "hang"})).collect();
    let id = rig.submit(json!({ "tasks": tasks })).await;
    rig.until(&id, |events| events.len() >= 256).await;
    rig.jobs.cancel(&id).await.unwrap();
    // The outbox asserts its bound at each push.
    let history = rig.ended(&id).await;
    assert_eq!(history.verdict(), ("cancelled".into(), 0, 10_000));
    assert_eq!(history.all("task_start").len(), 256);
}

#[actix_rt::test]
async fn a_thousand_slow_jobs_do_not_starve_a_new_one() {
    pause();
    let config = Config { concurrency: 16, ..Config::default() };
    let setup = Setup::usual().with("slow", |_| async {
        sleep(Duration::from_secs(10)).await;
        good(Value::Null)
    });
    let rig = Setup { config, ..setup }.start();
    let tasks = vec![json!({"run": "slow"}); 5];
    for _ in 0..1000 {
        rig.submit(json!({ "tasks": tasks })).await;
    }
    let begun = Instant::now();
    let history = rig.run(json!({"tasks": [{"run": "echo"}]})).await;
    assert_eq!(history.verdict().0, "completed");
    // One slot had to become free.
    assert!(begun.elapsed() <= Duration::from_secs(20), "{:?}", begun.elapsed());
    let stats = rig.jobs.stats();
    assert!(stats.tasks_running == 16 && stats.jobs_running > 900, "{stats:?}");
}

#[actix_rt::test]
async fn limits_of_job_and_handler_apply_and_narrow_handlers_block_no_other_task() {
    pause();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = |name: &'static str| {
        let (running, most) = (running.clone(), most.clone());
        move |_| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_secs(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                good(json!(name))
            }
        }
    };
    let rig = Setup::usual().bounded("narrow", Some(2), count("narrow")).with("wide", count("wide")).start();

    let mut tasks = vec![json!({"run": "narrow"}); 6];
    tasks.push(json!({"id": "free", "run": "echo"}));
    let history = rig.run(json!({ "tasks": tasks })).await;
    assert_eq!(most.swap(0, Ordering::SeqCst), 2, "the handler's bound");
    assert_eq!(history.all("task_complete")[0]["taskId"], "free", "it did not wait for the narrow ones");
    assert!((3000..3500).contains(&history.one("complete", "")["durationMs"].as_u64().unwrap()));

    rig.run(json!({"concurrency": 3, "tasks": vec![json!({"run": "wide"}); 9]})).await;
    assert_eq!(most.load(Ordering::SeqCst), 3, "the job's bound");
}

#[actix_rt::test]
async fn a_task_between_two_attempts_holds_no_slot() {
    pause();
    let config = Config { concurrency: 1, ..Config::default() };
    let setup = Setup::usual().with("busy", |task| async move {
        let wait = Some(Duration::from_secs(60));
        match task.attempt {
            1 => Err(TaskError { retry_after: wait, ..TaskError::transient("c", "e") }),
            _ => good(Value::Null),
        }
    });
    let rig = Setup { config, ..setup }.start();
    let first = rig.submit(json!({"tasks": [{"run": "busy", "retryCount": 1}]})).await;
    rig.until(&first, |events| events.iter().any(|e| e.name() == "task_retry")).await;
    let begun = Instant::now();
    rig.run(json!({"tasks": [{"run": "echo"}]})).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(rig.ended(&first).await.verdict().0, "completed");
}
