//! The handover of a connection, and the preface of HTTP/2.

use std::{cell::Cell, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

fn heads() -> Heads {
    Heads::new(Duration::from_secs(5), Duration::from_secs(5))
}

/// The node's end of a connection, as the framework gets it, and the client's end.
async fn connection() -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let unsent = Unsent::new(Duration::from_secs(60), usize::MAX);
    (Transport::new(Wire::Plain(listener.accept().await.unwrap().0), heads(), unsent, |_| Vec::new()), client)
}

#[tokio::test]
async fn a_connection_is_handed_over_when_all_output_is_flushed() {
    let (mut transport, mut client) = connection().await;
    let taken = Rc::new(RefCell::new(None));
    let keep = taken.clone();
    transport.handover().take_over(move |connection| drop(keep.replace(Some(connection))));
    transport.write_all(b"head").await.unwrap();
    assert!(taken.borrow().is_none(), "the framework still owns it");
    transport.flush().await.unwrap();
    let mut connection = taken.take().expect("it was handed over");
    assert_eq!(transport.read(&mut [0; 8]).await.unwrap(), 0, "the framework reads the end of its input");
    assert!(transport.write_all(b"more").await.is_err());
    assert!(transport.flush().await.is_err(), "otherwise it would poll without end");
    transport.shutdown().await.unwrap();
    drop(transport);
    connection.write_all(b", body").await.unwrap();
    drop(connection);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "head, body", "later calls of the framework have no effect");
}

#[tokio::test]
async fn a_connection_that_the_framework_drops_is_not_handed_over() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let (transport, _client) = connection().await;
    let gone = Rc::new(Cell::new(false));
    let guard = Dropped(gone.clone());
    let handover = transport.handover();
    handover.take_over(move |_| drop(guard));
    drop(transport);
    assert!(!gone.get(), "a clone still holds the connection");
    drop(handover);
    assert!(gone.get());
}

