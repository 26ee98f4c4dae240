//! A node that stops in order leaves unfinished jobs in the journal.

use tokio::time::{Duration, Instant, pause};

use super::*;

const GRACE: Duration = Duration::from_secs(5);

#[actix_rt::test]
async fn unfinished_jobs_continue_at_the_start_after_a_stop() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node
        .submit(json!({"concurrency": 3, "tasks": [
            {"id": "a", "run": "echo"}, {"id": "b", "run": "work"}, {"id": "c", "run": "hang"}, {"id": "d", "run": "work"},
            {"id": "e", "run": "echo"},
        ]}))
        .await;
    has(&node, &id, "task_start", 4).await;
    let begun = Instant::now();
    node.jobs.stop(GRACE).await;
    assert!(
        (7..8).contains(&begun.elapsed().as_secs()),
        "the grace, and two seconds for tasks that do not react: {:?}",
        begun.elapsed()
    );
    node.crash().await;

    let node = well(&journal);
    has(&node, &id, "task_complete", 3).await;
    node.jobs.cancel(&id).await.unwrap();
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.names("e"), ["task_start", "task_complete"], "a waiting task has no event");
    for task in ["b", "c", "d"] {
        let retry = history.one("task_retry", task);
        assert_eq!(
            (&retry["code"], &retry["attempt"], &retry["delayMs"]),
            (&json!("node_stopped"), &json!(2), &json!(0))
        );
    }
    assert_eq!(history.one("task_complete", "b")["result"], 2, "it has one event, and ran");
}

#[actix_rt::test]
async fn a_task_that_ends_in_the_grace_has_ended() {
    pause();
    let journal = journal();
    let setup = Setup::usual()
        .with("soon", |_| async {
            sleep(Duration::from_secs(3)).await;
            good(json!("soon"))
        })
        .with("tidy", |task| async move {
            task.cancel.cancelled().await;
            sleep(Duration::from_secs(1)).await;
            good(json!("saved"))
        });
    let node = setup.on(&journal).start();
    let soon = node.submit(json!({"tasks": [{"id": "a", "run": "soon"}]})).await;
    let tidy = node.submit(json!({"tasks": [{"id": "a", "run": "tidy"}]})).await;
    has(&node, &tidy, "task_start", 1).await;
    node.jobs.stop(GRACE).await;
    for (id, result) in [(soon, "soon"), (tidy, "saved")] {
        let history = node.ended(&id).await;
        coherent(&history);
        assert_eq!(history.verdict(), ("completed".into(), 1, 0));
        assert_eq!(history.one("task_complete", "a")["result"], result);
    }
}

#[actix_rt::test]
async fn a_job_whose_ending_had_begun_comes_to_its_end() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node.submit(json!({"concurrency": 1, "tasks": [{"run": "work"}, {"run": "work"}]})).await;
    has(&node, &id, "task_start", 1).await;
    node.jobs.cancel(&id).await.unwrap();
    node.jobs.stop(Duration::ZERO).await;
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.verdict(), ("cancelled".into(), 0, 2));
}

#[actix_rt::test]
async fn a_task_between_two_attempts_keeps_its_order_and_its_retries() {
    pause();
    let journal = journal();
    let fails = || Setup::usual().with("work", |_| async { Err(TaskError::transient("c", "e")) });
    let node = fails().on(&journal).start();
    let id = node.submit(json!({"tasks": [{"id": "a", "run": "work", "retryCount": 1}]})).await;
    has(&node, &id, "task_retry", 1).await;
    node.jobs.stop(Duration::ZERO).await;
    node.crash().await;
    let node = fails().on(&journal).start();
    let history = node.ended(&id).await;
    coherent(&history);
    let codes: Vec<_> = history.all("task_retry").iter().map(|retry| retry["code"].clone()).collect();
    assert_eq!(codes, ["c", "node_stopped"], "the one retry, and the stop");
}

#[actix_rt::test]
async fn stops_are_no_crashes_and_a_crash_after_a_stop_is_one() {
    pause();
    let journal = journal();
    let mut node = stuck(&journal);
    let id = node.submit(json!({"tasks": [{"id": "a", "run": "work"}]})).await;
    has(&node, &id, "task_start", 1).await;
    for stops in 1..=4 {
        node.jobs.stop(Duration::ZERO).await;
        node.crash().await;
        node = stuck(&journal);
        has(&node, &id, "task_progress", stops).await;
    }
    for crashes in 1..=2 {
        node.crash().await;
        node = stuck(&journal);
        has(&node, &id, "task_progress", 4 + crashes).await;
    }
    node.crash().await;
    let node = stuck(&journal);
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.one("error", "a")["code"], "crashed");
    let codes: Vec<_> = history.all("task_retry").iter().map(|retry| retry["code"].clone()).collect();
    assert_eq!(codes, [vec!["node_stopped"; 4], vec!["node_restarted"; 2]].concat());
}

#[actix_rt::test]
async fn ten_thousand_delayed_tasks_are_reported_within_the_bound() {
    pause();
    let journal = journal();
    let setup = || {
        Setup::usual().with("work", |_| async {
            let wait = Some(Duration::from_secs(200));
            Err(TaskError { retry_after: wait, ..TaskError::transient("c", "e") })
        })
    };
    let node = setup().on(&journal).start();
    let tasks = vec![json!({"run": "work", "retryCount": 1}); 10_000];
    let id = node.submit(json!({ "tasks": tasks })).await;
    has(&node, &id, "task_retry", 10_000).await;
    node.jobs.stop(Duration::ZERO).await;
    node.crash().await;
    let node = setup().on(&journal).start();
    let history = node.ended(&id).await;
    assert_eq!(history.verdict(), ("failed".into(), 0, 10_000));
    assert_eq!(history.all("task_retry").len(), 20_000);
}
