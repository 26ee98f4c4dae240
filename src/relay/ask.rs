//! What is asked of a remote, as a client writes it; one reading for relays and merged streams. Pure.
//!
//! All mistakes are told, each with its field; no message quotes the value of a header field, which may be a secret.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::Config;
use crate::{
    json::Json,
    upstream::{Purpose, Remotes, events::Source, parse_method},
};

/// What the node allows and offers; what a request is checked against.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The settings in force.
    pub config: &'a Config,
    /// Whom a source can name.
    pub remotes: &'a Remotes,
}

/// A request as it is written.
pub struct Written<'a> {
    /// `relay.default_remote` where it is missing.
    pub remote: Option<&'a str>,
    pub path: &'a str,
    /// GET where it is missing.
    pub method: Option<&'a str>,
    pub headers: Option<&'a BTreeMap<String, String>>,
    /// A string as it is, any other value as JSON.
    pub body: Option<&'a Json>,
}

/// Most header fields of one request; below what common servers take.
const MAX_HEADERS: usize = 64;
/// Fields that belong to the connection, and those that reading an event stream sets itself. They are refused rather than
/// dropped, so that nobody believes that they were sent.
const FOREIGN: [HeaderName; 17] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("last-event-id"),
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    HeaderName::from_static("trailers"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
];

// === impl Written ===

impl Written<'_> {
    /// The source that it names; `fail` hears of each mistake, the field first.
    pub fn source(
        &self,
        limits: Limits<'_>,
        purpose: Purpose,
        fail: &mut impl FnMut(&'static str, String),
    ) -> Option<Source> {
        let method = self.method(fail);
        let mut headers = self.headers(purpose, fail);
        if self.body.is_some() && method == Some(Method::GET) {
            fail("body", "a GET has no body; say `\"method\": \"POST\"`".into());
        }
        let (body, media) = match self.body.map(|body| (body, body.string())) {
            None => (Bytes::new(), None),
            Some((_, Some(text))) => (Bytes::from(text), Some("text/plain; charset=utf-8")),
            Some((json, None)) => (Bytes::from(json.get().to_owned()), Some("application/json")),
        };
        if let Some(media) = media {
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(media));
        }
        let Some(name) = self.remote.or(limits.config.default_remote.as_deref()) else {
            fail("remote", "is missing, and the node has no `relay.default_remote`".into());
            return None;
        };
        let remote = limits.remotes.get(name).map_err(|unknown| fail("remote", unknown.to_string())).ok()?.clone();
        if self.path.is_empty() {
            fail("path", "is missing: name a path of the remote, such as `/api/sse/sample-parallel`".into());
            return None;
        }
        let url = remote.client_url(self.path).map_err(|bad| fail("path", bad.to_string())).ok()?;
        let pace = limits.config.pace();
        Some(Source { method: method?, headers, body, pace, ..Source::get(remote, url, purpose) })
    }

    fn method(&self, fail: &mut impl FnMut(&'static str, String)) -> Option<Method> {
        parse_method(self.method.unwrap_or("GET")).map_err(|reason| fail("method", reason)).ok()
    }

    fn headers(&self, purpose: Purpose, fail: &mut impl FnMut(&'static str, String)) -> HeaderMap {
        let mut fields = HeaderMap::new();
        if let Some(written) = self.headers.filter(|written| written.len() > MAX_HEADERS) {
            fail("headers", format!("has {} fields, at most {MAX_HEADERS}", written.len()));
            return fields;
        }
        for (name, value) in self.headers.into_iter().flatten() {
            let shown: String = name.escape_debug().take(64).collect();
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            let Some((name, mut value)) = parsed else {
                let detail = format!("`{shown}` is no header field: names are tokens, values have no line break");
                fail("headers", detail);
                continue;
            };
            if FOREIGN.contains(&name) {
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
