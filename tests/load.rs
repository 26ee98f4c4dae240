//! Many clients at once: no event is lost or duplicated, and all clients get the end when the node stops.
//!
//! `MILLSTREAM_LONG=1` publishes to the thousand for ten seconds, instead of two.

mod support;

use std::{
    cell::RefCell,
    collections::HashSet,
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::json;
use support::{
    Node, Stream, eventually,
    swarm::{self, Reader},
};

const SUBSCRIBERS: usize = 1000;
const LIMIT: Duration = Duration::from_secs(90);

fn quiet(settings: &str) -> Node {
    Node::start(&format!("[telemetry]\nlog = \"warn\"\n{settings}"))
}

/// Opens a stream for each number, all at once, and takes its `connection` frame.
async fn connect(node: &Node, count: usize, path: &str, ids: &[String]) -> Vec<Reader> {
    let (addr, path, ids) = (node.addr, path.to_owned(), ids.to_vec());
    swarm::all(count, move |index| {
        let (path, id) = (path.clone(), ids.get(index).cloned());
        async move {
            let mut reader = Reader::open(addr, &path, id.as_deref()).await.expect("a stream");
            reader.until("connection").await.expect("its first frame");
            reader
        }
    })
    .await
}

/// Receives this number of events on each stream and checks that they have these numbers.
async fn receive(readers: Vec<Reader>, numbers: std::ops::Range<usize>) -> Vec<Reader> {
    let count = readers.len();
    let readers = RefCell::new(readers.into_iter().map(Some).collect::<Vec<_>>());
    swarm::all(count, |index| {
        let (mut reader, numbers) = (readers.borrow_mut()[index].take().expect("each once"), numbers.clone());
        async move {
            for expected in numbers {
                let received = reader.until("n").await.expect("it continues");
                assert_eq!(
                    received.data,
                    expected.to_string(),
                    "stream {index}: nothing lost, nothing twice, in order"
                );
            }
            reader
        }
    })
    .await
}

fn publish(node: &Node, numbers: std::ops::Range<usize>) {
    for n in numbers {
        node.publish("load", "n", &json!(n));
    }
}

/// Publishes 50 events a second.
fn publish_paced(node: &Node, numbers: std::ops::Range<usize>) {
    let begin = Instant::now();
    for (nth, n) in numbers.enumerate() {
        let due = Duration::from_millis(20 * nth as u64);
        eventually(|| (begin.elapsed() >= due).then_some(()));
        publish(node, n..n + 1);
    }
}

#[test]
fn a_thousand_subscribers_receive_everything_once_and_in_order() {
    let seconds = if std::env::var_os("MILLSTREAM_LONG").is_some() { 10 } else { 2 };
    let (node, count) = (quiet(""), 50 * seconds);
    std::thread::scope(|scope| {
        let (go, ready) = mpsc::sync_channel(1);
        let node = &node;
        let publisher = scope.spawn(move || {
            let begin = ready.recv().map(|()| Instant::now());
            begin.map(|begin| {
                publish_paced(node, 0..count);
                begin.elapsed()
            })
        });
        swarm::run(LIMIT, async {
            let readers = connect(node, SUBSCRIBERS, "/events?topic=load", &[]).await;
            assert_eq!(node.streams(), SUBSCRIBERS as u64);
            let begin = Instant::now();
            go.send(()).expect("the publisher waits");
            let readers = receive(readers, 0..count).await;
            println!("{count} events to {SUBSCRIBERS}: all received after {:?}", begin.elapsed());
            assert_eq!(node.count("events_delivered_total"), (count * SUBSCRIBERS) as u64);
            drop(readers);
        });
        println!("published in {:?}", publisher.join().expect("it publishes"));
    });
    assert!(node.until_streams(0) < Duration::from_secs(5));
    assert_eq!(node.closed("client_gone"), SUBSCRIBERS as u64);
}

#[test]
fn a_storm_of_connections_comes_in_and_goes_again() {
    let node = quiet("");
    for round in 0..2 {
        swarm::run(LIMIT, async {
            let begin = Instant::now();
            let readers = connect(&node, SUBSCRIBERS, "/events?topic=load", &[]).await;
            println!("{SUBSCRIBERS} connected after {:?}", begin.elapsed());
            assert_eq!(node.streams(), SUBSCRIBERS as u64);
            publish(&node, round..round + 1);
            drop(receive(readers, round..round + 1).await);
        });
        let gone = node.until_streams(0);
        println!("{SUBSCRIBERS} gone after {gone:?}");
        assert!(gone < Duration::from_secs(5), "gone only after {gone:?}");
    }
    node.must_be_healthy();
}

#[test]
fn a_thousand_resume_at_once_and_miss_nothing() {
    let node = quiet("");
    swarm::run(LIMIT, async {
        let readers = connect(&node, SUBSCRIBERS, "/events?topic=load", &[]).await;
        publish(&node, 0..10);
        // They disconnect in the middle, and receive the rest after they reconnect.
        let readers = receive(readers, 0..5).await;
        let ids: Vec<String> = readers.into_iter().map(|reader| reader.id).collect();
        publish(&node, 10..20);
        let begin = Instant::now();
        let readers = connect(&node, SUBSCRIBERS, "/events?topic=load", &ids).await;
        publish(&node, 20..25);
        drop(receive(readers, 5..25).await);
        println!("{SUBSCRIBERS} resumed and received 20 events each after {:?}", begin.elapsed());
    });
}

/// A journal in memory ends with its process: all clients get the gap, and the later events.
#[test]
fn a_thousand_reconnect_after_a_restart_and_get_the_gap() {
    let mut node = quiet("[journal]\nkind = \"memory\"\n");
    let ids: Vec<String> = swarm::run(LIMIT, async {
        let readers = connect(&node, SUBSCRIBERS, "/events?topic=load", &[]).await;
        publish(&node, 0..3);
        receive(readers, 0..3).await.into_iter().map(|reader| reader.id).collect()
    });
    node.restart();
    swarm::run(LIMIT, async {
        let begin = Instant::now();
        let addr = node.addr;
        let readers = swarm::all(SUBSCRIBERS, move |index| {
            let id = ids[index].clone();
            async move {
                let mut reader = Reader::open(addr, "/events?topic=load", Some(&id)).await.expect("a stream");
                let first = reader.next().await.expect("it is open").expect("a first frame");
                assert_eq!(first.event, "connection");
                assert!(first.data.contains(r#""status":"gap""#), "{first:?}");
                let gap = reader.next().await.expect("it is open").expect("a second frame");
                assert_eq!(gap.event, "gap");
                assert!(gap.data.contains(r#""reason":"foreign""#) && gap.data.contains(&id), "{gap:?}");
                reader
            }
        })
        .await;
        println!("{SUBSCRIBERS} back after {:?}", begin.elapsed());
        publish(&node, 3..6);
        drop(receive(readers, 3..6).await);
    });
    assert_eq!(node.count("gaps_total"), SUBSCRIBERS as u64);
}

#[test]
fn a_stop_under_load_gives_every_stream_a_time_to_reconnect() {
    const STREAMS: usize = 500;
    const DRAIN: Duration = Duration::from_secs(1);
    let mut node = quiet("[server]\ndrain_ms = 1000\n[emitter]\nreconnect_time_ms = 10000");
    let addr = node.addr;
    let (go, ready) = mpsc::sync_channel(1);
    // The streams live on a thread of their own: this one stops the node.
    let streams = std::thread::spawn(move || {
        swarm::run(LIMIT, async {
            let readers = swarm::all(STREAMS, move |_| async move {
                let mut reader = Reader::open(addr, "/events?topic=load", None).await.expect("a stream");
                reader.until("connection").await.expect("its first frame");
                reader
            });
            let readers = readers.await;
            go.send(()).expect("the test waits");
            let readers = RefCell::new(readers.into_iter().map(Some).collect::<Vec<_>>());
            swarm::all(STREAMS, |index| {
                let mut reader = readers.borrow_mut()[index].take().expect("each once");
                async move {
                    let (mut events, mut last) = (0_usize, None);
                    while let Some(received) = reader.next().await.expect("the connection does not break") {
                        if received.event == "n" {
                            assert_eq!(received.data, events.to_string(), "in order to the end");
                            events += 1;
                        }
                        last = Some(received);
                    }
                    let last = last.expect("a last word");
                    assert_eq!((&*last.event, &*last.data), ("disconnect", r#"{"reason":"shutdown"}"#));
                    assert!(reader.finished, "the response ends well");
                    reader.retry.expect("when to come back")
                }
            })
            .await
        })
    });
    ready.recv().expect("the streams are open");
    publish(&node, 0..20);
    let begin = Instant::now();
    let code = node.terminate();
    let took = begin.elapsed();
    let retries = streams.join().expect("every stream ends as it should");
    println!("{STREAMS} streams ended, the node after {took:?}");
    assert_eq!(code, Some(0));
    assert!(took < DRAIN + Duration::from_secs(3), "the node ended only after {took:?}");
    assert!(retries.iter().all(|ms| (5000..=15_000).contains(ms)), "{retries:?}");
    let different: HashSet<u64> = retries.iter().copied().collect();
    assert!(different.len() > STREAMS / 2, "only {} different times to come back", different.len());
}

/// Who does not read cannot hold the stop up for longer than a last word may take.
#[test]
fn a_stop_does_not_wait_for_who_does_not_read() {
    let mut node = quiet("[server]\ndrain_ms = 100\nsend_buffer_bytes = 4096");
    let mut stuck = Stream::open(node.tight_socket(), "GET", "/events?topic=load", &[], "");
    stuck.until("connection");
    let row = json!({ "topic": "load", "data": "x".repeat(10_000) });
    node.post("/events", &serde_json::Value::Array(vec![row; 50]));
    let begin = Instant::now();
    assert_eq!(node.terminate(), Some(0));
    let took = begin.elapsed();
    println!("stopped beside a stuck reader after {took:?}");
    assert!(took < Duration::from_secs(10), "the node ended only after {took:?}");
}
