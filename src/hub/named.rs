//! Named streams: streams whose topics the operator sets, at a path of their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::topic::{Pattern, Topic};

/// Settings of one section `[streams.NAME]`: GET `/api/sse/NAME`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamedConfig {
    /// Topics, and prefixes with a trailing `*`, that the stream receives.
    pub topics: Vec<Pattern>,
    /// Groups that the stream joins. It receives their topics.
    pub groups: Vec<String>,
    /// Header fields that are added to the response.
    pub headers: BTreeMap<String, String>,
    /// Name of the first frame instead of `connection`; its data then also have `clientId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_event: Option<String>,
    /// In token mode: any caller may open the stream. Otherwise a caller needs the rights for all its topics and groups.
    pub public: bool,
}

/// Names under `/api/sse/` that other routes use; a named stream must not have them.
pub const RESERVED: [&str; 8] = [
    "emitter",
    "flow-example",
    "managed",
    "parallel-tasks",
    "parallel-tasks-progress",
    "rate-limited-sse",
    "sample-parallel",
    "samples",
];

/// Header fields that make a response an event stream, or that belong to the connection. A named stream cannot set them.
const FIXED_FIELDS: [&str; 11] = [
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "keep-alive",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-accel-buffering",
    "x-content-type-options",
];

// === impl NamedConfig ===

impl NamedConfig {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// Returns a message with the key and the accepted form.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let wrong = |key: &str, error: &str| Err(format!("`streams.{name}.{key}`: {error}"));
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            return Err(format!("`streams.{name}`: a name has 1 to 64 letters, digits, `-`, `_` or `.`"));
        }
        // In a path, `.` and `..` are not names.
        if RESERVED.contains(&name) || name.chars().all(|c| c == '.') {
            return Err(format!("`streams.{name}`: this name is taken, choose another one"));
        }
        if self.topics.is_empty() && self.groups.is_empty() {
            return wrong("topics", "a stream without topics and groups would receive nothing");
        }
        if let Some(invalid) = self.groups.iter().find_map(|group| Topic::group(group).err()) {
            return wrong("groups", &invalid.to_string());
        }
        for (field, value) in &self.headers {
            if FIXED_FIELDS.contains(&field.to_ascii_lowercase().as_str()) {
                return wrong("headers", &format!("`{field}` is a fixed field of event streams and cannot be changed"));
            }
            if field.parse::<http::HeaderName>().is_err() || value.parse::<http::HeaderValue>().is_err() {
                return wrong("headers", &format!("`{field}` is not a valid header field"));
            }
        }
        let frame = self.connected_event.as_deref();
        if frame.is_some_and(|frame| frame.is_empty() || frame.contains(['\r', '\n', '\0'])) {
            return wrong("connected_event", "it is not a valid event name");
        }
        Ok(())
    }

    /// All topics and patterns that the stream receives.
    pub fn subscribed_topics(&self) -> impl Iterator<Item = Pattern> {
        let groups = self.groups.iter().filter_map(|group| Topic::group(group).ok().map(Pattern::from));
        self.topics.iter().cloned().chain(groups)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(settings: serde_json::Value, name: &str) -> Result<(), String> {
        let config: NamedConfig = serde_json::from_value(settings).map_err(|error| error.to_string())?;
        config.check(name)
    }

    #[test]
    fn an_invalid_stream_is_rejected_with_its_key() {
        assert_eq!(checked(json!({ "topics": ["a", "b:*"], "headers": { "X-A": "b" } }), "news"), Ok(()));
        let topics = || json!(["a"]);
        for (settings, name, named) in [
            (json!({}), "news", "`streams.news.topics`"),
            (json!({ "topics": ["a b"] }), "news", "a b"),
            (json!({ "groups": ["a b"] }), "news", "`streams.news.groups`"),
            (json!({ "topics": topics() }), "managed", "taken"),
            (json!({ "topics": topics() }), "..", "taken"),
            (json!({ "topics": topics() }), "a/b", "letters"),
            (
                json!({ "topics": topics(), "headers": { "content-TYPE": "text/html" } }),
                "news",
                "`streams.news.headers`",
            ),
            (json!({ "topics": topics(), "headers": { "X A": "1" } }), "news", "`X A`"),
            (json!({ "topics": topics(), "headers": { "X-A": "1\n" } }), "news", "`X-A`"),
            (json!({ "topics": topics(), "connected_event": "a\nid: 1" }), "news", "`streams.news.connected_event`"),
        ] {
            let error = checked(settings, name).unwrap_err();
            assert!(error.contains(named), "{name} {named}: {error}");
        }
    }
}
