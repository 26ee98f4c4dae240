//! HTTP tasks over real sockets.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::jobs::handlers::double::{Answer, Recorder, Upstream, deps, response, task};

mod bodies;
mod requests;
mod statuses;
mod tokens;

async fn run(input: Value) -> (Result<Output, TaskError>, Arc<Recorder>) {
    let (task, recorder) = task(input);
    let done = timeout(Duration::from_secs(30), HttpTask::new(&deps()).run(task)).await.expect("it ends");
    (done, recorder)
}

/// Sends a request to an upstream that responds with these bytes.
async fn ask(bytes: Vec<u8>) -> (Result<Output, TaskError>, Arc<Recorder>) {
    run(json!({"url": Upstream::responding(bytes).await.url})).await
}

async fn failure(bytes: Vec<u8>) -> TaskError {
    ask(bytes).await.0.expect_err("it fails")
}

// --- responses ---

#[tokio::test]
async fn json_text_and_binary_are_distinguished() {
    for (head, body, result, encoding) in [
        ("200 OK\r\nContent-Type: application/json", &b"{\"a\": [1]}"[..], json!({"a": [1]}), None),
        ("201 Created\r\nContent-Type: text/html", b"<p>", json!("<p>"), None),
        ("200 OK\r\nContent-Type: image/png", b"\x89PNG", json!("iVBORw=="), Some("base64")),
        ("200 OK", b"[1]", json!([1]), None),
    ] {
        let output = ask(response(head, body)).await.0.expect("it is well");
        assert_eq!((output.result.value(), output.encoding), (result, encoding), "{head}");
        assert_eq!(output.http_status.map(|status| status.to_string()).as_deref(), head.get(..3));
    }
}

#[tokio::test]
async fn no_content_is_null() {
    let output = ask(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await.0.expect("it is well");
    assert_eq!(output, Output { http_status: Some(204), ..Output::default() });
}

#[tokio::test]
async fn head_has_no_body_and_waits_for_none() {
    let upstream =
        Upstream::responding(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\nContent-Encoding: gzip\r\n\r\n").await;
    let output = run(json!({"url": upstream.url, "method": "HEAD"})).await.0.expect("it is well");
    assert_eq!(output, Output { http_status: Some(200), ..Output::default() });
}

#[tokio::test]
async fn a_download_shows_rising_progress() {
    let body = vec![b'x'; 3_000_000];
    let (done, recorder) = ask(response("200 OK\r\nContent-Type: text/plain", &body)).await;
    assert_eq!(done.expect("it is well").result.value().as_str().map(str::len), Some(body.len()));
    let progress = recorder.progress();
    assert!(progress.len() >= 5 && progress.windows(2).all(|pair| pair[0] < pair[1]), "{progress:?}");
    assert_eq!(progress.last(), Some(&100.0));
    assert_eq!(recorder.messages().last().map(String::as_str), Some("3000000 of 3000000 bytes"));
}

#[tokio::test]
async fn without_a_length_there_is_no_progress() {
    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n".to_vec();
    bytes.extend_from_slice(&vec![b'x'; 300_000]);
    let (done, recorder) = ask(bytes).await;
    assert_eq!(done.expect("it is well").result.value().as_str().map(str::len), Some(300_000));
    assert!(recorder.reports().is_empty());
}

#[tokio::test]
async fn a_response_that_is_too_large_is_refused_by_its_length_before_it_comes() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", (4 << 20) + 1);
    let mut upstream = Upstream::start(move |_| Answer::Stall(head.clone().into_bytes())).await;
    let error = run(json!({"url": upstream.url})).await.0.expect_err("it is too large");
    assert_eq!((error.code.as_str(), error.retryable), ("response_too_large", false));
    assert_eq!(error.http_status, Some(200));
    assert!(timeout(Duration::from_secs(10), upstream.left.recv()).await.is_ok(), "the connection stays open");
}

#[tokio::test]
async fn a_response_that_is_too_large_is_refused_while_it_comes() {
    let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    bytes.resize(bytes.len() + (4 << 20) + 1, b'x');
    assert_eq!(failure(bytes).await.code, "response_too_large");
}

#[tokio::test]
async fn a_body_that_stops_short_is_an_error_worth_another_try() {
    let error = failure(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()).await;
    assert_eq!((error.code.as_str(), error.retryable, error.http_status), ("truncated", true, Some(200)));
}

// --- event streams ---

#[tokio::test]
async fn each_event_of_a_stream_is_forwarded_and_the_last_is_the_result() {
    let stream = ": hello\n\nid: 7\nevent: tick\ndata: {\"n\": 1}\n\ndata: two\ndata: lines\n\ndata: unfinished";
    let (done, recorder) =
        ask(response("200 OK\r\nContent-Type: text/event-stream;charset=utf-8", stream.as_bytes())).await;
    let (first, last) = (
        json!({"event": "tick", "data": "{\"n\": 1}", "id": "7"}),
        json!({"event": "message", "data": "two\nlines", "id": "7"}),
    );
    assert_eq!(done.expect("it is well").result, json!({"events": 2, "lastEvent": last}));
    assert_eq!(recorder.forwarded(), [first, last]);
}

#[tokio::test]
async fn events_are_forwarded_while_the_stream_continues() {
    let stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: now\n\n".to_vec();
    let mut upstream = Upstream::start(move |_| Answer::Stall(stream.clone())).await;
    let (task, recorder) = task(json!({"url": upstream.url}));
    let cancel = task.cancel.clone();
    let running = tokio::spawn(async move { HttpTask::new(&deps()).run(task).await });
    let arrived = async {
        while recorder.forwarded().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), arrived).await.expect("the event comes at once");
    cancel.cancel();
    let done = timeout(Duration::from_secs(10), running).await.expect("it ends").expect("it does not panic");
    assert_eq!(done.expect_err("it was cancelled").code, "cancelled");
    assert!(timeout(Duration::from_secs(10), upstream.left.recv()).await.is_ok(), "the connection stays open");
}

#[tokio::test]
async fn a_stream_may_be_longer_than_a_response_but_no_event_of_it() {
    let event = format!("data: {}\n\n", "x".repeat(100_000));
    let (done, _) = ask(response("200 OK\r\nContent-Type: text/event-stream", event.repeat(60).as_bytes())).await;
    assert_eq!(done.expect("it is well").result.value()["events"], 60);
    let event = format!("data: {}\n\n", "x".repeat(5 << 20));
    let error = failure(response("200 OK\r\nContent-Type: text/event-stream", event.as_bytes())).await;
    assert_eq!(error.code, "response_too_large");
}
