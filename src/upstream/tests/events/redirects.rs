//! Redirects: permitted targets, and the parts of a request that follow.

use std::{collections::BTreeMap, sync::Arc};

use super::rig::{at, begun, brief, field, of, read, read_brief, reason, source, status, stream};
use crate::upstream::{
    Remote, RemoteConfig,
    events::{Repeat, Source},
    tests::support::{Step, Upstream, client},
};

fn moved(status: u16, target: &str) -> Step {
    Step::serve(self::status(&format!("{status} Moved\r\nLocation: {target}")))
}

/// A remote with a token, as `token_env` sets it, and other secrets in its settings.
fn secretive(upstream: &Upstream, allow: &[&str]) -> Arc<Remote> {
    let secrets = [("Authorization", "Bearer secret-token"), ("X-Api-Key", "secret-key"), ("Cookie", "secret-cookie")];
    let headers: BTreeMap<_, _> = secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    at(&upstream.url(""), RemoteConfig { headers, ..RemoteConfig::default() }, &client(allow))
}

#[tokio::test]
async fn credentials_do_not_reach_another_origin() {
    for code in [301, 302, 303, 307, 308] {
        let target = Upstream::steps([Step::serve(stream("id: 1\ndata: a\n\n"))]).await;
        let front = Upstream::steps([moved(code, &target.url("/there"))]).await;
        let mut source = of(secretive(&front, &["127.0.0.1"]));
        source.headers.insert("x-session", "secret-session".parse().expect("a value"));
        assert_eq!(read_brief(source).await, ["open", "1=a", "end closed"], "{code}");
        let (first, second) = (&front.requests()[0], &target.requests()[0]);
        assert_eq!(first.matches("secret").count(), 4, "{first}");
        assert!(second.starts_with("GET /there ") && !second.contains("secret"), "{second}");
        assert_eq!(field(&target, 0, "accept").as_deref(), Some("text/event-stream"));
    }
}

#[tokio::test]
async fn a_redirect_within_the_origin_keeps_credentials() {
    let upstream = Upstream::steps([moved(307, "/there"), Step::serve(stream("data: a\n\n"))]).await;
    assert_eq!(read_brief(of(secretive(&upstream, &[]))).await, ["open", "=a", "end closed"]);
    assert_eq!(upstream.requests()[1].matches("secret").count(), 3);
}

/// The settings trust their own server, but not the servers to which it redirects.
#[tokio::test]
async fn the_guard_checks_a_redirect_to_another_origin() {
    let target = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    let front = Upstream::steps([moved(302, &target.url("/there"))]).await;
    let (items, _) = read(source(&front, RemoteConfig::default())).await;
    assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["gave up egress_refused"]);
    assert!(reason(&items).contains("[egress] allow"), "{}", reason(&items));
    assert_eq!(target.accepted(), 0);
}

#[tokio::test]
async fn at_most_five_redirects_are_followed() {
    let go = || moved(302, "/next");
    let end = Step::serve(stream("data: a\n\n"));
    let upstream = Upstream::steps([go(), go(), go(), go(), go(), end.clone()]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["open", "=a", "end closed"]);
    let upstream = Upstream::steps([go(), go(), go(), go(), go(), go(), end]).await;
    assert_eq!(read_brief(source(&upstream, RemoteConfig::default())).await, ["gave up redirect"]);
}

#[tokio::test]
async fn a_reconnect_requests_the_original_url() {
    let upstream = Upstream::steps([
        moved(301, "/elsewhere"),
        Step::close(begun("id: 1\ndata: a\n\n")),
        Step::serve(stream("id: 2\ndata: b\n\n")),
    ])
    .await;
    assert_eq!(
        read_brief(source(&upstream, RemoteConfig::default())).await,
        ["open", "1=a", "retry 1 truncated", "open after 1", "2=b", "end closed"]
    );
    let asked: Vec<String> =
        upstream.requests().iter().filter_map(|request| Some(request.split(' ').nth(1)?.to_owned())).collect();
    assert_eq!(asked, ["/events", "/elsewhere", "/events"]);
}

/// A temporary redirect, such as to a maintenance page, does not end a stream that was open before.
#[tokio::test]
async fn a_refused_redirect_is_retried_for_a_stream_that_was_open() {
    let upstream = Upstream::steps([
        Step::close(begun("id: 1\ndata: a\n\n")),
        moved(302, "ftp://maintenance/"),
        Step::serve(status("204 No Content")),
    ])
    .await;
    let source = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(read_brief(source).await, ["open", "1=a", "retry 1 truncated", "retry 2 redirect", "end 204"]);
}
