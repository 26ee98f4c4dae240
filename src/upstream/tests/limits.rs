//! The limits of time and size.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    time::{Instant, timeout},
};

use super::support::{PATIENCE, Upstream, client, client_with, get};
use crate::upstream::{Client, Config, Error, Request};

/// Short, but long enough for a local response on a loaded machine.
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_silent_server_reaches_the_head_timeout_and_is_closed() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        seen.watch(&mut stream).await;
    })
    .await;
    let error =
        client(&[]).send(Request { head_timeout: SHORT, ..get(upstream.url("/")) }).await.expect_err("no answer");
    assert_eq!(error, Error::HeadTimeout { after: SHORT });
    upstream.closed().await;
}

#[tokio::test]
async fn interim_responses_do_not_extend_the_head_timeout() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let request = Request { head_timeout: SHORT, ..get(upstream.url("/")) };
    let error = timeout(PATIENCE, client(&[]).send(request)).await.expect("the limit holds").expect_err("no answer");
    assert_eq!(error.code(), "timeout");
}

#[tokio::test]
async fn a_body_that_pauses_reaches_the_idle_timeout_and_is_closed() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await;
        seen.watch(&mut stream).await;
    })
    .await;
    let mut body = client(&[]).send(get(upstream.url("/"))).await.expect("a head").body;
    assert_eq!(body.chunk().await, Some(Ok("hello".into())));
    body = body.idle_timeout(SHORT);
    assert_eq!(body.chunk().await, Some(Err(Error::IdleTimeout { after: SHORT })));
    assert_eq!(body.chunk().await, None);
    upstream.closed().await;
}

#[tokio::test]
async fn a_body_is_collected_up_to_the_limit() {
    for head in ["Content-Length: 5", "X-Close-Delimited: yes"] {
        let upstream = Upstream::answering(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nhello")).await;
        let client = client(&[]);
        let response = client.send(get(upstream.url("/"))).await.expect("a head");
        assert_eq!(response.body.collect(4).await, Err(Error::TooLarge { limit: 4 }), "{head}");
        let response = client.send(get(upstream.url("/"))).await.expect("a head");
        assert_eq!(response.body.collect(5).await.as_deref(), Ok(b"hello".as_slice()), "{head}");
    }
}

#[tokio::test]
async fn a_body_with_a_too_large_length_is_refused_before_it_arrives() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000\r\n\r\n").await;
        seen.watch(&mut stream).await;
    })
    .await;
    let response = client(&[]).send(get(upstream.url("/"))).await.expect("a head");
    assert_eq!(response.body.collect(1000).await, Err(Error::TooLarge { limit: 1000 }));
    upstream.closed().await;
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let fields = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"X-More: and more\r\n").await.is_ok() {}
    })
    .await;
    let value = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ").await;
        while stream.write_all(&[b'a'; 1000]).await.is_ok() {}
    })
    .await;
    for upstream in [fields, value] {
        let error = client(&[]).send(get(upstream.url("/"))).await.expect_err("the head has no end");
        assert_eq!(error.code(), "response_too_large", "{error}");
    }
}

#[tokio::test]
async fn a_head_with_too_many_fields_is_refused() {
    let head = |fields: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nok", "X-A: b\r\n".repeat(fields));
    for fields in [100, 200, 300] {
        let upstream = Upstream::answering(head(fields)).await;
        let error = client(&[]).send(get(upstream.url("/"))).await.expect_err("too many fields");
        assert_eq!(error.code(), "response_too_large", "{error}");
        assert!(error.to_string().contains("100 header fields") && !error.to_string().contains("bytes"), "{error}");
    }
    let upstream = Upstream::answering(head(99)).await;
    let response = client(&[]).send(get(upstream.url("/"))).await.expect("a hundred fields are permitted");
    assert_eq!(response.body.collect(10).await.as_deref(), Ok(b"ok".as_slice()));
}

#[tokio::test]
async fn dropping_a_response_closes_its_connection() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        seen.watch(&mut stream).await;
    })
    .await;
    let client = client(&[]);
    let response = client.send(get(upstream.url("/"))).await.expect("a head");
    let before = Instant::now();
    drop(response);
    upstream.closed().await;
    assert!(before.elapsed() < Duration::from_secs(2), "the connection closes at once");
    let mut response = client.send(get(upstream.url("/"))).await.expect("a head");
    response.body.chunk().await.expect("a chunk").expect("no error");
    drop(response);
    upstream.closed().await;
}

#[tokio::test]
async fn dropping_the_request_closes_its_connection() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        seen.watch(&mut stream).await;
    })
    .await;
    let client = client(&[]);
    let sending = tokio::spawn({
        let request = get(upstream.url("/"));
        async move { client.send(request).await.map(drop) }
    });
    timeout(PATIENCE, async {
        while upstream.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the request must arrive");
    sending.abort();
    upstream.closed().await;
}

#[tokio::test]
async fn a_port_without_a_server_is_a_failed_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    drop(listener);
    let error = client(&[]).send(get(format!("http://{addr}/"))).await.expect_err("no server is there");
    assert_eq!(error.code(), "connect_failed", "{error}");
    assert!(error.retryable());
}

#[tokio::test]
async fn a_plain_server_is_a_tls_error_and_a_silent_one_a_connect_timeout() {
    let plain = Upstream::run(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let error = client(&[]).send(get(format!("https://{}/", plain.addr))).await.expect_err("no TLS there");
    assert_eq!(error.code(), "tls", "{error}");

    let silent = Upstream::run(|mut stream, seen| async move { seen.watch(&mut stream).await }).await;
    let client: Client = client_with(&[], Config { connect_timeout: SHORT, ..Config::default() });
    let error = client.send(get(format!("https://{}/", silent.addr))).await.expect_err("no TLS there");
    assert_eq!(error.code(), "connect_timeout", "{error}");
    silent.closed().await;
}

#[tokio::test]
async fn an_invalid_name_is_a_dns_error() {
    // A label has at most 63 bytes, so the resolver refuses this name without a lookup.
    let error = client(&[]).send(get(format!("http://{}/", "a".repeat(70)))).await.expect_err("no such name");
    assert_eq!(error.code(), "dns", "{error}");
}
