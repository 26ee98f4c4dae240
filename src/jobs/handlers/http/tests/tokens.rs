//! Streams of tokens, which end with `[DONE]`, and the limits of an endless stream.

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

fn stream(text: &str) -> Vec<u8> {
    format!("{HEAD}{text}").into_bytes()
}

fn token(text: &str) -> Value {
    json!({"event": "message", "data": format!("{{\"token\":\"{text}\"}}"), "id": ""})
}

#[tokio::test]
async fn done_is_the_end_and_no_event() {
    let text = "data: {\"token\":\"a\"}\n\ndata: {\"token\":\"b\"}\n\ndata: [DONE]\n\n";
    let (done, recorder) = ask(stream(text)).await;
    assert_eq!(done.expect("it is well").result, json!({"events": 2, "lastEvent": token("b")}));
    assert_eq!(recorder.forwarded(), [token("a"), token("b")]);
}

/// Not all servers close the connection after it, and a task must not wait for that.
#[tokio::test]
async fn nothing_behind_done_is_read_or_waited_for() {
    for behind in ["", "data: {\"token\":\"late\"}\n\n", &"x".repeat(2 << 20)] {
        let bytes = stream(&format!("data: {{\"token\":\"a\"}}\n\ndata: [DONE]\r\n\r{behind}"));
        let mut upstream = Upstream::start(move |_| Answer::Stall(bytes.clone())).await;
        let (done, recorder) = run(json!({"url": upstream.url})).await;
        assert_eq!(done.expect("it is well").result, json!({"events": 1, "lastEvent": token("a")}));
        assert_eq!(recorder.forwarded(), [token("a")]);
        assert!(timeout(Duration::from_secs(10), upstream.left.recv()).await.is_ok(), "the connection stays open");
    }
}

#[tokio::test]
async fn done_alone_is_a_stream_without_events() {
    let (done, recorder) = ask(stream("data: [DONE]\n\n")).await;
    assert_eq!(done.expect("it is well").result, json!({"events": 0, "lastEvent": null}));
    assert!(recorder.reports().is_empty());
}

#[tokio::test]
async fn only_an_event_of_exactly_these_data_is_done() {
    let texts = ["[done]", "[DONE] ", "\"[DONE]\"", "[DONE]\ndata: x", "{\"token\":\"[DONE]\"}"];
    let text = format!(": [DONE]\n\ndata: {}\n\nid: [DONE]\n\ndata: [DONE]", texts.join("\n\ndata: "));
    let (done, recorder) = ask(stream(&text)).await;
    assert_eq!(done.expect("it is well").result.value()["events"], texts.len());
    assert_eq!(recorder.forwarded().len(), texts.len());
}

/// A small event carries the id in force: one long id must not turn a few kilobytes into gigabytes.
#[tokio::test]
async fn an_id_is_bounded() {
    let text = format!("data: a\n\nid: {}\n\n{}", "x".repeat(200_000), "data\n\n".repeat(10_000));
    let (done, recorder) = ask(stream(&text)).await;
    let error = done.expect_err("the id is too long");
    assert_eq!((error.code.as_str(), error.retryable), ("response_too_large", false));
    assert_eq!(recorder.forwarded().len(), 1);
    let (done, _) = ask(stream(&format!("id: {}\ndata: a\n\n", "x".repeat(4096)))).await;
    assert_eq!(done.expect("it is well").result.value()["events"], 1);
}

#[tokio::test]
async fn a_stream_that_breaks_before_done_is_worth_another_try() {
    let bytes = response("200 OK\r\nContent-Type: text/event-stream", b"data: a\n\ndata: b");
    let error = failure(bytes[..bytes.len() - 3].to_vec()).await;
    assert_eq!((error.code.as_str(), error.retryable), ("truncated", true));
}

/// Streams of `OpenAI` and Anthropic end like this after a failure.
#[tokio::test]
async fn an_error_event_is_the_error_of_the_task() {
    for (data, expected) in [
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, "Overloaded"),
        (r#"{"error":"out of tokens"}"#, "out of tokens"),
        (r#"{"message":"broken"}"#, "broken"),
        (r#"{"detail":"gone"}"#, "gone"),
        ("plain words", "plain words"),
        (r#"{"other":1}"#, r#"{"other":1}"#),
    ] {
        let text =
            format!("data: {{\"token\":\"a\"}}\n\nevent: error\ndata: {data}\n\ndata: {{\"token\":\"late\"}}\n\n");
        let (done, recorder) = ask(stream(&text)).await;
        let error = done.expect_err("the stream has failed");
        assert_eq!((error.code.as_str(), error.retryable, error.http_status), ("error_event", true, Some(200)));
        assert_eq!(error.message, format!("the stream ended with `event: error`: {expected}"));
        assert_eq!(recorder.forwarded(), [token("a")], "the events before it were forwarded");
    }
}

#[tokio::test]
async fn error_events_can_be_ordinary_events() {
    let text = "event: error\ndata: a\n\ndata: {\"token\":\"b\"}\n\n";
    let upstream = Upstream::responding(stream(text)).await;
    let (done, recorder) = run(json!({"url": upstream.url, "errorEvents": "ignore"})).await;
    assert_eq!(done.expect("it is well").result, json!({"events": 2, "lastEvent": token("b")}));
    assert_eq!(recorder.forwarded()[0], json!({"event": "error", "data": "a", "id": ""}));
}

#[tokio::test]
async fn a_stream_that_must_end_with_an_event_is_truncated_without_it() {
    let whole = "data: {\"token\":\"a\"}\n\nevent: done\ndata: 1\n\n";
    let run = async |text: &str, end: &str| {
        let upstream = Upstream::responding(stream(text)).await;
        let (done, recorder) = run(json!({"url": upstream.url, "endEvent": end})).await;
        (done, recorder.forwarded().len())
    };
    let (done, forwarded) = run(&format!("{whole}data: late\n\n"), "done").await;
    assert_eq!(done.expect("it has ended").result.value()["lastEvent"]["event"], "done");
    assert_eq!(forwarded, 2, "its last event is one of its events, and nothing behind it is read");
    let (done, _) = run("data: {\"token\":\"a\"}\n\ndata: [DONE]\n\n", "[DONE]").await;
    assert_eq!(done.expect("it has ended").result.value()["events"], 1);
    for (text, end) in
        [("data: a\n\n", "[DONE]"), ("data: a\n\n", "done"), ("", "done"), ("event: done\ndata: cut", "done")]
    {
        let error = run(text, end).await.0.expect_err("its end is missing");
        assert_eq!((error.code.as_str(), error.retryable), ("truncated", true), "{text}");
        assert!(error.message.contains(&format!("`{end}`")), "{error}");
    }
    // A stream with `[DONE]` is complete, with any name of its last event.
    assert!(run("data: [DONE]\n\n", "done").await.0.is_ok());
}

/// Images in a stream of tokens are longer than 256 KiB.
#[tokio::test]
async fn an_event_may_be_as_long_as_an_event_of_the_node() {
    let (done, recorder) = ask(stream(&format!("data: {}\n\n", "x".repeat(1 << 20)))).await;
    assert_eq!(done.expect("it is well").result.value()["events"], 1);
    assert_eq!(recorder.forwarded()[0]["data"].as_str().map(str::len), Some(1 << 20));
    let error = failure(stream(&format!("data: {}\n\n", "x".repeat((1 << 20) + 1)))).await;
    assert_eq!((error.code.as_str(), error.retryable), ("response_too_large", false));
    assert!(error.message.contains("max_event_bytes"), "{error}");
}
