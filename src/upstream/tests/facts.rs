//! The responses that plain awc misreads (`docs/upstream-reports`). If a test fails after an update of awc, a part of the
//! workaround in `wire.rs` is no longer needed.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

/// The state of the connection after the response.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Open,
}

/// Status and body that plain awc returns for a request with this body, or the kind of failure.
async fn plain(response: &'static str, then: Then, body: Bytes) -> Result<(u16, Bytes), &'static str> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(response.as_bytes()).await.unwrap();
        match then {
            Then::Close => drop(stream),
            Then::Open => std::future::pending().await,
        }
    });
    let exchange = async {
        let mut response = awc::Client::new().post(&url).send_body(body).await.map_err(|_| "refused")?;
        Ok((response.status().as_u16(), response.body().await.map_err(|_| "broken")?))
    };
    let result = timeout(Duration::from_millis(500), exchange).await.unwrap_or(Err("hangs"));
    server.abort();
    result
}

#[actix_rt::test]
async fn plain_awc_misreads_these_responses() {
    for (response, then, result) in [
        ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Open, Ok((103, ""))),
        ("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello", Then::Close, Ok((200, "hello"))),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", Then::Close, Ok((200, "hello"))),
        ("HTTP/1.1 200 OK\r\n\r\nhello", Then::Close, Ok((200, ""))),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nhello", Then::Close, Ok((200, ""))),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Then::Open, Err("hangs")),
        ("HTTP/1.0 304 Not Modified\r\n\r\n", Then::Open, Err("hangs")),
        ("HTTP/1.1 200 OK\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nok", Then::Open, Ok((200, ""))),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", Then::Open, Err("refused")),
    ] {
        let expected = result.map(|(status, body)| (status, Bytes::from_static(body.as_bytes())));
        assert_eq!(plain(response, then, Bytes::new()).await, expected, "{response}");
    }
}

#[actix_rt::test]
async fn plain_awc_loses_an_early_response() {
    let response = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
    let large = Bytes::from(vec![0; 8 << 20]);
    assert_eq!(plain(response, Then::Close, large.clone()).await, Err("refused"));
    assert_eq!(plain(response, Then::Open, large).await, Err("hangs"));
}
