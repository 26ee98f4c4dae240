//! How streams end, and what an end is worth.

use super::rig::{CHUNKED, LAST, begun, chunk, next, open, read, source, status, stream, tell, tell_next, told};
use crate::upstream::{
    RemoteConfig,
    events::{Cursor, Repeat, Said, Source},
    tests::support::{Step, Upstream},
};

#[tokio::test]
async fn status_204_ends_for_good_even_a_stream_that_is_to_go_on_for_ever() {
    let upstream = Upstream::steps([Step::serve(status("204 No Content"))]).await;
    let source = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(told(source).await, ["end 204"]);
}

#[tokio::test]
async fn a_framed_close_is_an_end_and_one_without_frame_is_an_unknown_one() {
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
        let said = told(source(&upstream, RemoteConfig::default())).await;
        assert_eq!(said, ["open", "=a", &format!("end {end}")], "{head}");
    }
}

/// A stream that ends without its blank line has not said its last event.
#[tokio::test]
async fn what_no_blank_line_completes_is_no_event() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\nid: 9\ndata: half\n"))]).await;
    let (said, cursor) = read(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["open", "=a", "end closed"]);
    assert_eq!((cursor.events, cursor.last_id.as_str()), (1, ""));
}

#[tokio::test]
async fn the_end_event_is_given_and_nothing_behind_it_counts() {
    let text = "id: 1\ndata: a\n\nid: 2\nevent: done\ndata: b\n\nretry: 9\nid: 3\n\nid: 4\ndata: c\n\n";
    let upstream = Upstream::steps([Step::hold(begun(text))]).await;
    let source = Source {
        end_event: Some("done".into()),
        repeat: Repeat::Forever,
        ..source(&upstream, RemoteConfig::default())
    };
    let (said, cursor) = read(source).await;
    assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["open", "1=a 2=b", "end end_event"]);
    assert_eq!((cursor.events, cursor.last_id.as_str()), (2, "2"));
    upstream.closed().await;
}

/// A node that dies between the last event and the note of its end is told the event again.
#[tokio::test]
async fn an_end_event_that_is_known_ends_too() {
    let text = "id: 2\nevent: done\ndata: b\n\n";
    let upstream = Upstream::steps([Step::close(begun(text)), Step::hold(begun(text))]).await;
    let plain = source(&upstream, RemoteConfig { max_retries: 1, ..RemoteConfig::default() });
    // The first life does not know that it is the end.
    let mut first = open(plain.clone());
    next(&mut first).await;
    assert_eq!(tell_next(&mut first).await, "2=b");
    let cursor: Cursor = serde_json::from_value(serde_json::to_value(first.cursor()).unwrap()).unwrap();
    drop(first);
    let (said, cursor) = super::rig::read_after(Source { end_event: Some("done".into()), ..plain }, cursor).await;
    assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["open after 2", "end end_event"]);
    assert_eq!(cursor.events, 1);
}

#[tokio::test]
async fn with_an_end_event_a_close_is_no_end() {
    let upstream = Upstream::steps([
        Step::serve(stream("id: 1\ndata: a\n\n")),
        Step::serve(stream("id: 2\nevent: done\ndata: b\n\n")),
    ])
    .await;
    let source = Source { end_event: Some("done".into()), ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(told(source).await, ["open", "1=a", "retry 1 closed", "open after 1", "2=b", "end end_event"]);
}

#[tokio::test]
async fn for_ever_means_until_204() {
    let upstream = Upstream::steps([
        Step::serve(stream("id: 1\ndata: a\n\n")),
        Step::serve(stream("")),
        Step::close(format!("{CHUNKED}{}{LAST}", chunk("id: 2\ndata: b\n\n"))),
        Step::serve(status("204 No Content")),
    ])
    .await;
    let source = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(
        told(source).await,
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

/// Each attempt waits longer, so that a server with nothing to say is not asked without a pause.
#[tokio::test]
async fn a_stream_for_ever_that_closes_without_an_event_is_asked_less_and_less() {
    let upstream = Upstream::steps([Step::serve(stream("retry: 0\n\n: nothing to say\n\n"))]).await;
    let mut source = source(&upstream, RemoteConfig::default());
    source.repeat = Repeat::Forever;
    source.pace.initial = std::time::Duration::from_secs(1);
    source.pace.max = std::time::Duration::from_secs(30);
    let mut reader = open(source);
    let mut delays = Vec::new();
    while delays.len() < 12 {
        if let Said::Retry { attempt, delay, .. } = next(&mut reader).await {
            delays.push(delay);
            assert_eq!(attempt as usize, delays.len());
            super::rig::skip(delay).await;
        }
    }
    assert!(delays[0].as_millis() >= 100 && delays[11].as_secs() >= 15, "{delays:?}");
}
