//! Attempts: results, retries, timeouts, panics, progress.

use std::time::Duration;

use serde_json::json;
use tokio::time::{pause, sleep};

use super::rig::{Rig, Setup, good};
use crate::jobs::handler::TaskError;

fn retries() -> Setup {
    Setup::usual().with("flaky", |task| async move {
        let wanted = u32::try_from(task.input.value().as_u64().unwrap()).unwrap();
        task.progress.report(f64::from(task.attempt) * 10.0, None).await;
        if task.attempt < wanted {
            Err(TaskError::transient("http_status", "status 500"))
        } else {
            good(json!("at last"))
        }
    })
}

#[actix_rt::test]
async fn the_history_of_a_job_is_complete_and_in_order() {
    let rig = Setup::usual().start();
    let id = rig
        .submit(json!({"tasks": [
            {"id": "a", "name": "Echo it", "run": "echo", "input": {"x": [1, 2]}},
            {"id": "b", "url": "http://example.com/", "headers": {"X-Key": "secret"}},
        ]}))
        .await;
    let history = rig.ended(&id).await;
    assert_eq!(history.names("a"), ["task_start", "task_complete"]);
    assert_eq!(history.names(""), ["progress", "progress", "aggregated_result", "complete"]);
    let start = history.one("task_start", "a");
    assert_eq!(
        (&start["taskName"], &start["source"], &start["jobId"]),
        (&json!("Echo it"), &json!("local"), &json!(id))
    );
    let done = history.one("task_complete", "a");
    assert_eq!((&done["result"], &done["attempts"]), (&json!({"x": [1, 2]}), &json!(1)));
    assert_eq!(history.one("task_complete", "b")["result"]["asked"]["url"], "http://example.com/");
    let steps: Vec<_> =
        history.all("progress").into_iter().map(|p| (p["step"].clone(), p["progress"].clone())).collect();
    assert_eq!(steps, [(json!(1), json!(50)), (json!(2), json!(100))]);
    assert_eq!(history.one("aggregated_result", "")["results"]["a"], json!({"x": [1, 2]}));
    assert_eq!(history.verdict(), ("completed".into(), 2, 0));
    assert!(history.0.iter().all(|event| event.data_value()["timestamp"].is_u64()));
    let live = rig.snapshot(&id).await;
    assert_eq!(Rig::refold(&live, &history), live, "the history contains the state of the node");
    assert_eq!(live.summary.last_event_id, history.0.last().map(|event| event.position));
}

