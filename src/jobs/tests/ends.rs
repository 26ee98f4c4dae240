//! Jobs that end before their tasks do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::time::{Instant, pause, sleep};

use super::rig::{Rig, Setup, good, submission};
use crate::jobs::{Error, Status, SubmitError, handler::TaskError};

#[actix_rt::test]
async fn the_first_error_ends_a_job_with_fail_fast() {
    pause();
    let setup = Setup::usual().with("fail", |_| async {
        sleep(Duration::from_millis(50)).await;
        Err(TaskError::fatal("bad", "bad luck"))
    });
    let rig = setup.start();
    let history = rig
        .run(json!({"failFast": true, "concurrency": 2, "tasks": [
            {"id": "a", "run": "hang"}, {"id": "b", "run": "fail"}, {"id": "c", "run": "echo"},
        ]}))
        .await;
    assert_eq!(history.one("error", "b")["code"], "bad");
    let running = history.one("error", "a");
    assert_eq!((&running["code"], &running["attempts"]), (&json!("cancelled"), &json!(1)));
    let waiting = history.one("error", "c");
    assert_eq!((&waiting["code"], &waiting["attempts"]), (&json!("cancelled"), &json!(0)));
    assert_eq!(history.names("c"), ["error"], "a task that never began has no start");
    assert_eq!(history.verdict(), ("failed".into(), 0, 3));
    assert_eq!(history.all("progress").len(), 3);
}

#[actix_rt::test]
async fn a_cancelled_job_stops_its_tasks_and_has_the_status_cancelled() {
    pause();
    let setup = Setup::usual().with("deaf", |_| std::future::pending());
    let rig = setup.start();
    let id = rig
        .submit(json!({"concurrency": 3, "tasks": [
            {"id": "a", "run": "echo"}, {"id": "b", "run": "hang"}, {"id": "c", "run": "deaf"},
            {"id": "d", "run": "hang"}, {"id": "e", "run": "echo"},
        ]}))
        .await;
    rig.until(&id, |events| events.iter().filter(|e| e.name() == "task_start").count() == 4).await;
    let begun = Instant::now();
    rig.jobs.cancel(&id).await.unwrap();
    rig.jobs.cancel(&id).await.expect("a second cancel succeeds");
    let history = rig.ended(&id).await;
    assert_eq!(history.verdict(), ("cancelled".into(), 1, 4));
    assert!(history.all("error").iter().all(|e| e["code"] == "cancelled"));
    let took = begun.elapsed();
    assert!((2..3).contains(&took.as_secs()), "the task without reaction had its grace and no more: {took:?}");
    let live = rig.snapshot(&id).await;
    assert_eq!(Rig::refold(&live, &history), live);
    rig.jobs.cancel(&id).await.expect("it is cancelled");
    assert!(matches!(rig.jobs.cancel("01J").await, Err(Error::UnknownJob(_))));
}

#[actix_rt::test]
async fn an_ended_job_cannot_be_cancelled() {
    let rig = Setup::usual().start();
    let id = rig.submit(json!({"tasks": [{"run": "echo"}]})).await;
    rig.ended(&id).await;
    rig.snapshot(&id).await;
    assert!(matches!(rig.jobs.cancel(&id).await, Err(Error::Ended(Status::Completed))));
}

#[actix_rt::test]
async fn a_job_ends_at_its_deadline() {
    pause();
    let rig = Setup::usual().with("fail", |_| async { Err(TaskError::transient("bad", "again")) }).start();
    let id = rig
        .submit(json!({"timeoutMs": 100, "concurrency": 3, "tasks": [
            {"id": "a", "run": "echo"}, {"id": "b", "run": "hang"}, {"id": "r", "run": "fail", "retryCount": 20},
            {"id": "c", "run": "hang"}, {"id": "d", "run": "hang"},
        ]}))
        .await;
    let history = rig.ended(&id).await;
    assert_eq!(history.verdict(), ("timed_out".into(), 1, 4));
    for task in ["b", "c", "d", "r"] {
        assert_eq!(history.one("error", task)["code"], "job_timeout", "{task}");
    }
    assert_eq!(history.names("r"), ["task_start", "task_retry", "error"]);
    let took = history.one("complete", "")["durationMs"].as_u64().unwrap();
    assert!((100..200).contains(&took), "{took}");
}

#[actix_rt::test]
async fn results_that_arrive_in_the_grace_count() {
    pause();
    let setup = Setup::usual().with("tidy", |task| async move {
        task.cancel.cancelled().await;
        sleep(Duration::from_secs(1)).await;
        good(json!("saved"))
    });
    let rig = setup.start();
    let id = rig.submit(json!({"tasks": [{"id": "a", "run": "tidy"}]})).await;
    rig.until(&id, |events| !events.is_empty()).await;
    rig.jobs.cancel(&id).await.unwrap();
    let history = rig.ended(&id).await;
    assert_eq!(history.one("task_complete", "a")["result"], "saved");
    assert_eq!(history.verdict(), ("cancelled".into(), 1, 0));
}

#[actix_rt::test]
async fn reports_after_the_end_of_an_attempt_are_ignored() {
    pause();
    let stopped = Arc::new(AtomicUsize::new(0));
    let setup = Setup::usual().with("leaves", {
        let stopped = stopped.clone();
        move |task| {
            let stopped = stopped.clone();
            async move {
                actix_rt::spawn(async move {
                    task.cancel.cancelled().await;
                    // The engine does not listen any more; this must neither block nor appear in the history.
                    task.progress.report(50.0, None).await;
                    stopped.fetch_add(1, Ordering::SeqCst);
                });
                std::future::pending().await
            }
        }
    });
    let rig = setup.start();
    let history = rig.run(json!({"tasks": [{"id": "a", "run": "leaves", "timeoutMs": 10}]})).await;
    assert_eq!(history.names("a"), ["task_start", "error"]);
    while stopped.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[actix_rt::test]
async fn stopping_waits_for_running_jobs_and_then_ends_them() {
    pause();
    let setup = Setup::usual().with("second", |_| async {
        sleep(Duration::from_secs(1)).await;
        good(json!(1))
    });
    let rig = setup.start();
    let short = rig.submit(json!({"tasks": [{"run": "second"}]})).await;
    let long =
        rig.submit(json!({"concurrency": 1, "tasks": [{"id": "a", "run": "hang"}, {"id": "b", "run": "hang"}]})).await;
    let begun = Instant::now();
    let (jobs, stop) = (rig.jobs.clone(), rig.jobs.clone());
    let stopping = actix_rt::spawn(async move { stop.stop(Duration::from_secs(5)).await });
    sleep(Duration::from_millis(10)).await;
    assert!(matches!(jobs.submit(submission(json!({"tasks": [{"run": "echo"}]}))).await, Err(SubmitError::Stopping)));
    stopping.await.unwrap();
    assert!((5..6).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(rig.ended(&short).await.verdict(), ("completed".into(), 1, 0));
    let history = rig.ended(&long).await;
    assert_eq!(history.verdict(), ("cancelled".into(), 0, 2));
    assert!(history.all("error").iter().all(|e| e["code"] == "shutdown"));
    assert!(matches!(jobs.get(&long).await, Err(Error::Stopping)));
    jobs.stop(Duration::ZERO).await;
}

#[actix_rt::test]
async fn an_idle_node_stops_at_once() {
    pause();
    let rig = Setup::usual().start();
    rig.run(json!({"tasks": [{"run": "echo"}]})).await;
    let begun = Instant::now();
    rig.jobs.stop(Duration::from_secs(60)).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
}
