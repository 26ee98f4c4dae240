//! Results: inline, by URL, and all results together.

use serde_json::{Value, json};

use super::rig::{Setup, good};
use crate::{
    jobs::{
        Config, Error,
        handler::{Output, TaskError},
    },
    journal,
};

fn sized() -> Setup {
    let setup = Setup::usual().with("make", |task| async move {
        let bytes = usize::try_from(task.input.value().as_u64().unwrap()).unwrap();
        good(Value::from("x".repeat(bytes)))
    });
    let setup = setup.with("image", |task| async move {
        let result = Value::from("eA".repeat(usize::try_from(task.input.value().as_u64().unwrap()).unwrap()));
        Ok(Output { result: result.into(), http_status: Some(201), encoding: Some("base64") })
    });
    Setup { config: Config { max_result_bytes: 1000, ..Config::default() }, ..setup }
}

#[actix_rt::test]
async fn a_large_result_is_read_by_its_url() {
    let rig = sized().start();
    let id = rig
        .submit(json!({"tasks": [
            {"id": "big one/1", "run": "make", "input": 999}, {"id": "small", "run": "make", "input": 998},
            {"id": "image", "run": "image", "input": 5000}, {"id": "bad", "run": "hang", "timeoutMs": 1},
        ]}))
        .await;
    let history = rig.ended(&id).await;
    rig.snapshot(&id).await;
    let big = history.one("task_complete", "big one/1");
    let url = format!("/api/jobs/{id}/tasks/big%20one%2F1/result");
    assert_eq!((&big["result"], &big["resultBytes"], &big["resultUrl"]), (&json!(null), &json!(1001), &json!(url)));
    let small = history.one("task_complete", "small");
    assert_eq!(small["result"].as_str().map(str::len), Some(998));
    assert!(small.get("resultUrl").is_none());
    let image = history.one("task_complete", "image");
    assert_eq!((&image["encoding"], &image["httpStatus"]), (&json!("base64"), &json!(201)));
    let results = &history.one("aggregated_result", "")["results"];
    assert_eq!(results["big one/1"], json!({"result": null, "resultBytes": 1001, "resultUrl": url}));
    assert_eq!(results["small"].as_str().map(str::len), Some(998));

    let big = rig.jobs.result(&id, "big one/1").await.unwrap();
    assert_eq!((big.json.len(), big.encoding), (1001, None));
    let small = rig.jobs.result(&id, "small").await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&small.json).unwrap(), "x".repeat(998));
    assert_eq!(rig.jobs.result(&id, "image").await.unwrap().encoding.as_deref(), Some("base64"));
    assert!(matches!(rig.jobs.result(&id, "bad").await, Err(Error::NoResult(_))));
    assert!(matches!(rig.jobs.result(&id, "other").await, Err(Error::UnknownTask { .. })));
    assert!(matches!(rig.jobs.result("other", "bad").await, Err(Error::UnknownJob(_))));
}

#[actix_rt::test]
async fn results_that_do_not_fit_together_are_referenced_by_url() {
    let journal = journal::Config { max_event_bytes: 16 << 10, ..journal::Config::default() };
    let setup = Setup { journal, ..sized() };
    let rig = setup.start();
    let tasks: Vec<_> = (0..40).map(|n| json!({"id": n.to_string(), "run": "make", "input": 900})).collect();
    let id = rig.submit(json!({ "tasks": tasks })).await;
    let history = rig.ended(&id).await;
    rig.snapshot(&id).await;
    let results = history.one("aggregated_result", "")["results"].clone();
    let inline = results.as_object().unwrap().values().filter(|v| v.is_string()).count();
    assert!((5..15).contains(&inline), "{inline} of 40 inline");
    let (missing, _) = results.as_object().unwrap().iter().find(|(_, v)| v.is_object()).unwrap();
    assert_eq!(results[missing]["resultUrl"], json!(format!("/api/jobs/{id}/tasks/{missing}/result")));
    assert_eq!(rig.jobs.result(&id, missing).await.unwrap().json.len(), 902);
    assert_eq!(history.verdict(), ("completed".into(), 40, 0));

    let many: Vec<_> = (0..300).map(|_| json!({"run": "make", "input": 900})).collect();
    let history = rig.run(json!({ "tasks": many })).await;
    let all = history.one("aggregated_result", "");
    assert_eq!(all["results"], json!(null));
    assert_eq!(all["resultsUrl"], json!(format!("/api/jobs/{}", all["jobId"].as_str().unwrap())));
}

#[actix_rt::test]
async fn long_texts_and_many_errors_are_bounded() {
    let setup = Setup::usual().with("fail", |task| async move {
        let bytes = usize::try_from(task.input.value().as_u64().unwrap()).unwrap();
        task.progress.forward(1.0, Value::from("y".repeat(bytes))).await;
        Err(TaskError::fatal("c".repeat(1000), "ü\u{1}".repeat(100_000)))
    });
    let rig = setup.start();
    let tasks: Vec<_> = (0..150).map(|n| json!({"run": "fail", "input": if n == 0 { 2 << 20 } else { 9 }})).collect();
    let history = rig.run(json!({ "tasks": tasks })).await;
    let complete = history.one("complete", "");
    assert_eq!((complete["errors"].as_array().map(Vec::len), &complete["errorsOmitted"]), (Some(100), &json!(50)));
    let error = &history.all("error")[0];
    assert!(error["error"].as_str().unwrap().len() < 3000 && error["code"].as_str().unwrap().len() < 100);
    let omitted = &history.one("task_progress", "1")["data"];
    assert_eq!(*omitted, json!({"omitted": true, "bytes": (2 << 20) + 2}));
}
