//! An ending that had begun continues; a deadline is a wall-clock time of the node's clock.

use tokio::time::{Duration, Instant, pause};

use super::*;
use crate::clock::Clock;

#[actix_rt::test]
async fn a_cancel_that_was_acknowledged_is_carried_out() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node
        .submit(json!({"concurrency": 2, "tasks": [
            {"id": "a", "run": "echo"}, {"id": "b", "run": "work"}, {"id": "c", "run": "work"}, {"id": "d", "run": "work"},
        ]}))
        .await;
    has(&node, &id, "task_start", 3).await;
    node.jobs.cancel(&id).await.unwrap();
    node.crash().await;
    let node = well(&journal);
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.verdict(), ("cancelled".into(), 1, 3));
    assert!(history.all("error").iter().all(|error| error["code"] == "cancelled"));
    assert!(history.all("task_retry").is_empty());
    node.jobs.cancel(&id).await.expect("it is cancelled");
}

/// Its only task ignores the cancel: when the node ends, no event shows the cancel yet.
#[actix_rt::test]
async fn a_cancel_is_stored_before_it_is_acknowledged() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node.submit(json!({"tasks": [{"id": "a", "run": "work"}]})).await;
    has(&node, &id, "task_start", 1).await;
    node.jobs.cancel(&id).await.unwrap();
    let written = node.topic(&Topic::job(&id).unwrap()).await.len();
    node.crash().await;
    let node = well(&journal);
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!((written, history.names("a")), (1, vec!["task_start", "error"]));
    assert_eq!(history.verdict(), ("cancelled".into(), 0, 1));
}

#[actix_rt::test]
async fn a_job_with_fail_fast_fails_after_a_restart() {
    pause();
    let journal = journal();
    let node = stuck(&journal);
    let id = node
        .submit(json!({"failFast": true, "concurrency": 2, "tasks": [
            {"id": "b", "run": "work"}, {"id": "f", "run": "fail"}, {"id": "c", "run": "work"},
        ]}))
        .await;
    has(&node, &id, "error", 2).await;
    node.crash().await;
    let node = well(&journal);
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!(history.verdict(), ("failed".into(), 0, 3));
    assert_eq!(history.one("error", "b")["code"], "cancelled");
}

/// Leaves a job of half an hour in the journal, and moves the clock.
async fn behind(by: i64) -> (Arc<Memory>, String) {
    let first = journal();
    let node = stuck(&first);
    let half_an_hour = HOUR_MS / 2;
    let id = node
        .submit(json!({"timeoutMs": half_an_hour, "concurrency": 2, "tasks": [
            {"id": "a", "run": "echo"}, {"id": "b", "run": "work"}, {"id": "c", "run": "hang"}, {"id": "d", "run": "work"},
        ]}))
        .await;
    has(&node, &id, "task_start", 3).await;
    node.crash().await;
    let second = journal();
    let record = |record: &mut Value| shift(record, "createdAt", by);
    let event = |event: &mut Value| shift(event, "timestamp", by);
    Copy { record: &record, event: &event, ..Copy::of(&first, &id) }.to(&second, &id).await;
    (second, id)
}

/// Waits longer than the rig does.
async fn ended(node: &Rig, id: &str) {
    while !node.jobs.summary(id).await.unwrap().status.ended() {
        sleep(Duration::from_secs(1)).await;
    }
}

fn timed_out(history: &History) {
    coherent(history);
    assert_eq!(history.verdict(), ("timed_out".into(), 1, 3));
    assert!(history.all("error").iter().all(|error| error["code"] == "job_timeout"));
}

#[actix_rt::test]
async fn a_deadline_that_passed_meanwhile_ends_the_job_at_once() {
    pause();
    let (journal, id) = behind(-1_800_000).await;
    let node = stuck(&journal);
    let begun = Instant::now();
    let history = node.ended(&id).await;
    timed_out(&history);
    assert!(history.all("task_retry").is_empty());
    assert!(begun.elapsed() < Duration::from_secs(1));
    let took = history.one("complete", "")["durationMs"].as_u64().unwrap();
    assert!((1_800_000..1_900_000).contains(&took), "since its acceptance: {took}");
}

