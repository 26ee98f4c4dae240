//! Streams that are compressed although the request does not ask for it.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

use super::rig::{brief, next, next_brief, open, read, read_brief, reason, source, stream};
use crate::upstream::{
    RemoteConfig,
    events::StreamEvent,
    tests::support::{PATIENCE, Step, Upstream},
};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nConnection: close\r\n";

/// The compressed bytes of each text, each flushed, and the end.
fn gzip(texts: &[&str]) -> Vec<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut pieces = Vec::new();
    for text in texts {
        encoder.write_all(text.as_bytes()).expect("a vector has room");
        encoder.flush().expect("a vector has room");
        pieces.push(std::mem::take(encoder.get_mut()));
    }
    pieces.push(encoder.finish().expect("a vector has room"));
    pieces
}

fn answer(body: &[u8]) -> Vec<u8> {
    [format!("{HEAD}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

#[tokio::test]
async fn flushed_bytes_are_available_at_once() {
    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.write_all(format!("{HEAD}\r\n").as_bytes()).await;
        let pieces = gzip(&["id: 1\ndata: a\n\n", "id: 2\ndata: b\n\n"]);
        for (number, piece) in pieces.into_iter().enumerate() {
            if number > 0 {
                seen.cue.notified().await;
            }
            let _ = stream.write_all(&piece).await;
        }
    })
    .await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    assert_eq!(next_brief(&mut reader).await, "open");
    assert_eq!(next_brief(&mut reader).await, "1=a");
    upstream.cue();
    assert_eq!(next_brief(&mut reader).await, "2=b");
    upstream.cue();
    assert_eq!(next_brief(&mut reader).await, "end unknown");
}

#[tokio::test]
async fn a_compressed_stream_ends_in_pieces_of_any_size() {
    let body = gzip(&["id: 1\ndata: é\n\n", "data: b\n\n"]).concat();
    let upstream = Upstream::steps([Step::close(answer(&body))]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "1=é 1=b", "end closed"]);

    let upstream = Upstream::run(|mut stream, seen| async move {
        seen.request(&mut stream).await;
        let _ = stream.set_nodelay(true);
        let _ = stream.write_all(format!("{}\r\n", HEAD.replace("gzip", "X-GZip")).as_bytes()).await;
        for byte in gzip(&["id: 1\ndata: é\n\n", "data: b\n\n"]).concat() {
            let _ = stream.write_all(&[byte]).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "1=é 1=b", "end unknown"]);
}

#[tokio::test]
async fn a_new_member_with_each_flush_continues_the_stream() {
    let members = ["id: 1\ndata: a\n\nda", "ta: b\n\n", "", "data: c\n\n"].map(|text| gzip(&[text]).concat());
    let upstream = Upstream::steps([Step::close(answer(&members.concat()))]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "1=a 1=b 1=c", "end closed"]);
}

#[tokio::test]
async fn a_cut_is_an_error_after_the_received_events() {
    let pieces = gzip(&["id: 1\ndata: a\n\n"]);
    let mut partial = pieces.clone();
    partial[1].truncate(3);
    let framed_short = {
        let mut bytes = answer(&pieces.concat());
        bytes.truncate(bytes.len() - 4);
        bytes
    };
    for cut in [answer(&pieces[0]), answer(&partial.concat()), framed_short] {
        let upstream = Upstream::steps([Step::close(cut), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
        assert_eq!(
            read_brief(source(&upstream, RemoteConfig::default())).await,
            ["open", "1=a", "retry 1 truncated", "open after 1", "2=b", "end closed"]
        );
    }
}

#[tokio::test]
async fn invalid_gzip_is_an_error() {
    let mut broken = gzip(&["id: 1\ndata: a\n\n"]).concat();
    let checksum = broken.len() - 8;
    broken[checksum] ^= 1;
    for (body, first) in [(b"data: plain\n\n".to_vec(), None), (broken, Some("1=a"))] {
        let upstream = Upstream::steps([Step::close(answer(&body))]).await;
        let config = RemoteConfig { max_retries: 0, ..RemoteConfig::default() };
        let (items, _) = read(source(&upstream, config)).await;
        let mut expected = vec!["open"];
        expected.extend(first);
        expected.push("gave up protocol");
        assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), expected);
        assert!(reason(&items).contains("gzip"), "{}", reason(&items));
    }
}

/// 16 MiB of comments, or a line of 8 MiB, in a few kilobytes. Only a piece of them is in memory at a time.
#[tokio::test]
async fn a_bomb_needs_no_more_memory_than_any_other_stream() {
    let comments = gzip(&[&format!(":{}\n", "x".repeat(1023)).repeat(16 << 10), "data: a\n\n"]).concat();
    assert!(comments.len() < 128 << 10, "{}", comments.len());
    let upstream = Upstream::steps([Step::close(answer(&comments))]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "=a", "end closed"]);

    let line = gzip(&[&format!("data: {}\n\n", "x".repeat(8 << 20))]).concat();
    let upstream = Upstream::steps([Step::close(answer(&line))]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "gave up event_too_large"]);

    let events = gzip(&[&"data: 0123456789\n\n".repeat(200_000)]).concat();
    let upstream = Upstream::steps([Step::close(answer(&events))]).await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    let mut count = 0;
    while let Some(item) = timeout(PATIENCE, reader.next()).await.expect("in time") {
        if let StreamEvent::Events(events) = item {
            assert!(events.len() <= 16 * 1024 / 18 + 1, "{} at once", events.len());
            count += events.len();
        }
    }
    assert_eq!(count, 200_000);
}

/// A small chunk that contains megabytes does not block the other tasks of the thread.
#[tokio::test]
async fn a_bomb_does_not_block_other_tasks() {
    let comments = gzip(&[&format!(":{}\n", "x".repeat(1023)).repeat(16 << 10)]).concat();
    let upstream = Upstream::steps([Step::hold(answer(&[&comments[..], b"more"].concat()))]).await;
    let mut reader = open(source(&upstream, RemoteConfig::default()));
    next(&mut reader).await;
    let reading = tokio::spawn(async move { timeout(PATIENCE, reader.next()).await });
    let began = Instant::now();
    let mut turns = 0;
    while !reading.is_finished() && began.elapsed() < PATIENCE {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns > 5, "other tasks had {turns} turns");
    reading.abort();
}
