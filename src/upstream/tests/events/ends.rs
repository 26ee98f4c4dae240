//! How streams end.

use super::rig::{
    CHUNKED, LAST, begun, brief, chunk, next, next_brief, open, read, read_brief, source, status, stream,
};
use crate::upstream::{
    RemoteConfig,
    events::{Cursor, Repeat, Source, StreamEvent},
    tests::support::{Step, Upstream},
};

#[tokio::test]
async fn status_204_ends_every_stream() {
    let upstream = Upstream::steps([Step::serve(status("204 No Content"))]).await;
    let source = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(read_brief(source).await, ["end 204"]);
}

#[tokio::test]
async fn a_close_without_a_marked_end_is_unknown() {
    let event = "data: a\n\n";
    for (head, end) in [
        (
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n", event.len()),
            "closed",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".into(), "unknown"),
        ("HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".into(), "unknown"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n".into(), "unknown"),
    ] {
        let upstream = Upstream::steps([Step::close(format!("{head}{event}"))]).await;
        let items = read_brief(source(&upstream, RemoteConfig::default())).await;
        assert_eq!(items, ["open", "=a", &format!("end {end}")], "{head}");
    }
}

#[tokio::test]
async fn an_event_without_its_blank_line_is_ignored() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\nid: 9\ndata: half\n"))]).await;
    let (items, cursor) = read(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["open", "=a", "end closed"]);
    assert_eq!((cursor.events, cursor.last_id.as_str()), (1, ""));
}

#[tokio::test]
async fn the_end_event_is_returned_and_nothing_after_it_counts() {
    let text = "id: 1\ndata: a\n\nid: 2\nevent: done\ndata: b\n\nretry: 9\nid: 3\n\nid: 4\ndata: c\n\n";
    let upstream = Upstream::steps([Step::hold(begun(text))]).await;
    let source = Source {
        end_event: Some("done".into()),
        repeat: Repeat::Forever,
        ..source(&upstream, RemoteConfig::default())
    };
    let (items, cursor) = read(source).await;
    assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["open", "1=a 2=b", "end end_event"]);
    assert_eq!((cursor.events, cursor.last_id.as_str()), (2, "2"));
    upstream.closed().await;
}

/// A node that crashes between storing the last event and storing the end receives the event again.
#[tokio::test]
async fn a_duplicate_end_event_ends_the_stream() {
    let text = "id: 2\nevent: done\ndata: b\n\n";
    let upstream = Upstream::steps([Step::close(begun(text)), Step::hold(begun(text))]).await;
    let plain = source(&upstream, RemoteConfig { max_retries: 1, ..RemoteConfig::default() });
    // The first reader has no end event.
    let mut first = open(plain.clone());
    next(&mut first).await;
    assert_eq!(next_brief(&mut first).await, "2=b");
    let cursor: Cursor = serde_json::from_value(serde_json::to_value(first.cursor()).unwrap()).unwrap();
    drop(first);
    let (items, cursor) = super::rig::read_after(Source { end_event: Some("done".into()), ..plain }, cursor).await;
    assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["open after 2", "end end_event"]);
    assert_eq!(cursor.events, 1);
}

#[tokio::test]
async fn with_an_end_event_a_close_is_not_an_end() {
    let upstream = Upstream::steps([
        Step::serve(stream("id: 1\ndata: a\n\n")),
        Step::serve(stream("id: 2\nevent: done\ndata: b\n\n")),
    ])
    .await;
    let source = Source { end_event: Some("done".into()), ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(read_brief(source).await, ["open", "1=a", "retry 1 closed", "open after 1", "2=b", "end end_event"]);
}

#[tokio::test]
async fn a_stream_that_repeats_forever_ends_with_204() {
    let upstream = Upstream::steps([
        Step::serve(stream("id: 1\ndata: a\n\n")),
        Step::serve(stream("")),
        Step::close(format!("{CHUNKED}{}{LAST}", chunk("id: 2\ndata: b\n\n"))),
        Step::serve(status("204 No Content")),
    ])
    .await;
    let source = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(
        read_brief(source).await,
        [
            "open",
            "1=a",
            "retry 1 closed",
            "open after 1",
            "retry 2 closed",
            "open after 1",
            "2=b",
            "retry 1 closed",
            "end 204"
        ]
    );
}

/// Each delay is longer, so that a server without events is not requested without a pause.
#[tokio::test]
async fn closes_without_events_grow_the_delay() {
    let upstream = Upstream::steps([Step::serve(stream("retry: 0\n\n: nothing to say\n\n"))]).await;
    let mut source = source(&upstream, RemoteConfig::default());
    source.repeat = Repeat::Forever;
    source.pace.initial = std::time::Duration::from_secs(1);
    source.pace.max = std::time::Duration::from_secs(30);
    let mut reader = open(source);
    let mut delays = Vec::new();
    while delays.len() < 12 {
        if let StreamEvent::Retry { attempt, delay, .. } = next(&mut reader).await {
            delays.push(delay);
            assert_eq!(attempt as usize, delays.len());
            super::rig::skip(delay).await;
        }
    }
    assert!(delays[0].as_millis() >= 100 && delays[11].as_secs() >= 15, "{delays:?}");
}
