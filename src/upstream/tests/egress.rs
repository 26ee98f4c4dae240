//! Forbidden targets of a client, in every form of a URL and through redirects.
//!
//! The guard tests the addresses, the hop tests the header fields of a redirect, and the connector tests name lookups.
//! `limits.rs` tests limits of size and time.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::support::{Step, Upstream, client, get, guarded};
use crate::upstream::{Error, HeaderMap, HeaderName, HeaderValue, Method, Request};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Hosts that resolve to addresses which are not public, with their form.
const NOT_PUBLIC: [(&str, &str); 39] = [
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "last address of the loopback network"),
    ("localhost", "name of loopback"),
    ("LOCALHOST", "in capitals"),
    ("127.0.0.1.", "an address with a final dot"),
    ("[::1]", "in IPv6"),
    ("[0:0:0:0:0:0:0:1]", "written out"),
    ("2130706433", "one number"),
    ("0x7f000001", "one hexadecimal number"),
    ("017700000001", "one octal number"),
    ("0x7f.1", "hexadecimal and short"),
    ("0177.0.0.1", "octal"),
    ("127.1", "short"),
    ("%31%32%37.0.0.1", "percent-encoded"),
    ("①②⑦.0.0.1", "circled digits"),
    ("127。0。0。1", "ideographic full stops"),
    ("[::ffff:127.0.0.1]", "IPv4-mapped"),
    ("[::ffff:7f00:1]", "IPv4-mapped in hexadecimal"),
    ("[::127.0.0.1]", "IPv4-compatible"),
    ("[64:ff9b::7f00:1]", "NAT64"),
    ("[64:ff9b:1::7f00:1]", "NAT64 of a local prefix"),
    ("[2002:7f00:1::]", "6to4"),
    ("[2001:0:7f00:1::]", "Teredo by its server"),
    ("[2001::80ff:fffe]", "Teredo by its client, inverted"),
    ("0.0.0.0", "unspecified, which is loopback on Linux"),
    ("0", "unspecified, short"),
    ("[::]", "unspecified in IPv6"),
    ("169.254.169.254", "metadata of a cloud"),
    ("[fd00:ec2::254]", "metadata of a cloud in IPv6"),
    ("[fe80::1]", "link-local"),
    ("10.0.0.1", "private"),
    ("192.168.1.1", "private"),
    ("172.16.0.1", "private"),
    ("[fc00::1]", "unique local"),
    ("100.64.0.1", "a carrier's shared addresses"),
    ("198.18.0.1", "benchmarks"),
    ("224.0.0.1", "multicast"),
    ("[ff02::1]", "multicast"),
    ("255.255.255.255", "broadcast"),
];

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_in_every_form() {
    let upstream = Upstream::answering(OK).await;
    let port = upstream.addr.port();
    for (host, what) in NOT_PUBLIC {
        for scheme in ["http", "https"] {
            let error = client(&[]).send(guarded(format!("{scheme}://{host}:{port}/"))).await.expect_err(what);
            assert_eq!(error.code(), "egress_refused", "{host} ({what}): {error}");
            assert!(error.to_string().contains("[egress] allow"), "{error}");
            assert!(!error.retryable());
        }
    }
    assert_eq!(upstream.accepted(), 0);
}

/// Some systems do not resolve a name with a final dot.
#[tokio::test]
async fn a_final_dot_does_not_change_a_name() {
    let upstream = Upstream::answering(OK).await;
    let url = format!("http://localhost.:{}/", upstream.addr.port());
    let error = client(&["localhost:1"]).send(guarded(url)).await.expect_err("loopback is refused");
    assert!(["egress_refused", "dns"].contains(&error.code()), "{error}");
    assert_eq!(upstream.accepted(), 0);
}

#[tokio::test]
async fn redirects_to_addresses_that_are_not_public_are_refused_in_every_form() {
    let secret = Upstream::answering(OK).await;
    let port = secret.addr.port();
    for (host, what) in NOT_PUBLIC {
        let front = Upstream::redirecting(302, &format!("http://{host}:{port}/")).await;
        let allow = front.addr.to_string();
        let error = client(&[&allow]).send(guarded(front.url("/"))).await.expect_err(what);
        assert_eq!(error.code(), "egress_refused", "{host} ({what}): {error}");
    }
    assert_eq!(secret.accepted(), 0);
}

