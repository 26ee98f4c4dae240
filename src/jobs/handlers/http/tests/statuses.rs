//! The meaning of statuses, and the handling of redirects.

use super::*;

/// A header of a request, or nothing.
fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[tokio::test]
async fn a_status_is_an_error_by_its_class_and_tried_again_where_that_can_help() {
    for (status, retryable) in [
        ("400 Bad Request", false),
        ("404 Not Found", false),
        ("408 Request Timeout", true),
        ("409 Conflict", false),
        ("425 Too Early", true),
        ("429 Too Many Requests", true),
        ("451 Unavailable For Legal Reasons", false),
        ("500 Internal Server Error", true),
        ("501 Not Implemented", false),
        ("502 Bad Gateway", true),
        ("503 Service Unavailable", true),
        ("504 Gateway Timeout", true),
        ("505 HTTP Version Not Supported", false),
        ("507 Insufficient Storage", true),
    ] {
        let error = failure(response(status, b"{\"why\":\r\n \"because\"}")).await;
        assert_eq!((error.code.as_str(), error.retryable), ("http_status", retryable), "{status}");
        assert_eq!(error.message, format!("`127.0.0.1` answered {status}: {{\"why\": \"because\"}}"));
        assert_eq!(error.http_status.map(|code| code.to_string()).as_deref(), status.get(..3));
    }
}

/// RFC 9110, section 15: an unknown status is the x00 of its class, and one outside of 100 to 599 is a server error.
#[tokio::test]
async fn an_unknown_status_is_understood_by_its_class() {
    for (status, retryable) in [
        (420, false),
        (499, false),
        (520, true),
        (521, true),
        (522, true),
        (524, true),
        (529, true),
        (530, true),
        (599, true),
        (600, true),
        (999, true),
        (399, false),
        (300, false),
    ] {
        let error = failure(response(&format!("{status} Odd\r\nRetry-After: 3"), b"why")).await;
        assert_eq!((error.code.as_str(), error.retryable), ("http_status", retryable), "{status}");
        assert_eq!(error.http_status, Some(status));
        assert_eq!(error.retry_after, retryable.then_some(Duration::from_secs(3)), "{status}");
        let expected = format!("`127.0.0.1` answered {status}");
        assert!(error.message.starts_with(&expected) && error.message.ends_with(": why"), "{error}");
    }
    let error = failure(response("099 Odd", b"")).await;
    assert!(error.retryable, "{error}");
    assert_eq!(ask(response("299 Odd", b"1")).await.0.expect("it is a success").result, json!(1));
}

/// RFC 9110, section 15.2.2: only a request with `Upgrade` may get this status.
#[tokio::test]
async fn protocols_that_are_switched_unasked_are_an_error() {
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi";
    let upstream = Upstream::start(|_| Answer::Stall(bytes.to_vec())).await;
    let error = run(json!({"url": upstream.url})).await.0.expect_err("it did not ask for that");
    assert_eq!((error.code.as_str(), error.retryable, error.http_status), ("http_status", false, Some(101)));
}

#[tokio::test]
async fn a_redirect_that_leads_nowhere_is_an_error() {
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "305 Use Proxy"] {
        let error = failure(response(status, b"")).await;
        assert_eq!((error.code.as_str(), error.retryable), ("http_status", false), "{status}");
        assert!(error.message.contains(status), "{error}");
    }
}

/// "Not modified" is a valid response only to a conditional request.
#[tokio::test]
async fn not_modified_is_a_result_of_a_conditional_request_alone() {
    let upstream = Upstream::responding(b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n").await;
    for (name, value) in [("If-None-Match", "\"1\""), ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")] {
        let output = run(json!({"url": upstream.url, "headers": {name: value}})).await.0.expect("it is as it was");
        assert_eq!((output.result.value(), output.http_status), (Value::Null, Some(304)), "{name}");
    }
    let error = run(json!({"url": upstream.url})).await.0.expect_err("there is nothing that it could be");
    assert_eq!((error.code.as_str(), error.http_status), ("http_status", Some(304)));
}

/// Fetch, "HTTP-redirect fetch": only POST becomes GET at 301 and 302.
#[tokio::test]
async fn redirects_keep_the_method_and_the_body() {
    for (status, method, expected, has_body) in [
        (301, "DELETE", "DELETE", true),
        (302, "PUT", "PUT", true),
        (301, "PATCH", "PATCH", true),
        (302, "OPTIONS", "OPTIONS", true),
        (301, "POST", "GET", false),
        (302, "POST", "GET", false),
        (303, "PUT", "GET", false),
        (303, "DELETE", "GET", false),
        (307, "POST", "POST", true),
        (308, "PATCH", "PATCH", true),
    ] {
        let mut upstream = Upstream::start(move |request| {
            let moved = format!("{status} Moved\r\nLocation: /target");
            Answer::Send(if request.contains(" /old ") { response(&moved, b"") } else { response("200 OK", b"1") })
        })
        .await;
        let url = format!("{}/old", upstream.url);
        run(json!({"url": url, "method": method, "body": {"n": 1}})).await.0.expect("it is answered");
        upstream.requests.recv().await.expect("the first request");
        let second = upstream.requests.recv().await.expect("the second request");
        assert!(second.starts_with(&format!("{expected} /target HTTP/1.1\r\n")), "{status} {method}: {second}");
        assert_eq!(second.ends_with("\r\n\r\n{\"n\":1}"), has_body, "{status} {method}: {second}");
        assert_eq!(header(&second, "content-type").is_some(), has_body, "{status} {method}: {second}");
    }
}

#[tokio::test]
async fn retry_after_is_passed_on_where_a_repeat_can_help() {
    let error = failure(response("503 Service Unavailable\r\nRetry-After: 7", b"")).await;
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(failure(response("404 Not Found\r\nRetry-After: 7", b"")).await.retry_after, None);
}

#[tokio::test]
async fn of_a_long_error_the_beginning_is_shown() {
    let error = failure(response("500 Internal Server Error", "ä".repeat(1_000_000).as_bytes())).await;
    let excerpt = error.message.split_once(": ").map_or("", |(_, excerpt)| excerpt);
    assert_eq!(excerpt, format!("{}…", "ä".repeat(300)));
}

#[tokio::test]
async fn an_error_whose_body_never_ends_is_an_error_soon() {
    let head = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100\r\n\r\nsorry".to_vec();
    let upstream = Upstream::start(move |_| Answer::Stall(head.clone())).await;
    let error = timeout(Duration::from_secs(10), run(json!({"url": upstream.url}))).await.expect("soon").0;
    let error = error.expect_err("it failed");
    assert_eq!(error.code, "http_status");
    assert!(error.message.ends_with(": sorry"), "{error}");
}
