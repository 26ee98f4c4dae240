//! Responses that are not event streams.

use std::time::Duration;

use super::rig::{begun, brief, delays, of, read, read_brief, reason, remote, source, status, stream};
use crate::{
    clock::Clock,
    upstream::{
        Client, Config, RemoteConfig,
        events::{Repeat, Source},
        tests::support::{Step, Upstream},
    },
};

#[tokio::test]
async fn retry_after_delays_the_next_attempt() {
    let busy = |asked: &str| Step::serve(status(&format!("503 Service Unavailable\r\nRetry-After: {asked}")));
    let upstream =
        Upstream::steps([busy("120"), busy("7"), busy("0"), busy("soon"), Step::serve(stream("data: a\n\n"))]).await;
    let (items, _) = read(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(
        items.iter().map(brief).collect::<Vec<_>>(),
        [
            "retry 1 http_status",
            "retry 2 http_status",
            "retry 3 http_status",
            "retry 4 http_status",
            "open",
            "=a",
            "end closed"
        ]
    );
    let delays = delays(&items);
    assert!(delays[0] >= Duration::from_mins(2) && delays[1] >= Duration::from_secs(7), "{delays:?}");
    assert!(delays[2..].iter().all(|delay| *delay < Duration::from_secs(1)), "{delays:?}");
}

/// Later changes of the wall clock have no effect.
#[tokio::test]
async fn a_date_in_retry_after_is_compared_with_the_clock_of_the_node() {
    let steps = ["Sun, 06 Nov 1994 08:49:57 GMT", "Sunday, 06-Nov-94 08:49:57 GMT", "Sun Nov  6 08:49:57 1994"]
        .map(|date| Step::serve(status(&format!("503 Service Unavailable\r\nRetry-After: {date}"))));
    let [first, second, third] = steps;
    let upstream = Upstream::steps([first, second, third, Step::serve(stream("data: a\n\n"))]).await;
    // Twenty seconds before the date.
    let (clock, _) = Clock::by_hand(784_111_777_000);
    let client = Client::with_clock(Config::default(), clock);
    let (items, _) = read(of(remote(&upstream, RemoteConfig::default(), &client))).await;
    let delays = delays(&items);
    assert_eq!(delays.len(), 3);
    // The requested delay with jitter, so that clients do not reconnect at the same time.
    assert!(delays.iter().all(|delay| (20..30).contains(&delay.as_secs())), "{delays:?}");
}

#[tokio::test]
async fn transient_failures_in_a_row_are_limited_for_a_stream_with_an_end() {
    for line in ["408 Request Timeout", "425 Too Early", "429 Too Many Requests", "500 Oops", "502 Oops", "504 Oops"] {
        let upstream = Upstream::steps([Step::serve(status(line))]).await;
        let config = RemoteConfig { max_retries: 2, ..RemoteConfig::default() };
        let items = read_brief(source(&upstream, config)).await;
        assert_eq!(items, ["retry 1 http_status", "retry 2 http_status", "gave up http_status"], "{line}");
    }
}

/// RFC 9110, section 15: an unknown status is treated as the x00 of its class, one outside 100 to 599 as a server
/// error.
#[tokio::test]
async fn an_unknown_server_error_is_transient() {
    for line in
        ["507 Full", "520 Odd", "521 Odd", "522 Odd", "524 Odd", "529 Overloaded", "530 Odd", "599 Odd", "999 Odd"]
    {
        let upstream = Upstream::steps([Step::serve(status(line))]).await;
        let config = RemoteConfig { max_retries: 2, ..RemoteConfig::default() };
        let items = read_brief(source(&upstream, config)).await;
        assert_eq!(items, ["retry 1 http_status", "retry 2 http_status", "gave up http_status"], "{line}");
    }
    // More often than refusals are permitted.
    let mut steps = vec![Step::close(begun("id: 1\ndata: a\n\n"))];
    steps.extend((0..8).map(|_| Step::serve(status("529 Overloaded"))));
    steps.push(Step::serve(status("204 No Content")));
    let upstream = Upstream::steps::<10>(steps.try_into().ok().expect("ten steps")).await;
    let forever = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    let items = read_brief(forever).await;
    assert_eq!(items.last().map(String::as_str), Some("end 204"), "{items:?}");
}

#[tokio::test]
async fn an_invalid_status_is_a_server_error() {
    let upstream = Upstream::steps([
        Step::close("HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n"),
        Step::serve(stream("data: a\n\n")),
    ])
    .await;
    let items = read_brief(source(&upstream, RemoteConfig::default())).await;
    assert_eq!(items, ["retry 1 protocol", "open", "=a", "end closed"]);
}

#[tokio::test]
async fn a_refusal_of_the_first_request_is_final_with_the_text_of_the_remote() {
    for line in [
        "404 Not Found",
        "401 Unauthorized",
        "403 Forbidden",
        "400 Bad Request",
        "501 Oops",
        "505 Oops",
        "302 Oops",
        "499 Odd",
        "201 Created",
    ] {
        let body = "{\"why\":\r\n  \"because\"}";
        let length = body.len();
        let upstream =
            Upstream::steps([Step::serve(format!("HTTP/1.1 {line}\r\nContent-Length: {length}\r\n\r\n{body}"))]).await;
        let source = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
        let (items, _) = read(source).await;
        assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["gave up http_status"], "{line}");
        assert!(reason(&items).starts_with(&format!("the remote answered {}", &line[..3])), "{}", reason(&items));
        assert!(reason(&items).ends_with("{\"why\": \"because\"}"), "{}", reason(&items));
        assert_eq!(upstream.requests().len(), 1, "{line}");
    }
}

