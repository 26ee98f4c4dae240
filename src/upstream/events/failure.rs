//! Why a connection of an event stream could not be opened, or was lost; pure.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::{
    sse::DecodeError,
    upstream::{Busy, Error, Verdict, describe, verdict},
};

/// Why a connection of an event stream could not be opened, or was lost.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The request failed, or the body was cut off.
    #[error(transparent)]
    Transport(Error),
    /// The status is neither 200 nor 204.
    #[error("the remote answered {}{}", describe(*.status), suffix(.excerpt))]
    Status {
        /// The status.
        status: StatusCode,
        /// The delay in `Retry-After`.
        retry_after: Option<Duration>,
        /// The beginning of the text in the body; empty without one.
        excerpt: String,
    },
    /// The response is not an event stream; with its content type.
    #[error("the remote answered with {}, not with `text/event-stream`", media_type(.0))]
    ContentType(String),
    /// The response has a content encoding that is not supported; with its name.
    #[error("the response is encoded as `{0}`; only `identity` and `gzip` are supported")]
    Encoding(String),
    /// A line or an event is above the size limit.
    #[error("{0} (`max_event_bytes` of the remote)")]
    Unreadable(DecodeError),
    /// A limit of open streams is reached.
    #[error(transparent)]
    Busy(Busy),
    /// The server closed the connection properly, but the stream continues.
    #[error("the remote closed the stream before its end")]
    ClosedEarly,
    /// An operator ended the connection.
    #[error("the connection was ended by an operator")]
    Ended,
    /// The remote may have received a request that must not be repeated.
    #[error("{failure}; a {method} is not sent again, unless `repeat_post` of the remote permits it")]
    NotRepeated {
        /// The method of the request.
        method: Method,
        /// The failure.
        #[source]
        failure: Box<Self>,
    },
}

/// Whether a repeat of the request can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// A repetition of the request may succeed later.
    Transient,
    /// The remote refuses the request. If it has served the request before, the refusal may be temporary.
    Refusal,
    /// A repeat would fail in the same way.
    Final,
}

// === impl Failure ===

impl Failure {
    /// A stable code of the failure, for events and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Transport(error) => error.code(),
            Self::Status { status: StatusCode::LOOP_DETECTED, .. } => "loop_detected",
            Self::Status { .. } => "http_status",
            Self::ContentType(_) => "content_type",
            Self::Encoding(_) => "unsupported_encoding",
            Self::Unreadable(_) => "event_too_large",
            Self::Busy(_) => "busy",
            Self::ClosedEarly => "closed",
            Self::Ended => "ended",
            Self::NotRepeated { failure, .. } => failure.code(),
        }
    }

    /// The delay in `Retry-After`, if the response had one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::NotRepeated { failure, .. } => failure.retry_after(),
            _ => None,
        }
    }

    /// The status of the response, if it caused the failure.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::NotRepeated { failure, .. } => failure.status(),
            _ => None,
        }
    }

    /// True if the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        self.nature() == Nature::Transient
    }

    /// True if the server cannot have received the request. After a redirect, an earlier server has received it.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::Busy(_) => true,
            Self::Transport(error) => matches!(
                error,
                Error::Connect { .. }
                    | Error::ConnectTimeout { .. }
                    | Error::Resolve { .. }
                    | Error::Tls { .. }
                    | Error::Loop { .. }
            ),
            _ => false,
        }
    }

    pub(super) fn nature(&self) -> Nature {
        match self {
            Self::Busy(_) | Self::ClosedEarly | Self::Ended => Nature::Transient,
            Self::Transport(error) if error.retryable() => Nature::Transient,
            Self::Status { status, .. } if verdict(*status) == Verdict::Transient => Nature::Transient,
            // The server would send the same event again, and a bad URL stays bad.
            Self::Unreadable(_)
            | Self::Transport(Error::BadUrl { .. } | Error::BadMethod(_) | Error::Loop { .. })
            | Self::Status { status: StatusCode::LOOP_DETECTED, .. } => Nature::Final,
            // An expired certificate, an error page of a proxy or a bad redirect may be repaired.
            Self::Status { .. } | Self::ContentType(_) | Self::Encoding(_) | Self::Transport(_) => Nature::Refusal,
            Self::NotRepeated { failure, .. } => failure.nature(),
        }
    }
}

fn media_type(name: &str) -> String {
    if name.is_empty() { "no content type".into() } else { format!("`{name}`") }
}

/// The text of the body, to append to a message.
fn suffix(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!(": {excerpt}") }
}
