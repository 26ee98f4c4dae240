//! Limits over all jobs: waiting tasks, tasks of ended jobs, and bytes that are not yet in the journal.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use serde_json::{Value, json};
use tokio::time::{Duration, pause, sleep};

use super::rig::{Setup, good, submission};
use crate::{
    jobs::{Config, Error, SubmitError, memory::Memory},
    shares::Share,
    upstream::Via,
};

fn tasks(run: &str, count: usize) -> Value {
    json!({ "tasks": vec![json!({ "run": run }); count] })
}

#[actix_rt::test]
async fn more_tasks_than_the_node_accepts_are_refused_until_some_jobs_end() {
    let config = Config { max_running_tasks: 5, ..Config::default() };
    let rig = Setup { config, ..Setup::usual() }.start();
    let first = rig.submit(tasks("hang", 3)).await;
    assert!(matches!(rig.jobs.submit(submission(tasks("echo", 3))).await, Err(SubmitError::Full)));
    assert_eq!(rig.jobs.stats().unfinished_tasks, 3);
    rig.jobs.cancel(&first).await.unwrap();
    rig.ended(&first).await;
    assert_eq!(rig.run(tasks("echo", 3)).await.verdict(), ("completed".into(), 3, 0));
    rig.snapshot(&first).await;
    assert_eq!(rig.jobs.stats().unfinished_tasks, 0);
}

#[actix_rt::test]
async fn tasks_of_older_jobs_are_read_back_on_request() {
    let config = Config { max_kept_tasks: 3, max_result_bytes: 1000, ..Config::default() };
    let setup = Setup { config, ..Setup::usual() };
    let rig = setup.with("fail", |_| async { Err(crate::jobs::handler::TaskError::fatal("bad", "bad luck")) }).start();
    let spec = json!({ "tasks": [
        { "id": "small", "run": "echo", "input": 7 },
        { "id": "large", "run": "echo", "input": "x".repeat(2000) },
        { "id": "bad", "run": "fail" },
    ] });
    let id = rig.submit(spec).await;
    rig.ended(&id).await;
    let (before, listed) = (rig.snapshot(&id).await, rig.jobs.summary(&id).await.unwrap());
    let other = rig.submit(tasks("echo", 2)).await;
    rig.ended(&other).await;
    rig.snapshot(&other).await;
    assert_eq!(rig.jobs.get(&id).await.unwrap(), before);
    assert_eq!(rig.jobs.summary(&id).await.unwrap(), listed);
    assert_eq!(rig.jobs.result(&id, "small").await.unwrap().json, "7");
    assert_eq!(rig.jobs.result(&id, "large").await.unwrap().json.len(), 2002);
    assert!(matches!(rig.jobs.result(&id, "bad").await, Err(Error::NoResult(_))));
    assert!(matches!(rig.jobs.result(&id, "none").await, Err(Error::UnknownTask { .. })));
    let again = rig.jobs.retry(&id, None, Vec::new(), Via::default(), None).await.unwrap().job_id;
    assert_eq!(rig.ended(&again).await.names("bad"), ["task_start", "error"]);
}

#[actix_rt::test]
async fn responses_wait_for_memory_until_earlier_ones_are_in_the_journal() {
    const ANSWER: usize = 4 << 20;
    pause();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, highest) = (now.clone(), most.clone());
    let memory = Memory::new(64 << 20, Share::WHOLE);
    let rig = Setup { memory: Some(memory.clone()), ..Setup::default() }
        .with("large", move |task| {
            let (running, highest) = (running.clone(), highest.clone());
            async move {
                task.reserve.answer(ANSWER).await;
                highest.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Relaxed);
                good(json!("x".repeat(ANSWER / 4)))
            }
        })
        .start();
    assert_eq!(rig.run(tasks("large", 12)).await.verdict(), ("completed".into(), 12, 0));
    assert_eq!(most.load(Relaxed), 2, "24 MiB are for large responses, and each counts three times");
    assert_eq!(memory.figures().map(|(_, part)| part.held), [0; 4]);
}

#[actix_rt::test]
async fn results_without_room_are_referenced_by_url() {
    // A quarter of this budget is for held results.
    let config = Config { max_memory_bytes: 4000, ..Config::default() };
    let rig = Setup { config, ..Setup::usual() }.start();
    let spec = |text: &str| json!({ "tasks": vec![json!({ "run": "echo", "input": text }); 4] });
    let history = rig.run(spec(&"x".repeat(400))).await;
    let results = history.one("aggregated_result", "")["results"].clone();
    let whole = results.as_object().unwrap().values().filter(|result| result.is_string()).count();
    assert_eq!(whole, 2, "{results}");
    assert!(results.as_object().unwrap().values().any(|result| result["resultUrl"].is_string()), "{results}");
    let history = rig.run(spec("y")).await;
    assert_eq!(history.one("aggregated_result", "")["results"]["1"], "y", "the memory is free again");
}
