//! The client for event streams against servers that misbehave in every way that was thought of.

use std::{sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use super::support::{PATIENCE, Upstream, client};
use crate::upstream::{
    Connections, Purpose, Remote, RemoteConfig,
    events::{Cursor, End, EventSource, Pace, Repeat, Said, Source},
};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn remote(upstream: &Upstream, config: RemoteConfig) -> Arc<Remote> {
    let config = RemoteConfig { base_url: Some(upstream.url("")), paths: vec!["/*".into()], ..config };
    Arc::new(config.build("up", &client(&[])).expect("good settings"))
}

fn source(upstream: &Upstream, config: RemoteConfig) -> Source {
    let remote = remote(upstream, config);
    let url = remote.client_url("/events").expect("a good path");
    let pace = Pace { initial: Duration::from_millis(5), max: Duration::from_millis(20) };
    Source { pace, ..Source::get(remote, url, Purpose::Relay) }
}

/// Reads to the end.
async fn read(source: Source, cursor: Cursor) -> (Vec<Said>, Cursor) {
    let mut stream = EventSource::new(source, cursor, Connections::new(10));
    let mut said = Vec::new();
    while let Some(next) = timeout(PATIENCE, stream.next()).await.expect("an answer in time") {
        said.push(next);
    }
    (said, stream.cursor().clone())
}

fn data(said: &[Said]) -> Vec<(String, String)> {
    let events = said.iter().filter_map(|said| match said {
        Said::Events(events) => Some(events),
        _ => None,
    });
    events.flatten().map(|event| (event.id.clone(), event.data.clone())).collect()
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[tokio::test]
async fn a_cut_stream_is_resumed_after_its_last_id_without_loss_and_without_doubles() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        while seen.request(&mut stream).await {
            let resumed = seen.requests().last().is_some_and(|head| head.contains("last-event-id: 2\r\n"));
            let body = if resumed {
                // It resumes with the named event, not after it.
                format!("{HEAD}{}0\r\n\r\n", chunk("id: 2\ndata: b\n\nid: 3\ndata: c\n\n"))
            } else {
                format!("{HEAD}{}7\r\nid: 3\n", chunk("id: 1\ndata: a\n\nid: 2\ndata: b\n\n"))
            };
            let _ = stream.write_all(body.as_bytes()).await;
            if !resumed {
                return;
            }
        }
    })
    .await;
    let (said, cursor) = read(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    assert_eq!(data(&said), [("1", "a"), ("2", "b"), ("3", "c")].map(|(id, data)| (id.into(), data.into())));
    assert!(matches!(&said[2], Said::Retry { attempt: 1, failure, .. } if failure.code() == "truncated"), "{said:?}");
    assert!(
        matches!(&said[3], Said::Open { reconnects: 1, resumed_after: Some(id), may_have_missed: false } if id == "2"),
        "{said:?}"
    );
    assert_eq!(said.last(), Some(&Said::End(End::Closed)));
    assert_eq!((cursor.events, cursor.last_id.as_str()), (3, "3"));
}

#[tokio::test]
async fn status_204_ends_for_good_even_a_stream_that_is_to_go_on_for_ever() {
    let upstream = Upstream::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut source = source(&upstream, RemoteConfig::default());
    source.repeat = Repeat::Forever;
    assert_eq!(read(source, Cursor::default()).await.0, [Said::End(End::NoContent)]);
}
