//! The encoded form of the facts.

use serde_json::{Value, json};

use super::*;

fn round_trip(fact: Fact) -> Value {
    let name = fact.name();
    let event = JobEvent { job_id: "J1".into(), source: LOCAL.clone(), timestamp: 17, fact };
    let data = event.encode();
    let back = JobEvent::decode(name, &data).unwrap();
    assert_eq!(back.fact.name(), name);
    assert_eq!(back.encode(), data, "both ways");
    serde_json::from_str(&data).unwrap()
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

#[test]
fn fields_are_those_of_the_contract() {
    let (task_id, task_name) = ("a".to_owned(), "A".to_owned());
    let start = TaskStart { task_id: task_id.clone(), task_name: task_name.clone() };
    assert_eq!(
        round_trip(Fact::TaskStart(start)),
        json!({"jobId": "J1", "timestamp": 17, "taskId": "a", "taskName": "A", "source": "local"})
    );
    let progress =
        TaskProgress { task_id: task_id.clone(), progress: 50.0, message: None, data: Some(raw(&json!([1]))) };
    let data = round_trip(Fact::TaskProgress(progress));
    assert_eq!(
        data,
        json!({"jobId": "J1", "source": "local", "timestamp": 17, "taskId": "a", "progress": 50, "data": [1]})
    );
    let done = TaskComplete {
        task_id: task_id.clone(),
        task_name,
        result: raw(&json!({"x": 1})),
        result_bytes: None,
        result_url: None,
        encoding: None,
        http_status: Some(200),
        attempts: 3,
        duration_ms: 5,
    };
    let data = round_trip(Fact::TaskComplete(done));
    assert_eq!((&data["result"], &data["httpStatus"], &data["attempts"]), (&json!({"x": 1}), &json!(200), &json!(3)));
    assert!(data.get("resultUrl").is_none());
    let retry = TaskRetry { task_id, attempt: 2, delay_ms: 9, error: "e".into(), code: "c".into() };
    assert_eq!(round_trip(Fact::TaskRetry(retry))["delayMs"], 9);
    let results = AggregatedResult { results: raw(&json!({"a": {"x": 1}})), results_url: None };
    assert_eq!(round_trip(Fact::AggregatedResult(results))["results"], json!({"a": {"x": 1}}));
    let complete = Complete {
        status: Status::TimedOut,
        total_tasks: 3,
        success_count: 1,
        error_count: 2,
        errors: vec![ErrorEntry { task_id: "b".into(), error: "e".into() }],
        errors_omitted: Some(1),
        duration_ms: 7,
    };
    let data = round_trip(Fact::Complete(complete));
    assert_eq!((&data["status"], &data["errors"][0]["taskId"]), (&json!("timed_out"), &json!("b")));
    let step = round_trip(Fact::Progress(Progress { step: 1, total_steps: 3, progress: 33.33 }));
    assert_eq!(
        step,
        json!({"jobId": "J1", "source": "local", "timestamp": 17, "step": 1, "totalSteps": 3, "progress": 33.33})
    );
}

#[test]
fn foreign_events_are_refused() {
    assert!(matches!(JobEvent::decode("message", "{}"), Err(Unreadable::Name(_))));
    assert!(matches!(JobEvent::decode("complete", "{}"), Err(Unreadable::Data(_))));
    assert!(matches!(JobEvent::decode("progress", "not json"), Err(Unreadable::Data(_))));
}

#[test]
fn an_event_names_its_source_and_an_old_one_is_local() {
    let data =
        r#"{"jobId":"J","taskId":"a","attempt":2,"delayMs":1,"error":"e","code":"c","source":"far","timestamp":1}"#;
    let event = JobEvent::decode("task_retry", data).unwrap();
    assert_eq!((&*event.source, event.encode().as_str()), ("far", data));
    let old = data.replace(r#","source":"far""#, "");
    assert_eq!(&*JobEvent::decode("task_retry", &old).unwrap().source, "local");
}
