//! Jobs are deleted completely after their retention, also if the deletion is interrupted anywhere.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::pause;

use super::{super::full::Faulty, *};
use crate::{
    jobs::{Submission, record, tests::rig::submission},
    journal::Shared,
    topic::Pattern,
};

fn setup(config: Config) -> Setup {
    Setup { config, ..Setup::usual() }
}

async fn topics(journal: &Memory) -> usize {
    journal.topics(Pattern::new("job:*").unwrap(), None, 1000).await.unwrap().len()
}

#[actix_rt::test]
async fn retention_counts_from_the_real_end() {
    pause();
    let (first, second) = (journal(), journal());
    let config = || Config { retention_ms: HOUR_MS, ..Config::default() };
    let node = setup(config()).on(&first).start();
    let id = node.submit(json!({"tasks": [{"run": "echo"}]})).await;
    node.ended(&id).await;
    let old = |event: &mut Value| shift(event, "timestamp", -HOUR_MS.cast_signed());
    let half = |event: &mut Value| shift(event, "timestamp", -HOUR_MS.cast_signed() / 2);
    Copy { event: &old, ..Copy::of(&first, &id) }.to(&second, "01OLD").await;
    Copy { event: &half, ..Copy::of(&first, &id) }.to(&second, "01HALF").await;
    let node = setup(config()).on(&second).start();
    run_all_tasks().await;
    assert!(node.jobs.get("01OLD").await.is_err());
    assert!(node.jobs.get("01HALF").await.is_ok());
    assert_eq!((topics(&second).await, second.stats().records), (1, 1));
    sleep(std::time::Duration::from_millis(HOUR_MS / 2)).await;
    run_all_tasks().await;
    assert_eq!((topics(&second).await, second.stats().records), (0, 0));
}

#[actix_rt::test]
async fn of_too_many_jobs_those_are_deleted_that_ended_first() {
    pause();
    let (first, second) = (journal(), journal());
    let node = setup(Config::default()).on(&first).start();
    let id = node.submit(json!({"tasks": [{"run": "echo"}]})).await;
    node.ended(&id).await;
    // The older a job, the later it ended.
    for number in 0..10_i64 {
        let event = move |event: &mut Value| shift(event, "timestamp", -1000 * number);
        Copy { event: &event, ..Copy::of(&first, &id) }.to(&second, &format!("01J{number}")).await;
    }
    let node = setup(Config { max_kept: 3, ..Config::default() }).on(&second).start();
    run_all_tasks().await;
    let listed = node.jobs.list(crate::jobs::Filter::default()).await.unwrap();
    let ids: Vec<_> = listed.jobs.iter().map(|job| &*job.job_id).collect();
    assert_eq!(ids, ["01J2", "01J1", "01J0"]);
    assert_eq!(topics(&second).await, 3);
}

/// Runs a job, interrupts its purge after this number of writes, and starts a node on the rest.
async fn cut_short(writes: usize, result_bytes: usize) -> bool {
    let config = || Config { max_result_bytes: 100, ..Config::default() };
    let journal = journal();
    let node = setup(config()).on(&journal).start();
    let task = |n| json!({"id": format!("t{n}"), "run": "echo", "input": "x".repeat(result_bytes)});
    let tasks: Vec<_> = (0..20).map(task).collect();
    let submission = Submission { key: Some("k".into()), ..submission(json!({ "tasks": tasks })) };
    let id = node.jobs.submit(submission.clone()).await.unwrap().job_id;
    node.ended(&id).await;
    node.crash().await;

    let cut = Faulty::new(journal.clone());
    cut.writes.store(writes, Relaxed);
    let cut: Shared = Arc::new(cut);
    let purged = record::purge(&cut, &id, Some("job-key/-/k".into())).await.is_ok();
    let node = setup(config()).on(&journal).start();
    if writes == 0 {
        assert_eq!(node.jobs.get(&id).await.unwrap().summary.success_count, 20);
        return purged;
    }
    assert!(node.jobs.get(&id).await.is_err(), "{writes} writes");
    assert_eq!((topics(&journal).await, journal.stats().records), (0, 0), "{writes} writes");
    let new = node.jobs.submit(submission).await.unwrap();
    assert!(!new.existing && new.job_id != id, "the key is unused");
    purged
}

#[actix_rt::test]
async fn an_interrupted_purge_is_finished_at_the_next_start() {
    pause();
    // The spec, the topic, and two pages of large results.
    for writes in 0..=4 {
        assert_eq!(cut_short(writes, 200).await, writes == 4, "{writes} writes");
    }
    for writes in 0..=2 {
        assert_eq!(cut_short(writes, 10).await, writes == 2, "{writes} writes");
    }
}
