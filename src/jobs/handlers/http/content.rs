//! Interprets a body as a task's result: JSON, text, or base64; pure.
//!
//! Text is decoded by the character set that the response names, as browsers do (Encoding, "decode"): a byte order mark
//! takes precedence over the name, and without either it is UTF-8. Other bytes are not text; they stay unchanged.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use encoding_rs::{Encoding, UTF_8};

use crate::{jobs::handler::Reserve, json::Json, upstream::HeaderMap};

/// Above this size parsing or encoding would delay the other tasks of the thread.
const LARGE: usize = 128 * 1024;

/// The media type of a response.
#[derive(Clone, Debug)]
pub(super) struct Media {
    /// Without parameters, in lower case; empty if the response names none.
    essence: String,
    /// The encoding of its text, if the response names a known one.
    charset: Option<&'static Encoding>,
}

/// Types that are not text: servers also add `charset` to these, without a meaning.
const BINARY: [&str; 4] = ["image/", "audio/", "video/", "font/"];
const BINARY_APPLICATIONS: [&str; 4] =
    ["application/octet-stream", "application/pdf", "application/zip", "application/gzip"];

// === impl Media ===

impl Media {
    /// The media type in the fields of a response.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let field = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut parts = split(field);
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let binary = BINARY.iter().any(|kind| essence.starts_with(kind)) || BINARY_APPLICATIONS.contains(&&*essence);
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("charset").then(|| Encoding::for_label_no_replacement(value.as_bytes()))?
        });
        Self { essence, charset: charset.filter(|_| !binary) }
    }

    /// True for this type.
    pub(super) fn is(&self, media: &str) -> bool {
        self.essence == media
    }

    /// Any bytes as text for people.
    pub(super) fn lossy<'b>(&self, bytes: &'b [u8]) -> Cow<'b, str> {
        self.charset.unwrap_or(UTF_8).decode_with_bom_removal(bytes).0
    }

    /// The body as a result, with its `encoding` if it is not text. Large bodies are parsed on another thread.
    pub(super) async fn interpret(self, bytes: Bytes, reserve: &Reserve) -> (Json, Option<&'static str>) {
        if bytes.len() < LARGE {
            return self.read(&bytes);
        }
        reserve.large(move || self.read(&bytes)).await
    }

    fn read(&self, bytes: &[u8]) -> (Json, Option<&'static str>) {
        let may_be_json = self.essence.is_empty() || self.names_json();
        if bytes.is_empty() && may_be_json {
            return (Json::null(), None);
        }
        let Some(text) = self.text(bytes) else {
            return (Json::from(&*BASE64_STANDARD.encode(bytes)), Some("base64"));
        };
        if may_be_json && let Ok(value) = Json::result(&text) {
            return (value, None);
        }
        (Json::from(&*text), None)
    }

    /// The bytes as text, if they are text.
    fn text<'b>(&self, bytes: &'b [u8]) -> Option<Cow<'b, str>> {
        let bom =
            Encoding::for_bom(bytes).map(|(encoding, _)| encoding).filter(|bom| *bom == UTF_8 || self.names_text());
        let (text, malformed) = bom.or(self.charset).unwrap_or(UTF_8).decode_with_bom_removal(bytes);
        (!malformed).then_some(text)
    }

    /// True for types that are text by their name: other types may begin with the bytes of a byte order mark by chance.
    fn names_text(&self) -> bool {
        self.charset.is_some()
            || self.names_json()
            || self.essence.starts_with("text/")
            || self.essence == "application/xml"
            || self.essence.ends_with("+xml")
    }

    fn names_json(&self) -> bool {
        matches!(self.essence.as_str(), "application/json" | "text/json") || self.essence.ends_with("+json")
    }
}

/// The parts of a field between semicolons, except for those in quoted strings (RFC 9110, section 5.6.6).
fn split(field: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    field.split(move |sign: char| {
        match sign {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        sign == ';' && !quoted
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(media: &str, bytes: &[u8]) -> (Value, Option<&'static str>) {
        let mut headers = HeaderMap::new();
        if !media.is_empty() {
            headers.insert("content-type", media.parse().expect("a media type"));
        }
        let (result, encoding) = Media::of(&headers).read(bytes);
        (result.value(), encoding)
    }

    #[test]
    fn json_is_a_body_with_the_type_or_one_that_parses_without_a_type() {
        for media in
            ["application/json", "Application/JSON; charset=utf-8", "application/problem+json", "text/json", ""]
        {
            assert_eq!(read(media, b"{\"a\":1}"), (json!({"a": 1}), None), "{media}");
        }
        assert_eq!(read("text/plain", b"{\"a\":1}"), (json!("{\"a\":1}"), None));
        assert_eq!(read("application/json", b"\xEF\xBB\xBF[1]"), (json!([1]), None));
    }

    #[test]
    fn a_body_that_is_not_json_is_text() {
        assert_eq!(read("application/json", b"oops"), (json!("oops"), None));
        assert_eq!(read("", b"hello"), (json!("hello"), None));
    }

    #[test]
    fn a_body_that_is_not_text_is_base64() {
        assert_eq!(read("image/png", &[0x89, 0x50, 0xff]), (json!("iVD/"), Some("base64")));
        assert_eq!(read("", &[0xff]), (json!("/w=="), Some("base64")));
    }

    #[test]
    fn an_empty_body_is_null_unless_its_type_is_text() {
        assert_eq!(read("", b""), (Value::Null, None));
        assert_eq!(read("application/json", b""), (Value::Null, None));
        assert_eq!(read("text/plain", b""), (json!(""), None));
    }

    #[test]
    fn json_that_is_nested_too_deep_to_parse_is_text() {
        let deep = "[".repeat(100_000);
        assert_eq!(read("application/json", deep.as_bytes()), (json!(deep), None));
    }
}
