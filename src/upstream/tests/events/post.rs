//! Requests that may do something: sent once, unless the operator says that a repeat is taken for what it is.

use tokio::net::TcpListener;

use super::rig::{
    at, begun, chunk, field, next, of, open, read, reason, source, status, stream, tell, tell_next, told,
};
use crate::upstream::{
    Connections, Method, RemoteConfig,
    events::{Cursor, EventSource, Repeat, Said, Source},
    tests::support::{Step, Upstream, client},
};

fn post(source: Source) -> Source {
    Source { method: Method::POST, body: "{\"prompt\":1}".into(), ..source }
}

#[tokio::test]
async fn a_broken_post_is_given_up_and_says_why() {
    for (answer, code) in [
        (begun("id: 1\ndata: a\n\n"), "truncated"),
        (begun(""), "truncated"),
        (String::new(), "closed"),
        (status("503 Oops\r\nRetry-After: 1"), "http_status"),
        (status("429 Oops"), "http_status"),
    ] {
        let upstream = Upstream::steps([Step::close(answer)]).await;
        let source = post(source(&upstream, RemoteConfig::default()));
        let (said, _) = read(Source { repeat: Repeat::Forever, ..source }).await;
        assert_eq!(said.last().map(tell), Some(format!("gave up {code}")));
        assert!(reason(&said).ends_with("; a POST is not sent again, unless `repeat_post` of the remote permits it"));
        assert_eq!(upstream.requests().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn what_no_repeat_would_help_does_not_speak_of_one() {
    let upstream = Upstream::steps([Step::serve(status("404 Not Found"))]).await;
    let (said, _) = read(post(source(&upstream, RemoteConfig::default()))).await;
    assert_eq!(reason(&said), "the remote answered 404 Not Found");
}

#[tokio::test]
async fn a_post_that_ends_well_is_an_end() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    assert_eq!(told(post(source(&upstream, RemoteConfig::default()))).await, ["open", "=a", "end closed"]);
    assert!(upstream.requests()[0].ends_with("\r\n\r\n{\"prompt\":1}"));
}

/// It would be opened again, and must not be.
#[tokio::test]
async fn a_post_for_ever_is_given_up_when_it_is_closed() {
    let upstream = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    let source = Source { repeat: Repeat::Forever, ..post(source(&upstream, RemoteConfig::default())) };
    assert_eq!(told(source).await, ["open", "=a", "gave up closed"]);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn with_repeat_post_it_is_repeated_with_its_body_and_resumes() {
    let upstream = Upstream::steps([
        Step::close(""),
        Step::close(begun("id: 7\ndata: a\n\n")),
        Step::serve(status("503 Oops")),
        Step::serve(stream("id: 8\ndata: b\n\n")),
    ])
    .await;
    let config = RemoteConfig { repeat_post: true, ..RemoteConfig::default() };
    assert_eq!(
        told(post(source(&upstream, config))).await,
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
async fn what_was_not_sent_is_sent_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    drop(listener);
    let remote = at(&format!("http://{addr}"), RemoteConfig::default(), &client(&[]));
    let mut reader = open(post(of(remote)));
    assert_eq!(tell_next(&mut reader).await, "retry 1 connect_failed");
    let listener = TcpListener::bind(addr).await.expect("the port is free again");
    let upstream = Upstream::steps_on(listener, [Step::serve(stream("data: a\n\n"))]);
    let mut told = Vec::new();
    while !told.last().is_some_and(|last: &String| last.starts_with("end") || last.starts_with("gave")) {
        told.push(tell_next(&mut reader).await);
    }
    assert_eq!(told[told.len() - 3..], ["open", "=a", "end closed"]);
    assert_eq!(upstream.requests().len(), 1);
}

/// The first server has taken the POST, done its work, and named a place for the answer.
#[tokio::test]
async fn a_redirect_to_a_server_that_is_gone_is_no_request_that_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gone = listener.local_addr().expect("it is bound");
    drop(listener);
    let upstream =
        Upstream::steps([Step::serve(status(&format!("303 See Other\r\nLocation: http://{gone}/answer")))]).await;
    let remote = at(&upstream.url(""), RemoteConfig::default(), &client(&["127.0.0.1"]));
    let (said, _) = read(post(of(remote))).await;
    assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["gave up connect_failed"]);
    assert_eq!(upstream.requests().len(), 1, "the POST was sent a second time");
}

#[tokio::test]
async fn an_operator_who_ends_a_post_ends_it() {
    let upstream = Upstream::steps([Step::hold(begun("data: a\n\n"))]).await;
    let connections = Connections::new(1);
    let source = post(source(&upstream, RemoteConfig::default()));
    let mut reader = EventSource::new(source, Cursor::default(), connections.clone());
    assert!(matches!(next(&mut reader).await, Said::Open { .. }));
    assert!(connections.end(&connections.list()[0].id));
    let said = loop {
        match next(&mut reader).await {
            Said::Events(_) => {}
            said => break said,
        }
    };
    assert_eq!(tell(&said), "gave up ended");
}

#[tokio::test]
async fn a_post_whose_event_is_too_large_is_given_up_for_that() {
    let upstream = Upstream::steps([Step::hold(format!("{}{}", begun(""), chunk(&"x".repeat(3000))))]).await;
    let config = RemoteConfig { max_event_bytes: 1000, ..RemoteConfig::default() };
    let (said, _) = read(post(source(&upstream, config))).await;
    assert!(reason(&said).ends_with("(`max_event_bytes` of the remote)"), "{}", reason(&said));
}