#[actix_rt::test]
async fn a_deadline_counts_from_the_acceptance() {
    pause();
    let (journal, id) = behind(-1_200_000).await;
    let node = stuck(&journal);
    let begun = Instant::now();
    ended(&node, &id).await;
    timed_out(&node.ended(&id).await);
    assert!((590..=603).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[actix_rt::test]
async fn a_clock_that_was_set_back_extends_no_deadline_beyond_its_length() {
    pause();
    let (journal, id) = behind(i64::MAX).await;
    let node = stuck(&journal);
    let begun = Instant::now();
    ended(&node, &id).await;
    timed_out(&node.ended(&id).await);
    assert!((1790..=1820).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[actix_rt::test]
async fn a_deadline_that_had_begun_to_end_the_job_ends_it_with_any_clock() {
    pause();
    let (first, id) = behind(-1_800_000).await;
    let node = stuck(&first);
    // Waiting tasks fail at once, running tasks two seconds later.
    has(&node, &id, "error", 1).await;
    node.crash().await;
    let second = journal();
    let record = |record: &mut Value| shift(record, "createdAt", 1_800_000);
    let events = first.topics(crate::topic::Pattern::new("job:*").unwrap(), None, 10).await.unwrap()[0].events;
    let events = usize::try_from(events).unwrap().min(8);
    Copy { record: &record, events, ..Copy::of(&first, &id) }.to(&second, &id).await;
    let node = well(&second);
    timed_out(&node.ended(&id).await);
}

#[actix_rt::test]
async fn a_job_without_its_last_event_gets_the_right_one() {
    pause();
    let (first, second) = (journal(), journal());
    let node = stuck(&first);
    let id = node.submit(json!({"tasks": [{"id": "a", "run": "echo"}, {"id": "b", "run": "work"}]})).await;
    has(&node, &id, "task_complete", 1).await;
    node.jobs.cancel(&id).await.unwrap();
    let events = node.ended(&id).await.0.len() - 2;
    Copy { events, ..Copy::of(&first, &id) }.to(&second, &id).await;
    let node = well(&second);
    let history = node.ended(&id).await;
    coherent(&history);
    assert_eq!((history.0.len(), history.verdict()), (events + 2, ("cancelled".into(), 1, 1)));
}

/// A wall clock that is a day ahead while the job is accepted changes no timestamp. After the start the deadline
/// follows the node's clock.
#[actix_rt::test]
async fn a_deadline_is_one_of_the_clock_of_the_node() {
    pause();
    let (clock, hands) = Clock::by_hand(1_790_000_000_000);
    let on = |journal: &Arc<Memory>, clock: Clock| {
        let config = Config { task_timeout_ms: 24 * HOUR_MS, ..Config::default() };
        let setup = Setup { config, clock: Some(clock), ..Setup::usual() };
        setup.with("work", |_| std::future::pending()).on(journal).start()
    };
    let journal = journal();
    let node = on(&journal, clock.clone());
    hands.jump(24 * 3_600_000);
    let id = node.submit(json!({"timeoutMs": HOUR_MS / 2, "tasks": [{"id": "a", "run": "work"}]})).await;
    has(&node, &id, "task_start", 1).await;
    hands.jump(-24 * 3_600_000);
    node.crash().await;
    hands.pass_and_follow(&clock, 1200);
    let node = on(&journal, clock);
    let begun = Instant::now();
    ended(&node, &id).await;
    let history = node.ended(&id).await;
    assert_eq!(history.verdict().0, "timed_out");
    assert!((590..=603).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(
        history.0[0].data_value()["timestamp"].as_u64().unwrap() < 1_790_000_000_000 + HOUR_MS,
        "not in the future"
    );
}
