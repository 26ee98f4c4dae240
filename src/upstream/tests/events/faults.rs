//! Connections that break or stall, or whose bytes cannot be parsed.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

use super::rig::{
    CHUNKED, LAST, begun, brief, chunk, delays, next, next_brief, open, read, read_brief, reason, skip, source, stream,
};
use crate::upstream::{
    RemoteConfig,
    events::{Repeat, Source, StreamEvent},
    tests::support::{PATIENCE, Step, Upstream},
};

#[tokio::test]
async fn a_reset_in_the_middle_is_resumed() {
    let upstream =
        Upstream::steps([Step::reset_on_cue(begun("id: 1\ndata: a\n\n")), Step::serve(stream("id: 2\ndata: b\n\n"))])
            .await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    assert_eq!(next_brief(&mut reader).await, "open");
    assert_eq!(next_brief(&mut reader).await, "1=a");
    upstream.cue();
    assert_eq!(next_brief(&mut reader).await, "retry 1 truncated");
    assert_eq!(next_brief(&mut reader).await, "open after 1");
    assert_eq!(next_brief(&mut reader).await, "2=b");
    assert_eq!(next_brief(&mut reader).await, "end closed");
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn a_truncated_chunk_is_resumed_without_loss_and_without_duplicates() {
    // The server resumes with the requested event, not after it.
    let cut = format!("{CHUNKED}{}7\r\nid: 3\n", chunk("id: 1\ndata: a\n\nid: 2\ndata: b\n\n"));
    let upstream =
        Upstream::steps([Step::close(cut), Step::serve(stream("id: 2\ndata: b\n\nid: 3\ndata: c\n\n"))]).await;
    let (items, cursor) = read(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(
        items.iter().map(brief).collect::<Vec<_>>(),
        ["open", "1=a 2=b", "retry 1 truncated", "open after 2", "3=c", "end closed"]
    );
    assert!(matches!(items[3], StreamEvent::Open { reconnects: 1, .. }), "{items:?}");
    assert_eq!((cursor.events, cursor.last_id.as_str()), (3, "3"));
}

#[tokio::test]
async fn a_short_body_and_invalid_framing_are_lost_connections() {
    for (head, rest) in [
        ("Content-Length: 100", "id: 1\ndata: a\n\n".to_owned()),
        ("Transfer-Encoding: chunked", chunk("id: 1\ndata: a\n\n")),
        ("Transfer-Encoding: chunked", format!("{}no number\r\n", chunk("id: 1\ndata: a\n\n"))),
        ("Transfer-Encoding: chunked", format!("{}ffffffffffffffffff\r\n", chunk("id: 1\ndata: a\n\n"))),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}\r\n\r\n{rest}");
        let upstream = Upstream::steps([Step::close(answer), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
        let items = read_brief(source(&upstream, RemoteConfig::default())).await;
        assert_eq!(items[..2], ["open", "1=a"], "{head} {rest:?}");
        assert!(items[2].starts_with("retry 1 "), "{items:?}");
        assert_eq!(items[3..], ["open after 1", "2=b", "end closed"], "{head} {rest:?}");
    }
}

#[tokio::test]
async fn a_pause_above_the_limit_is_a_lost_connection() {
    let upstream =
        Upstream::steps([Step::hold(begun("id: 1\ndata: a\n\n")), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
    let short = RemoteConfig { read_timeout_ms: 200, ..RemoteConfig::default() };
    let items = read_brief(source(&upstream, short)).await;
    assert_eq!(items, ["open", "1=a", "retry 1 idle_timeout", "open after 1", "2=b", "end closed"]);
    upstream.closed().await;
}

/// A caller that also waits for something else, such as a heartbeat, must not extend the pause.
#[tokio::test]
async fn a_cancelled_wait_does_not_extend_the_pause() {
    for head in ["", "Content-Encoding: gzip\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}\r\n");
        let upstream = Upstream::steps([Step::hold(answer)]).await;
        let source = source(&upstream, RemoteConfig::default());
        let mut reader = open(Source { read_timeout: Some(Duration::from_millis(300)), ..source });
        assert_eq!(next_brief(&mut reader).await, "open");
        let began = Instant::now();
        let item = loop {
            assert!(began.elapsed() < PATIENCE, "each wait restarts the limit");
            if let Ok(item) = timeout(Duration::from_millis(50), reader.next()).await {
                break item.expect("the stream has not ended");
            }
        };
        assert_eq!(brief(&item), "retry 1 idle_timeout", "{head}");
        assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_late_head_is_a_failure() {
    let upstream = Upstream::steps([Step::hold("")]).await;
    let short = RemoteConfig { read_timeout_ms: 100, max_retries: 1, ..RemoteConfig::default() };
    assert_eq!(read_brief(source(&upstream, short)).await, ["retry 1 timeout", "gave up timeout"]);
    upstream.closed().await;
}

#[tokio::test]
async fn comments_reset_the_pause() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(CHUNKED.as_bytes()).await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = stream.write_all(chunk(":\n\n").as_bytes()).await;
        }
        let _ = stream.write_all(format!("{}{LAST}", chunk("data: a\n\n")).as_bytes()).await;
    })
    .await;
    let short = RemoteConfig { read_timeout_ms: 400, ..RemoteConfig::default() };
    assert_eq!(read_brief(source(&upstream, short)).await, ["open", "=a", "end closed"]);
}

#[tokio::test]
async fn a_stream_in_single_bytes_is_parsed() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let text = "\u{FEFF}id: é\r\nevent: x\r\ndata: €\r\n\r\ndata: 😀\r\r";
        let _ = stream.set_nodelay(true);
        let _ = stream.write_all(CHUNKED.as_bytes()).await;
        for byte in text.bytes() {
            let _ = stream.write_all(b"1\r\n").await;
            let _ = stream.write_all(&[byte]).await;
            let _ = stream.write_all(b"\r\n").await;
            tokio::task::yield_now().await;
        }
        let _ = stream.write_all(LAST.as_bytes()).await;
    })
    .await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "é=€ é=😀", "end closed"]);
}

