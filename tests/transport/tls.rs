//! TLS: streams over it, a certificate that is replaced, handshakes that never end.

use std::{process::Command, time::Duration};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    client::{Client, Pair, ask, pause, read_until, soon},
    support::Node,
};

/// Runs `serve` with these settings, which it must reject; its exit code and its output.
fn refused(settings: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.toml");
    std::fs::write(&config, settings).expect("write");
    let done = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .output()
        .expect("the binary starts");
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

#[tokio::test]
async fn a_stream_goes_over_tls_with_http_1_1_and_ends_with_its_client() {
    let pair = Pair::new();
    let node = Node::start(&pair.settings());
    let client = Client::tls(&node, &pair).await;
    for alpn in [&["http/1.1"][..], &[]] {
        let mut tls = pair.connect(&node, alpn).await.expect("a handshake");
        let head = ask(&mut tls, "/events?topic=a", "event: connection").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        client.publish("a", "news", &json!("first")).await;
        assert!(read_until(&mut tls, "data: first").await.contains("event: news"));
        // More than the socket takes at once comes whole.
        let large = "x".repeat(900_000);
        client.publish("a", "large", &json!(large)).await;
        assert!(read_until(&mut tls, &large).await.contains("event: large"));
        drop(tls);
        soon(async { while client.metric("streams_open").await > 0 {} }).await;
    }
    assert!(!node.log().contains("ERROR"), "{}", node.log());
}

#[tokio::test]
async fn who_stands_still_over_tls_is_cut_at_the_write_deadline() {
    let pair = Pair::new();
    let node = Node::start(&format!("{}\n[emitter]\nwrite_deadline_ms = 1000\n", pair.settings()));
    let client = Client::tls(&node, &pair).await;
    let mut tls = pair.connect(&node, &["http/1.1"]).await.expect("a handshake");
    ask(&mut tls, "/events?topic=a", "event: connection").await;
    let large = json!("x".repeat(900_000));
    for _ in 0..12 {
        client.publish("a", "large", &large).await;
    }
    soon(async { while client.metric("streams_closed_total{reason=\"write_deadline\"}").await == 0 {} }).await;
}

#[tokio::test]
async fn tasks_of_the_node_reach_the_node_over_tls() {
    let pair = Pair::new();
    let node = Node::start(&pair.settings());
    let client = Client::tls(&node, &pair).await;
    let job = json!({ "tasks": [{ "id": "1", "name": "Fetch External Data", "run": "Fetch External Data" }] });
    let mut stream = soon(client.send("POST", "/api/sse/emitter/parallel-tasks", Some(&job))).await.expect("an answer");
    let complete = stream.until("complete").await;
    assert!(complete.contains("\"successCount\":1"), "{complete}");
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_streams_go_on() {
    let (old, new) = (Pair::new(), Pair::new());
    let node = Node::start(&old.settings());
    let before = Client::tls(&node, &old).await;
    let mut stream = before.stream("a").await;
    // A pair that does not fit leaves the one before it.
    std::fs::copy(&new.key, &old.key).expect("copy");
    soon(async {
        while !node.log().contains("the new certificate is not valid") {
            pause(50).await;
        }
    })
    .await;
    assert!(old.connect(&node, &["h2"]).await.is_ok());
    new.replace(&old.cert, &old.key);
    soon(async {
        while new.connect(&node, &["h2"]).await.is_err() {
            pause(50).await;
        }
    })
    .await;
    assert!(old.connect(&node, &["h2"]).await.is_err());
    before.publish("a", "news", &json!("still here")).await;
    assert_eq!(stream.until("news").await, "still here");
}

#[test]
fn a_certificate_that_cannot_be_is_refused_at_the_start_with_what_to_do() {
    let (one, other) = (Pair::new(), Pair::new());
    let (code, message) = refused(&format!("[server]\ntls_cert = \"{}\"\n", one.cert.display()));
    assert_eq!(code, Some(64), "{message}");
    assert!(message.contains("set `server.tls_key`"), "{message}");
    let mixed = format!("[server]\ntls_cert = \"{}\"\ntls_key = \"{}\"\n", one.cert.display(), other.key.display());
    let (code, message) = refused(&mixed);
    assert_eq!(code, Some(64), "{message}");
    assert!(message.contains("is not the key of the first certificate"), "{message}");
    let (code, message) = refused("[server]\ntls_cert = \"/nowhere/cert.pem\"\ntls_key = \"/nowhere/key.pem\"\n");
    assert_eq!(code, Some(64), "{message}");
    assert!(message.contains("`server.tls_cert` = `/nowhere/cert.pem`: No such file"), "{message}");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_and_plain_http_is_refused() {
    let pair = Pair::new();
    let node = Node::start(&format!("{}head_timeout_ms = 300\n", pair.settings()));
    // Nothing, and the beginning of a ClientHello that dribbles on.
    for first in [&b""[..], &b"\x16\x03\x01\x02\x00\x01"[..]] {
        let mut tcp = tokio::net::TcpStream::connect(node.addr).await.expect("connect");
        let began = std::time::Instant::now();
        tcp.write_all(first).await.expect("send");
        let (mut reading, mut writing) = tcp.split();
        let dribble = async {
            while first.is_empty() || writing.write_all(b"\x00").await.is_ok() {
                pause(50).await;
            }
        };
        let mut rest = Vec::new();
        tokio::select! {
            read = soon(reading.read_to_end(&mut rest)) => drop(read),
            () = dribble => {}
        }
        assert!(
            (Duration::from_millis(250)..Duration::from_secs(5)).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );
    }
    let client = Client::tls(&node, &pair).await;
    assert_eq!(client.metric("heads_timed_out_total").await, 2);
    let mut tcp = tokio::net::TcpStream::connect(node.addr).await.expect("connect");
    let answer = ask(&mut tcp, "/healthz", "HTTP").await;
    assert!(!answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn the_session_of_a_ticket_is_for_tls_alone() {
    let pair = Pair::new();
    let node = Node::start(&pair.settings());
    let client = Client::tls(&node, &pair).await;
    let answer = soon(client.send("POST", "/api/tickets", None)).await.expect("an answer");
    let ticket: serde_json::Value = serde_json::from_str(&answer.text().await).expect("JSON");
    let path = format!("/events?ticket={}", ticket["ticket"].as_str().expect("a ticket"));
    let mut tls = pair.connect(&node, &["http/1.1"]).await.expect("a handshake");
    let head = ask(&mut tls, &path, "event: connection").await.to_ascii_lowercase();
    let cookie = head.lines().find(|line| line.starts_with("set-cookie: millstream_session=")).expect("a cookie");
    assert!(cookie.contains("; secure") && cookie.contains("; httponly"), "{cookie}");
}

/// An origin is scheme, host and port (RFC 6454): a page that came over plain http from the same host is another site's.
#[tokio::test]
async fn a_page_of_the_same_host_without_tls_is_of_another_origin() {
    let pair = Pair::new();
    let node = Node::start(&pair.settings());
    for (scheme, status) in [("https", "200"), ("HTTPS", "403"), ("http", "403"), ("ftp", "403")] {
        let mut tls = pair.connect(&node, &["http/1.1"]).await.expect("a handshake");
        let (host, body) = (node.addr, "{\"topic\":\"a\",\"data\":1}");
        let request = format!(
            "POST /events HTTP/1.1\r\nHost: {host}\r\nOrigin: {scheme}://{host}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        tls.write_all(request.as_bytes()).await.expect("send");
        let answer = read_until(&mut tls, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{scheme}: {answer}");
    }
}
