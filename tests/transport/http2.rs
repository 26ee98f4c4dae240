//! HTTP/2, by ALPN over TLS and with prior knowledge without it.

use std::process::{Command, Stdio};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{Client, Pair, pause, soon},
    support::{Node, eventually},
};

#[tokio::test]
async fn a_stream_goes_over_http_2_by_alpn_and_by_prior_knowledge() {
    let pair = Pair::new();
    let (plain, secure) = (Node::start(""), Node::start(&pair.settings()));
    for client in [Client::plain(&plain).await, Client::tls(&secure, &pair).await] {
        let mut stream = client.stream("a").await;
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        assert_eq!(stream.headers["x-accel-buffering"], "no");
        for only_http_1 in ["connection", "transfer-encoding", "keep-alive"] {
            assert!(!stream.headers.contains_key(only_http_1), "{:?}", stream.headers);
        }
        client.publish("a", "news", &json!("first")).await;
        assert_eq!(stream.until("news").await, "first");
        let large = "x".repeat(900_000);
        client.publish("a", "large", &json!(large)).await;
        assert_eq!(stream.until("large").await, large);
        assert!(client.most_streams() >= 100, "browsers expect it");
        let answer = client.get("/healthz").await;
        assert!(answer.headers.contains_key("date") && answer.headers.contains_key("content-length"));
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let head = soon(client.send("HEAD", "/healthz", None)).await.expect("an answer");
        assert_eq!((head.status.as_u16(), head.text().await), (200, String::new()));
        let head = soon(client.send("HEAD", "/events", None)).await.expect("an answer");
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-type"], "text/event-stream");
        assert_eq!(head.text().await, "", "no stream begins");
        assert_eq!(client.get("/nowhere").await.status, 404);
    }
}

#[tokio::test]
async fn ten_streams_share_one_connection() {
    let node = Node::start("");
    let client = Client::plain(&node).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(client.stream("a").await);
    }
    assert_eq!(client.metric("streams_open").await, 10);
    assert_eq!(client.metric("connections").await, 1);
    client.publish("a", "news", &json!("to all")).await;
    for stream in &mut streams {
        assert_eq!(stream.until("news").await, "to all");
    }
    // An idle stream ends with its client's interest, the others continue.
    streams.truncate(4);
    soon(async {
        while client.metric("streams_open").await != 4 {
            pause(10).await;
        }
    })
    .await;
    client.publish("a", "news", &json!("to the rest")).await;
    for stream in &mut streams {
        assert_eq!(stream.until("news").await, "to the rest");
    }
    drop((streams, client));
    soon(async {
        while node.count("streams_open") > 0 {
            pause(10).await;
        }
    })
    .await;
}

#[test]
fn a_client_that_does_not_say_goodbye_leaves_no_stream_behind() {
    let node = Node::start("");
    let url = format!("http://{}/events?topic=a", node.addr);
    let mut curl = Command::new("curl")
        .args(["-sN", "--http2-prior-knowledge", &url])
        .stdout(Stdio::null())
        .spawn()
        .expect("curl is there");
    eventually(|| (node.count("streams_open") == 1).then_some(()));
    curl.kill().expect("it is ours");
    curl.wait().expect("it is ours");
    eventually(|| (node.count("streams_open") == 0).then_some(()));
}

#[tokio::test]
async fn a_stuck_stream_is_reset_and_the_others_of_its_connection_go_on() {
    let node = Node::start("[emitter]\nwrite_deadline_ms = 1000\n");
    let client = Client::plain(&node).await;
    // Its window is full after 64 KiB.
    let mut stuck = client.stream("large").await;
    let mut other = client.stream("small").await;
    let large = json!("x".repeat(200_000));
    for _ in 0..2 {
        client.publish("large", "large", &large).await;
    }
    eventually(|| (node.closed("write_deadline") == 1).then_some(()));
    assert_eq!(stuck.error().await.reason(), Some(h2::Reason::CANCEL));
    client.publish("small", "news", &json!("well")).await;
    assert_eq!(other.until("news").await, "well");
}

#[tokio::test]
async fn more_requests_at_once_than_allowed_wait_or_are_refused() {
    let node = Node::start("[server]\nhttp2_max_streams = 3\n");
    let client = Client::plain(&node).await;
    let mut streams = vec![client.stream("a").await];
    assert_eq!(client.most_streams(), 3);
    streams.push(client.stream("a").await);
    streams.push(client.stream("a").await);
    // The client knows the bound, and keeps its fourth one.
    let (fourth, ()) = tokio::join!(soon(client.send("GET", "/healthz", None)), async {
        pause(100).await;
        assert_eq!(node.count("streams_open"), 3);
        streams.pop();
    });
    assert_eq!(fourth.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_stop_ends_the_streams_of_http_2_with_a_reason() {
    let mut node = Node::start("[server]\ndrain_ms = 200\n");
    let client = Client::plain(&node).await;
    let mut stream = client.stream("a").await;
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(stream.until("disconnect").await, "{\"reason\":\"shutdown\"}");
    assert_eq!(stream.next().await, None);
    soon(client.ended()).await.expect("it ends with GOAWAY, not with a break");
    assert_eq!(node.exited(), Some(0));
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_not_the_node() {
    let node = Node::start("");
    let mut tcp = TcpStream::connect(node.addr).await.expect("connect");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    for request in 0..5000_u32 {
        // GET http /healthz, all from the static table and one literal, then at once RST_STREAM.
        let head = [&[0x82, 0x86, 0x04, 0x08][..], b"/healthz", &[0x41, 0x09], b"localhost"].concat();
        frame(&mut bytes, 1, 0x5, 2 * request + 1, &head);
        frame(&mut bytes, 3, 0, 2 * request + 1, &8_u32.to_be_bytes());
    }
    let (mut reading, mut writing) = tcp.split();
    let mut received = Vec::new();
    let send = async { drop(writing.write_all(&bytes).await) };
    let _ = soon(async { tokio::join!(send, reading.read_to_end(&mut received)) }).await;
    let calm = b"too_many_resets";
    assert!(received.windows(calm.len()).any(|window| window == calm), "{} bytes received", received.len());
    node.must_be_healthy();
}

#[tokio::test]
async fn a_head_without_end_and_a_preface_without_more_are_cut() {
    let node = Node::start("[server]\nhead_timeout_ms = 300\n");
    let mut tcp = TcpStream::connect(node.addr).await.expect("connect");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    // HEADERS without its end, and nothing more.
    frame(&mut bytes, 1, 0x1, 1, &[0x82, 0x86]);
    tcp.write_all(&bytes).await.expect("send");
    let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    let mut tcp = TcpStream::connect(node.addr).await.expect("connect");
    tcp.write_all(&bytes[..24]).await.expect("send");
    let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    let mut tcp = TcpStream::connect(node.addr).await.expect("connect");
    let mut bytes = bytes[..33].to_vec();
    // A megabyte of fields, 16 KiB at a time.
    let field = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7e][..], &[b'x'; 16_000]].concat();
    frame(&mut bytes, 1, 0x1, 1, &[0x82, 0x86]);
    for _ in 0..64 {
        frame(&mut bytes, 9, 0, 1, &field);
    }
    let (mut reading, mut writing) = tcp.split();
    let send = async { drop(writing.write_all(&bytes).await) };
    let mut received = Vec::new();
    let _ = soon(async { tokio::join!(send, reading.read_to_end(&mut received)) }).await;
    node.must_be_healthy();
    assert_eq!(node.count("heads_timed_out_total"), 2);
}

/// A frame of HTTP/2.
pub(crate) fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("it is small").to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}
