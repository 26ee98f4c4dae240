//! Why a request got no answer, or not all of it.
//!
//! Owns the one error type of outgoing requests and the translation of the transport's errors into it, so that jobs,
//! relays and webhooks speak of failures with the same codes. An HTTP status is no error: it is an answer.

use std::{error::Error as StdError, io, net::SocketAddr, time::Duration};

use awc::error::PayloadError;
use http::Method;

use super::head::{MAX_BYTES, MAX_FIELDS, MAX_PARSED, Refused};

/// Why a request failed. Cheap to clone, so that it can stand in a job's state and in an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The URL can never be asked for.
    #[error("bad URL: {reason}")]
    BadUrl {
        /// What is wrong; never quotes credentials.
        reason: String,
    },
    /// `CONNECT` and `TRACE` make no sense here: one opens a tunnel, the other reflects credentials.
    #[error("method `{0}` is not sent; use any other HTTP method, such as GET or POST")]
    BadMethod(Method),
    /// The egress guard refuses every address of the host. The message keeps the address to itself when the host is a
    /// name: who may name a URL need not learn how the names of this network resolve. `addr` is for the log.
    #[error("`{host}` is refused: it is {reason}; to permit it name `{host}:{port}` in `[egress] allow`", port = addr.port())]
    Refused {
        /// The host as the URL names it.
        host: String,
        /// The first refused address.
        addr: SocketAddr,
        /// What the address is, e.g. `a loopback address`.
        reason: &'static str,
    },
    /// The name has no address, or the resolver failed.
    #[error("`{host}` cannot be resolved: {reason}")]
    Resolve {
        /// The host as the URL names it.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// No address accepted the connection.
    #[error("cannot connect to `{host}`: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// The system's words about the last address.
        reason: String,
    },
    /// Name lookup, TCP and TLS together took longer than `connect_timeout`.
    #[error("connecting to `{host}` took longer than {after:?}")]
    ConnectTimeout {
        /// Host and port.
        host: String,
        /// The limit in force.
        after: Duration,
    },
    /// The TLS handshake failed, mostly because of the certificate.
    #[error("TLS with `{host}` failed: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// What rustls says.
        reason: String,
    },
    /// No response head came in time.
    #[error("no response within {after:?}")]
    HeadTimeout {
        /// The limit in force.
        after: Duration,
    },
    /// The body paused for too long.
    #[error("the response body paused for longer than {after:?}")]
    IdleTimeout {
        /// The limit in force.
        after: Duration,
    },
    /// The connection ended before the response head was complete.
    #[error("the upstream closed the connection before it answered")]
    Closed,
    /// The connection ended before the body was complete.
    #[error("the response body ended before it was complete")]
    Truncated,
    /// The response head has more fields than permitted.
    #[error("the response has more than {limit} header fields")]
    TooManyFields {
        /// The limit in force.
        limit: usize,
    },
    /// The response head is too large; the parser does not report which limit was exceeded.
    #[error("the response head has more than {bytes} bytes or {fields} fields")]
    HeadTooLarge {
        /// Maximum number of bytes.
        bytes: usize,
        /// Maximum number of fields.
        fields: usize,
    },
    /// The response body is larger than the caller permits.
    #[error("the response has more than {limit} bytes")]
    TooLarge {
        /// The limit in force, in bytes.
        limit: usize,
    },
    /// The redirects do not end.
    #[error("more than {limit} redirects")]
    TooManyRedirects {
        /// Most hops that the request permits.
        limit: u8,
    },
    /// A redirect that is not followed.
    #[error("redirect refused: {reason}")]
    Redirect {
        /// What is wrong with it.
        reason: String,
    },
    /// The response has no valid HTTP status code, which counts as a server error (RFC 9110, section 15).
    #[error("the response has no valid status code")]
    BadStatus,
    /// The causing request is in a loop (`Via`), so this request is not sent.
    #[error("the request goes in a loop: {reason}")]
    Loop {
        /// How the loop was detected.
        reason: &'static str,
    },
    /// The response has a transfer coding other than `chunked`, which no request asks for.
    #[error("the response has the transfer coding `{0}`; only `chunked` is accepted")]
    Encoding(String),
    /// What came back is no HTTP/1 response.
    #[error("not understood: {0}")]
    Protocol(String),
}

