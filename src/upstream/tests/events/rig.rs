//! Helpers of the tests of event streams: a reader that skips delays, and items as short texts.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::upstream::{
    Client, Connections, Purpose, Remote, RemoteConfig,
    events::{Cursor, EventSource, Pace, Source, StreamEvent},
    tests::support::{PATIENCE, Upstream, client},
};

/// The head of a stream whose end is marked.
pub(super) const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// The last chunk.
pub(super) const LAST: &str = "0\r\n\r\n";

/// One chunk. An empty text has no chunk, since an empty chunk is the last one.
pub(super) fn chunk(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{:x}\r\n{text}\r\n", text.len()) }
}

/// A complete stream.
pub(super) fn stream(text: &str) -> String {
    format!("{CHUNKED}{}{LAST}", chunk(text))
}

/// The beginning of a stream.
pub(super) fn begun(text: &str) -> String {
    format!("{CHUNKED}{}", chunk(text))
}

/// A response with this status line.
pub(super) fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n")
}

/// A remote at this upstream.
pub(super) fn remote(upstream: &Upstream, config: RemoteConfig, client: &Client) -> Arc<Remote> {
    at(&upstream.url(""), config, client)
}

/// A remote at this base URL.
pub(super) fn at(base: &str, config: RemoteConfig, client: &Client) -> Arc<Remote> {
    let config = RemoteConfig { base_url: Some(base.into()), paths: vec!["/*".into()], ..config };
    Arc::new(config.build("up", client).expect("valid settings"))
}

/// A stream of this remote.
pub(super) fn of(remote: Arc<Remote>) -> Source {
    let url = remote.client_url("/events").expect("a valid path");
    let pace = Pace { initial: Duration::from_millis(5), max: Duration::from_millis(20) };
    Source { pace, ..Source::get(remote, url, Purpose::Relay) }
}

/// A stream of a remote at this upstream.
pub(super) fn source(upstream: &Upstream, config: RemoteConfig) -> Source {
    of(remote(upstream, config, &client(&[])))
}

/// A reader from the beginning of the stream.
pub(super) fn open(source: Source) -> EventSource {
    EventSource::new(source, Cursor::default(), Connections::new(10))
}

/// The next item.
pub(super) async fn next(stream: &mut EventSource) -> StreamEvent {
    timeout(PATIENCE, stream.next()).await.expect("an item in time").expect("the stream has not ended")
}

/// The next item as a short text.
pub(super) async fn next_brief(stream: &mut EventSource) -> String {
    brief(&next(stream).await)
}

/// Skips a delay. Needs a runtime of one thread.
pub(super) async fn skip(delay: Duration) {
    tokio::time::pause();
    tokio::time::advance(delay).await;
    tokio::time::resume();
}

/// Reads a stream from the beginning to the end.
pub(super) async fn read(source: Source) -> (Vec<StreamEvent>, Cursor) {
    read_after(source, Cursor::default()).await
}

/// Reads a stream to its end, without delays. Joins successive events into one item.
pub(super) async fn read_after(source: Source, cursor: Cursor) -> (Vec<StreamEvent>, Cursor) {
    let mut stream = EventSource::new(source, cursor, Connections::new(10));
    let mut items = Vec::new();
    while let Some(next) = timeout(PATIENCE, stream.next()).await.expect("an item in time") {
        if let StreamEvent::Retry { delay, .. } = next {
            skip(delay).await;
        }
        match (items.last_mut(), next) {
            (Some(StreamEvent::Events(before)), StreamEvent::Events(events)) => before.extend(events),
            (_, next) => items.push(next),
        }
    }
    assert_eq!(stream.next().await, None, "no item follows the end");
    (items, stream.cursor().clone())
}

/// An item as a short text: an event is `id=data`, a control frame is `!name`.
pub(super) fn brief(item: &StreamEvent) -> String {
    match item {
        StreamEvent::Open { resumed_after, may_have_missed, .. } => {
            let after = resumed_after.as_ref().map_or_else(String::new, |id| format!(" after {id}"));
            format!("open{after}{}", if *may_have_missed { " with a gap" } else { "" })
        }
        StreamEvent::Events(events) => {
            let short = events.iter().map(|event| match event.control {
                true => format!("!{}", event.event),
                false => format!("{}={}", event.id, event.data),
            });
            short.collect::<Vec<_>>().join(" ")
        }
        StreamEvent::Retry { attempt, failure, .. } => format!("retry {attempt} {}", failure.code()),
        StreamEvent::End(end) => format!("end {}", serde_json::to_value(end).unwrap().as_str().unwrap()),
        StreamEvent::GaveUp(failure) => format!("gave up {}", failure.code()),
    }
}

/// Reads a stream to its end. Returns the items as short texts.
pub(super) async fn read_brief(source: Source) -> Vec<String> {
    read(source).await.0.iter().map(brief).collect()
}

/// The delays of the retries.
pub(super) fn delays(items: &[StreamEvent]) -> Vec<Duration> {
    let delays = items.iter().filter_map(|item| match item {
        StreamEvent::Retry { delay, .. } => Some(*delay),
        _ => None,
    });
    delays.collect()
}

/// Why the reader gave up.
pub(super) fn reason(items: &[StreamEvent]) -> String {
    match items.last() {
        Some(StreamEvent::GaveUp(failure)) => failure.to_string(),
        last => panic!("the reader did not give up: {last:?}"),
    }
}

/// A header field of the request with this number, from 0.
pub(super) fn field(upstream: &Upstream, number: usize, name: &str) -> Option<String> {
    let request = upstream.requests().get(number).cloned().expect("the request arrived");
    let head = request.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}
