//! The requests of HTTP tasks: each test defines the expected requests and their number.

use wiremock::{
    Mock, MockBuilder, MockServer, Request, ResponseTemplate,
    matchers::{any, body_string, method, path, query_param},
};

use super::*;
use crate::upstream::Client;

/// Runs a task whose one request must match; returns the request.
async fn sent(expected: MockBuilder, input: impl FnOnce(&str) -> Value) -> Request {
    let upstream = MockServer::start().await;
    expected.respond_with(ResponseTemplate::new(200)).expect(1).mount(&upstream).await;
    run(input(&upstream.uri())).await.0.expect("it is answered");
    received(&upstream).await
}

/// A server that must get no request.
async fn unasked() -> MockServer {
    let upstream = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200)).expect(0).mount(&upstream).await;
    upstream
}

/// The first request of a server.
async fn received(upstream: &MockServer) -> Request {
    upstream.received_requests().await.expect("requests are recorded").swap_remove(0)
}

/// A header field of a request.
fn field<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()).expect("text"))
}

#[tokio::test]
async fn a_json_body_is_sent_with_key_and_trace() {
    let expected = Mock::given(method("POST")).and(path("/orders")).and(query_param("x", "1"));
    let expected = expected.and(body_string("{\"n\":1}"));
    let input = |url: &str| json!({"url": format!("{url}/orders?x=1"), "method": "post", "body": {"n": 1}});
    let request = sent(expected, input).await;
    assert_eq!(request.url.query(), Some("x=1"));
    assert_eq!(field(&request, "content-type"), Some("application/json"));
    assert_eq!(field(&request, "idempotency-key"), Some("j1/t1"));
    let trace: Vec<_> = field(&request, "traceparent").expect("it is there").split('-').collect();
    assert_eq!(trace.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
}

#[tokio::test]
async fn attempts_of_a_job_share_the_trace_but_not_the_span() {
    let one = sent(Mock::given(any()), |url| json!({ "url": url })).await;
    let two = sent(Mock::given(any()), |url| json!({ "url": url })).await;
    let [one, two] = [&one, &two].map(|request| field(request, "traceparent").expect("it is there"));
    assert_eq!(one[..36], two[..36]);
    assert_ne!(one, two);
}

#[tokio::test]
async fn a_null_field_is_like_a_missing_one() {
    let expected = Mock::given(method("GET")).and(path("/")).and(body_string(""));
    let request = sent(expected, |url| json!({"url": url, "method": null, "headers": null, "body": null})).await;
    assert_eq!(field(&request, "content-type"), None);
}

#[tokio::test]
async fn a_text_body_is_sent_as_it_is() {
    let expected = Mock::given(method("PUT")).and(body_string("a \"b\""));
    let request = sent(expected, |url| json!({"url": url, "method": "PUT", "body": "a \"b\""})).await;
    assert_eq!(field(&request, "content-type"), Some("text/plain; charset=utf-8"));
}

#[tokio::test]
async fn headers_of_the_client_win() {
    let request = sent(Mock::given(method("POST")).and(body_string("<a/>")), |url| {
        json!({"url": url, "method": "POST", "body": "<a/>", "headers": {
            "Content-Type": "text/xml", "Idempotency-Key": "mine", "traceparent": "00-1-2-00", "X-Name": "Jörg",
        }})
    })
    .await;
    assert_eq!(field(&request, "content-type"), Some("text/xml"));
    assert_eq!(field(&request, "idempotency-key"), Some("mine"));
    assert_eq!(field(&request, "traceparent"), Some("00-1-2-00"));
    assert_eq!(field(&request, "x-name"), Some("Jörg"));
}

#[tokio::test]
async fn bad_headers_are_named_and_nothing_is_sent() {
    let upstream = unasked().await;
    for (name, value) in [
        ("X-A", "one\r\nX-B: two"),
        ("X A", "one"),
        ("X-A:", "one"),
        ("", "one"),
        ("Host", "other"),
        ("content-LENGTH", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("Upgrade", "h2c"),
    ] {
        let error = run(json!({"url": upstream.uri(), "headers": {name: value}})).await.0.expect_err("it is refused");
        assert_eq!((error.code.as_str(), error.retryable), ("bad_header", false), "{name}");
        assert!(error.message.contains(name) && !error.message.contains(value), "{error}");
    }
    let error =
        run(json!({"url": upstream.uri(), "headers": {"A": "1", "a": "2"}})).await.0.expect_err("it is refused");
    assert_eq!(error.code, "bad_header");
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_is_refused_with_a_code() {
    for (input, code) in [
        (json!({"url": "http://h/", "method": "TRACE"}), "bad_method"),
        (json!({"url": "http://h/", "method": "CONNECT"}), "bad_method"),
        (json!({"url": "ftp://h/"}), "bad_url"),
        (json!({"url": "nonsense"}), "bad_url"),
        (json!({"method": "GET"}), "bad_input"),
        (json!({"url": "http://h/", "header": {}}), "bad_input"),
        (Value::Null, "bad_input"),
    ] {
        let error = run(input.clone()).await.0.expect_err("it is refused");
        assert_eq!((error.code.as_str(), error.retryable), (code, false), "{input}");
        if let Ok(parsed) = serde_json::from_value::<Input>(input) {
            assert_eq!(parsed.check().expect_err("it is known before").code, code);
        }
    }
}

#[tokio::test]
async fn the_egress_guard_checks_urls_of_clients() {
    let upstream = unasked().await;
    let client = Client::new(upstream::Config::default());
    let (task, _) = task(json!({"url": upstream.uri()}));
    let guarded = HttpTask::new(&Deps { client: client.clone(), ..deps() });
    assert_eq!(guarded.run(task).await.expect_err("it is loopback").code, "egress_refused");
}

#[tokio::test]
async fn an_endpoint_gets_the_input_as_json_or_is_asked_without() {
    for (input, verb, body) in
        [(json!({"n": 1}), "POST", "{\"n\":1}"), (json!("text"), "POST", "\"text\""), (Value::Null, "GET", "")]
    {
        let upstream = MockServer::start().await;
        let expected = Mock::given(method(verb)).and(path("/in")).and(query_param("k", "v")).and(body_string(body));
        let response = ResponseTemplate::new(200).set_body_json(json!({"ok": true}));
        expected.respond_with(response).expect(1).mount(&upstream).await;
        // Without exceptions: the guard does not apply to URLs of the operator.
        let deps = Deps { client: Client::new(upstream::Config::default()), ..deps() };
        let endpoint = Endpoint::new(&deps, &format!("{}/in?k=v", upstream.uri())).expect("it is a URL");
        let json = (!input.is_null()).then_some("application/json");
        let (task, _) = task(input);
        assert_eq!(endpoint.run(task).await.expect("it is well").result, json!({"ok": true}));
        let request = received(&upstream).await;
        assert_eq!((field(&request, "content-type"), field(&request, "idempotency-key")), (json, Some("j1/t1")));
    }
}
