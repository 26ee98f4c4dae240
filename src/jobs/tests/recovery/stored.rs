//! Ended jobs and their data still exist after a restart.

use tokio::time::pause;

use super::*;
use crate::{
    jobs::{Error, Filter, Handle, Submission, SubmitError, tests::rig::submission},
    upstream::Via,
};

fn setup() -> Setup {
    let config = Config { max_result_bytes: 1000, ..Config::default() };
    Setup { config, ..Setup::usual() }.with("fail", |_| async { Err(TaskError::fatal("bad", "bad luck")) })
}

async fn all(jobs: &Handle) -> Vec<String> {
    let listing = jobs.list(Filter { limit: 1000, ..Filter::default() }).await.unwrap();
    listing.jobs.iter().map(|job| job.job_id.to_string()).collect()
}

#[actix_rt::test]
async fn an_ended_job_is_unchanged() {
    let journal = journal();
    let node = setup().on(&journal).start();
    let keyed = || {
        let spec = json!({"tasks": [
            {"id": "a", "run": "echo", "input": 7}, {"id": "l", "run": "echo", "input": "x".repeat(2000)}, {"id": "f", "run": "fail"},
        ]});
        Submission { key: Some("k".into()), ..submission(spec) }
    };
    let id = node.jobs.submit(keyed()).await.unwrap().job_id;
    node.ended(&id).await;
    let other = node.submit(json!({"tasks": [{"run": "echo"}]})).await;
    node.ended(&other).await;
    let (before, listed) = (node.snapshot(&id).await, all(&node.jobs).await);
    node.crash().await;

    let node = setup().on(&journal).start();
    // The first query waits until all jobs are restored.
    assert_eq!(node.jobs.get(&id).await.unwrap(), before);
    assert_eq!(all(&node.jobs).await, listed);
    assert_eq!(node.jobs.result(&id, "a").await.unwrap().json, "7");
    assert_eq!(node.jobs.result(&id, "l").await.unwrap().json.len(), 2002);
    assert!(matches!(node.jobs.result(&id, "f").await, Err(Error::NoResult(_))));
    assert_eq!(node.jobs.spec(&id).await.unwrap().tasks.len(), 3);
    let again = node.jobs.submit(keyed()).await.unwrap();
    assert_eq!((again.existing, &again.job_id, again.status), (true, &id, before.summary.status));
    let stats = node.jobs.stats();
    assert_eq!((stats.jobs_kept, stats.jobs_running, stats.jobs_taken_up), (2, 0, 0));
    let retried = node.jobs.retry(&id, None, Vec::new(), Via::default(), None).await.unwrap().job_id;
    assert_eq!(node.ended(&retried).await.names("f"), ["task_start", "error"]);
    assert!(matches!(node.jobs.cancel(&id).await, Err(Error::Ended(_))));
}

#[actix_rt::test]
async fn a_record_that_cannot_be_read_is_not_changed() {
    pause();
    let journal = journal();
    let node = setup().on(&journal).start();
    let id = node.submit(json!({"tasks": [{"run": "echo"}]})).await;
    node.ended(&id).await;
    node.crash().await;
    let odd = |key: &str, value: &'static str| RecordWrite {
        key: key.into(),
        value: Some(Bytes::from_static(value.as_bytes())),
    };
    let later = Copy::of(&journal, &id);
    later.to(&journal, "01LATER").await;
    let record = journal.get("job/01LATER/spec".into()).await.unwrap().unwrap().value;
    let record = String::from_utf8_lossy(&record).replace("\"version\":1", "\"version\":99");
    let records = vec![
        odd("job/01ODD/spec", "no json"),
        odd("job/odd", "1"),
        RecordWrite { key: "job/01LATER/spec".into(), value: Some(record.into()) },
    ];
    journal.append(Batch { records, ..Batch::default() }).await.unwrap();
    let node = setup().on(&journal).start();
    assert_eq!(all(&node.jobs).await, [id.as_str()]);
    assert_eq!(node.jobs.stats().records_unreadable, 2);
    assert!(journal.get("job/01ODD/spec".into()).await.unwrap().is_some());
    let topics = journal.topics(crate::topic::Pattern::new("job:01LATER").unwrap(), None, 10).await.unwrap();
    assert_eq!(topics.len(), 1, "its history is not changed either");
    assert_eq!(node.run(json!({"tasks": [{"run": "echo"}]})).await.verdict().0, "completed");
}

#[actix_rt::test]
async fn a_record_that_cannot_be_read_affects_only_its_job() {
    pause();
    let journal = journal();
    let node = setup().on(&journal).start();
    let (first, second) = (
        node.submit(json!({"tasks": [{"run": "echo"}]})).await,
        node.submit(json!({"tasks": [{"run": "echo"}]})).await,
    );
    node.ended(&first).await;
    node.ended(&second).await;
    node.crash().await;

    let node = Setup { damaged: Some(format!("{first}/spec")), ..setup() }.on(&journal).start();
    assert!(node.jobs.get(&second).await.is_ok(), "all others are restored in time");
    assert!(
        matches!(node.jobs.get(&first).await, Err(Error::Unreadable { job, reason }) if job == first && reason.contains("damaged"))
    );
    let listing = node.jobs.list(Filter::default()).await.unwrap();
    assert_eq!(listing.jobs.len(), 1);
    assert_eq!(listing.unreadable.iter().map(|job| &job.job_id).collect::<Vec<_>>(), [&first]);
    assert_eq!(node.jobs.stats().records_unreadable, 1);
    assert_eq!(node.run(json!({"tasks": [{"run": "echo"}]})).await.verdict().0, "completed");
    assert_eq!(node.topic(&Topic::job(&first).unwrap()).await.len(), 5, "its history is not changed either");
}

#[actix_rt::test]
async fn while_the_journal_cannot_be_read_requests_fail_in_time() {
    pause();
    let journal = journal();
    let node = setup().on(&journal).start();
    let id = node.submit(json!({"tasks": [{"run": "echo"}]})).await;
    node.ended(&id).await;
    node.crash().await;
    let node = setup().on(&journal).unreadable(60).start();
    let begun = tokio::time::Instant::now();
    assert!(matches!(node.jobs.get(&id).await, Err(Error::Starting)));
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(node.jobs.get(&id).await.is_ok(), "the journal was asked until it answered");
    node.jobs.stop(std::time::Duration::ZERO).await;

    let node = setup().on(&journal).unreadable(usize::MAX).start();
    let spec = || submission(json!({"tasks": [{"run": "echo"}]}));
    assert!(matches!(node.jobs.submit(spec()).await, Err(SubmitError::Starting)));
    node.jobs.stop(std::time::Duration::ZERO).await;
    assert!(matches!(node.jobs.submit(spec()).await, Err(SubmitError::Stopping)));
}

#[actix_rt::test]
async fn thousands_of_ended_jobs_are_counted_and_listed_by_pages() {
    let (first, second) = (journal(), journal());
    let node = setup().on(&first).start();
    let id = node.submit(json!({"tasks": vec![json!({"run": "echo", "input": "x".repeat(100)}); 4]})).await;
    node.ended(&id).await;
    for number in 0..2_500_u32 {
        Copy::of(&first, &id).to(&second, &format!("01J{number:023}")).await;
    }
    let node = setup().on(&second).start();
    while !node.jobs.is_ready() {
        // A request waits at most ten seconds, which may be too short on a busy machine.
        sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(all(&node.jobs).await.len(), 1000);
    assert_eq!(node.jobs.stats().jobs_kept, 2_500);
}
