//! Submitting, listing, retrying, notifying, and the deletion of jobs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{pause, sleep};

use super::rig::{Setup, good, submission};
use crate::{
    jobs::{
        Config, Deps, Error, Filter, Handlers, Status, Submission, SubmitError, TaskHandler,
        handler::{Output, Registered, Task, TaskError},
        start,
    },
    journal::{self, Journal},
    topic::{Pattern, Topic},
    upstream::Via,
};

fn keyed(key: &str, user: Option<&str>, input: &Value) -> Submission {
    let spec = json!({"tasks": [{"run": "echo", "input": input}]});
    Submission { key: Some(key.into()), user: user.map(str::to_owned), ..submission(spec) }
}

#[actix_rt::test]
async fn an_idempotency_key_belongs_to_one_job_of_one_user() {
    let rig = Setup::usual().start();
    let first = rig.jobs.submit(keyed("k", None, &json!(1))).await.unwrap();
    let again = rig.jobs.submit(keyed("k", None, &json!(1))).await.unwrap();
    assert_eq!((first.existing, again.existing, &first.job_id), (false, true, &again.job_id));
    assert!(matches!(rig.jobs.submit(keyed("k", None, &json!(2))).await, Err(SubmitError::KeyReused)));
    let other = rig.jobs.submit(keyed("k", Some("42"), &json!(2))).await.unwrap();
    assert_ne!(other.job_id, first.job_id);
    let both = futures::future::join_all((0..20).map(|_| rig.jobs.submit(keyed("race", None, &json!(1))))).await;
    let ids: Vec<_> = both.into_iter().map(|submitted| submitted.unwrap().job_id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(rig.jobs.stats().jobs_accepted, 3);
    let bad = rig.jobs.submit(keyed("", None, &json!(1))).await;
    assert!(matches!(bad, Err(SubmitError::Invalid(errors)) if errors[0].field == "Idempotency-Key"));
}

#[actix_rt::test]
async fn a_job_is_stored_before_it_is_acknowledged_and_its_secrets_are_not_shown() {
    let rig = Setup::usual().start();
    let spec = json!({"tasks": [{"url": "http://h/", "headers": {"X-Key": "s3cret"}, "name": "N"}]});
    let id = rig.submit(spec).await;
    let record = rig.journal.get(format!("job/{id}/spec")).await.unwrap().expect("it is stored");
    assert!(String::from_utf8_lossy(&record.value).contains("s3cret"));
    let shown = rig.jobs.spec(&id).await.unwrap();
    assert_eq!(shown.tasks[0].headers.as_ref().unwrap()["X-Key"], "***");
    assert_eq!(shown.tasks[0].id.as_deref(), Some("1"), "ids are assigned");
}

#[actix_rt::test]
async fn a_wrong_job_is_refused_whole() {
    let rig = Setup::usual().start();
    let refused = rig.jobs.submit(submission(json!({"tasks": [{"run": "echo"}, {"run": "unknown"}]}))).await;
    assert!(matches!(refused, Err(SubmitError::Invalid(errors)) if errors[0].field == "tasks[1].run"));
    assert_eq!((rig.journal.stats().records, rig.jobs.stats().jobs_running), (0, 0));
}

#[actix_rt::test]
async fn a_full_node_refuses_more_jobs_until_some_end() {
    let config = Config { max_running: 2, ..Config::default() };
    let rig = Setup { config, ..Setup::usual() }.start();
    let hang = json!({"tasks": [{"run": "hang"}]});
    let first = rig.submit(hang.clone()).await;
    rig.submit(hang.clone()).await;
    assert!(matches!(rig.jobs.submit(submission(hang.clone())).await, Err(SubmitError::Full)));
    rig.jobs.cancel(&first).await.unwrap();
    rig.snapshot(&first).await;
    rig.submit(hang).await;
}

#[actix_rt::test]
async fn failed_tasks_run_again_as_a_new_job() {
    static BROKEN: AtomicBool = AtomicBool::new(true);
    let setup = Setup::usual().with("sometimes", |_| async {
        if BROKEN.load(Ordering::SeqCst) { Err(TaskError::fatal("bad", "down")) } else { good(json!("up")) }
    });
    let rig = setup.start();
    let hang = rig.submit(json!({"tasks": [{"run": "hang"}]})).await;
    assert!(matches!(rig.jobs.retry(&hang, None, Vec::new(), Via::default(), None).await, Err(Error::NotEnded(_))));
    let tasks = json!([{"run": "echo"}, {"run": "sometimes", "name": "Try"}, {"id": "x", "run": "sometimes"}]);
    let id = rig.submit(json!({ "tasks": tasks })).await;
    rig.snapshot(&id).await;
    BROKEN.store(false, Ordering::SeqCst);
    let retried = rig.jobs.retry(&id, Some("42".into()), Vec::new(), Via::default(), None).await.unwrap().job_id;
    let snapshot = rig.snapshot(&retried).await;
    assert_eq!(snapshot.summary.retry_of.as_deref(), Some(id.as_str()));
    assert_eq!(snapshot.summary.status, Status::Completed);
    let names: Vec<_> = snapshot.tasks.iter().map(|t| (&*t.task_id, &*t.task_name)).collect();
    assert_eq!(names, [("2", "Try"), ("x", "sometimes")]);
    assert!(matches!(
        rig.jobs.retry(&retried, None, Vec::new(), Via::default(), None).await,
        Err(Error::NothingFailed)
    ));
}

#[actix_rt::test]
async fn a_list_is_newest_first_in_pages_and_filtered() {
    let rig = Setup::usual().start();
    let mut ids = Vec::new();
    for n in 0..5 {
        let user = Some(if n % 2 == 0 { "even" } else { "odd" }.to_owned());
        let run = if n == 4 { "hang" } else { "echo" };
        let submitted =
            rig.jobs.submit(Submission { user, ..submission(json!({"tasks": [{"run": run}]})) }).await.unwrap();
        if n < 4 {
            rig.snapshot(&submitted.job_id).await;
        }
        ids.insert(0, submitted.job_id);
    }
    let listed = |filter: Filter| {
        let jobs = rig.jobs.clone();
        async move {
            let page = jobs.list(filter).await.unwrap();
            (page.jobs.iter().map(|job| job.job_id.to_string()).collect::<Vec<_>>(), page.next)
        }
    };
    let (page, next) = listed(Filter { limit: 3, ..Filter::default() }).await;
    assert_eq!((&page[..], next.as_ref()), (&ids[..3], Some(&ids[2])));
    let (page, next) = listed(Filter { limit: 3, after: next, ..Filter::default() }).await;
    assert_eq!((&page[..], next), (&ids[3..], None));
    let (page, _) = listed(Filter { user: Some("odd".into()), ..Filter::default() }).await;
    assert_eq!(page, [ids[1].clone(), ids[3].clone()]);
    let (page, _) = listed(Filter { status: Some(Status::Completed), limit: 1, ..Filter::default() }).await;
    assert_eq!(page, [ids[1].clone()]);
}

#[actix_rt::test]
async fn notify_publishes_the_events_of_the_job_to_other_topics() {
    let rig = Setup::usual().with("fail", |_| async { Err(TaskError::fatal("bad", "no")) }).start();
    let notify = json!({"user": "42", "group": "ops", "topic": "builds"});
    let tasks = json!([{"run": "echo"}, {"run": "fail"}]);
    let history = rig.run(json!({ "tasks": tasks, "notify": notify })).await;
    let expected: Vec<_> = history
        .0
        .iter()
        .filter(|e| ["progress", "error", "complete"].contains(&e.name()))
        .map(|e| e.position)
        .collect();
    assert_eq!(expected.len(), 4);
    for topic in ["user:42", "group:ops", "builds"] {
        let positions: Vec<_> = rig.topic(&Topic::new(topic).unwrap()).await.iter().map(|e| e.position).collect();
        assert_eq!(positions, expected, "{topic}");
    }
}

#[actix_rt::test]
async fn a_job_is_deleted_completely_after_its_retention() {
    pause();
    let config = Config { retention_ms: 60_000, max_result_bytes: 10, ..Config::default() };
    let rig = Setup { config, ..Setup::usual() }.start();
    let id = rig.jobs.submit(keyed("k", None, &json!("0123456789"))).await.unwrap().job_id;
    rig.snapshot(&id).await;
    assert_eq!(rig.journal.stats().records, 3, "spec, key, result");
    sleep(Duration::from_secs(50)).await;
    assert!(rig.jobs.get(&id).await.is_ok());
    sleep(Duration::from_secs(15)).await;
    assert!(matches!(rig.jobs.get(&id).await, Err(Error::UnknownJob(_))));
    let stats = rig.journal.stats();
    assert_eq!((stats.records, stats.pinned_bytes), (0, 0));
    let topics = rig.journal.topics(Pattern::any(), None, 10).await.unwrap();
    assert!(topics.is_empty(), "{topics:?}");
}

#[actix_rt::test]
async fn ended_jobs_are_deleted_early_when_they_are_too_many_or_too_large() {
    pause();
    let config = Config { max_kept: 3, ..Config::default() };
    let rig = Setup { config, ..Setup::usual() }.start();
    let running = rig.submit(json!({"tasks": [{"run": "hang"}]})).await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(rig.submit(json!({"tasks": [{"run": "echo"}]})).await);
        rig.snapshot(ids.last().unwrap()).await;
    }
    sleep(Duration::from_secs(3)).await;
    let listed = rig.jobs.list(Filter { status: Some(Status::Completed), ..Filter::default() }).await.unwrap();
    assert_eq!(listed.jobs.iter().map(|j| j.job_id.to_string()).rev().collect::<Vec<_>>(), ids[7..]);
    assert!(rig.jobs.get(&running).await.is_ok(), "a running job is never deleted");

    let small = journal::Config { max_bytes: 400_000, max_event_bytes: 200_000, ..journal::Config::default() };
    let rig = Setup { journal: small, ..Setup::usual() }.start();
    for _ in 0..20 {
        // More than the journal can hold of all of them.
        let input = "x".repeat(40_000);
        let id = rig.submit(json!({"tasks": [{"run": "echo", "input": input}]})).await;
        rig.ended(&id).await;
        sleep(Duration::from_secs(2)).await;
        assert!(rig.journal.stats().pinned_bytes <= 200_000);
    }
}

struct Where;

impl TaskHandler for Where {
    fn run(&self, _: Task) -> journal::BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async { good(json!(format!("{:?}", std::thread::current().id()))) })
    }
}

#[actix_rt::test]
async fn jobs_run_on_a_thread_of_their_own() {
    let limits = journal::Config::default();
    let mut handlers = Handlers::default();
    handlers.register("where", Registered::new(Where));
    let deps = Deps::new(Arc::new(journal::Memory::new(&limits)), &limits, handlers, Arc::new(Where));
    let jobs = start(Config::default(), deps);
    let id = jobs.submit(submission(json!({"tasks": [{"id": "a", "run": "where"}]}))).await.unwrap().job_id;
    while !jobs.summary(&id).await.unwrap().status.ended() {
        sleep(Duration::from_millis(1)).await;
    }
    let result: Value = serde_json::from_slice(&jobs.result(&id, "a").await.unwrap().json).unwrap();
    assert_ne!(result, format!("{:?}", std::thread::current().id()));
    jobs.stop(Duration::from_secs(1)).await;
    assert!(matches!(jobs.get(&id).await, Err(Error::Stopping)));
}
