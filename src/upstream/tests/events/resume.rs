//! Where a stream goes on: ids, those that cannot be sent, and another Millstream's positions.

use super::rig::{begun, field, read, read_after, source, status, stream, tell, told};
use crate::upstream::{
    RemoteConfig,
    events::{Cursor, Repeat, Source},
    tests::support::{Step, Upstream},
};

async fn tell_after(source: Source, cursor: Cursor) -> (Vec<String>, Cursor) {
    let (said, cursor) = read_after(source, cursor).await;
    (said.iter().map(tell).collect(), cursor)
}

#[tokio::test]
async fn a_reader_begins_after_the_id_that_it_is_given() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    let (said, cursor) = tell_after(source(&upstream, RemoteConfig::default()), Cursor::after("grüße-7")).await;
    assert_eq!(said, ["open after grüße-7", "grüße-7=a", "end closed"]);
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
    let (said, cursor) = tell_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    assert_eq!(
        said,
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
async fn without_ids_a_break_may_have_lost_events_and_that_is_said_once() {
    let upstream = Upstream::steps([
        Step::close(begun("data: a\n\n")),
        Step::serve(status("503 Oops")),
        Step::close(begun("id: 1\ndata: b\n\n")),
        Step::serve(stream("id: 2\ndata: c\n\n")),
    ])
    .await;
    let (said, cursor) = tell_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    assert_eq!(
        said,
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
async fn ids_that_no_field_can_hold_are_not_sent_and_the_gap_is_told() {
    for id in ["a\u{1}b", "a\u{7f}b", &"x".repeat(4097)] {
        let first = begun(&format!("id: {id}\ndata: a\n\n"));
        let upstream = Upstream::steps([Step::close(first), Step::serve(stream("data: b\n\n"))]).await;
        let (said, cursor) = tell_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
        assert_eq!((said[2].as_str(), said[3].as_str()), ("retry 1 truncated", "open with a gap"), "{id:?}");
        assert_eq!(field(&upstream, 1, "last-event-id"), None, "{id:?}");

        // The same in another life.
        let stored = serde_json::from_value(serde_json::to_value(&cursor).unwrap()).unwrap();
        let (said, _) = tell_after(source(&upstream, RemoteConfig::default()), stored).await;
        assert_eq!(said[0], "open with a gap", "{id:?}");
    }
}

#[tokio::test]
async fn a_second_life_knows_the_doubles_of_the_first() {
    let upstream = Upstream::steps([
        Step::serve(stream("id: 1\ndata: a\n\nid: 2\ndata: b\n\n")),
        Step::serve(stream("id: 2\ndata: b\n\nid: 3\ndata: c\n\n")),
    ])
    .await;
    let source = source(&upstream, RemoteConfig::default());
    let (_, cursor) = read(source.clone()).await;
    let stored: Cursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
    let (said, cursor) = tell_after(source, stored).await;
    assert_eq!(said, ["open after 2", "3=c", "end closed"]);
    assert_eq!(cursor.events, 3);
}

/// A node that was restarted in the moment in which its remote was, too.
#[tokio::test]
async fn a_refusal_is_not_final_where_an_earlier_life_was_served() {
    let upstream =
        Upstream::steps([Step::serve(status("404 Not Found")), Step::serve(stream("id: 2\ndata: b\n\n"))]).await;
    let mut earlier: Cursor = serde_json::from_str(r#"{"lastId":"1","events":1}"#).unwrap();
    let source = source(&upstream, RemoteConfig::default());
    assert_eq!(
        tell_after(source.clone(), earlier.clone()).await.0,
        ["retry 1 http_status", "open after 1", "2=b", "end closed"]
    );
    // The id alone proves nothing: a client may have made it up.
    earlier = Cursor::after("1");
    let upstream = Upstream::steps([Step::serve(status("404 Not Found"))]).await;
    let source = super::rig::source(&upstream, RemoteConfig::default());
    assert_eq!(tell_after(source, earlier).await.0, ["gave up http_status"]);
}

const HELLO: &str = concat!(
    "retry: 3000\nevent: connection\n",
    "data: {\"status\":\"connected\",\"emitterId\":\"anonymous_1\",\"resume\":{\"from\":\"e-40\",\"status\":\"live\"}}\n\n"
);

#[tokio::test]
async fn a_millstreams_disconnect_is_no_end() {
    let leaving = "event: disconnect\ndata: {\"reason\":\"shutdown\"}\nretry: 1500\n\n";
    let first = format!("{HELLO}id: e-41\nevent: order\ndata: a\n\nevent: heartbeat\ndata: {{}}\n\n{leaving}");
    let second = format!("{}id: e-42\ndata: b\n\n", HELLO.replace("e-40", "e-41").replace("live", "resumed"));
    let upstream = Upstream::steps([Step::serve(stream(&first)), Step::serve(stream(&second))]).await;
    let (said, cursor) = tell_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    assert_eq!(
        said,
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
async fn a_break_before_the_first_event_goes_on_at_the_position_of_the_greeting() {
    let upstream = Upstream::steps([Step::close(begun(HELLO)), Step::serve(stream("id: e-41\ndata: a\n\n"))]).await;
    assert_eq!(
        told(source(&upstream, RemoteConfig::default())).await,
        ["open", "!connection", "retry 1 truncated", "open after e-40", "e-41=a", "end closed"]
    );
}

/// Also when the stream resumes after a gap, and in the stored cursor.
#[tokio::test]
async fn a_greeting_with_an_id_moves_the_cursor_and_is_no_event() {
    let gap = HELLO.replace("live", "gap").replace("event:", "id: e-60\nevent:");
    let upstream = Upstream::steps([
        Step::close(begun(&HELLO.replace("event:", "id: e-40\nevent:"))),
        Step::close(begun(&gap)),
        Step::serve(stream("id: e-61\ndata: a\n\n")),
    ])
    .await;
    let (said, cursor) = tell_after(source(&upstream, RemoteConfig::default()), Cursor::default()).await;
    let expected = ["open", "!connection", "retry 1 truncated", "open after e-40", "!connection", "retry 2 truncated"];
    assert_eq!(said[..6], expected);
    assert_eq!(said[6..], ["open after e-60", "e-61=a", "end closed"]);
    assert_eq!((cursor.events, cursor.last_id.as_str()), (1, "e-61"));
}

#[tokio::test]
async fn what_others_call_a_heartbeat_is_an_event() {
    let text = "event: connection\ndata: hello\n\nevent: heartbeat\ndata: 1\n\nevent: disconnect\ndata: 2\n\n";
    let upstream = Upstream::steps([Step::serve(stream(text))]).await;
    assert_eq!(told(source(&upstream, RemoteConfig::default())).await, ["open", "=hello =1 =2", "end closed"]);
}

/// Control frames alone are no progress: a node that greets and leaves, again and again, is given up.
#[tokio::test]
async fn greetings_alone_are_no_progress() {
    let leaving = format!("{HELLO}event: disconnect\ndata: {{}}\n\n");
    let upstream = Upstream::steps([Step::serve(stream(&leaving))]).await;
    let config = RemoteConfig { max_retries: 2, ..RemoteConfig::default() };
    let said = told(Source { repeat: Repeat::UntilEnd, ..source(&upstream, config) }).await;
    assert_eq!(said.iter().filter(|said| said.starts_with("retry")).count(), 2, "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("gave up closed"));
}
