//! awc receives heads that it reads correctly, and no false end of a body.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// A wire after a request, and the server's end of the connection.
async fn requested(request: &[u8], capacity: usize) -> (Wire<DuplexStream>, DuplexStream) {
    let (client, mut server) = duplex(capacity);
    let mut wire = Wire::new(client);
    wire.begin(request.starts_with(b"HEAD "));
    wire.write_all(request).await.unwrap();
    server.read_exact(&mut vec![0; request.len()]).await.unwrap();
    (wire, server)
}

/// The bytes and the end that awc reads when the server sends this response and closes.
async fn read(response: &[u8]) -> (String, io::Result<()>, Wire<DuplexStream>) {
    let (mut wire, mut server) = requested(b"GET / HTTP/1.1\r\n\r\n", 1 << 20).await;
    server.write_all(response).await.unwrap();
    drop(server);
    let mut bytes = Vec::new();
    let end = wire.read_to_end(&mut bytes).await.map(drop);
    (String::from_utf8(bytes).unwrap(), end, wire)
}

#[tokio::test]
async fn awc_receives_a_head_with_the_framing_and_an_unchanged_body() {
    for (response, seen) in [
        ("HTTP/1.1 404 Nope\r\nX: y\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (
            "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"),
        ("HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        assert_eq!(read(response.as_bytes()).await.0, seen, "{response}");
    }
}

#[tokio::test]
async fn the_end_of_the_connection_ends_only_a_body_without_a_marked_end() {
    let (_, end, mut wire) = read(b"HTTP/1.1 203 OK\r\nX: y\r\n\r\nok").await;
    assert!(end.is_ok() && !wire.is_reusable());
    let head = wire.take_outcome().unwrap().unwrap();
    assert_eq!((head.status.as_u16(), &head.headers["x"]), (203, &http::HeaderValue::from_static("y")));
    assert_eq!(wire.take_outcome(), None);
    let (_, end, _) = read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    for cut in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n"] {
        let (_, end, mut wire) = read(cut.as_bytes()).await;
        assert!(end.is_err());
        assert_eq!((wire.take_outcome(), wire.is_answered()), (Some(Err(Error::Closed)), !cut.is_empty()), "{cut}");
    }
}

#[tokio::test]
async fn a_rejected_head_keeps_its_reason() {
    let (bytes, end, mut wire) = read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok").await;
    assert!(bytes.is_empty() && end.is_err());
    assert_eq!(wire.take_outcome(), Some(Err(Error::Encoding("gzip".into()))));
}

#[tokio::test]
async fn a_connection_is_reusable_after_a_response_that_used_all_bytes() {
    let (mut wire, mut server) = requested(b"GET / HTTP/1.1\r\n\r\n", 1 << 20).await;
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
    server.write_all(&[head, b"ok".as_slice()].concat()).await.unwrap();
    wire.read_exact(&mut vec![0; head.len() + 2]).await.unwrap();
    assert!(wire.is_reusable() && wire.is_idle());
    // Bytes without a request are a violation of the protocol.
    server.write_all(b"x").await.unwrap();
    assert!(!wire.is_idle());
}

#[tokio::test]
async fn an_early_response_ends_the_wait_until_the_request_is_sent() {
    let (client, mut server) = duplex(16);
    let mut wire = Wire::new(client);
    wire.begin(false);
    let answering = async {
        server.read_exact(&mut [0; 8]).await.unwrap();
        server.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        server
    };
    // The request is larger than the connection buffers, and the server reads no more.
    let body = [b'b'; 1000];
    let (sent, mut server) = tokio::join!(wire.write_all(&body), answering);
    sent.unwrap();
    assert_eq!(wire.take_outcome().unwrap().unwrap().status.as_u16(), 413);
    assert!(!wire.is_reusable(), "the server has not received the whole request");
    // A server that continues to read receives the whole request.
    let mut read = vec![0; 38];
    wire.read_exact(&mut read).await.unwrap();
    let mut rest = vec![0; body.len() - 8];
    let (_, got) = tokio::join!(
        async { tokio::time::timeout(std::time::Duration::from_secs(1), wire.read(&mut [0])).await },
        server.read_exact(&mut rest)
    );
    got.unwrap();
    assert!(wire.is_reusable());
}