impl Error {
    /// The failure as one stable word, for events and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadUrl { .. } => "bad_url",
            Self::BadMethod(_) => "bad_method",
            Self::Refused { .. } => "egress_refused",
            Self::Resolve { .. } => "dns",
            Self::Connect { .. } => "connect_failed",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::Tls { .. } => "tls",
            Self::HeadTimeout { .. } => "timeout",
            Self::IdleTimeout { .. } => "idle_timeout",
            Self::Closed => "closed",
            Self::Truncated => "truncated",
            Self::TooLarge { .. } | Self::TooManyFields { .. } | Self::HeadTooLarge { .. } => "response_too_large",
            Self::TooManyRedirects { .. } | Self::Redirect { .. } => "redirect",
            Self::Loop { .. } => "loop_detected",
            Self::Encoding(_) => "unsupported_encoding",
            Self::Protocol(_) | Self::BadStatus => "protocol",
        }
    }

    /// True if the same request may succeed later. Says nothing about whether the upstream has acted on it already.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::HeadTimeout { .. }
            | Self::IdleTimeout { .. }
            | Self::Closed
            | Self::Truncated
            | Self::BadStatus => true,
            Self::BadUrl { .. }
            | Self::BadMethod(_)
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::TooLarge { .. }
            | Self::TooManyFields { .. }
            | Self::HeadTooLarge { .. }
            | Self::TooManyRedirects { .. }
            | Self::Redirect { .. }
            | Self::Loop { .. }
            | Self::Encoding(_)
            | Self::Protocol(_) => false,
        }
    }

    /// Translates an error of awc while it reads a body.
    pub(super) fn in_body(error: &PayloadError) -> Self {
        match find::<io::Error>(error) {
            Some(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
                Self::Protocol(e.to_string())
            }
            _ => Self::Truncated,
        }
    }

    /// Translates what happened after TCP was connected and before TLS was. `host` has the port with it.
    pub(super) fn in_handshake(error: &(dyn StdError + 'static), host: String) -> Self {
        if let Some(own) = find::<Self>(error) {
            return own.clone();
        }
        match find::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
                let reason = "its certificate is from an authority that is not trusted here; if it should be, name the \
                              authority's certificate in `[egress] ca_file`";
                Self::Tls { host, reason: reason.into() }
            }
            Some(e) => Self::Tls { host, reason: e.to_string() },
            None => Self::Connect { host, reason: error.to_string() },
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooLarge => Self::HeadTooLarge { bytes: MAX_BYTES, fields: MAX_PARSED },
            Refused::TooManyFields => Self::TooManyFields { limit: MAX_FIELDS },
            Refused::Status => Self::BadStatus,
            Refused::Incomplete => Self::Closed,
            Refused::Coding(coding) => Self::Encoding(coding),
            Refused::Protocol(reason) => Self::Protocol(reason),
        }
    }
}

/// Looks for a `T` in an error and its sources. `io::Error` hides what it wraps from `source()`, so it is opened.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_error_is_found_below_io_errors() {
        let wrapped = io::Error::other(io::Error::other(Error::Truncated));
        assert_eq!(find::<Error>(&wrapped), Some(&Error::Truncated));
    }

    #[test]
    fn a_tls_error_is_told_from_a_lost_connection() {
        let tls = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError));
        assert_eq!(Error::in_handshake(&tls, "h:443".into()).code(), "tls");
        let lost = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(Error::in_handshake(&lost, "h:443".into()).code(), "connect_failed");
    }

    #[test]
    fn a_refusal_says_which_setting_permits_it_and_hides_what_a_name_resolves_to() {
        let addr = SocketAddr::from(([10, 1, 2, 3], 8443));
        let error = Error::Refused { host: "api.internal".into(), addr, reason: "a private address" };
        let text = error.to_string();
        assert!(text.contains("name `api.internal:8443` in `[egress] allow`"), "{text}");
        assert!(!text.contains("10.1.2.3"), "{text}");
    }
}
