//! Redirects: where they may lead, and what goes along.

use std::{collections::BTreeMap, sync::Arc};

use super::rig::{at, begun, field, of, read, reason, source, status, stream, tell, told};
use crate::upstream::{
    Remote, RemoteConfig,
    events::{Repeat, Source},
    tests::support::{Step, Upstream, client},
};

fn moved(status: u16, target: &str) -> Step {
    Step::serve(self::status(&format!("{status} Moved\r\nLocation: {target}")))
}

/// With a token, as `token_env` makes it, and a field of the settings.
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
        assert_eq!(told(source).await, ["open", "1=a", "end closed"], "{code}");
        let (first, second) = (&front.requests()[0], &target.requests()[0]);
        assert_eq!(first.matches("secret").count(), 4, "{first}");
        assert!(second.starts_with("GET /there ") && !second.contains("secret"), "{second}");
        assert_eq!(field(&target, 0, "accept").as_deref(), Some("text/event-stream"));
    }
}

#[tokio::test]
async fn within_the_origin_credentials_are_kept() {
    let upstream = Upstream::steps([moved(307, "/there"), Step::serve(stream("data: a\n\n"))]).await;
    assert_eq!(told(of(secretive(&upstream, &[]))).await, ["open", "=a", "end closed"]);
    assert_eq!(upstream.requests()[1].matches("secret").count(), 3);
}

/// The settings vouch for the server that they name, not for those that this server names.
#[tokio::test]
async fn the_guard_stands_before_another_origin() {
    let target = Upstream::steps([Step::serve(stream("data: a\n\n"))]).await;
    let front = Upstream::steps([moved(302, &target.url("/there"))]).await;
    let (said, _) = read(source(&front, RemoteConfig::default())).await;
    assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["gave up egress_refused"]);
    assert!(reason(&said).contains("[egress] allow"), "{}", reason(&said));
    assert_eq!(target.accepted(), 0);
}

#[tokio::test]
async fn five_redirects_are_followed_and_not_six() {
    let go = || moved(302, "/next");
    let end = Step::serve(stream("data: a\n\n"));
    let upstream = Upstream::steps([go(), go(), go(), go(), go(), end.clone()]).await;
    assert_eq!(told(source(&upstream, RemoteConfig::default())).await, ["open", "=a", "end closed"]);
    let upstream = Upstream::steps([go(), go(), go(), go(), go(), go(), end]).await;
    assert_eq!(told(source(&upstream, RemoteConfig::default())).await, ["gave up redirect"]);
}

/// The address that was named is asked again, not the one to which it led once.
#[tokio::test]
async fn a_lost_stream_is_looked_for_where_it_was_named() {
    let upstream = Upstream::steps([
        moved(301, "/elsewhere"),
        Step::close(begun("id: 1\ndata: a\n\n")),
        Step::serve(stream("id: 2\ndata: b\n\n")),
    ])
    .await;
    assert_eq!(
        told(source(&upstream, RemoteConfig::default())).await,
        ["open", "1=a", "retry 1 truncated", "open after 1", "2=b", "end closed"]
    );
    let asked: Vec<String> =
        upstream.requests().iter().filter_map(|request| Some(request.split(' ').nth(1)?.to_owned())).collect();
    assert_eq!(asked, ["/events", "/elsewhere", "/events"]);
}

/// A page that redirects for a while (a login, a maintenance page) does not end what was served before.
#[tokio::test]
async fn a_redirect_to_nowhere_good_passes_for_a_stream_that_was_open() {
    let upstream = Upstream::steps([
        Step::close(begun("id: 1\ndata: a\n\n")),
        moved(302, "ftp://maintenance/"),
        Step::serve(status("204 No Content")),
    ])
    .await;
    let source = Source { repeat: Repeat::Forever, ..source(&upstream, RemoteConfig::default()) };
    assert_eq!(told(source).await, ["open", "1=a", "retry 1 truncated", "retry 2 redirect", "end 204"]);
}
