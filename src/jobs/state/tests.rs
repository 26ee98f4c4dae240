//! The fold: the state after a history, and the robustness against any history.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::jobs::event::{
    AggregatedResult, Complete, LOCAL, Progress, TaskComplete, TaskFailed, TaskProgress, TaskRetry, TaskStart,
};

const JOB: &str = "J";

fn state(tasks: usize) -> JobState {
    let tasks = (0..tasks).map(|n| TaskOrigin { id: n.to_string(), name: format!("Task {n}"), source: LOCAL.clone() });
    let tasks = tasks.collect();
    JobState::new(Origin { job_id: JOB.into(), user: Some("42".into()), created_at: 10, retry_of: None, tasks })
}

fn event(timestamp: u64, fact: Fact) -> JobEvent {
    JobEvent { job_id: JOB.into(), source: LOCAL.clone(), timestamp, fact }
}

fn start(task: usize) -> Fact {
    Fact::TaskStart(TaskStart { task_id: task.to_string(), task_name: String::new() })
}

fn progress(task: usize, progress: f64) -> Fact {
    Fact::TaskProgress(TaskProgress { task_id: task.to_string(), progress, message: None, data: None })
}

fn retry(task: usize, attempt: u32) -> Fact {
    let (error, code) = ("e".to_owned(), "c".to_owned());
    Fact::TaskRetry(TaskRetry { task_id: task.to_string(), attempt, delay_ms: 1, error, code })
}

fn done(task: usize) -> Fact {
    Fact::TaskComplete(TaskComplete {
        task_id: task.to_string(),
        task_name: String::new(),
        result: RawValue::NULL.to_owned(),
        result_bytes: None,
        result_url: None,
        encoding: None,
        http_status: None,
        attempts: 1,
        duration_ms: 5,
    })
}

fn failed(task: usize, code: &str) -> Fact {
    Fact::TaskError(TaskFailed {
        task_id: task.to_string(),
        task_name: String::new(),
        error: "bad".into(),
        code: code.into(),
        retryable: false,
        attempts: 1,
        http_status: None,
        duration_ms: 5,
    })
}

fn complete(status: Status) -> Fact {
    let errors = Vec::new();
    let (total_tasks, success_count, error_count) = (0, 0, 0);
    Fact::Complete(Complete {
        status,
        total_tasks,
        success_count,
        error_count,
        errors,
        errors_omitted: None,
        duration_ms: 9,
    })
}

#[test]
fn a_history_becomes_a_snapshot() {
    let mut state = state(3);
    let position = |offset| Some(Position { epoch: 1, offset });
    assert_eq!(state.status(), Status::Queued);
    let facts = [
        start(0),
        start(1),
        progress(0, 40.0),
        retry(1, 2),
        done(0),
        failed(1, "http_status"),
        failed(2, code::CANCELLED),
    ];
    for (n, fact) in (1..).zip(facts) {
        state.apply(&event(100 + n, fact), position(n));
    }
    assert_eq!((state.status(), state.progress()), (Status::Running, 100.0));
    state.apply(&event(200, complete(Status::Cancelled)), position(8));
    let shown = serde_json::to_value(state.snapshot()).unwrap();
    assert_eq!(shown["status"], "cancelled");
    assert_eq!((&shown["startedAt"], &shown["endedAt"], &shown["createdAt"]), (&101.into(), &200.into(), &10.into()));
    assert_eq!((&shown["successCount"], &shown["errorCount"]), (&1.into(), &2.into()));
    assert_eq!((&shown["lastEventId"], &shown["eventsUrl"]), (&"1-8".into(), &"/api/jobs/J/events".into()));
    let task = &shown["tasks"];
    assert_eq!(
        (&task[0]["status"], &task[0]["resultUrl"]),
        (&"completed".into(), &"/api/jobs/J/tasks/0/result".into())
    );
    assert_eq!(
        (&task[1]["status"], &task[1]["code"], &task[1]["error"]),
        (&"failed".into(), &"http_status".into(), &"bad".into())
    );
    assert_eq!(task[2]["status"], "cancelled");
}

#[test]
fn a_task_that_retries_starts_its_progress_again() {
    let mut state = state(1);
    let steps = [
        (start(0), TaskStatus::Running, 1, 0.0),
        (progress(0, 70.0), TaskStatus::Running, 1, 70.0),
        (retry(0, 2), TaskStatus::Retrying, 2, 0.0),
        (progress(0, 10.0), TaskStatus::Running, 2, 10.0),
        (done(0), TaskStatus::Completed, 1, 100.0),
    ];
    for (fact, status, attempts, progress) in steps {
        state.apply(&event(1, fact), None);
        let task = &state.tasks[0];
        assert_eq!((task.status, task.attempts, task.progress), (status, attempts, progress));
    }
}

