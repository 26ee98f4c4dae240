//! What a client asks for: the request body of a relay, as it came and as it was checked.
//!
//! [`Spec`] mirrors the JSON of the HTTP contract, section 4, and refuses fields that it does not know. [`Plan`] is the
//! same after [`Plan::check`]. A client hears of all its mistakes at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    json::Json,
    topic::Topic,
    upstream::events::{Repeat, Source},
};

mod check;
mod own;
#[cfg(test)]
mod tests;

/// The request body of a relay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RelaySpec, examples(json!({
    "topic": "orders:all", "sources": [{ "remote": "reactive", "path": "/api/sse/sample-parallel", "label": "sample" }],
    "repeat": "until_end", "endEvent": "complete",
})))]
pub struct Spec {
    /// A topic that also gets the events; at most one of `topic`, `user` and `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// A user whose own topic also gets the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A group whose topic also gets the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What to read; at least one, at most `relay.max_sources`.
    #[serde(default)]
    #[schema(min_items = 1, required = true)]
    pub sources: Vec<SourceSpec>,
    /// When a source is over that its server has closed in good order.
    #[serde(default)]
    pub repeat: Repeat,
    /// An event of this name is the last one of its source; without it no close is an end.
    #[schema(min_length = 1, max_length = 255)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_event: Option<String>,
}

/// One source of a relay: a stream of a remote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RelaySource)]
pub struct SourceSpec {
    /// Whom to ask; `relay.default_remote` where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// For what: a path, with query, that the remote's allow-list has.
    #[serde(default)]
    #[schema(min_length = 1, required = true)]
    pub path: String,
    /// The method, by default `GET`; any HTTP method except `CONNECT` and `TRACE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Header fields beside the remote's own, at most 64. Their values are shown to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// The request's body: a string as it is, any other JSON value as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub body: Option<Json>,
    /// Names the source within the relay; the remote's name where it is missing.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Begin after this event of the remote.
    #[schema(max_length = 1024)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_id: Option<String>,
    /// A connection that brings nothing for so many milliseconds is broken off; the remote's limit where it is missing.
    #[schema(minimum = 1, maximum = 86_400_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_timeout_ms: Option<u64>,
    /// The first delay before a lost stream is opened again; `relay.initial_retry_ms` where it is missing.
    #[schema(minimum = 100, maximum = 3_600_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_retry_ms: Option<u64>,
}

/// One thing that is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RelayFieldError)]
pub struct FieldError {
    /// Where: `sources[1].path`.
    pub field: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// A spec that was checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topic beside the relay's own.
    pub target: Option<Topic>,
    /// What to read.
    pub sources: Vec<PlannedSource>,
}

/// A source that was checked.
#[derive(Clone, Debug)]
pub struct PlannedSource {
    /// Unique in the relay.
    pub label: String,
    /// How to read it.
    pub source: Source,
    /// The id to begin after; empty for none.
    pub start: String,
    /// Equal for sources that one connection can serve.
    pub key: Key,
}

/// What makes sources equal: the same request with the same credentials, read in the same way from the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// What is shown in place of a header's value.
const REDACTED: &str = "***";

// === impl Spec ===

impl Spec {
    /// What it weighs as JSON.
    pub(super) fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |json| json.len())
    }

    /// The same without secrets: the values of header fields are not shown, `Content-Type` aside.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut spec = self.clone();
        for (name, value) in spec.sources.iter_mut().filter_map(|source| source.headers.as_mut()).flatten() {
            if !name.eq_ignore_ascii_case("content-type") {
                REDACTED.clone_into(value);
            }
        }
        spec
    }
}

// === impl FieldError ===

impl FieldError {
    pub(super) fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}

// === impl Key ===

impl Key {
    fn of(source: &Source, start: &str) -> Self {
        let mut hash = Sha256::new();
        let mut text = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for part in [source.remote.name(), source.method.as_str(), source.url.as_str(), start] {
            text(part.as_bytes());
        }
        let mut fields: Vec<_> = source.headers.iter().collect();
        fields.sort_by(|a, b| (a.0.as_str(), a.1.as_bytes()).cmp(&(b.0.as_str(), b.1.as_bytes())));
        text(&fields.len().to_le_bytes());
        for (name, value) in fields {
            text(name.as_str().as_bytes());
            text(value.as_bytes());
        }
        text(&source.body);
        let timing = (source.read_timeout, source.pace.initial, source.pace.max);
        text(format!("{:?} {:?} {timing:?}", source.repeat, source.end_event).as_bytes());
        Self(hash.finalize().into())
    }
}
