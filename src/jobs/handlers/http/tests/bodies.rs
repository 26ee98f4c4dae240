//! Bodies in other encodings and other character sets than plain UTF-8.

use std::io::Write as _;

use super::*;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn packed(media: &str, text: &[u8]) -> Vec<u8> {
    response(&format!("200 OK\r\nContent-Type: {media}\r\nContent-Encoding: gzip"), &gzip(text))
}

#[tokio::test]
async fn a_gzip_encoded_response_is_decoded() {
    let output = ask(packed("application/json", b"{\"a\": [1]}")).await.0.expect("it is well");
    assert_eq!((output.result.value(), output.encoding), (json!({"a": [1]}), None));
    let (done, recorder) = ask(packed("text/event-stream", b"data: a\n\ndata: b\n\ndata: [DONE]\n\n")).await;
    assert_eq!(done.expect("it is well").result.value()["events"], 2);
    assert_eq!(recorder.forwarded().len(), 2);
    let upper = response("200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: X-GZIP", &gzip(b"hello"));
    assert_eq!(ask(upper).await.0.expect("it is well").result, json!("hello"));
    assert!(ask(response("200 OK\r\nContent-Encoding: identity", b"1")).await.0.is_ok());
}

/// A few kilobytes that decode to gigabytes.
#[tokio::test]
async fn a_gzip_encoded_response_is_bounded_by_its_decoded_size() {
    for media in ["text/plain", "text/event-stream"] {
        let bomb = packed(media, &vec![b'x'; 64 << 20]);
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        let error = failure(bomb).await;
        assert_eq!((error.code.as_str(), error.retryable), ("response_too_large", false), "{media}");
    }
}

#[tokio::test]
async fn a_gzip_encoding_that_is_broken_or_cut_is_an_error() {
    let mut broken = gzip(b"{\"a\": 1}");
    broken[12] ^= 0xff;
    let error = failure(response("200 OK\r\nContent-Encoding: gzip", &broken)).await;
    assert_eq!(error.code, "protocol", "{error}");
    let whole = gzip(b"{\"a\": 1}");
    let error = failure(response("200 OK\r\nContent-Encoding: gzip", &whole[..whole.len() - 9])).await;
    assert_eq!((error.code.as_str(), error.retryable), ("truncated", true), "{error}");
}

#[tokio::test]
async fn an_encoding_that_is_not_supported_is_named() {
    for encoding in ["br", "gzip, gzip", "zstd"] {
        let error = failure(response(&format!("200 OK\r\nContent-Encoding: {encoding}"), b"\x1f\x8b")).await;
        assert_eq!((error.code.as_str(), error.retryable), ("unsupported_encoding", false));
        assert!(error.message.contains(&format!("`{encoding}`")), "{error}");
    }
}

#[tokio::test]
async fn the_text_of_an_error_is_decoded_too() {
    let error = failure(response("500 Internal Server Error\r\nContent-Encoding: gzip", &gzip(b"why"))).await;
    assert!(error.message.ends_with(": why"), "{error}");
    let latin = "500 Internal Server Error\r\nContent-Type: text/plain; charset=iso-8859-1";
    let error = failure(response(latin, b"f\xfcr")).await;
    assert!(error.message.ends_with(": für"), "{error}");
}

#[tokio::test]
async fn text_is_decoded_by_its_charset() {
    for (media, body, result) in [
        ("text/plain; charset=iso-8859-1", &b"f\xfcr 5 \x80"[..], json!("für 5 €")),
        ("text/html;Charset=\"windows-1251\"", b"\xcf\xf0\xe8\xe2\xe5\xf2", json!("Привет")),
        ("text/plain; format=flowed; charset=shift_jis", b"\x93\xfa\x96\x7b", json!("日本")),
        ("text/csv; charset=utf-16le", b"h\0i\0", json!("hi")),
        ("text/plain", b"\xff\xfeh\0i\0", json!("hi")),
        ("application/json; charset=iso-8859-1", b"{\"a\":\"\xe9\"}", json!({"a": "é"})),
        ("application/xml; charset=us-ascii", b"<a/>", json!("<a/>")),
        ("text/plain; charset=UTF-8", "für".as_bytes(), json!("für")),
        ("text/plain; charset=nonsense", "für".as_bytes(), json!("für")),
    ] {
        let output = ask(response(&format!("200 OK\r\nContent-Type: {media}"), body)).await.0.expect("it is well");
        assert_eq!((output.result.value(), output.encoding), (result, None), "{media}");
    }
}

/// Bytes that do not fit their charset, or have none, stay unchanged.
#[tokio::test]
async fn bytes_without_a_fitting_charset_are_base64() {
    for (media, body, result) in [
        ("image/png; charset=iso-8859-1", &b"\x89PNG"[..], "iVBORw=="),
        ("application/octet-stream; charset=iso-8859-1", b"\xff", "/w=="),
        ("text/plain; charset=utf-8", b"\xff", "/w=="),
        ("text/plain; charset=nonsense", b"\xff", "/w=="),
        ("text/plain", b"\xff", "/w=="),
    ] {
        let output = ask(response(&format!("200 OK\r\nContent-Type: {media}"), body)).await.0.expect("it is well");
        assert_eq!((output.result.value(), output.encoding), (json!(result), Some("base64")), "{media}");
    }
}
