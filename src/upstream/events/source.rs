//! What an event stream is read from, and when it is over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use super::Pace;
use crate::upstream::{Purpose, Remote, Via};

/// What to read, and how to go on when it breaks.
#[derive(Clone)]
pub struct Source {
    /// Whom to ask.
    pub remote: Arc<Remote>,
    /// How.
    pub method: Method,
    /// For what; a URL of the remote's ([`Remote::client_url`]).
    pub url: Url,
    /// Header fields beside the remote's own. `Accept`, `Accept-Encoding` and `Last-Event-ID` are the reader's.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: Bytes,
    /// The `Via` of the request that causes this read.
    pub via: Via,
    /// What the stream is read for.
    pub purpose: Purpose,
    /// When the stream is over.
    pub repeat: Repeat,
    /// An event of this name is the last one; without it no close is an end.
    pub end_event: Option<String>,
    /// How long a connection may bring nothing; the remote's limit where there is none.
    pub read_timeout: Option<Duration>,
    /// How fast it is tried again.
    pub pace: Pace,
}

/// When a stream is over that its server has closed in good order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Then: it had an end.
    #[default]
    UntilEnd,
    /// Only with status 204: it is opened again, as a browser would, and never given up because of passing failures.
    Forever,
}

// === impl Source ===

impl Source {
    /// A GET of this URL, with the remote's own limits.
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
}

impl Source {
    /// True where the request may be sent a second time.
    pub fn may_repeat(&self) -> bool {
        self.remote.may_repeat(&self.method)
    }
}

/// Without header values, query and body: they may hold secrets.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("remote", &self.remote.name())
            .field("method", &self.method)
            .field("path", &self.url.path())
            .finish_non_exhaustive()
    }
}