#[tokio::test]
async fn a_line_above_the_limit_fails_after_the_events_before_it() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(begun("id: 1\ndata: a\n\ndata: ").as_bytes()).await;
        let more = chunk(&"x".repeat(10_000));
        while stream.write_all(more.as_bytes()).await.is_ok() {}
        seen.watch(&mut stream).await;
    })
    .await;
    let config = RemoteConfig { max_event_bytes: 50_000, ..RemoteConfig::default() };
    let (items, cursor) = read(Source { repeat: Repeat::Forever, ..source(&upstream, config) }).await;
    assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["open", "1=a", "gave up event_too_large"]);
    assert!(reason(&items).contains("50064 bytes") && reason(&items).contains("max_event_bytes"), "{}", reason(&items));
    assert_eq!(cursor.last_id, "1");
    upstream.closed().await;
}

#[tokio::test]
async fn an_event_of_many_lines_has_a_size_limit() {
    let text = format!("data: a\n\n{}\n", "data: 0123456789\n".repeat(100));
    let upstream = Upstream::steps([Step::hold(begun(&text))]).await;
    let config = RemoteConfig { max_event_bytes: 1000, ..RemoteConfig::default() };
    assert_eq!(read_brief(source(&upstream, config)).await, ["open", "=a", "gave up event_too_large"]);
}

/// Each event contains a copy of the current id, so a long id before many small events must not use gigabytes.
#[tokio::test]
async fn a_long_id_is_not_copied_into_each_event() {
    let text = format!("id: {}\n\n{}", "x".repeat(900_000), "data\n\n".repeat(100_000));
    let upstream = Upstream::steps([Step::serve(stream(&text))]).await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    let (mut count, mut max) = (0, 0);
    while let Some(item) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        if let StreamEvent::Events(events) = item {
            assert!(events.iter().all(|event| event.id.len() <= 4096));
            count += events.len();
            max = max.max(events.len());
        }
    }
    assert_eq!(count, 100_000);
    assert!(max <= 16 * 1024 / 6 + 1, "{max} at once");
}

#[tokio::test]
async fn retry_applies_to_every_later_attempt() {
    let upstream = Upstream::steps([
        Step::close(begun("retry: 7000\nid: 1\ndata: a\n\n")),
        Step::close(""),
        Step::serve(stream("id: 2\ndata: b\n\n")),
    ])
    .await;
    let (items, _) = read(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(
        items.iter().map(brief).collect::<Vec<_>>(),
        ["open", "1=a", "retry 1 truncated", "retry 2 closed", "open after 1", "2=b", "end closed"]
    );
    assert!(delays(&items).iter().all(|delay| *delay >= Duration::from_secs(7)), "{items:?}");
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(CHUNKED.as_bytes()).await;
        for number in 0..200 {
            let text = format!("id: {number}\ndata: {number}\n\n");
            let (start, end) = text.split_at(number % text.len());
            for part in [start, end].into_iter().filter(|part| !part.is_empty()) {
                let _ = stream.write_all(chunk(part).as_bytes()).await;
                tokio::task::yield_now().await;
            }
        }
        let _ = stream.write_all(LAST.as_bytes()).await;
    })
    .await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    let (mut seen, mut cancelled) = (Vec::new(), 0);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "the stream does not end; {} events so far", seen.len());
        // Polls the future once, and drops it.
        let polled = futures::FutureExt::now_or_never(reader.next());
        match polled {
            Some(Some(StreamEvent::Events(events))) => seen.extend(events.into_iter().map(|event| event.data)),
            Some(Some(_)) => {}
            Some(None) => break,
            None => {
                cancelled += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    assert_eq!(seen, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(cancelled > 3, "{cancelled}");
}

#[tokio::test]
async fn a_cancelled_delay_continues() {
    let upstream = Upstream::steps([Step::close(""), Step::serve(stream("data: a\n\n"))]).await;
    let mut source = source(&upstream, RemoteConfig::default());
    source.pace.initial = Duration::from_mins(10);
    let mut reader = open(source);
    let StreamEvent::Retry { delay, .. } = next(&mut reader).await else { panic!("the server closes") };
    tokio::time::pause();
    let began = Instant::now();
    for _ in 0..9 {
        assert!(timeout(delay / 10, reader.next()).await.is_err(), "too early: {:?}", began.elapsed());
    }
    tokio::time::resume();
    skip(delay / 10).await;
    assert_eq!(next_brief(&mut reader).await, "open");
}