#[test]
fn nothing_changes_after_the_end_or_by_another_job() {
    let mut state = state(2);
    state.apply(&JobEvent { job_id: "other".into(), ..event(1, done(0)) }, None);
    assert_eq!(state.success_count, 0);
    state.apply(&event(1, done(0)), None);
    state.apply(&event(2, failed(0, "c")), None);
    assert_eq!((state.success_count, state.error_count), (1, 0), "a task has one end");
    state.apply(&event(3, complete(Status::Partial)), Some(Position { epoch: 1, offset: 3 }));
    let before = state.snapshot();
    state.apply(&event(4, done(1)), Some(Position { epoch: 1, offset: 4 }));
    assert_eq!(state.snapshot(), before);
}

/// A possible history of one task: `start`, progress and retries, an end; or an end alone.
fn task_history(task: usize) -> impl Strategy<Value = Vec<Fact>> {
    let step = prop_oneof![any::<f64>().prop_map(Some), Just(None)];
    (any::<bool>(), proptest::collection::vec(step, 0..6), any::<bool>()).prop_map(move |(begun, steps, well)| {
        if !begun {
            return vec![failed(task, code::CANCELLED)];
        }
        let mut attempt = 1;
        let step = |step: Option<f64>| match step {
            Some(value) => progress(task, value),
            None => {
                attempt += 1;
                retry(task, attempt)
            }
        };
        let mut facts = vec![start(task)];
        facts.extend(steps.into_iter().map(step));
        facts.push(if well { done(task) } else { failed(task, "c") });
        facts
    })
}

/// The histories of all tasks in some order, with the events after each end and the job's end.
fn job_history() -> impl Strategy<Value = (usize, Vec<Fact>)> {
    let tasks = (1usize..6).prop_flat_map(|count| (0..count).map(task_history).collect::<Vec<_>>());
    (tasks, proptest::collection::vec(any::<proptest::sample::Index>(), 64)).prop_map(|(tasks, picks)| {
        let total = tasks.len();
        let mut open: Vec<_> = tasks.into_iter().map(std::collections::VecDeque::from).collect();
        let (mut picks, mut facts, mut step) = (picks.into_iter().cycle(), Vec::new(), 0);
        while !open.is_empty() {
            let index = picks.next().expect("a cycle").index(open.len());
            facts.extend(open[index].pop_front());
            if open[index].is_empty() {
                open.swap_remove(index);
                step += 1;
                facts.push(Fact::Progress(Progress { step, total_steps: total, progress: percent(step, total) }));
            }
        }
        facts.push(Fact::AggregatedResult(AggregatedResult { results: RawValue::NULL.to_owned(), results_url: None }));
        facts.push(complete(Status::Partial));
        (total, facts)
    })
}

fn check(state: &JobState) -> Result<(), TestCaseError> {
    let count = |wanted: &[TaskStatus]| state.tasks.iter().filter(|task| wanted.contains(&task.status)).count();
    prop_assert_eq!(state.success_count, count(&[TaskStatus::Completed]));
    prop_assert_eq!(state.error_count, count(&[TaskStatus::Failed, TaskStatus::Cancelled]));
    prop_assert!((0.0..=100.0).contains(&state.progress()));
    for task in &state.tasks {
        prop_assert!((0.0..=100.0).contains(&task.progress), "{}", task.progress);
    }
    serde_json::to_string(&state.snapshot()).expect("a snapshot serialises");
    Ok(())
}

proptest! {
    #[test]
    fn any_prefix_of_a_legal_history_folds_to_consistent_counts((tasks, facts) in job_history()) {
        let mut state = state(tasks);
        let mut last = 0.0;
        for (n, fact) in (1..).zip(facts) {
            // Through the text of the topic, as a reader gets it.
            let event = event(n, fact);
            let read = JobEvent::decode(event.fact.name(), &event.encode());
            // JSON has no NaN and no infinity; the engine does not write such a report.
            let Ok(read) = read else { continue };
            state.apply(&read, Some(Position { epoch: 1, offset: n }));
            check(&state)?;
            prop_assert!(state.progress() >= last);
            last = state.progress();
        }
        prop_assert_eq!((state.status(), state.success_count + state.error_count), (Status::Partial, tasks));
    }

    #[test]
    fn no_sequence_breaks_the_fold(picks in proptest::collection::vec((0usize..7, 0usize..4, any::<f64>()), 0..60)) {
        let mut state = state(3);
        for (kind, task, value) in picks {
            let fact = match kind {
                0 => start(task),
                1 => progress(task, value),
                2 => retry(task, 7),
                3 => done(task),
                4 => failed(task, "c"),
                5 => complete(Status::Queued),
                _ => Fact::Progress(Progress { step: 9, total_steps: 1, progress: value }),
            };
            state.apply(&event(1, fact), None);
            check(&state)?;
        }
    }
}
