//! What a body is worth as a task's result: JSON, text, or base64; pure.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::Value;

use crate::upstream::HeaderMap;

/// From this size on parsing or encoding would hold up the other tasks of the thread.
const LARGE: usize = 128 * 1024;

/// A media type without its parameters, in lower case; empty where the response names none.
#[derive(Clone, Debug)]
pub struct Media(String);

// === impl Media ===

impl Media {
    /// What the fields of a response name.
    pub fn of(headers: &HeaderMap) -> Self {
        let field = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        Self(field.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }

    /// True for this type.
    pub fn is(&self, media: &str) -> bool {
        self.0 == media
    }

    /// The body as a result, with its `encoding` where it is no text. Large ones are read on another thread.
    pub async fn interpret(self, bytes: Bytes) -> (Value, Option<&'static str>) {
        if bytes.len() < LARGE {
            return self.read(&bytes);
        }
        tokio::task::spawn_blocking(move || self.read(&bytes)).await.expect("reading bytes does not panic")
    }

    fn read(&self, bytes: &[u8]) -> (Value, Option<&'static str>) {
        if bytes.is_empty() && (self.0.is_empty() || self.names_json()) {
            return (Value::Null, None);
        }
        if self.0.is_empty() || self.names_json() {
            // A byte order mark is no JSON, but some servers send one.
            let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            if let Ok(value) = serde_json::from_slice(text) {
                return (value, None);
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => (Value::String(text.to_owned()), None),
            Err(_) => (Value::String(BASE64_STANDARD.encode(bytes)), Some("base64")),
        }
    }

    fn names_json(&self) -> bool {
        matches!(self.0.as_str(), "application/json" | "text/json") || self.0.ends_with("+json")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(media: &str, bytes: &[u8]) -> (Value, Option<&'static str>) {
        let mut headers = HeaderMap::new();
        if !media.is_empty() {
            headers.insert("content-type", media.parse().expect("a media type"));
        }
        Media::of(&headers).read(bytes)
    }

    #[test]
    fn json_is_what_the_type_says_or_what_parses_without_a_type() {
        for media in
            ["application/json", "Application/JSON; charset=utf-8", "application/problem+json", "text/json", ""]
        {
            assert_eq!(read(media, b"{\"a\":1}"), (json!({"a": 1}), None), "{media}");
        }
        assert_eq!(read("text/plain", b"{\"a\":1}"), (json!("{\"a\":1}"), None));
        assert_eq!(read("application/json", b"\xEF\xBB\xBF[1]"), (json!([1]), None));
    }

    #[test]
    fn what_is_no_json_after_all_is_text() {
        assert_eq!(read("application/json", b"oops"), (json!("oops"), None));
        assert_eq!(read("", b"hello"), (json!("hello"), None));
    }

    #[test]
    fn what_is_no_text_is_base64() {
        assert_eq!(read("image/png", &[0x89, 0x50, 0xff]), (json!("iVD/"), Some("base64")));
        assert_eq!(read("", &[0xff]), (json!("/w=="), Some("base64")));
    }

    #[test]
    fn nothing_is_null_unless_the_type_says_text() {
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