#[actix_rt::test]
async fn a_task_is_retried_until_it_succeeds() {
    pause();
    let rig = retries().start();
    let id = rig.submit(json!({"tasks": [{"id": "a", "run": "flaky", "input": 3, "retryCount": 2}]})).await;
    let history = rig.ended(&id).await;
    let expected =
        ["task_start", "task_progress", "task_retry", "task_progress", "task_retry", "task_progress", "task_complete"];
    assert_eq!(history.names("a"), expected);
    let retries = history.all("task_retry");
    assert_eq!(retries.iter().map(|r| r["attempt"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((&retries[0]["error"], &retries[0]["code"]), (&json!("status 500"), &json!("http_status")));
    let delays: Vec<_> = retries.iter().map(|r| r["delayMs"].as_u64().unwrap()).collect();
    assert!((250..=500).contains(&delays[0]) && (500..=1000).contains(&delays[1]), "{delays:?}");
    let done = history.one("task_complete", "a");
    assert_eq!(done["attempts"], 3);
    assert!(done["durationMs"].as_u64().unwrap() >= delays.iter().sum(), "{done}");
    assert_eq!(history.verdict(), ("completed".into(), 1, 0));
    assert_eq!(rig.jobs.stats().task_retries, 2);
    let live = rig.snapshot(&id).await;
    assert_eq!(Rig::refold(&live, &history), live);
}

#[actix_rt::test]
async fn a_task_fails_when_its_retries_are_used_up_or_cannot_help() {
    pause();
    let rig = retries().with("fatal", |_| async { Err(TaskError::fatal("bad_input", "no")) }).start();
    let history = rig
        .run(json!({"tasks": [
            {"id": "a", "run": "flaky", "input": 9, "retryCount": 1},
            {"id": "b", "run": "fatal", "retryCount": 5},
        ]}))
        .await;
    let a = history.one("error", "a");
    assert_eq!((&a["attempts"], &a["retryable"], &a["code"]), (&json!(2), &json!(true), &json!("http_status")));
    let b = history.one("error", "b");
    assert_eq!((&b["attempts"], &b["retryable"], &b["error"]), (&json!(1), &json!(false), &json!("no")));
    assert_eq!(history.verdict(), ("failed".into(), 0, 2));
    let results = &history.one("aggregated_result", "")["results"];
    assert_eq!(results["b"], json!({"error": "no"}));
    assert_eq!(history.one("complete", "")["errors"][0], json!({"taskId": "b", "error": "no"}));
}

#[actix_rt::test]
async fn retry_after_is_honoured_within_bounds() {
    pause();
    let setup = Setup::usual().with("busy", |task| async move {
        if task.attempt > 1 {
            return good(json!(null));
        }
        let wait = Some(Duration::from_secs(task.input.value().as_u64().unwrap()));
        Err(TaskError { retry_after: wait, ..TaskError::transient("http_status", "429") })
    });
    let rig = setup.start();
    let task = |seconds: u64| json!({"run": "busy", "input": seconds, "retryCount": 1});
    let history = rig.run(json!({"tasks": [task(20), task(100_000)]})).await;
    let mut delays: Vec<_> = history.all("task_retry").iter().map(|r| r["delayMs"].as_u64().unwrap()).collect();
    delays.sort_unstable();
    assert!((20_000..20_500).contains(&delays[0]) && delays[1] == 300_000, "{delays:?}");
}

#[actix_rt::test]
async fn an_attempt_that_takes_too_long_is_an_error() {
    pause();
    let setup = Setup::usual().with("deaf", |_| std::future::pending());
    let rig = setup.start();
    let history = rig
        .run(json!({"tasks": [
            {"id": "a", "run": "deaf", "timeoutMs": 500},
            {"id": "b", "run": "deaf", "timeoutMs": 300, "retryCount": 1},
            {"id": "c", "run": "deaf"},
        ]}))
        .await;
    let a = history.one("error", "a");
    assert_eq!((&a["code"], &a["attempts"]), (&json!("timeout"), &json!(1)));
    assert!((500..600).contains(&a["durationMs"].as_u64().unwrap()), "{a}");
    assert_eq!(history.names("b"), ["task_start", "task_retry", "error"]);
    // Without its own timeout the node's default applies.
    assert!(history.one("error", "c")["durationMs"].as_u64().unwrap() >= 300_000);
}

#[actix_rt::test]
async fn a_panic_is_the_error_of_its_task_alone() {
    let setup = Setup::usual().with("bomb", |task| async move {
        assert!(task.input.is_null(), "kaboom {}", task.input);
        good(json!(null))
    });
    let rig = setup.start();
    let history = rig
        .run(json!({"tasks": [
            {"id": "a", "run": "bomb", "input": 7, "retryCount": 3},
            {"id": "b", "run": "echo", "input": 1},
        ]}))
        .await;
    let error = history.one("error", "a");
    assert_eq!((&error["code"], &error["attempts"]), (&json!("panic"), &json!(1)));
    assert!(error["error"].as_str().unwrap().contains("kaboom 7"), "{error}");
    assert_eq!(history.verdict(), ("partial".into(), 1, 1));
    assert_eq!(rig.run(json!({"tasks": [{"run": "bomb"}]})).await.verdict().0, "completed", "the node continues");
}

#[actix_rt::test]
async fn progress_is_thinned_out_but_forwarded_data_is_not() {
    pause();
    let setup = Setup::usual().with("talk", |task| async move {
        for step in 0..=1000_u32 {
            task.progress.report(f64::from(step) / 10.0, format!("step {step}")).await;
            sleep(Duration::from_millis(1)).await;
        }
        for n in 0..50 {
            task.progress.forward(f64::NAN, json!({ "n": n })).await;
        }
        good(json!(null))
    });
    let rig = setup.start();
    let history = rig.run(json!({"tasks": [{"id": "a", "run": "talk"}]})).await;
    let progress = history.all("task_progress");
    let (forwarded, reports): (Vec<_>, Vec<_>) = progress.iter().partition(|p| p.get("data").is_some());
    let tenths = history.one("task_complete", "a")["durationMs"].as_u64().unwrap() / 100;
    let count = reports.len() as u64;
    assert!((tenths - 2..=tenths + 1).contains(&count), "{count} reports in {tenths} tenths of a second");
    assert_eq!(
        forwarded.iter().map(|p| p["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>(),
        (0..50).collect::<Vec<_>>()
    );
    let values: Vec<_> = progress.iter().map(|p| p["progress"].as_f64().unwrap()).collect();
    assert!(values.is_sorted() && values[0] < 1.0 && values.last() == Some(&100.0), "{values:?}");
    let names = history.names("a");
    assert_eq!(names.last(), Some(&"task_complete"), "no event follows the end");
}

#[actix_rt::test]
async fn the_last_report_before_a_pause_is_shown_soon() {
    pause();
    let setup = Setup::usual().with("talk", |task| async move {
        for step in 1..=5_u32 {
            task.progress.report(f64::from(step), None).await;
        }
        sleep(Duration::from_secs(60)).await;
        good(json!(null))
    });
    let rig = setup.start();
    let history = rig.run(json!({"tasks": [{"id": "a", "run": "talk"}]})).await;
    let values: Vec<_> = history.all("task_progress").iter().map(|p| p["progress"].as_u64().unwrap()).collect();
    assert_eq!(values, [1, 5]);
}
