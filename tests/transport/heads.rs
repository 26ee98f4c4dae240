//! Clients that send the head of a request a byte at a time, or far too much of it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::{Node, PATIENCE, eventually};

const HEAD: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A node that waits this long for heads.
fn node(head_timeout_ms: u64) -> Node {
    Node::start(&format!("[server]\nhead_timeout_ms = {head_timeout_ms}\n"))
}

/// Sends a head that never ends, a byte now and then; the output of the node until it cuts the connection, and the
/// time.
fn dribble(socket: &mut TcpStream) -> (String, Duration) {
    let began = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let mut message = Vec::new();
    let mut bytes = "GET /healthz HTTP/1.1\r\nX-Slow: ".bytes().chain(std::iter::repeat(b'x'));
    loop {
        assert!(began.elapsed() < PATIENCE, "it was not cut");
        let _ = socket.write_all(&[bytes.next().expect("it never ends")]);
        let mut buffer = [0; 1024];
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => message.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    (String::from_utf8_lossy(&message).into_owned(), began.elapsed())
}

/// Sends a whole request and reads its answer, which keeps the connection.
fn whole(socket: &mut TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(HEAD.as_bytes()).expect("send");
    read_answer(socket);
}

fn read_answer(socket: &mut TcpStream) {
    let mut message = Vec::new();
    while !message.ends_with(b"}") {
        let mut byte = [0];
        assert_eq!(socket.read(&mut byte).expect("an answer"), 1, "{}", String::from_utf8_lossy(&message));
        message.push(byte[0]);
    }
    assert!(message.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&message));
}

#[test]
fn a_first_head_that_dribbles_is_cut() {
    let node = node(400);
    let (message, took) = dribble(&mut node.socket());
    assert!(message.starts_with("HTTP/1.1 408"), "{message}");
    assert!((Duration::from_millis(350)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!(node.count("heads_timed_out_total"), 1);
}

#[test]
fn a_later_head_that_dribbles_is_cut_too() {
    let node = node(400);
    let mut socket = node.socket();
    whole(&mut socket);
    whole(&mut socket);
    let (message, took) = dribble(&mut socket);
    assert!(message.starts_with("HTTP/1.1 408"), "{message}");
    assert!((Duration::from_millis(350)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!(node.count("heads_timed_out_total"), 1);
}

#[test]
fn a_head_that_comes_with_the_request_before_it_and_no_further_is_not_waited_for() {
    let node = node(400);
    let mut socket = node.socket();
    socket.write_all(format!("{HEAD}GET /heal").as_bytes()).expect("send");
    read_answer(&mut socket);
    let (_, took) = dribble(&mut socket);
    assert!(took < Duration::from_secs(4), "{took:?}");
    // In one piece with the first, and then silence: it is not known to be a head.
    let mut socket = node.socket();
    socket.write_all(format!("{HEAD}GET /heal").as_bytes()).expect("send");
    read_answer(&mut socket);
    assert_eq!(socket.read(&mut [0; 64]).expect("it is closed"), 0);
}

#[test]
fn a_connection_without_a_word_is_cut() {
    let node = node(300);
    let mut message = String::new();
    node.socket().read_to_string(&mut message).expect("it is closed");
    assert!(message.starts_with("HTTP/1.1 408"), "{message}");
    eventually(|| (node.count("connections") <= 1).then_some(()));
}

#[test]
fn who_is_in_time_keeps_the_connection() {
    let node = node(1500);
    let mut socket = node.socket();
    // Three heads in three pieces each, together longer than one may take.
    for _ in 0..3 {
        for piece in [&HEAD[..5], &HEAD[5..20], &HEAD[20..]] {
            socket.write_all(piece.as_bytes()).expect("send");
            #[expect(clippy::disallowed_methods, reason = "the pause is what this client does")]
            std::thread::sleep(Duration::from_millis(250));
        }
        read_answer(&mut socket);
    }
    // A request that takes longer than a head may: its body comes late, and the connection is used again.
    socket
        .write_all(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n",
        )
        .expect("send");
    #[expect(clippy::disallowed_methods, reason = "the pause is what this client does")]
    std::thread::sleep(Duration::from_millis(1800));
    socket.write_all(br#"{"topic":"a","data":"x"}"#).expect("send");
    read_answer(&mut socket);
    whole(&mut socket);
    assert_eq!(node.count("heads_timed_out_total"), 0);
}

#[test]
fn a_head_that_is_too_large_is_refused_at_once() {
    let node = node(5000);
    let began = Instant::now();
    for kept in [false, true] {
        let mut socket = node.socket();
        if kept {
            whole(&mut socket);
        }
        let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}", "y".repeat(300_000));
        let mut sending = socket.try_clone().expect("a second handle");
        let mut message = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(move || sending.write_all(head.as_bytes()));
            let _ = socket.read_to_end(&mut message);
        });
        let message = String::from_utf8_lossy(&message);
        assert!(message.is_empty() || message.starts_with("HTTP/1.1 431"), "{message}");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    node.must_be_healthy();
}

#[test]
fn a_stream_outlives_the_time_that_heads_have() {
    let node = node(300);
    let mut stream = node.stream("/events?topic=a", &[]);
    stream.until("connection");
    #[expect(clippy::disallowed_methods, reason = "the time that passes is what the test is about")]
    std::thread::sleep(Duration::from_millis(900));
    let id = node.publish("a", "news", &serde_json::json!("late"));
    assert_eq!(stream.until("news").id, id);
}
