//! The HTTP request that a client defines; pure except for a random span id.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    jobs::handler::{Task, TaskError},
    json::Json,
    text::{excerpt, hex},
    upstream::{self, HeaderMap, HeaderName, HeaderValue, Method, Request, Trust},
};

/// The input of an HTTP task. All fields but the URL may be missing or `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// An absolute URL, http or https, without credentials.
    pub url: String,
    /// Any HTTP method except CONNECT and TRACE; the usual ones in upper or lower case.
    #[serde(default = "get", deserialize_with = "method")]
    pub method: String,
    /// Header fields, each name once. They replace the fields that are added: `Idempotency-Key`, `traceparent`, and the
    /// content type.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// `null` for no body. A string is sent unchanged, as `text/plain` unless the headers set a type; any other value
    /// as JSON.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub body: Json,
    /// For an event stream: the name of its last event, or `[DONE]`. A stream that ends without it is truncated.
    #[serde(default, rename = "endEvent", skip_serializing_if = "Option::is_none")]
    pub end_event: Option<String>,
    /// For an event stream: the meaning of an event `error`.
    #[serde(
        default,
        rename = "errorEvents",
        deserialize_with = "or_default",
        skip_serializing_if = "ErrorEvents::is_default"
    )]
    pub error_events: ErrorEvents,
}

/// The meaning of an event `error` for the task that reads the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ErrorEvents {
    /// The task fails with this error.
    #[default]
    Fail,
    /// It is an ordinary event.
    Ignore,
}

fn get() -> String {
    "GET".into()
}

fn method<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_else(get))
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

// === impl ErrorEvents ===

impl ErrorEvents {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Input ===

impl Input {
    /// A plain GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: get(),
            headers: BTreeMap::new(),
            body: Json::null(),
            end_event: None,
            error_events: ErrorEvents::default(),
        }
    }

    /// Checks everything that can be checked before sending, so that a wrong job is rejected when it is submitted.
    ///
    /// # Errors
    /// Codes `bad_url`, `bad_method` and `bad_header`. No message quotes a header's value: it may be a secret.
    pub fn check(&self) -> Result<(), TaskError> {
        upstream::parse_url(&self.url)?;
        self.method()?;
        self.headers().map(drop)
    }

    /// The request of one attempt.
    pub(super) fn request(&self, task: &Task, trust: Trust) -> Result<Request, TaskError> {
        let mut request = Request::new(self.method()?, self.url.as_str(), trust);
        request.headers = self.headers()?;
        request.via = Some(task.via.clone());
        let (body, media) = match self.body.string() {
            None if self.body.is_null() => (Bytes::new(), None),
            Some(text) => (Bytes::from(text), Some("text/plain; charset=utf-8")),
            None => (Bytes::from(self.body.get().to_owned()), Some("application/json")),
        };
        request.body = body;
        if let Some(media) = media {
            request.headers.entry("content-type").or_insert(HeaderValue::from_static(media));
        }
        request.headers.entry("idempotency-key").or_insert_with(|| idempotency_key(task));
        // All requests of a job share the trace, and each attempt is a span.
        request.headers.entry("traceparent").or_insert_with(|| task.via.traceparent_or_new(&task.job_id));
        Ok(request)
    }

    fn method(&self) -> Result<Method, TaskError> {
        upstream::parse_method(&self.method).map_err(|reason| TaskError::fatal("bad_method", reason))
    }

    fn headers(&self) -> Result<HeaderMap, TaskError> {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 3);
        for (name, value) in &self.headers {
            let bad = |reason: &str| {
                let name = excerpt(name, 80);
                TaskError::fatal("bad_header", format!("header `{}` {reason}", name.escape_debug()))
            };
            let field =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("has a name that HTTP does not know"))?;
            // Rejected, not dropped: the author of the task would otherwise believe that the field was sent.
            if upstream::is_reserved(&field) {
                return Err(bad("belongs to the connection and cannot be set; leave it out"));
            }
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| bad("has a value with line breaks or control characters; take them out"))?;
            if headers.insert(field, value).is_some() {
                return Err(bad("is given twice; names have no case"));
            }
        }
        Ok(headers)
    }
}

/// The task's key; hashed if it has characters that a header field cannot carry.
fn idempotency_key(task: &Task) -> HeaderValue {
    let key = Bytes::from(task.idempotency_key());
    HeaderValue::from_maybe_shared(key.clone()).unwrap_or_else(|_| {
        HeaderValue::from_str(&hex(&Sha256::digest(&key))).expect("hexadecimal digits are header text")
    })
}
