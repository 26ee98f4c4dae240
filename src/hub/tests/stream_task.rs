//! Stream tasks: the output at the client's end of a connection that the hub writes itself.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    task::JoinHandle,
    time::{Duration, sleep},
};

use super::support::{Rig, settle};
use crate::hub::{Connect, Framing, MOST_INPUT, Reason, Selector, StreamTask};

/// Records that a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// A stream of topic `a` over a connection with room for `room` bytes, and its client's end.
async fn open_task(rig: &Rig, connect: Connect, room: usize, framing: Framing) -> (DuplexStream, JoinHandle<()>) {
    let frames = rig.greeted(connect).await.into_inner();
    let (client, node) = duplex(room);
    (client, actix_rt::spawn(StreamTask::new(frames, node, framing)))
}

/// Reads this number of bytes as text.
async fn read(client: &mut DuplexStream, bytes: usize) -> String {
    let mut text = vec![0; bytes];
    client.read_exact(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn rest(client: &mut DuplexStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text
}

#[actix_rt::test]
async fn frames_are_sent_as_chunks_and_the_last_chunk_ends_a_complete_stream() {
    let rig = Rig::new();
    let (mut client, task) = open_task(&rig, rig.connect(&["a"]), 1 << 16, Framing::Chunked).await;
    let position = rig.publish("a", "hello").await;
    let frame = format!("id: {position}\ndata: hello\n\n");
    let chunk = format!("{:X}\r\n{frame}\r\n", frame.len());
    assert_eq!(read(&mut client, chunk.len()).await, chunk);
    rig.hub.disconnect(Selector::All, Reason::Removed).await;
    let end = rest(&mut client).await;
    assert!(end.contains("event: disconnect") && end.ends_with("\n\n\r\n0\r\n\r\n"), "{end:?}");
    task.await.unwrap();
    assert_eq!((rig.hub.counters().open(), rig.hub.counters().closed(Reason::Removed)), (0, 1));
}

#[actix_rt::test]
async fn without_chunks_the_stream_ends_with_the_connection() {
    let rig = Rig::new();
    let (mut client, _task) = open_task(&rig, rig.connect(&["a"]), 1 << 16, Framing::UntilClosed).await;
    let position = rig.publish("a", "hello").await;
    settle().await;
    rig.hub.disconnect(Selector::All, Reason::Removed).await;
    let all = rest(&mut client).await;
    assert!(all.starts_with(&format!("id: {position}\ndata: hello\n\n")), "{all:?}");
    assert!(all.ends_with("\"}\n\n"), "{all:?}");
}

/// Waking a task for each frame would cost about as much as sending it.
#[actix_rt::test]
async fn an_event_is_written_without_a_turn_of_the_connections_own_tasks() {
    let rig = Rig::new();
    let mut tasks = Vec::new();
    for _ in 0..200 {
        let frames = rig.greeted(rig.connect(&["a"])).await.into_inner();
        let (client, node) = duplex(1 << 10);
        let mut task = StreamTask::new(frames, node, Framing::UntilClosed);
        let woken = Arc::new(Woken::default());
        assert!(Pin::new(&mut task).poll(&mut Context::from_waker(&woken.clone().into())).is_pending());
        tasks.push((client, task, woken));
    }
    let position = rig.publish("a", "hello").await;
    let frame = format!("id: {position}\ndata: hello\n\n");
    settle().await;
    for (client, _task, woken) in &mut tasks {
        assert!(!woken.0.load(SeqCst), "a task was woken for it");
        assert_eq!(read(client, frame.len()).await, frame);
    }
}

/// The thread also serves requests, and other streams.
#[actix_rt::test]
async fn an_event_for_many_connections_gives_other_tasks_a_turn_between() {
    let rig = Rig::new();
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(open_task(&rig, rig.connect(&["a"]), 1 << 10, Framing::UntilClosed).await);
    }
    settle().await;
    let position = rig.publish("a", "hello").await;
    let frame = format!("id: {position}\ndata: hello\n\n");
    let mut written = 0;
    while written == 0 {
        tokio::task::yield_now().await;
        let mut buffer = [0; 1 << 10];
        for (client, _) in &mut clients {
            let mut buffer = ReadBuf::new(&mut buffer);
            let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut *client).poll_read(cx, &mut buffer))).await;
            written += usize::from(buffer.filled() == frame.as_bytes());
        }
    }
    assert!(written < 300, "all were written in one turn");
}

/// A connection that accepts a few bytes at a time gets all of them once, in order.
#[actix_rt::test]
async fn bytes_that_the_socket_does_not_accept_at_once_are_sent_later() {
    let rig = Rig::tiny(4);
    let (mut client, _task) = open_task(&rig, rig.connect(&["a"]), 7, Framing::UntilClosed).await;
    let reading = actix_rt::spawn(async move { rest(&mut client).await });
    let mut expected = String::new();
    for number in 0..200 {
        let position = rig.publish("a", &number.to_string()).await;
        expected += &format!("id: {position}\ndata: {number}\n\n");
    }
    sleep(Duration::from_secs(1)).await;
    rig.hub.disconnect(Selector::All, Reason::Removed).await;
    let all = reading.await.unwrap();
    assert_eq!(all.split_once("event: disconnect").map(|(events, _)| events), Some(expected.as_str()));
}

#[actix_rt::test]
async fn a_client_that_disconnects_ends_its_stream() {
    let rig = Rig::new();
    let (client, task) = open_task(&rig, rig.connect(&["a"]), 64, Framing::Chunked).await;
    settle().await;
    drop(client);
    task.await.unwrap();
    assert_eq!((rig.hub.counters().open(), rig.hub.counters().closed(Reason::ClientGone)), (0, 1));
}

/// Some clients send their next request early, but no client sends without end.
#[actix_rt::test]
async fn a_client_that_floods_its_connection_is_disconnected() {
    let rig = Rig::new();
    let (mut client, task) = open_task(&rig, rig.connect(&["a"]), 1 << 10, Framing::Chunked).await;
    let most = usize::try_from(MOST_INPUT).unwrap();
    client.write_all(&vec![b'x'; most]).await.unwrap();
    settle().await;
    assert_eq!(rig.hub.counters().open(), 1);
    client.write_all(b"x").await.unwrap();
    task.await.unwrap();
    assert_eq!((rig.hub.counters().open(), rig.hub.counters().closed(Reason::InputFlood)), (0, 1));
}

/// Bytes that have left the outbox and that the socket has not accepted count as waiting, although the outbox is empty.
#[actix_rt::test]
async fn a_client_that_does_not_read_is_cut_although_its_outbox_is_empty() {
    let rig = Rig::new();
    let cut = std::rc::Rc::new(tokio::sync::Notify::new());
    let asked = cut.clone();
    let connect = Connect { cut: Some(Box::new(move || asked.notify_one())), ..rig.connect(&["a"]) };
    let (_client, task) = open_task(&rig, connect, 8, Framing::Chunked).await;
    rig.publish("a", "more than eight bytes").await;
    sleep(Duration::from_secs(58)).await;
    assert_eq!(rig.hub.counters().open(), 1);
    sleep(Duration::from_secs(3)).await;
    tokio::time::timeout(Duration::from_secs(1), cut.notified()).await.expect("it is cut");
    task.abort();
    settle().await;
    assert_eq!(rig.hub.counters().closed(Reason::WriteDeadline), 1);
}
