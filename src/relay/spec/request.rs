//! The rules of a request for a stream of a remote; shared by relays and merged streams. Pure.
//!
//! All mistakes are reported, each with its field. No message quotes the value of a header field, which may be a secret.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::{Limits, SourceSpec};
use crate::upstream::{Purpose, events::Source, is_reserved, parse_method};

/// Maximum number of header fields of one request; less than common servers accept.
const MAX_HEADERS: usize = 64;
/// Fields that the reader of an event stream sets itself. Like the fields of the connection, they are refused and not
/// dropped, so that no client believes that they were sent.
const READER_FIELDS: [HeaderName; 3] =
    [header::ACCEPT, header::ACCEPT_ENCODING, HeaderName::from_static("last-event-id")];

// === impl SourceSpec ===

impl SourceSpec {
    /// The request for this source. `fail` gets the field and the text of each mistake.
    pub(in crate::relay) fn request(
        &self,
        limits: Limits<'_>,
        purpose: Purpose,
        fail: &mut impl FnMut(&str, String),
    ) -> Option<Source> {
        let method = self.method(fail);
        let mut headers = self.headers(purpose, fail);
        if self.body.is_some() && method == Some(Method::GET) {
            fail("body", "a GET has no body; say `\"method\": \"POST\"`".into());
        }
        let (body, media) = match self.body.as_ref().map(|body| (body, body.string())) {
            None => (Bytes::new(), None),
            Some((_, Some(text))) => (Bytes::from(text), Some("text/plain; charset=utf-8")),
            Some((json, None)) => (Bytes::from(json.get().to_owned()), Some("application/json")),
        };
        if let Some(media) = media {
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(media));
        }
        let Some(name) = self.remote.as_deref().or(limits.config.default_remote.as_deref()) else {
            fail("remote", "is missing, and the node has no `relay.default_remote`".into());
            return None;
        };
        let remote = limits.remotes.get(name).map_err(|unknown| fail("remote", unknown.to_string())).ok()?.clone();
        if self.path.is_empty() {
            fail("path", "is missing: name a path of the remote, such as `/api/sse/sample-parallel`".into());
            return None;
        }
        let url = remote.client_url(&self.path).map_err(|bad| fail("path", bad.to_string())).ok()?;
        let pace = limits.config.pace();
        Some(Source { method: method?, headers, body, pace, ..Source::get(remote, url, purpose) })
    }

    fn method(&self, fail: &mut impl FnMut(&str, String)) -> Option<Method> {
        parse_method(self.method.as_deref().unwrap_or("GET")).map_err(|reason| fail("method", reason)).ok()
    }

    fn headers(&self, purpose: Purpose, fail: &mut impl FnMut(&str, String)) -> HeaderMap {
        let mut fields = HeaderMap::new();
        if let Some(written) = self.headers.as_ref().filter(|written| written.len() > MAX_HEADERS) {
            fail("headers", format!("has {} fields, at most {MAX_HEADERS}", written.len()));
            return fields;
        }
        for (name, value) in self.headers.iter().flatten() {
            let shown: String = name.escape_debug().take(64).collect();
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            let Some((name, mut value)) = parsed else {
                let detail = format!("`{shown}` is no header field: names are tokens, values have no line break");
                fail("headers", detail);
                continue;
            };
            if is_reserved(&name) || READER_FIELDS.contains(&name) {
                let begins = purpose == Purpose::Relay && name == "last-event-id";
                let hint = if begins { "say `lastEventId`" } else { "leave it out" };
                fail("headers", format!("`{shown}` is set by the node itself; {hint}"));
                continue;
            }
            value.set_sensitive(true);
            if fields.insert(name, value).is_some() {
                fail("headers", format!("`{shown}` is given twice; names have no case"));
            }
        }
        fields
    }
}
