//! Connections that break, stall, or bring what cannot be read.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

use super::rig::{
    CHUNKED, LAST, begun, chunk, delays, next, open, read, reason, skip, source, stream, tell, tell_next, told,
};
use crate::upstream::{
    RemoteConfig,
    events::{Repeat, Said, Source},
    tests::support::{PATIENCE, Step, Upstream},
};

#[tokio::test]
async fn a_reset_in_the_middle_is_resumed() {
    let upstream =
        Upstream::steps([Step::reset_on_cue(begun("id: 1\ndata: a\n\n")), Step::serve(stream("id: 2\ndata: b\n\n"))])
            .await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    assert_eq!(tell_next(&mut reader).await, "open");
    assert_eq!(tell_next(&mut reader).await, "1=a");
    upstream.cue();
    assert_eq!(tell_next(&mut reader).await, "retry 1 truncated");
    assert_eq!(tell_next(&mut reader).await, "open after 1");
    assert_eq!(tell_next(&mut reader).await, "2=b");
    assert_eq!(tell_next(&mut reader).await, "end closed");
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn a_truncated_chunk_is_resumed_after_the_last_id_without_loss_and_without_doubles() {
    // It resumes with the named event, not after it.
    let cut = format!("{CHUNKED}{}7\r\nid: 3\n", chunk("id: 1\ndata: a\n\nid: 2\ndata: b\n\n"));
    let upstream =
        Upstream::steps([Step::close(cut), Step::serve(stream("id: 2\ndata: b\n\nid: 3\ndata: c\n\n"))]).await;
    let (said, cursor) = read(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(
        said.iter().map(tell).collect::<Vec<_>>(),
        ["open", "1=a 2=b", "retry 1 truncated", "open after 2", "3=c", "end closed"]
    );
    assert!(matches!(said[3], Said::Open { reconnects: 1, .. }), "{said:?}");
    assert_eq!((cursor.events, cursor.last_id.as_str()), (3, "3"));
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_broken_and_framing_that_is_none_too() {
    for (head, rest) in [
        ("Content-Length: 100", "id: 1\ndata: a\n\n".to_owned()),
        ("Transfer-Encoding: chunked", chunk("id: 1\ndata: a\n\n")),
        ("Transfer-Encoding: chunked", format!("{}no number\r\n", chunk("id: 1\ndata: a\n\n"))),
        ("Transfer-Encoding: chunked", format!("{}ffffffffffffffffff\r\n", chunk("id: 1\ndata: a\n\n"))),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}\r\n\r\n{rest}");
        let upstream = Upstream::steps([Step::close(answer), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
        let said = told(source(&upstream, RemoteConfig::default())).await;
        assert_eq!(said[..2], ["open", "1=a"], "{head} {rest:?}");
        assert!(said[2].starts_with("retry 1 "), "{said:?}");
        assert_eq!(said[3..], ["open after 1", "2=b", "end closed"], "{head} {rest:?}");
    }
}

#[tokio::test]
async fn silence_beyond_the_limit_is_a_lost_connection() {
    let upstream =
        Upstream::steps([Step::hold(begun("id: 1\ndata: a\n\n")), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
    let short = RemoteConfig { read_timeout_ms: 200, ..RemoteConfig::default() };
    let said = told(source(&upstream, short)).await;
    assert_eq!(said, ["open", "1=a", "retry 1 idle_timeout", "open after 1", "2=b", "end closed"]);
    upstream.closed().await;
}

/// Whoever waits for something else beside it (a heartbeat of his own) must not keep a dead connection alive.
#[tokio::test]
async fn the_limit_of_silence_holds_for_one_who_looks_away_now_and_then() {
    for head in ["", "Content-Encoding: gzip\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}\r\n");
        let upstream = Upstream::steps([Step::hold(answer)]).await;
        let source = source(&upstream, RemoteConfig::default());
        let mut reader = open(Source { read_timeout: Some(Duration::from_millis(300)), ..source });
        assert_eq!(tell_next(&mut reader).await, "open");
        let began = Instant::now();
        let said = loop {
            assert!(began.elapsed() < PATIENCE, "the limit begins anew with each look");
            if let Ok(said) = timeout(Duration::from_millis(50), reader.next()).await {
                break said.expect("it is not over");
            }
        };
        assert_eq!(tell(&said), "retry 1 idle_timeout", "{head}");
        assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn no_head_within_the_limit_is_a_failure_too() {
    let upstream = Upstream::steps([Step::hold("")]).await;
    let short = RemoteConfig { read_timeout_ms: 100, max_retries: 1, ..RemoteConfig::default() };
    assert_eq!(told(source(&upstream, short)).await, ["retry 1 timeout", "gave up timeout"]);
    upstream.closed().await;
}

/// Comments are signs of life.
#[tokio::test]
async fn comments_keep_a_connection() {
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
    assert_eq!(told(source(&upstream, short)).await, ["open", "=a", "end closed"]);
}

#[tokio::test]
async fn what_comes_byte_by_byte_is_the_same() {
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
    assert_eq!(told(source(&upstream, RemoteConfig::default())).await, ["open", "é=€ é=😀", "end closed"]);
}

#[tokio::test]
async fn a_line_without_end_is_given_up_after_what_came_before() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(begun("id: 1\ndata: a\n\ndata: ").as_bytes()).await;
        let more = chunk(&"x".repeat(10_000));
        while stream.write_all(more.as_bytes()).await.is_ok() {}
        seen.watch(&mut stream).await;
    })
    .await;
    let config = RemoteConfig { max_event_bytes: 50_000, ..RemoteConfig::default() };
    let (said, cursor) = read(Source { repeat: Repeat::Forever, ..source(&upstream, config) }).await;
    assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["open", "1=a", "gave up event_too_large"]);
    assert!(reason(&said).contains("50064 bytes") && reason(&said).contains("max_event_bytes"), "{}", reason(&said));
    assert_eq!(cursor.last_id, "1");
    upstream.closed().await;
}

#[tokio::test]
async fn an_event_of_many_lines_has_the_same_limit() {
    let text = format!("data: a\n\n{}\n", "data: 0123456789\n".repeat(100));
    let upstream = Upstream::steps([Step::hold(begun(&text))]).await;
    let config = RemoteConfig { max_event_bytes: 1000, ..RemoteConfig::default() };
    assert_eq!(told(source(&upstream, config)).await, ["open", "=a", "gave up event_too_large"]);
}

/// Each event carries the id in force: one long id before many small events must not become gigabytes.
#[tokio::test]
async fn a_long_id_does_not_multiply() {
    let text = format!("id: {}\n\n{}", "x".repeat(900_000), "data\n\n".repeat(100_000));
    let upstream = Upstream::steps([Step::serve(stream(&text))]).await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    let (mut events, mut most) = (0, 0);
    while let Some(said) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        if let Said::Events(some) = said {
            assert!(some.iter().all(|event| event.id.len() <= 4096));
            events += some.len();
            most = most.max(some.len());
        }
    }
    assert_eq!(events, 100_000);
    assert!(most <= 16 * 1024 / 6 + 1, "{most} at once");
}

#[tokio::test]
async fn retry_is_heeded_by_every_later_attempt() {
    let upstream = Upstream::steps([
        Step::close(begun("retry: 7000\nid: 1\ndata: a\n\n")),
        Step::close(""),
        Step::serve(stream("id: 2\ndata: b\n\n")),
    ])
    .await;
    let (said, _) = read(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(
        said.iter().map(tell).collect::<Vec<_>>(),
        ["open", "1=a", "retry 1 truncated", "retry 2 closed", "open after 1", "2=b", "end closed"]
    );
    assert!(delays(&said).iter().all(|delay| *delay >= Duration::from_secs(7)), "{said:?}");
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
        assert!(began.elapsed() < PATIENCE, "it does not end; {} events so far", seen.len());
        // Polls once, and forgets the future.
        let polled = futures::FutureExt::now_or_never(reader.next());
        match polled {
            Some(Some(Said::Events(events))) => seen.extend(events.into_iter().map(|event| event.data)),
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
async fn a_delay_that_is_cancelled_goes_on() {
    let upstream = Upstream::steps([Step::close(""), Step::serve(stream("data: a\n\n"))]).await;
    let mut source = source(&upstream, RemoteConfig::default());
    source.pace.initial = Duration::from_mins(10);
    let mut reader = open(source);
    let Said::Retry { delay, .. } = next(&mut reader).await else { panic!("the server closes") };
    tokio::time::pause();
    let began = Instant::now();
    for _ in 0..9 {
        assert!(timeout(delay / 10, reader.next()).await.is_err(), "too early: {:?}", began.elapsed());
    }
    tokio::time::resume();
    skip(delay / 10).await;
    assert_eq!(tell_next(&mut reader).await, "open");
}
