//! Connections are kept and reused, on every runtime.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::support::{PATIENCE, Seen, Upstream, client, client_with, get, guarded};
use crate::upstream::{Client, Config, Error, Request};

async fn keep_alive(mut stream: TcpStream, seen: Arc<Seen>) {
    while seen.request(&mut stream).await {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
    seen.watch(&mut stream).await;
}

async fn ask(client: &Client, request: Request) -> Result<(), Error> {
    let body = client.send(request).await?.body.collect(10).await?;
    assert_eq!(body, "ok");
    Ok(())
}

#[tokio::test]
async fn successive_requests_use_one_connection() {
    let upstream = Upstream::run(keep_alive).await;
    let client = client(&["127.0.0.1"]);
    for _ in 0..5 {
        ask(&client.clone(), guarded(upstream.url("/"))).await.expect("an answer");
    }
    assert_eq!((upstream.accepted(), upstream.requests().len()), (1, 5));
}

#[tokio::test]
async fn a_connection_of_the_configuration_is_not_reused_for_a_client() {
    let upstream = Upstream::run(keep_alive).await;
    let strict = client(&[]);
    ask(&strict, get(upstream.url("/"))).await.expect("the configuration has no guard");
    let error = ask(&strict, guarded(upstream.url("/"))).await.expect_err("a client has a guard");
    assert_eq!(error.code(), "egress_refused");
    assert_eq!(upstream.accepted(), 1);

    let open = client(&["127.0.0.1"]);
    ask(&open, get(upstream.url("/"))).await.expect("the configuration has no guard");
    ask(&open, guarded(upstream.url("/"))).await.expect("the guard permits it");
    assert_eq!(upstream.accepted(), 3, "each trust level has its own connection");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let upstream = Upstream::run(keep_alive).await;
    let config = Config { idle_timeout: Duration::from_millis(100), ..Config::default() };
    ask(&client_with(&[], config), get(upstream.url("/"))).await.expect("an answer");
    upstream.closed().await;
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_replaced() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let client = client(&[]);
    for _ in 0..20 {
        ask(&client, get(upstream.url("/"))).await.expect("an answer");
    }
}

/// Responds to one request and closes at the next one without a response. A client sees the same when the server closes
/// an idle connection just as it is reused.
async fn close_on_reuse(mut stream: TcpStream, seen: Arc<Seen>) {
    if seen.request(&mut stream).await {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
    if seen.request(&mut stream).await && seen.requests().len().is_multiple_of(2) {
        // Close with a reset.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

/// RFC 9112, section 9.3.1: a client may repeat an idempotent request automatically.
#[tokio::test]
async fn an_idempotent_request_on_a_closed_connection_is_repeated_once() {
    for method in ["GET", "OPTIONS", "PUT", "DELETE", "QUERY", "REPORT"] {
        let upstream = Upstream::run(close_on_reuse).await;
        let client = client(&[]);
        for _ in 0..10 {
            let method = crate::upstream::Method::from_bytes(method.as_bytes()).expect("a method");
            let response = client.send(Request { method, ..get(upstream.url("/")) }).await.expect("an answer");
            response.body.collect(10).await.expect("a body");
        }
        assert!(upstream.requests().len() > 10, "no connection was reused");
    }
}

#[tokio::test]
async fn a_request_that_is_not_idempotent_is_sent_once() {
    let upstream = Upstream::run(close_on_reuse).await;
    let client = client(&[]);
    let post = || Request { method: crate::upstream::Method::POST, ..get(upstream.url("/")) };
    client.send(post()).await.expect("an answer").body.collect(10).await.expect("a body");
    assert_eq!(client.send(post()).await.expect_err("the server may have processed it").code(), "closed");
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_failure_on_a_new_connection_is_not_repeated() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        let _ = seen.request(&mut stream).await;
    })
    .await;
    assert_eq!(client(&[]).send(get(upstream.url("/"))).await.expect_err("no answer").code(), "closed");
    assert_eq!(upstream.accepted(), 1);
    // A request whose response has begun is not repeated either.
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 O").await;
    })
    .await;
    let client = client(&[]);
    ask(&client, get(upstream.url("/"))).await.expect("an answer");
    assert_eq!(client.send(get(upstream.url("/"))).await.expect_err("half a head").code(), "closed");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn arbiters_share_a_client() {
    let client = client(&[]);
    actix_rt::System::new().block_on(async move {
        let upstream = Upstream::run(keep_alive).await;
        for _ in 0..2 {
            let arbiter = actix_rt::Arbiter::new();
            let (done, answer) = tokio::sync::oneshot::channel();
            let (client, request) = (client.clone(), get(upstream.url("/")));
            arbiter.spawn(async move {
                let _ = done.send(ask(&client, request).await);
            });
            let answer = timeout(PATIENCE, answer).await.expect("in time").expect("no panic");
            assert_eq!(answer, Ok(()));
            // A pooled connection of a stopped runtime must not affect the next request.
            arbiter.stop();
            arbiter.join().expect("no panic");
        }
    });
}

#[test]
fn the_client_and_its_futures_are_send() {
    fn assert_send<T: Send>(_: &T) {}
    fn assert_sync<T: Sync>(_: &T) {}
    fn asking(client: &Client) -> impl Future<Output = Result<(), Error>> {
        ask(client, get("http://h/"))
    }
    let client = client(&[]);
    assert_sync(&client);
    assert_send(&asking(&client));
}
