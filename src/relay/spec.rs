//! The request body of a relay, before and after it is checked.
//!
//! [`Spec`] is the JSON of the HTTP contract, section 4, and refuses unknown fields. [`Spec::check`] reports all mistakes
//! at once.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::Config;
use crate::{
    json::Json,
    upstream::{
        Remotes,
        events::{Repeat, Source},
    },
};

mod check;
mod own;
mod request;
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
    /// The streams to read; at least one, at most `relay.max_sources`.
    #[serde(default)]
    #[schema(min_items = 1, required = true)]
    pub sources: Vec<SourceSpec>,
    /// Whether a source has ended when its server closes the stream in good order.
    #[serde(default)]
    pub repeat: Repeat,
    /// The name of the last event of each source. If it is set, a closed stream without this event is opened again.
    #[schema(min_length = 1, max_length = 255)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_event: Option<String>,
}

/// One source of a relay: a stream of a remote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RelaySource)]
pub struct SourceSpec {
    /// The remote to read; without it, `relay.default_remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The path to read, with query. The `paths` of the remote must permit it.
    #[serde(default)]
    #[schema(min_length = 1, required = true)]
    pub path: String,
    /// The method, by default `GET`; any HTTP method except `CONNECT` and `TRACE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Header fields beside the remote's own, at most 64. Their values are never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// The body of the request: a string as it is, any other value as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub body: Option<Json>,
    /// The name of the source within the relay; without it, the name of the remote.
    #[schema(min_length = 1, max_length = 64)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Begin after the event with this id.
    #[schema(max_length = 1024)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_id: Option<String>,
    /// A connection without data for this time is closed, in milliseconds; without it, the limit of the remote.
    #[schema(minimum = 1, maximum = 86_400_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_timeout_ms: Option<u64>,
    /// The first delay before a lost stream is opened again, in milliseconds; without it, `relay.initial_retry_ms`.
    #[schema(minimum = 100, maximum = 3_600_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_retry_ms: Option<u64>,
}

/// What a spec is checked against.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The settings of section `[relay]`.
    pub config: &'a Config,
    /// The remotes that a source can name.
    pub remotes: &'a Remotes,
}

/// A checked source.
#[derive(Clone, Debug)]
pub struct PlannedSource {
    /// The request, and how it is repeated.
    pub source: Source,
    /// The id after which the source begins; empty for its start.
    pub start: String,
    /// Equal for sources that one connection can serve.
    pub key: Key,
}

/// A fingerprint of a source: the request with its credentials, the way it is read, and the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// Shown in place of the value of a header field.
const REDACTED: &str = "***";

// === impl Spec ===

impl Spec {
    /// The size as JSON, in bytes.
    pub(super) fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |json| json.len())
    }

    /// The spec without secrets: the values of header fields are hidden, except `Content-Type`.
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

/// The name, or the name with a number if the label is taken. Adds it to the labels.
pub(super) fn unused_label(labels: &mut HashSet<String>, name: &str, separator: char) -> String {
    let numbered = (2_u32..).map(|number| format!("{name}{separator}{number}"));
    let mut candidates = std::iter::once(name.to_owned()).chain(numbered);
    let label = candidates.find(|label| !labels.contains(label)).expect("there are more numbers than sources");
    labels.insert(label.clone());
    label
}
