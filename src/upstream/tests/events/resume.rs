//! Where a stream resumes: ids, ids that cannot be sent, and positions of another Millstream.

use super::rig::{begun, brief, field, read, read_after, read_brief, source, status, stream};
use crate::upstream::{
    RemoteConfig,
    events::{Cursor, Repeat, Source},
    tests::support::{Step, Upstream},
};

async fn read_brief_after(source: Source, cursor: Cursor) -> (Vec<String>, Cursor) {
    let (items, cursor) = read_after(source, cursor).await;
    (items.iter().map(brief).collect(), cursor)
}

#[tokio::test]
async fn a_reader_begins_after_the_given_id() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    let (items, cursor) = read_brief_after(source(&upstream, RemoteConfig::default()), Cursor::after("grüße-7")).await;
    assert_eq!(items, ["open after grüße-7", "grüße-7=a", "end closed"]);
    assert_eq!(field(&upstream, 0, "last-event-id").as_deref(), Some("grüße-7"));
    assert_eq!((cursor.events, cursor.last_id.as_str()), (1, "grüße-7"));
}

#[tokio::test]
async fn an_id_without_data_moves_the_cursor_and_an_empty_one_clears_it() {
    let upstream = Upstream::steps([
        Step::close(begun("id: 1\ndata: a\n\nid: 5\n\n")),
        Step::close(begun("id\n\n")),
        Step::serve(stream("data: b\n\n")),
    ])
    .await;
    let (items, cursor) = read_brief_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    assert_eq!(
        items,
        [
            "open",
            "1=a",
            "retry 1 truncated",
            "open after 5",
            "retry 2 truncated",
            "open with a gap",
            "=b",
            "end closed"
        ]
    );
    assert_eq!(field(&upstream, 2, "last-event-id"), None);
    assert_eq!(cursor.last_id, "");
}

#[tokio::test]
async fn without_ids_a_gap_is_reported_once() {
    let upstream = Upstream::steps([
        Step::close(begun("data: a\n\n")),
        Step::serve(status("503 Oops")),
        Step::close(begun("id: 1\ndata: b\n\n")),
        Step::serve(stream("id: 2\ndata: c\n\n")),
    ])
    .await;
    let (items, cursor) = read_brief_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    assert_eq!(
        items,
        [
            "open",
            "=a",
            "retry 1 truncated",
            "retry 2 http_status",
            "open with a gap",
            "1=b",
            "retry 1 truncated",
            "open after 1",
            "2=c",
            "end closed"
        ]
    );
    assert_eq!(cursor.events, 3);
}

#[tokio::test]
async fn ids_that_a_header_cannot_contain_are_not_sent_and_the_gap_is_reported() {
    for id in ["a\u{1}b", "a\u{7f}b", &"x".repeat(4097)] {
        let first = begun(&format!("id: {id}\ndata: a\n\n"));
        let upstream = Upstream::steps([Step::close(first), Step::serve(stream("data: b\n\n"))]).await;
        let (items, cursor) = read_brief_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
        assert_eq!((items[2].as_str(), items[3].as_str()), ("retry 1 truncated", "open with a gap"), "{id:?}");
        assert_eq!(field(&upstream, 1, "last-event-id"), None, "{id:?}");

        // A stored cursor has the gap too.
        let stored = serde_json::from_value(serde_json::to_value(&cursor).unwrap()).unwrap();
        let (items, _) = read_brief_after(source(&upstream, RemoteConfig::default()), stored).await;
        assert_eq!(items[0], "open with a gap", "{id:?}");
    }
}

#[tokio::test]
async fn duplicates_are_found_after_a_restart() {
    let upstream = Upstream::steps([
        Step::serve(stream("id: 1\ndata: a\n\nid: 2\ndata: b\n\n")),
        Step::serve(stream("id: 2\ndata: b\n\nid: 3\ndata: c\n\n")),
    ])
    .await;
    let source = source(&upstream, RemoteConfig::default());
    let (_, cursor) = read(source.clone()).await;
    let stored: Cursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
    let (items, cursor) = read_brief_after(source, stored).await;
    assert_eq!(items, ["open after 2", "3=c", "end closed"]);
    assert_eq!(cursor.events, 3);
}