#[tokio::test]
async fn a_refusal_after_an_open_connection_is_retried_a_few_times() {
    let first = Step::close(begun("id: 1\ndata: a\n\n"));
    let upstream = Upstream::steps([first.clone(), Step::serve(status("404 Not Found"))]).await;
    let forever = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    let mut expected = vec!["open".to_owned(), "1=a".into(), "retry 1 truncated".into()];
    expected.extend((2..=6).map(|attempt| format!("retry {attempt} http_status")));
    expected.push("gave up http_status".into());
    assert_eq!(read_brief(forever).await, expected);

    let upstream = Upstream::steps([
        first.clone(),
        Step::serve(status("404 Not Found")),
        Step::serve("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nwait"),
        Step::serve(stream("id: 2\ndata: b\n\n")),
    ])
    .await;
    assert_eq!(
        read_brief(source(&upstream, RemoteConfig::default())).await,
        [
            "open",
            "1=a",
            "retry 1 truncated",
            "retry 2 http_status",
            "retry 3 content_type",
            "open after 1",
            "2=b",
            "end closed"
        ]
    );
}

#[tokio::test]
async fn another_content_type_is_refused_by_name() {
    for (head, named) in [
        ("Content-Type: text/html; charset=utf-8\r\n", "`text/html; charset=utf-8`"),
        ("Content-Type: application/json\r\n", "`application/json`"),
        ("Content-Type: text/event-streams\r\n", "`text/event-streams`"),
        ("Content-Type: text\r\n", "`text`"),
        ("Content-Type:\r\n", "no content type"),
        ("", "no content type"),
    ] {
        let upstream =
            Upstream::steps([Step::serve(format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 0\r\n\r\n"))]).await;
        let (items, _) = read(source(&upstream, RemoteConfig::default())).await;
        assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["gave up content_type"], "{head}");
        assert_eq!(reason(&items), format!("the remote answered with {named}, not with `text/event-stream`"));
    }
}

#[tokio::test]
async fn parameters_and_case_of_the_type_do_not_matter() {
    for media in ["text/event-stream;charset=utf-8", "TEXT/EVENT-STREAM", "text/event-stream ; charset=\"latin1\"; x=y"]
    {
        let text = "data: é\n\n";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", text.len());
        let upstream = Upstream::steps([Step::serve(format!("{head}{text}"))]).await;
        assert_eq!(
            read_brief(source(&upstream, RemoteConfig::default())).await,
            ["open", "=é", "end closed"],
            "{media}"
        );
    }
}

#[tokio::test]
async fn unsupported_encodings_are_refused_by_name() {
    for (fields, named) in [
        ("Content-Encoding: br", "`br`"),
        ("Content-Encoding: deflate", "`deflate`"),
        ("Content-Encoding: gzip, br", "`gzip, br`"),
        ("Content-Encoding: gzip\r\nContent-Encoding: gzip", "`gzip, gzip`"),
        ("Transfer-Encoding: gzip, chunked", "`gzip, chunked`"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{fields}\r\n\r\n0\r\n\r\n");
        let upstream = Upstream::steps([Step::close(head)]).await;
        let (items, _) = read(source(&upstream, RemoteConfig::default())).await;
        assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["gave up unsupported_encoding"], "{fields}");
        assert!(reason(&items).contains(named), "{}", reason(&items));
    }
    let upstream =
        Upstream::steps([Step::serve(stream("").replace("Transfer", "Content-Encoding: identity\r\nTransfer"))]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "end closed"]);
}

/// The client may accept more than this reader.
#[tokio::test]
async fn the_reader_sets_the_accept_fields() {
    let upstream = Upstream::steps([Step::serve(stream(""))]).await;
    let mut source = source(&upstream, RemoteConfig::default());
    for (name, value) in [("accept", "*/*"), ("accept-encoding", "br, zstd"), ("last-event-id", "forged")] {
        source.headers.insert(name, value.parse().expect("a value"));
    }
    read_brief(source).await;
    let field = |name| super::rig::field(&upstream, 0, name);
    assert_eq!(field("accept").as_deref(), Some("text/event-stream"));
    assert_eq!(field("accept-encoding").as_deref(), Some("identity"));
    assert_eq!(field("cache-control").as_deref(), Some("no-cache"));
    assert_eq!(field("last-event-id"), None);
}

#[tokio::test]
async fn invalid_http_in_the_first_response_is_final() {
    let upstream = Upstream::steps([Step::close("SSH-2.0-OpenSSH_9.6\r\n")]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["gave up protocol"]);
}

/// The reader closes the connection of a long error response.
#[tokio::test]
async fn a_long_error_text_is_shortened() {
    let head = "HTTP/1.1 403 Forbidden\r\nContent-Length: 9000000000\r\n\r\n";
    let upstream = Upstream::steps([Step::hold(format!("{head}{}", "no \u{1b}[31m".repeat(5000)))]).await;
    let (items, _) = read(source(&upstream, RemoteConfig::default())).await;
    assert!(reason(&items).len() < 300 && !reason(&items).contains('\u{1b}'), "{}", reason(&items));
    upstream.closed().await;
}
