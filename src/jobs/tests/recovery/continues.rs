//! Unfinished jobs continue after a crash of the node.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::time::pause;

use super::*;
use crate::jobs::{Status, Submission, code, tests::rig::submission};

#[actix_rt::test]
async fn finished_tasks_stay_and_the_others_run_again() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node
        .submit(json!({"concurrency": 2, "tasks": [
            {"id": "a", "run": "echo", "input": "kept"}, {"id": "f", "run": "fail"},
            {"id": "b", "run": "work"}, {"id": "c", "run": "work"}, {"id": "d", "run": "work"},
        ]}))
        .await;
    has(&node, &id, "task_start", 4).await;
    has(&node, &id, "progress", 2).await;
    let before = node.jobs.summary(&id).await.unwrap();
    node.crash().await;

    let node = well(&journal);
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.names("a"), ["task_start", "task_complete"]);
    for task in ["b", "c"] {
        assert_eq!(history.names(task), ["task_start", "task_retry", "task_progress", "task_complete"]);
        let retry = history.one("task_retry", task);
        assert_eq!(
            (&retry["code"], &retry["attempt"], &retry["delayMs"]),
            (&json!("node_restarted"), &json!(2), &json!(0))
        );
        assert_eq!(history.one("task_complete", task)["attempts"], 2);
    }
    assert_eq!(history.names("d"), ["task_start", "task_complete"], "it had not begun");
    assert_eq!(history.verdict(), ("partial".into(), 4, 1));
    assert_eq!(history.one("complete", "")["errors"], json!([{"taskId": "f", "error": "bad luck"}]));
    let results = history.one("aggregated_result", "")["results"].clone();
    assert_eq!(results, json!({"a": "kept", "f": {"error": "bad luck"}, "b": 2, "c": 2, "d": 1}));
    let after = node.snapshot(&id).await;
    assert_eq!(Rig::refold(&after, &history), after);
    assert_eq!((after.summary.created_at, after.summary.started_at), (before.created_at, before.started_at));
    let stats = node.jobs.stats();
    assert_eq!((stats.jobs_taken_up, stats.jobs_running, stats.jobs_kept, stats.jobs_accepted), (1, 0, 1, 0));
    assert_eq!(stats.jobs_ended.partial, 1);
}

/// A history may end anywhere: a node that finds its beginning brings it to a coherent end.
#[actix_rt::test]
async fn a_history_can_end_anywhere() {
    let first = journal();
    let spec = json!({"tasks": [
        {"id": "a", "run": "echo"}, {"id": "f", "run": "fail"}, {"id": "w", "run": "work"}, {"id": "l", "run": "large"},
    ]});
    let large = |setup: Setup| setup.with("large", |_| async { good(json!("x".repeat(5000))) });
    let config = Config { max_result_bytes: 4096, ..Config::default() };
    let setup = || large(Setup { config: config.clone(), ..Setup::usual() });
    let setup = || setup().with("work", |task| async move { good(json!(task.attempt)) });
    let setup = || setup().with("fail", |_| async { Err(TaskError::fatal("bad", "bad luck")) });
    let node = setup().on(&first).start();
    let id = node.submit(spec).await;
    let whole = node.ended(&id).await.0.len();
    assert_eq!(whole, 4 + 4 + 4 + 2);
    for events in 0..=whole {
        let second = journal();
        Copy { events, ..Copy::of(&first, &id) }.to(&second, &id).await;
        let node = setup().on(&second).start();
        let history = node.ended(&id).await;
        coherent(&history);
        assert_eq!(history.verdict(), ("partial".into(), 3, 1), "{events} events");
        assert_eq!(history.one("aggregated_result", "")["results"]["l"]["resultBytes"], 5002, "{events} events");
        let after = node.snapshot(&id).await;
        assert_eq!(Rig::refold(&after, &history), after, "{events} events");
        assert_eq!(node.jobs.result(&id, "l").await.unwrap().json.len(), 5002);
    }
}

#[actix_rt::test]
async fn a_task_whose_node_ended_three_times_is_not_run_again() {
    pause();
    let journal = journal();
    let runs = Arc::new(AtomicUsize::new(0));
    let node = |concurrency| {
        let runs = runs.clone();
        let config = Config { concurrency, ..Config::default() };
        let setup = Setup { config, ..Setup::usual() }.with("poison", move |_| {
            runs.fetch_add(1, SeqCst);
            std::future::pending()
        });
        setup.on(&journal).start()
    };
    let first = node(2);
    let tasks =
        json!([{"id": "p", "run": "poison", "retryCount": 9}, {"id": "h", "run": "hang"}, {"id": "e", "run": "echo"}]);
    let id = first.submit(json!({ "tasks": tasks })).await;
    has(&first, &id, "task_start", 2).await;
    first.crash().await;
    // One slot: the poison runs, and `h` waits for its turn.
    let second = node(1);
    has(&second, &id, "task_progress", 1).await;
    second.crash().await;
    let third = node(2);
    has(&third, &id, "task_progress", 3).await;
    third.crash().await;
    let last = node(2);
    has(&last, &id, "error", 1).await;
    has(&last, &id, "task_progress", 4).await;
    last.jobs.cancel(&id).await.unwrap();
    let history = last.ended(&id).await;
    coherent(&history);
    assert_eq!(runs.load(SeqCst), 3);
    let error = history.one("error", "p");
    assert_eq!(
        (&error["code"], &error["retryable"], &error["attempts"]),
        (&json!(code::CRASHED), &json!(false), &json!(3))
    );
    assert!(error["error"].as_str().unwrap().contains("3 times"), "{error}");
    let retries = |task: &str| history.all("task_retry").iter().filter(|retry| retry["taskId"] == *task).count();
    assert_eq!((retries("p"), retries("h")), (2, 2), "a task that waits for a slot is not the cause");
    assert_eq!(history.names("e"), ["task_start", "task_complete"]);
}