#[tokio::test]
async fn a_client_of_http_2_is_detected_by_its_preface_in_any_pieces() {
    for cut in [1, 3, 14, 23, 24] {
        let (mut transport, mut client) = connection().await;
        let say = async {
            client.write_all(&PREFACE[..cut]).await.unwrap();
            sleep(Duration::from_millis(5)).await;
            client.write_all(&PREFACE[cut..]).await.unwrap();
            client.write_all(b"frames").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let ((), seen) = tokio::join!(say, async { transport.read(&mut [0; 1024]).await.unwrap() });
        assert_eq!(seen, 0, "the framework reads the end of its input");
        let mut text = Vec::new();
        transport.handover().http2().expect("it is HTTP/2").read_to_end(&mut text).await.unwrap();
        assert_eq!(text, [PREFACE, b"frames"].concat());
    }
}

#[tokio::test]
async fn input_that_only_begins_like_http_2_arrives_complete() {
    for words in ["PRI * HTTP/1.1", "PROPFIND / HTTP/1.1", "POST / HTTP/1.1"] {
        let words = format!("{words}\r\nHost: x\r\n\r\n");
        let (mut transport, mut client) = connection().await;
        let say = async {
            client.write_all(&words.as_bytes()[..2]).await.unwrap();
            sleep(Duration::from_millis(5)).await;
            client.write_all(&words.as_bytes()[2..]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut text = Vec::new();
        let ((), read) = tokio::join!(say, transport.read_buf(&mut text));
        read.unwrap();
        while transport.read_buf(&mut text).await.unwrap() > 0 {}
        assert_eq!(String::from_utf8(text).unwrap(), words);
        assert!(transport.handover().http2().is_none());
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_client_may_send_little_behind_the_request_for_a_stream() {
    let (mut transport, mut client) = connection().await;
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(2000));
    let mut input = [0; 4096];
    client.write_all(large.as_bytes()).await.unwrap();
    assert_eq!(transport.read(&mut input).await.unwrap(), large.len());
    let answering = transport.handover().answering();
    transport.handover().streams(4 * REQUEST.len() as u64);
    transport.flush().await.expect("the request itself does not count");
    for _ in 0..4 {
        client.write_all(REQUEST).await.unwrap();
        assert_eq!(transport.read(&mut input).await.unwrap(), REQUEST.len());
    }
    transport.flush().await.unwrap();
    // The next request is answered. It is no stream, so its client may send more.
    drop(answering);
    let answering = transport.handover().answering();
    for _ in 0..4 {
        client.write_all(&REQUEST.repeat(10)).await.unwrap();
        assert_eq!(transport.read(&mut input).await.unwrap(), 10 * REQUEST.len());
        transport.flush().await.unwrap();
    }
    drop(answering);
}

#[tokio::test]
async fn a_client_that_floods_the_connection_of_a_stream_loses_it() {
    let most = 4 * REQUEST.len() as u64;
    let mut input = [0; 4096];
    let (mut transport, mut client) = connection().await;
    client.write_all(REQUEST).await.unwrap();
    assert_eq!(transport.read(&mut input).await.unwrap(), REQUEST.len());
    let _answering = transport.handover().answering();
    transport.handover().streams(most);
    transport.flush().await.unwrap();
    client.write_all(&REQUEST.repeat(5)).await.unwrap();
    assert_eq!(transport.read(&mut input).await.unwrap(), 5 * REQUEST.len());
    assert!(transport.read(&mut input).await.is_err());
    assert!(transport.write(b"frame").await.is_err());
    // With the request: the framework has the input before it answers.
    let (mut transport, mut client) = connection().await;
    client.write_all(&REQUEST.repeat(6)).await.unwrap();
    assert_eq!(transport.read(&mut input).await.unwrap(), 6 * REQUEST.len());
    let _answering = transport.handover().answering();
    transport.handover().streams(most);
    assert!(transport.flush().await.is_err());
}

#[tokio::test]
async fn input_behind_the_request_for_a_stream_that_is_no_request_is_bounded_too() {
    for flood in [true, false] {
        let (mut transport, mut client) = connection().await;
        let mut input = [0; 4096];
        client.write_all(REQUEST).await.unwrap();
        assert_eq!(transport.read(&mut input).await.unwrap(), REQUEST.len());
        let _answering = transport.handover().answering();
        transport.handover().streams(1000);
        client.write_all(b"GET \0 HTTP/1.1\r\n\r\n").await.unwrap();
        let more = async {
            if flood {
                client.write_all(&[b'x'; 2000]).await.unwrap();
            } else {
                client.shutdown().await.unwrap();
            }
        };
        let (read, ()) = tokio::join!(transport.read(&mut input), more);
        assert!(read.is_err(), "the stream ends with its client");
    }
}

/// A client that always has its next request sent early never floods.
#[tokio::test]
async fn long_requests_one_after_the_other_are_no_flood() {
    let (mut transport, mut client) = connection().await;
    let mut input = [0; 4096];
    client.write_all(REQUEST).await.unwrap();
    transport.read_exact(&mut input[..REQUEST.len()]).await.unwrap();
    for _ in 0..50 {
        let answering = transport.handover().answering();
        transport.handover().streams(4 * REQUEST.len() as u64);
        client.write_all(REQUEST).await.unwrap();
        transport.read_exact(&mut input[..REQUEST.len()]).await.unwrap();
        transport.flush().await.unwrap();
        drop(answering);
        transport.flush().await.unwrap();
    }
}

/// The room of a connection with a write deadline of ten seconds, and this number of waiting streams.
fn room(waiting: usize) -> Room {
    let room = Room::new(Unsent::new(Duration::from_secs(10), usize::MAX));
    (0..waiting).for_each(|_| room.waits());
    room
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_client_reads_none_of_its_streams_ends_after_a_deadline() {
    let room = room(3);
    tokio::time::advance(Duration::from_secs(9)).await;
    room.waits_no_longer(true);
    assert!(!room.one_stuck(2), "before the deadline");
    room.wrote(1);
    tokio::time::advance(Duration::from_secs(1)).await;
    room.waits_no_longer(true);
    assert!(room.one_stuck(1), "a byte is too little");
    let room = self::room(1);
    tokio::time::advance(Duration::from_secs(10)).await;
    room.waits_no_longer(true);
    assert!(!room.one_stuck(1), "the other stream is healthy");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_enough_of_one_stream_keeps_its_connection() {
    let room = room(2);
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(9)).await;
        room.wrote(20_000);
    }
    room.waits_no_longer(true);
    assert!(!room.one_stuck(1));
    // Of two streams a client must read twice as much.
    room.waits();
    tokio::time::advance(Duration::from_secs(10)).await;
    room.wrote(6000);
    room.waits_no_longer(true);
    assert!(room.one_stuck(1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_many_of_its_streams_are_reset_at_once() {
    let resets = |others: usize, between: Duration| async move {
        let room = room(0);
        for number in 1..100 {
            if room.one_stuck(others) {
                return number;
            }
            tokio::time::advance(between).await;
        }
        100
    };
    assert_eq!(resets(0, Duration::from_millis(1)).await, 8);
    assert_eq!(resets(20, Duration::from_millis(1)).await, 20, "the number of healthy streams");
    assert_eq!(resets(0, Duration::from_secs(2)).await, 100, "spread over the time");
}
