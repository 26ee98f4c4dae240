//! The description of a remote event stream: its request, its end, its reconnects.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use super::Pace;
use crate::upstream::{Purpose, Remote, Via};

/// A remote event stream, and how a reader reconnects to it.
#[derive(Clone)]
pub struct Source {
    /// The remote that serves the stream.
    pub remote: Arc<Remote>,
    /// The method of the request.
    pub method: Method,
    /// The URL of the stream at the remote ([`Remote::client_url`]).
    pub url: Url,
    /// Header fields in addition to those of the remote. The reader sets `Accept`, `Accept-Encoding` and `Last-Event-ID`.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: Bytes,
    /// The `Via` of the request that caused the reader.
    pub via: Via,
    /// The purpose of the stream.
    pub purpose: Purpose,
    /// When the stream ends.
    pub repeat: Repeat,
    /// The name of the last event. If it is set, a close before this event is not an end.
    pub end_event: Option<String>,
    /// Maximum pause of a connection; `None` for the limit of the remote.
    pub read_timeout: Option<Duration>,
    /// The delays before reconnects.
    pub pace: Pace,
}

/// When a stream ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// When the server closes it properly.
    #[default]
    UntilEnd,
    /// Only with status 204. The reader reconnects after each close, as a browser does, and never gives up because of
    /// transient failures.
    Forever,
}

// === impl Source ===

impl Source {
    /// Creates a GET of this URL with the limits of the remote.
    pub fn get(remote: Arc<Remote>, url: Url, purpose: Purpose) -> Self {
        Self {
            remote,
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            via: Via::default(),
            purpose,
            repeat: Repeat::UntilEnd,
            end_event: None,
            read_timeout: None,
            pace: Pace::default(),
        }
    }

    /// True if the request can be repeated.
    pub fn may_repeat(&self) -> bool {
        self.remote.may_repeat(&self.method)
    }
}

/// Shows no header values, query or body, because they may contain secrets.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("remote", &self.remote.name())
            .field("method", &self.method)
            .field("path", &self.url.path())
            .finish_non_exhaustive()
    }
}