#[actix_rt::test]
async fn an_attempt_begins_once_its_start_is_written() {
    pause();
    let journal = journal();
    let failed = || journal::AppendError::Unavailable(journal::Unavailable::Failed("disk".into()));
    let seen = journal.clone();
    let setup = Setup::usual().with("look", move |_| {
        let seen = seen.clone();
        async move { good(json!(seen.stats().appended)) }
    });
    let node = setup.on(&journal).faulty((0..4).map(|_| failed())).start();
    let history = node.run(json!({"tasks": [{"id": "a", "run": "look"}]})).await;
    assert_eq!(history.one("task_complete", "a")["result"], 1);
}

#[actix_rt::test]
async fn an_end_of_the_node_uses_no_retry() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node.submit(json!({"tasks": [{"id": "a", "run": "work", "retryCount": 1}]})).await;
    has(&node, &id, "task_start", 1).await;
    node.crash().await;
    let setup = Setup::usual().with("work", |task| async move {
        if task.attempt < 3 { Err(TaskError::transient("c", "e")) } else { good(json!(task.attempt)) }
    });
    let node = setup.on(&journal).start();
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.one("task_complete", "a")["result"], 3);
    let codes: Vec<_> = history.all("task_retry").iter().map(|retry| retry["code"].clone()).collect();
    assert_eq!(codes, ["node_restarted", "c"]);
}

#[actix_rt::test]
async fn a_task_between_two_attempts_runs_again() {
    pause();
    let journal = journal();
    let fails = Setup::usual().with("work", |_| async { Err(TaskError::transient("c", "e")) });
    let node = fails.on(&journal).start();
    let id = node.submit(json!({"tasks": [{"id": "a", "run": "work", "retryCount": 1}]})).await;
    has(&node, &id, "task_retry", 1).await;
    node.crash().await;
    let fails = Setup::usual().with("work", |_| async { Err(TaskError::transient("d", "e")) });
    let node = fails.on(&journal).start();
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.all("task_retry").len(), 2);
    let error = history.one("error", "a");
    assert_eq!((&error["code"], &error["attempts"]), (&json!("d"), &json!(3)), "its one retry was used");
}

#[actix_rt::test]
async fn a_missing_handler_is_the_error_of_its_tasks_alone() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node
        .submit(json!({"concurrency": 1, "tasks": [
            {"id": "a", "run": "work"}, {"id": "b", "run": "work"}, {"id": "c", "run": "echo"},
        ]}))
        .await;
    has(&node, &id, "task_start", 1).await;
    node.crash().await;
    let node = Setup::usual().on(&journal).start();
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.verdict(), ("partial".into(), 1, 2));
    for task in ["a", "b"] {
        assert_eq!(history.one("error", task)["code"], code::UNKNOWN_HANDLER);
    }
    assert_eq!(node.snapshot(&id).await.summary.status, Status::Partial);
}

#[actix_rt::test]
async fn ten_thousand_interrupted_tasks_are_reported_within_the_bound() {
    let journal = journal();
    let config = Config { concurrency: 10_000, ..Config::default() };
    let node = Setup { config: config.clone(), ..Setup::usual() }.with("work", |_| std::future::pending());
    let node = node.on(&journal).start();
    let id = node.submit(json!({ "tasks": vec![json!({"run": "work"}); 10_000] })).await;
    has(&node, &id, "task_start", 10_000).await;
    node.crash().await;
    // The outbox asserts its bound at each push.
    let node = Setup { config, ..Setup::usual() }.with("work", |_| async { good(Value::Null) }).on(&journal).start();
    let history = node.ended(&id).await;
    assert_eq!(history.verdict(), ("completed".into(), 10_000, 0));
    assert_eq!(history.all("task_retry").len(), 10_000);
}

#[actix_rt::test]
async fn a_task_has_its_submitter_also_after_a_restart() {
    let journal = journal();
    let node = stuck(&journal);
    let (user, groups) = (Some("alice".to_owned()), vec!["ops".to_owned(), "night".to_owned()]);
    let job = submission(json!({"tasks": [{"id": "a", "run": "work"}]}));
    let id = node.jobs.submit(Submission { user, groups, ..job }).await.unwrap().job_id;
    has(&node, &id, "task_start", 1).await;
    node.crash().await;
    let setup = Setup::usual().with("work", |task| async move { good(json!([task.user(), task.groups()])) });
    let node = setup.on(&journal).start();
    node.ended(&id).await;
    assert_eq!(node.jobs.result(&id, "a").await.unwrap().json, r#"["alice",["ops","night"]]"#);
}