/// The node and its remote may restart at the same time.
#[tokio::test]
async fn a_refusal_is_not_final_if_the_remote_served_the_stream_before_a_restart() {
    let upstream =
        Upstream::steps([Step::serve(status("404 Not Found")), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
    let mut earlier: Cursor = serde_json::from_str(r#"{"lastId":"1","events":1}"#).unwrap();
    let source = source(&upstream, RemoteConfig::default());
    assert_eq!(
        read_brief_after(source.clone(), earlier.clone()).await.0,
        ["retry 1 http_status", "open after 1", "2=b", "end closed"]
    );
    // The id alone is no proof, since a client can invent it.
    earlier = Cursor::after("1");
    let upstream = Upstream::steps([Step::serve(status("404 Not Found"))]).await;
    let source = super::rig::source(&upstream, RemoteConfig::default());
    assert_eq!(read_brief_after(source, earlier).await.0, ["gave up http_status"]);
}

const HELLO: &str = concat!(
    "retry: 3000\nevent: connection\n",
    "data: {\"status\":\"connected\",\"emitterId\":\"anonymous_1\",\"resume\":{\"from\":\"e-40\",\"status\":\"live\"}}\n\n"
);

#[tokio::test]
async fn the_disconnect_of_a_millstream_is_not_an_end() {
    let leaving = "event: disconnect\ndata: {\"reason\":\"shutdown\"}\nretry: 1500\n\n";
    let first = format!("{HELLO}id: e-41\nevent: order\ndata: a\n\nevent: heartbeat\ndata: {{}}\n\n{leaving}");
    let second = format!("{}id: e-42\ndata: b\n\n", HELLO.replace("e-40", "e-41").replace("live", "resumed"));
    let upstream = Upstream::steps([Step::serve(stream(&first)), Step::serve(stream(&second))]).await;
    let (items, cursor) = read_brief_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    assert_eq!(
        items,
        [
            "open",
            "!connection e-41=a !heartbeat !disconnect",
            "retry 1 closed",
            "open after e-41",
            "!connection e-42=b",
            "end closed"
        ]
    );
    assert_eq!((cursor.events, cursor.last_id.as_str()), (2, "e-42"));
}

#[tokio::test]
async fn a_break_before_the_first_event_resumes_at_the_position_of_the_greeting() {
    let upstream = Upstream::steps([Step::close(begun(HELLO)), Step::serve(stream("id: e-41\ndata: a\n\n"))]).await;
    assert_eq!(
        read_brief(source(&upstream, RemoteConfig::default())).await,
        ["open", "!connection", "retry 1 truncated", "open after e-40", "e-41=a", "end closed"]
    );
}

/// The second greeting follows a gap.
#[tokio::test]
async fn a_greeting_with_an_id_moves_the_cursor_and_is_not_an_event() {
    let gap = HELLO.replace("live", "gap").replace("event:", "id: e-60\nevent:");
    let upstream = Upstream::steps([
        Step::close(begun(&HELLO.replace("event:", "id: e-40\nevent:"))),
        Step::close(begun(&gap)),
        Step::serve(stream("id: e-61\ndata: a\n\n")),
    ])
    .await;
    let (items, cursor) = read_brief_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    let expected = ["open", "!connection", "retry 1 truncated", "open after e-40", "!connection", "retry 2 truncated"];
    assert_eq!(items[..6], expected);
    assert_eq!(items[6..], ["open after e-60", "e-61=a", "end closed"]);
    assert_eq!((cursor.events, cursor.last_id.as_str()), (1, "e-61"));
}

#[tokio::test]
async fn a_heartbeat_of_another_server_is_an_event() {
    let text = "event: connection\ndata: hello\n\nevent: heartbeat\ndata: 1\n\nevent: disconnect\ndata: 2\n\n";
    let upstream = Upstream::steps([Step::serve(stream(text))]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "=hello =1 =2", "end closed"]);
}

/// Control frames are not progress: a node that only greets and disconnects is given up.
#[tokio::test]
async fn greetings_are_not_progress() {
    let leaving = format!("{HELLO}event: disconnect\ndata: {{}}\n\n");
    let upstream = Upstream::steps([Step::serve(stream(&leaving))]).await;
    let config = RemoteConfig { max_retries: 2, ..RemoteConfig::default() };
    let items = read_brief(Source { repeat: Repeat::UntilEnd, ..source(&upstream, config) }).await;
    assert_eq!(items.iter().filter(|item| item.starts_with("retry")).count(), 2, "{items:?}");
    assert_eq!(items.last().map(String::as_str), Some("gave up closed"));
}