#[tokio::test]
async fn a_url_that_imitates_another_host_is_refused() {
    let upstream = Upstream::answering(OK).await;
    let port = upstream.addr.port();
    for (url, code) in [
        (format!("http://allowed.example@127.0.0.1:{port}/"), "bad_url"),
        (format!("http://allowed.example:80@127.0.0.1:{port}/"), "bad_url"),
        (format!("http://allowed.example%40127.0.0.1:{port}/"), "bad_url"),
        (format!("http://127.0.0.1:{port}\\@allowed.example/"), "egress_refused"),
        (format!("http:\\\\127.0.0.1:{port}\\"), "egress_refused"),
        (format!("http:127.0.0.1:{port}/"), "egress_refused"),
        (format!("http://127.0.0.1:{port}#@allowed.example/"), "egress_refused"),
        (format!("http://127.0.0.1:{port}?@allowed.example/"), "egress_refused"),
        (format!("http://\t127.0.0.1:{port}/"), "egress_refused"),
        (format!(" http://127.0.0.1:{port}/"), "egress_refused"),
    ] {
        let error = client(&["allowed.example"]).send(guarded(url.as_str())).await.expect_err(&url);
        assert_eq!(error.code(), code, "{url}: {error}");
    }
    assert_eq!(upstream.accepted(), 0);
}

#[tokio::test]
async fn urls_with_credentials_or_other_schemes_are_refused() {
    for url in [
        "http://user:secret@127.0.0.1/",
        "http://user@127.0.0.1/",
        "http://:secret@127.0.0.1/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "ws://127.0.0.1/",
        "unix:/run/docker.sock",
        "data:text/plain,x",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:-1/",
    ] {
        for request in [guarded(url), get(url)] {
            assert_eq!(client(&["127.0.0.1"]).send(request).await.expect_err(url).code(), "bad_url", "{url}");
        }
        let front = Upstream::redirecting(302, url).await;
        let error = client(&["127.0.0.1"]).send(guarded(front.url("/"))).await.expect_err(url);
        assert_eq!(error.code(), "redirect", "a redirect to {url}: {error}");
    }
}

#[tokio::test]
async fn allow_entries_permit_only_their_targets() {
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
    let port = upstream.addr.port();
    for own in [upstream.addr, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))] {
        client.set_own(vec![own]);
        for name in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{name}:{port}/");
            let error = client.clone().send(guarded(url)).await.expect_err("it is the node itself");
            assert!(error.to_string().contains("an address of this node"), "{name}: {error}");
        }
    }
    client.send(get(upstream.url("/"))).await.expect("the configuration can name the node");
}

#[tokio::test]
async fn a_redirect_to_an_address_that_is_not_public_is_refused() {
    let secret = Upstream::answering(OK).await;
    let front = Upstream::redirecting(302, &secret.url("/")).await;
    let allow = front.addr.to_string();
    let error = client(&[&allow]).send(guarded(front.url("/"))).await.expect_err("the second hop is not allowed");
    assert_eq!(error.code(), "egress_refused");
    let error = client(&[]).send(get(front.url("/"))).await.expect_err("trust ends at another origin");
    assert_eq!(error.code(), "egress_refused");
    assert_eq!((front.accepted(), secret.accepted()), (2, 0));
}

#[tokio::test]
async fn the_guard_checks_the_last_of_many_hops() {
    let secret = Upstream::answering(OK).await;
    let mut front = Upstream::redirecting(302, &secret.url("/")).await;
    let mut allow = vec![front.addr.to_string()];
    for _ in 0..3 {
        front = Upstream::redirecting(307, &front.url("/")).await;
        allow.push(front.addr.to_string());
    }
    let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
    let error = client(&allow).send(guarded(front.url("/"))).await.expect_err("the fifth hop is not allowed");
    assert_eq!(error.code(), "egress_refused", "{error}");
    assert_eq!(secret.accepted(), 0);
}

#[tokio::test]
async fn a_redirect_loop_of_two_origins_is_left() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let back = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let front = Upstream::redirecting(302, &back).await;
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", front.url("/"));
    let other = Upstream::steps_on(listener, [Step::close(answer)]);
    let error = client(&["127.0.0.1"]).send(guarded(front.url("/"))).await.expect_err("the redirects are a loop");
    assert_eq!(error, Error::TooManyRedirects { limit: 5 });
    assert_eq!((front.requests().len(), other.requests().len()), (3, 3));
}

#[tokio::test]
async fn a_redirect_within_the_origin_keeps_the_trust() {
    let upstream = Upstream::redirecting(302, "/again").await;
    let error = client(&[]).send(get(upstream.url("/"))).await.expect_err("the redirects are a loop");
    assert_eq!(error, Error::TooManyRedirects { limit: 5 });
    assert_eq!(upstream.requests().len(), 6, "the first request and five redirects");
    assert!(upstream.requests()[5].starts_with("GET /again "));
}

#[tokio::test]
async fn with_zero_redirects_the_redirect_is_the_response() {
    let upstream = Upstream::redirecting(307, "/again").await;
    let response = client(&[]).send(Request { redirects: 0, ..get(upstream.url("/")) }).await.expect("an answer");
    assert_eq!((response.status.as_u16(), &response.headers["location"]), (307, &HeaderValue::from_static("/again")));
    let error = client(&[])
        .send(Request { redirects: 1, ..get(upstream.url("/")) })
        .await
        .expect_err("one redirect is too few");
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
