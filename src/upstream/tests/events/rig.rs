//! What the tests of event streams share: a reader that skips delays, and what it was told in short.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::upstream::{
    Client, Connections, Purpose, Remote, RemoteConfig,
    events::{Cursor, EventSource, Pace, Said, Source},
    tests::support::{PATIENCE, Upstream, client},
};

/// The head of a stream whose end is marked.
pub const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// The last chunk.
pub const LAST: &str = "0\r\n\r\n";

/// One chunk; nothing for nothing, since an empty chunk is the last one.
pub fn chunk(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{:x}\r\n{text}\r\n", text.len()) }
}

/// A whole stream.
pub fn stream(text: &str) -> String {
    format!("{CHUNKED}{}{LAST}", chunk(text))
}

/// A stream that has only begun.
pub fn begun(text: &str) -> String {
    format!("{CHUNKED}{}", chunk(text))
}

/// An answer with another status.
pub fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n")
}

/// The upstream as a remote.
pub fn remote(upstream: &Upstream, config: RemoteConfig, client: &Client) -> Arc<Remote> {
    at(&upstream.url(""), config, client)
}

pub fn at(base: &str, config: RemoteConfig, client: &Client) -> Arc<Remote> {
    let config = RemoteConfig { base_url: Some(base.into()), paths: vec!["/*".into()], ..config };
    Arc::new(config.build("up", client).expect("good settings"))
}

/// A stream of it.
pub fn of(remote: Arc<Remote>) -> Source {
    let url = remote.client_url("/events").expect("a good path");
    let pace = Pace { initial: Duration::from_millis(5), max: Duration::from_millis(20) };
    Source { pace, ..Source::get(remote, url, Purpose::Relay) }
}

pub fn source(upstream: &Upstream, config: RemoteConfig) -> Source {
    of(remote(upstream, config, &client(&[])))
}

pub fn open(source: Source) -> EventSource {
    EventSource::new(source, Cursor::default(), Connections::new(10))
}

/// What comes next.
pub async fn next(stream: &mut EventSource) -> Said {
    timeout(PATIENCE, stream.next()).await.expect("an answer in time").expect("it is not over")
}

/// What comes next, in short.
pub async fn tell_next(stream: &mut EventSource) -> String {
    tell(&next(stream).await)
}

/// Lets a delay pass at once. Needs a runtime of one thread.
pub async fn skip(delay: Duration) {
    tokio::time::pause();
    tokio::time::advance(delay).await;
    tokio::time::resume();
}

/// Reads from the beginning to the end.
pub async fn read(source: Source) -> (Vec<Said>, Cursor) {
    read_after(source, Cursor::default()).await
}

/// Reads to the end, without delays; events in pieces are put together.
pub async fn read_after(source: Source, cursor: Cursor) -> (Vec<Said>, Cursor) {
    let mut stream = EventSource::new(source, cursor, Connections::new(10));
    let mut said = Vec::new();
    while let Some(next) = timeout(PATIENCE, stream.next()).await.expect("an answer in time") {
        if let Said::Retry { delay, .. } = next {
            skip(delay).await;
        }
        match (said.last_mut(), next) {
            (Some(Said::Events(before)), Said::Events(events)) => before.extend(events),
            (_, next) => said.push(next),
        }
    }
    assert_eq!(stream.next().await, None, "after the end there is nothing");
    (said, stream.cursor().clone())
}

/// What was said, in short: each event as `id=data`, a control frame as `!name`.
pub fn tell(said: &Said) -> String {
    match said {
        Said::Open { resumed_after, may_have_missed, .. } => {
            let after = resumed_after.as_ref().map_or_else(String::new, |id| format!(" after {id}"));
            format!("open{after}{}", if *may_have_missed { " with a gap" } else { "" })
        }
        Said::Events(events) => {
            let short = events.iter().map(|event| match event.control {
                true => format!("!{}", event.event),
                false => format!("{}={}", event.id, event.data),
            });
            short.collect::<Vec<_>>().join(" ")
        }
        Said::Retry { attempt, failure, .. } => format!("retry {attempt} {}", failure.code()),
        Said::End(end) => format!("end {}", serde_json::to_value(end).unwrap().as_str().unwrap()),
        Said::GaveUp(failure) => format!("gave up {}", failure.code()),
    }
}

/// Reads to the end; what was said, in short.
pub async fn told(source: Source) -> Vec<String> {
    read(source).await.0.iter().map(tell).collect()
}

/// The delays of the retries.
pub fn delays(said: &[Said]) -> Vec<Duration> {
    let delays = said.iter().filter_map(|said| match said {
        Said::Retry { delay, .. } => Some(*delay),
        _ => None,
    });
    delays.collect()
}

/// Why it was given up.
pub fn reason(said: &[Said]) -> String {
    match said.last() {
        Some(Said::GaveUp(failure)) => failure.to_string(),
        last => panic!("it was not given up: {last:?}"),
    }
}

/// The field of the request with this number, from 0.
pub fn field(upstream: &Upstream, number: usize, name: &str) -> Option<String> {
    let request = upstream.requests().get(number).cloned().expect("so many requests came");
    let head = request.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}
