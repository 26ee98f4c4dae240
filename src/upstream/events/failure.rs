//! Why a connection of an event stream was not made, or was lost.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::{
    sse::DecodeError,
    upstream::{Busy, Error, Verdict, describe, verdict},
};

/// Why a connection was not made, or was lost.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The wire.
    #[error(transparent)]
    Transport(Error),
    /// Another status than 200 and 204.
    #[error("the remote answered {}{}", describe(*.status), said(.excerpt))]
    Status {
        /// Which.
        status: StatusCode,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
        /// The beginning of what it said.
        excerpt: String,
    },
    /// The answer is no event stream.
    #[error("the remote answered with {}, not with `text/event-stream`", media(.0))]
    ContentType(String),
    /// The answer is encoded in a way that nobody asked for.
    #[error("the remote's answer is encoded as `{0}`; `identity` and `gzip` are taken")]
    Encoding(String),
    /// A line or an event is too long.
    #[error("{0} (`max_event_bytes` of the remote)")]
    Unreadable(DecodeError),
    /// There is no place for another stream.
    #[error(transparent)]
    Busy(Busy),
    /// The stream was closed in good order, and is not over.
    #[error("the remote closed the stream before its end")]
    ClosedEarly,
    /// Somebody ended this connection by its id.
    #[error("the connection was ended by an operator")]
    Ended,
    /// The remote may have got a request that must not be sent twice.
    #[error("{failure}; a {method} is not sent again, unless `repeat_post` of the remote permits it")]
    NotRepeated {
        /// The method.
        method: Method,
        /// What has happened.
        #[source]
        failure: Box<Self>,
    },
}

/// What can be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It may pass by itself.
    Passing,
    /// The remote refuses; where it has served this request before, that may pass, too.
    Refusal,
    /// It will be the same the next time.
    Final,
}

// === impl Failure ===

impl Failure {
    /// The failure as one stable word, for events and metrics.
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

    /// What `Retry-After` asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::NotRepeated { failure, .. } => failure.retry_after(),
            _ => None,
        }
    }

    /// The status of the answer, where it was not 200.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::NotRepeated { failure, .. } => failure.status(),
            _ => None,
        }
    }

    /// True when the same request may have an answer at another time.
    pub fn passing(&self) -> bool {
        self.nature() == Nature::Passing
    }

    /// True when no server has got the request, if no server has answered it with a redirect before.
    pub(super) fn unsent(&self) -> bool {
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
            Self::Busy(_) | Self::ClosedEarly | Self::Ended => Nature::Passing,
            Self::Transport(error) if error.retryable() => Nature::Passing,
            Self::Status { status, .. } if verdict(*status) == Verdict::Transient => Nature::Passing,
            // The same event would come again, and a bad URL stays one.
            Self::Unreadable(_)
            | Self::Transport(Error::BadUrl { .. } | Error::BadMethod(_) | Error::Loop { .. })
            | Self::Status { status: StatusCode::LOOP_DETECTED, .. } => Nature::Final,
            // A certificate that has run out, a page of a proxy, a redirect into nowhere: somebody may repair it.
            Self::Status { .. } | Self::ContentType(_) | Self::Encoding(_) | Self::Transport(_) => Nature::Refusal,
            Self::NotRepeated { failure, .. } => failure.nature(),
        }
    }
}

fn media(named: &str) -> String {
    if named.is_empty() { "no content type".into() } else { format!("`{named}`") }
}

fn said(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!(": {excerpt}") }
}
