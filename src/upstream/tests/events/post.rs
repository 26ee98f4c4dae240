//! Unsafe requests: they are sent once, unless the settings of the remote permit a repeat.

use tokio::net::TcpListener;

use super::rig::{
    at, begun, brief, chunk, field, next, next_brief, of, open, read, read_brief, reason, source, status, stream,
};
use crate::upstream::{
    Connections, Method, RemoteConfig,
    events::{Cursor, EventSource, Repeat, Source, StreamEvent},
    tests::support::{Step, Upstream, client},
};

fn post(source: Source) -> Source {
    Source { method: Method::POST, body: "{\"prompt\":1}".into(), ..source }
}

#[tokio::test]
async fn a_broken_post_is_given_up_with_the_reason() {
    for (answer, code) in [
        (begun("id: 1\ndata: a\n\n"), "truncated"),
        (begun(""), "truncated"),
        (String::new(), "closed"),
        (status("503 Oops\r\nRetry-After: 1"), "http_status"),
        (status("429 Oops"), "http_status"),
    ] {
        let upstream = Upstream::steps([Step::close(answer)]).await;
        let source = post(source(&upstream, RemoteConfig::default()));
        let (items, _) = read(Source { repeat: Repeat::Forever, ..source }).await;
        assert_eq!(items.last().map(brief), Some(format!("gave up {code}")));
        assert!(reason(&items).ends_with("; a POST is not sent again, unless `repeat_post` of the remote permits it"));
        assert_eq!(upstream.requests().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn a_final_failure_does_not_mention_a_repeat() {
    let upstream = Upstream::steps([Step::serve(status("404 Not Found"))]).await;
    let (items, _) = read(post(source(&upstream, RemoteConfig::default()))).await;
    assert_eq!(reason(&items), "the remote answered 404 Not Found");
}

#[tokio::test]
async fn a_complete_post_is_an_end() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    assert_eq!(read_brief(post(source(&upstream, RemoteConfig::default()))).await, ["open", "=a", "end closed"]);
    assert!(upstream.requests()[0].ends_with("\r\n\r\n{\"prompt\":1}"));
}

#[tokio::test]
async fn a_post_that_repeats_forever_is_given_up_after_a_close() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    let source = Source { repeat: Repeat::Forever, ..post(source(&upstream, RemoteConfig::default())) };
    assert_eq!(read_brief(source).await, ["open", "=a", "gave up closed"]);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn with_repeat_post_a_post_is_repeated_with_its_body_and_resumes() {
    let upstream = Upstream::steps([
        Step::close(""),
        Step::close(begun("id: 7\ndata: a\n\n")),
        Step::serve(status("503 Oops")),
        Step::serve(stream("id: 8\ndata: b\n\n")),
    ])
    .await;
    let config = RemoteConfig { repeat_post: true, ..RemoteConfig::default() };
    assert_eq!(
        read_brief(post(source(&upstream, config))).await,
        [
            "retry 1 closed",
            "open",
            "7=a",
            "retry 1 truncated",
            "retry 2 http_status",
            "open after 7",
            "8=b",
            "end closed"
        ]
    );
    for (number, resumed) in [None, None, Some("7"), Some("7")].into_iter().enumerate() {
        let request = &upstream.requests()[number];
        assert!(request.starts_with("POST /events ") && request.ends_with("\r\n\r\n{\"prompt\":1}"), "{request}");
        assert_eq!(field(&upstream, number, "last-event-id").as_deref(), resumed, "{number}");
    }
}

#[tokio::test]
async fn a_post_that_was_not_sent_is_sent_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    drop(listener);
    let remote = at(&format!("http://{addr}"), RemoteConfig::default(), &client(&[]));
    let mut reader = open(post(of(remote)));
    assert_eq!(next_brief(&mut reader).await, "retry 1 connect_failed");
    let listener = TcpListener::bind(addr).await.expect("the port is free again");
    let upstream = Upstream::steps_on(listener, [Step::serve(stream("data: a\n\n"))]);
    let mut items = Vec::new();
    while !items.last().is_some_and(|last: &String| last.starts_with("end") || last.starts_with("gave")) {
        items.push(next_brief(&mut reader).await);
    }
    assert_eq!(items[items.len() - 3..], ["open", "=a", "end closed"]);
    assert_eq!(upstream.requests().len(), 1);
}

/// The first server has processed the POST, and redirects to its result.
#[tokio::test]
async fn a_failed_connection_after_a_redirect_counts_as_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gone = listener.local_addr().expect("it is bound");
    drop(listener);
    let upstream =
        Upstream::steps([Step::serve(status(&format!("303 See Other\r\nLocation: http://{gone}/answer")))]).await;
    let remote = at(&upstream.url(""), RemoteConfig::default(), &client(&["127.0.0.1"]));
    let (items, _) = read(post(of(remote))).await;
    assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["gave up connect_failed"]);
    assert_eq!(upstream.requests().len(), 1, "the POST was sent a second time");
}

#[tokio::test]
async fn a_post_that_an_operator_ends_is_not_repeated() {
    let upstream = Upstream::steps([Step::hold(begun("data: a\n\n"))]).await;
    let connections = Connections::new(1);
    let source = post(source(&upstream, RemoteConfig::default()));
    let mut reader = EventSource::new(source, Cursor::default(), connections.clone());
    assert!(matches!(next(&mut reader).await, StreamEvent::Open { .. }));
    assert!(connections.end(&connections.list()[0].id));
    let item = loop {
        match next(&mut reader).await {
            StreamEvent::Events(_) => {}
            item => break item,
        }
    };
    assert_eq!(brief(&item), "gave up ended");
}

#[tokio::test]
async fn a_post_with_a_too_large_event_is_given_up() {
    let upstream = Upstream::steps([Step::hold(format!("{}{}", begun(""), chunk(&"x".repeat(3000))))]).await;
    let config = RemoteConfig { max_event_bytes: 1000, ..RemoteConfig::default() };
    let (items, _) = read(post(source(&upstream, config))).await;
    assert!(reason(&items).ends_with("(`max_event_bytes` of the remote)"), "{}", reason(&items));
}
