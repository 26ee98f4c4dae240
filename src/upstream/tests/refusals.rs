//! What a client may not reach, by whatever way.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::support::{Upstream, client, get, guarded};
use crate::upstream::{Error, HeaderMap, HeaderName, HeaderValue, Method, Request};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn inner_addresses_are_refused_in_every_disguise() {
    let upstream = Upstream::answering(OK).await;
    let port = upstream.addr.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0.0.0.0",
        "0",
        "[::]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fe80::1]",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[fd00:ec2::254]",
    ] {
        let error = client(&[]).send(guarded(format!("http://{host}:{port}/"))).await.expect_err(host);
        assert_eq!(error.code(), "egress_refused", "{host}: {error}");
        assert!(error.to_string().contains("[egress] allow"), "{error}");
        assert!(!error.retryable());
    }
    assert_eq!(upstream.accepted(), 0);
}

#[tokio::test]
async fn urls_with_credentials_or_other_schemes_are_refused() {
    for url in ["http://user:secret@127.0.0.1/", "ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/"] {
        for request in [guarded(url), get(url)] {
            assert_eq!(client(&["127.0.0.1"]).send(request).await.expect_err(url).code(), "bad_url", "{url}");
        }
    }
}

#[tokio::test]
async fn allow_entries_open_what_they_name() {
    let upstream = Upstream::answering(OK).await;
    let port = upstream.addr.port();
    let exact = format!("127.0.0.1:{port}");
    let named = format!("localhost:{port}");
    for (entry, host, permitted) in [
        (exact.as_str(), "127.0.0.1", true),
        (&exact, "localhost", true),
        ("127.0.0.0/8", "127.0.0.1", true),
        ("127.0.0.0/8", "[::ffff:127.0.0.1]", true),
        (&named, "localhost", true),
        (&named, "127.0.0.1", false),
        ("localhost:1", "localhost", false),
        ("127.0.0.1:1", "127.0.0.1", false),
        ("127.0.0.2", "127.0.0.1", false),
    ] {
        let answer = client(&[entry]).send(guarded(format!("http://{host}:{port}/"))).await;
        let code = answer.as_ref().map_err(Error::code).map(|response| response.status.as_u16());
        assert_eq!(code, if permitted { Ok(200) } else { Err("egress_refused") }, "{entry} {host}");
    }
}

#[tokio::test]
async fn the_node_itself_is_refused() {
    let upstream = Upstream::answering(OK).await;
    let client = client(&["127.0.0.0/8"]);
    client.send(guarded(upstream.url("/"))).await.expect("the network is allowed");
    for own in [upstream.addr, SocketAddr::from((Ipv4Addr::UNSPECIFIED, upstream.addr.port()))] {
        client.set_own(vec![own]);
        let error = client.clone().send(guarded(upstream.url("/"))).await.expect_err("it is the node itself");
        assert!(error.to_string().contains("an address of this node"), "{error}");
    }
    client.send(get(upstream.url("/"))).await.expect("the configuration may name the node");
}

#[tokio::test]
async fn a_redirect_to_an_inner_address_is_refused() {
    let secret = Upstream::answering(OK).await;
    let front = Upstream::redirecting(302, &secret.url("/")).await;
    let allow = front.addr.to_string();
    let error = client(&[&allow]).send(guarded(front.url("/"))).await.expect_err("the second hop is not allowed");
    assert_eq!(error.code(), "egress_refused");
    let error = client(&[]).send(get(front.url("/"))).await.expect_err("trust does not reach other origins");
    assert_eq!(error.code(), "egress_refused");
    assert_eq!((front.accepted(), secret.accepted()), (2, 0));
}

#[tokio::test]
async fn a_redirect_within_the_origin_keeps_the_operators_trust() {
    let upstream = Upstream::redirecting(302, "/again").await;
    let error = client(&[]).send(get(upstream.url("/"))).await.expect_err("it goes round");
    assert_eq!(error, Error::TooManyRedirects { limit: 5 });
    assert_eq!(upstream.requests().len(), 6, "the first request and five redirects");
    assert!(upstream.requests()[5].starts_with("GET /again "));
}

#[tokio::test]
async fn without_redirects_the_redirect_is_the_answer() {
    let upstream = Upstream::redirecting(307, "/again").await;
    let response = client(&[]).send(Request { redirects: 0, ..get(upstream.url("/")) }).await.expect("an answer");
    assert_eq!((response.status.as_u16(), &response.headers["location"]), (307, &HeaderValue::from_static("/again")));
    let error = client(&[]).send(Request { redirects: 1, ..get(upstream.url("/")) }).await.expect_err("one is too few");
    assert_eq!(error, Error::TooManyRedirects { limit: 1 });
}

#[tokio::test]
async fn credentials_do_not_cross_origins() {
    let target = Upstream::answering(OK).await;
    let front = Upstream::redirecting(307, &target.url("/there")).await;
    let headers = ["authorization", "cookie", "x-auth-token", "x-api-key", "proxy-authorization", "accept"]
        .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("secret")));
    let request = Request {
        method: Method::POST,
        headers: HeaderMap::from_iter(headers),
        body: Bytes::from_static(b"hello"),
        ..guarded(front.url("/here"))
    };
    let response = client(&["127.0.0.1"]).send(request).await.expect("an answer");
    assert_eq!(response.url.as_str(), target.url("/there"));
    assert_eq!(front.requests()[0].matches("secret").count(), 6);
    let seen = &target.requests()[0];
    assert!(seen.starts_with("POST /there ") && seen.ends_with("\r\n\r\nhello"), "{seen}");
    assert!(seen.contains("accept: secret") && seen.matches("secret").count() == 1, "{seen}");
    assert!(seen.contains(&format!("host: {}", target.addr)), "{seen}");
}
