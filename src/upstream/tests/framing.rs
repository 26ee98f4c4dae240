//! The end of a body, and the detection of a cut.

use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;

use super::support::{PATIENCE, Upstream, client, get};
use crate::upstream::{Error, HeaderMap, HeaderValue, Method, Request, StatusCode};

async fn body_of(answer: &str) -> Result<Bytes, Error> {
    let upstream = Upstream::answering(answer).await;
    let response = client(&[]).send(get(upstream.url("/"))).await?;
    tokio::time::timeout(PATIENCE, response.body.collect(1 << 20)).await.expect("the body must end")
}

#[tokio::test]
async fn close_delimited_bodies_are_read_to_their_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
    ] {
        assert_eq!(body_of(answer).await.as_deref(), Ok(b"hello".as_slice()), "{answer}");
    }
}

#[tokio::test]
async fn complete_bodies_end_without_error() {
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ""),
        ("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
    ] {
        assert_eq!(body_of(answer).await.as_deref(), Ok(body.as_bytes()), "{answer}");
    }
}

#[tokio::test]
async fn bodies_that_are_cut_off_are_truncated() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(body_of(answer).await, Err(Error::Truncated), "{answer}");
    }
}

#[tokio::test]
async fn bytes_before_the_cut_are_returned() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello").await;
    let mut response = client(&[]).send(get(upstream.url("/"))).await.expect("a head");
    assert_eq!(response.body.content_length(), Some(50));
    assert_eq!(response.body.chunk().await, Some(Ok(Bytes::from_static(b"hello"))));
    assert_eq!(response.body.chunk().await, Some(Err(Error::Truncated)));
    assert_eq!(response.body.chunk().await, None);
}

#[tokio::test]
async fn a_reset_in_a_close_delimited_body_is_an_error() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await;
        // A reset discards bytes that the client has not read yet.
        seen.cue.notified().await;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is a TCP socket");
    })
    .await;
    let mut response = client(&[]).send(get(upstream.url("/"))).await.expect("a head");
    assert_eq!(response.body.chunk().await, Some(Ok("hello".into())));
    upstream.cue();
    assert_eq!(response.body.chunk().await, Some(Err(Error::Truncated)));
}

#[tokio::test]
async fn invalid_framing_is_a_protocol_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        assert_eq!(body_of(answer).await.expect_err(answer).code(), "protocol", "{answer}");
    }
}

#[tokio::test]
async fn a_connection_without_a_response_is_closed() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let error = body_of(answer).await.expect_err("no head came");
        assert_eq!(error, Error::Closed, "{answer:?}");
        assert!(error.retryable());
    }
}

#[tokio::test]
async fn the_request_is_sent_unchanged() {
    let upstream = Upstream::answering("HTTP/1.1 201 Created\r\nX-Id: 7\r\nContent-Length: 0\r\n\r\n").await;
    let headers = HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("text/plain"))]);
    let request =
        Request { method: Method::POST, headers, body: Bytes::from_static(b"hello"), ..get(upstream.url("/a?b=c#d")) };
    let response = client(&[]).send(request).await.expect("an answer");
    assert_eq!((response.status, &response.headers["x-id"]), (StatusCode::CREATED, &HeaderValue::from_static("7")));
    let seen = &upstream.requests()[0];
    assert!(seen.starts_with("POST /a?b=c HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nhello"), "{seen}");
    let version = env!("CARGO_PKG_VERSION");
    for field in [
        format!("host: {}", upstream.addr),
        "accept: text/plain".into(),
        "accept-encoding: identity".into(),
        format!("user-agent: millstream/{version}"),
        "content-length: 5".into(),
    ] {
        assert_eq!(seen.lines().filter(|line| *line == field).count(), 1, "{field} in {seen}");
    }
}

#[tokio::test]
async fn an_empty_post_has_a_length_and_a_get_has_none() {
    let upstream = Upstream::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let client = client(&[]);
    client.send(Request { method: Method::POST, ..get(upstream.url("/")) }).await.expect("an answer");
    client.send(get(upstream.url("/"))).await.expect("an answer");
    let seen = upstream.requests();
    assert!(seen[0].contains("\r\ncontent-length: 0\r\n"), "{}", seen[0]);
    assert!(!seen[1].contains("content-length"), "{}", seen[1]);
}

#[tokio::test]
async fn a_response_to_head_has_no_body() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").await;
    let response =
        client(&[]).send(Request { method: Method::HEAD, ..get(upstream.url("/")) }).await.expect("an answer");
    assert_eq!(response.headers["content-length"], "500");
    assert_eq!(response.body.collect(0).await, Ok(Bytes::new()));
}

/// RFC 9112, section 9.5: a client watches for a response while it sends a body.
#[tokio::test]
async fn an_early_refusal_of_a_large_body_is_the_response() {
    for close in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = [0; 64];
            tokio::io::AsyncReadExt::read(&mut stream, &mut head).await.expect("a request");
            let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(answer).await.expect("the client reads");
            (!close).then_some(stream)
        });
        let request = Request { method: Method::POST, body: vec![0; 8 << 20].into(), ..get(url) };
        let response = client(&[]).send(request).await.expect("an answer");
        assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.body.collect(10).await.as_deref(), Ok(b"no".as_slice()));
        drop(server.await);
    }
}

/// Request and response have the same length, so neither side can send all of it before it reads.
#[tokio::test]
async fn a_server_that_responds_while_it_reads_receives_the_whole_body() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let length = 16 << 20;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::io::AsyncReadExt::read_u8(&mut stream).await.expect("a head"));
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
        let (read, mut write) = stream.split();
        tokio::io::copy(&mut tokio::io::AsyncReadExt::take(read, length), &mut write).await.expect("an echo");
    });
    let body = Bytes::from((0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let request = Request { method: Method::POST, body: body.clone(), ..get(url) };
    let response = client(&[]).send(request).await.expect("an answer");
    let echo = tokio::time::timeout(PATIENCE, response.body.collect(1 << 25)).await.expect("no deadlock");
    assert_eq!(echo.expect("a whole answer"), body);
}

#[tokio::test]
async fn an_unsupported_transfer_coding_is_refused_by_name() {
    let error =
        body_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").await.expect_err("coded");
    assert_eq!((error.code(), error.retryable()), ("unsupported_encoding", false));
    assert!(error.to_string().contains("`gzip, chunked`"), "{error}");
}
