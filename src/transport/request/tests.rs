//! Heads that pass, heads that are changed, and heads that are rejected.

use super::*;

/// The bytes that the framework gets if this arrives in pieces of this size, or the reason why it gets no more.
fn passed(text: &str, piece: usize) -> Result<String, Refusal> {
    let mut requests = Requests::default();
    let mut out = Vec::new();
    for new in text.as_bytes().chunks(piece) {
        let bytes = requests.take(new);
        out.extend_from_slice(&new[..bytes]);
        if let Some(refusal) = requests.refused() {
            return Err(refusal.clone());
        }
        out.extend_from_slice(requests.ready());
        requests.gave(requests.ready().len());
    }
    assert!(!requests.is_within(), "{text:?} ends well");
    Ok(String::from_utf8(out).unwrap())
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn usual_requests_pass_unchanged() {
    let post = "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe\r\nl";
    let chunks = "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
    let old = "GET /d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    for text in [GET, post, chunks, old, &[GET, post, chunks, GET, old, GET].concat()] {
        for piece in [1, 2, 7, 64, text.len()] {
            assert_eq!(passed(text, piece).as_deref(), Ok(text), "in pieces of {piece}");
        }
    }
}

#[test]
fn fields_for_another_protocol_are_removed() {
    let head = |lines: &str| format!("POST /a HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 2\r\n\r\n{{}}");
    for (asked, left) in [
        ("Connection: upgrade\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n", ""),
        ("Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n", "Connection: keep-alive\r\n"),
        ("Connection: close,upgrade\r\nX: y\r\n", "Connection: close\r\nX: y\r\n"),
        ("Expect: 100-continue\r\n", ""),
    ] {
        let text = [GET, &head(asked), GET].concat();
        let expected = [GET, &head(left), GET].concat();
        for piece in [1, 5, text.len()] {
            assert_eq!(passed(&text, piece).as_deref(), Ok(&*expected), "{asked:?} in pieces of {piece}");
        }
    }
}

#[test]
fn a_client_that_waits_for_100_continue_is_detected() {
    let mut requests = Requests::default();
    let text = [GET, "POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"].concat();
    assert_eq!(requests.take(text.as_bytes()), GET.len());
    assert_eq!(requests.expects(), 2);
}

#[test]
fn heads_that_cannot_be_served_are_refused_with_the_right_status() {
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(length));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(count));
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(130 << 10));
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    for (text, status) in [
        (target(70_000), 414),
        (target(200_000), 414),
        (fields(100), 431),
        (large, 431),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        (with("Host: y\r\n"), 400),
        ("GET / HTTP/9.9\r\n\r\n".into(), 400),
        ("G\x01T / HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        (with("X : y\r\n"), 400),
        (with("Content-Length: +2\r\n"), 400),
        (with("Content-Length: 2\r\nContent-Length: 2\r\n"), 400),
        (with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"), 400),
        (with("Transfer-Encoding: gzip\r\n"), 400),
        ("POST / HTTP/1.0\r\n\r\n".into(), 411),
    ] {
        for piece in [1000, text.len()] {
            let refusal = passed(&text, piece).expect_err("it is refused");
            assert_eq!(refusal.status, status, "{:?}: {}", &text[..text.len().min(60)], refusal.detail);
        }
    }
}
