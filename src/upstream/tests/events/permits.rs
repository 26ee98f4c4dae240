//! Permits for streams: their limits, and when they are released.

use std::time::Duration;

use tokio::{net::TcpListener, time::Instant};

use super::rig::{at, begun, brief, next, next_brief, of, open, skip, source, stream};
use crate::upstream::{
    Connections, RemoteConfig,
    events::{Cursor, EventSource, Repeat, Source, StreamEvent},
    tests::support::{PATIENCE, Step, Upstream, client},
};

#[tokio::test]
async fn without_a_permit_a_stream_waits_and_sends_no_request() {
    let upstream = Upstream::steps([Step::hold(begun("data: a\n\n")), Step::serve(stream("data: b\n\n"))]).await;
    let source = source(&upstream, RemoteConfig { max_connections: 1, ..RemoteConfig::default() });
    let connections = Connections::new(9);
    let mut first = EventSource::new(source.clone(), Cursor::default(), connections.clone());
    assert_eq!(next_brief(&mut first).await, "open");
    let mut second = EventSource::new(source.clone(), Cursor::default(), connections.clone());
    let StreamEvent::Retry { attempt: 1, delay, failure } = next(&mut second).await else {
        panic!("no permit is left")
    };
    assert_eq!(failure.code(), "busy");
    assert!(failure.to_string().contains("`remotes.up.max_connections`"), "{failure}");
    assert_eq!(upstream.accepted(), 1);
    drop(first);
    skip(delay).await;
    assert_eq!(next_brief(&mut second).await, "open");
    assert_eq!((connections.figures().open, connections.figures().refused), (1, 1));
    let mut narrow = EventSource::new(source, Cursor::default(), Connections::new(0));
    let item = next(&mut narrow).await;
    assert!(
        matches!(&item, StreamEvent::Retry { failure, .. } if failure.to_string().contains("relay.max_upstreams")),
        "{item:?}"
    );
}

#[tokio::test]
async fn every_end_of_a_stream_releases_its_permit() {
    let connections = Connections::new(1);
    for (answer, end) in [
        (stream("data: a\n\n"), "end closed"),
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), "end 204"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), "gave up http_status"),
        (begun("event: done\ndata: a\n\n"), "end end_event"),
        (begun(&format!("data: {}", "x".repeat(2 << 20))), "gave up event_too_large"),
        ("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n".into(), "gave up content_type"),
    ] {
        let upstream = Upstream::steps([Step::close(answer)]).await;
        let mut source = source(&upstream, RemoteConfig::default());
        source.end_event = end.contains("end_event").then(|| "done".into());
        let mut reader = EventSource::new(source, Cursor::default(), connections.clone());
        loop {
            let item = next(&mut reader).await;
            if matches!(item, StreamEvent::End(_) | StreamEvent::GaveUp(_)) {
                assert_eq!(brief(&item), end);
                break;
            }
        }
        assert_eq!(connections.figures().open, 0, "{end}");
    }
}

#[tokio::test]
async fn a_lost_stream_holds_no_permit_while_it_waits() {
    let upstream = Upstream::steps([Step::close(begun("data: a\n\n"))]).await;
    let connections = Connections::new(1);
    let mut reader =
        EventSource::new(source(&upstream, RemoteConfig::default()), Cursor::default(), connections.clone());
    loop {
        if let StreamEvent::Retry { .. } = next(&mut reader).await {
            break;
        }
    }
    assert_eq!(connections.figures().open, 0);
}

#[tokio::test]
async fn a_stream_that_an_operator_ends_reconnects() {
    let upstream =
        Upstream::steps([Step::hold(begun("id: 1\ndata: a\n\n")), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
    let connections = Connections::new(9);
    let mut reader =
        EventSource::new(source(&upstream, RemoteConfig::default()), Cursor::default(), connections.clone());
    assert_eq!(next_brief(&mut reader).await, "open");
    assert_eq!(next_brief(&mut reader).await, "1=a");
    let id = connections.list()[0].id.clone();
    assert_eq!((connections.list()[0].events, connections.list()[0].bytes), (1, 15));
    assert!(connections.end(&id));
    assert_eq!(next_brief(&mut reader).await, "retry 1 ended");
    upstream.closed().await;
    assert_eq!(next_brief(&mut reader).await, "open after 1");
    assert!(!connections.end(&id), "the new connection has another id");
}

#[tokio::test]
async fn an_operator_can_end_an_attempt() {
    let upstream = Upstream::steps([Step::hold("")]).await;
    let connections = Connections::new(9);
    let mut reader =
        EventSource::new(source(&upstream, RemoteConfig::default()), Cursor::default(), connections.clone());
    let (item, ()) = tokio::join!(next(&mut reader), async {
        while connections.list().is_empty() || upstream.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(connections.end(&connections.list()[0].id));
    });
    assert_eq!(brief(&item), "retry 1 ended");
    upstream.closed().await;
}

#[tokio::test]
async fn dropping_a_reader_closes_its_connection_at_once() {
    for answer in [String::new(), begun(""), begun("data: a\n\n")] {
        let opens = !answer.is_empty();
        let upstream = Upstream::steps([Step::hold(answer)]).await;
        let connections = Connections::new(9);
        let mut reader =
            EventSource::new(source(&upstream, RemoteConfig::default()), Cursor::default(), connections.clone());
        if opens {
            assert_eq!(next_brief(&mut reader).await, "open");
        } else {
            let requested = async {
                while upstream.requests().is_empty() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { item = reader.next() => panic!("{item:?}"), () = requested => {} }
        }
        let began = Instant::now();
        drop(reader);
        assert_eq!(connections.figures().open, 0);
        upstream.closed().await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_reader_waits_for_a_server_that_starts_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    drop(listener);
    let remote = at(&format!("http://{addr}"), RemoteConfig::default(), &client(&[]));
    let source = Source { repeat: Repeat::Forever, ..of(remote) };
    let mut reader = open(source);
    let began = Instant::now();
    for attempt in 1..=9 {
        let StreamEvent::Retry { attempt: reported, delay, failure } = next(&mut reader).await else {
            panic!("no server is there")
        };
        assert_eq!((reported, failure.code()), (attempt, "connect_failed"));
        skip(delay).await;
    }
    let listener = TcpListener::bind(addr).await.expect("the port is free again");
    let _upstream = Upstream::steps_on(listener, [Step::serve(stream("data: a\n\n"))]);
    loop {
        assert!(began.elapsed() < PATIENCE * 3, "the reader does not connect");
        if let StreamEvent::Open { reconnects, .. } = next(&mut reader).await {
            assert_eq!(reconnects, 0, "no connection was lost");
            break;
        }
    }
}

#[tokio::test]
async fn figures_count_bytes_and_events() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\ndata: b\n\n"))]).await;
    let connections = Connections::new(9);
    let mut reader =
        EventSource::new(source(&upstream, RemoteConfig::default()), Cursor::default(), connections.clone());
    while reader.next().await.is_some() {}
    let figures = connections.figures();
    assert_eq!((figures.opened, figures.events, figures.bytes, figures.open), (1, 2, 18, 0));
}
