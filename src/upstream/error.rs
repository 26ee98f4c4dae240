//! Why a request has no response, or only a part of it.
//!
//! Owns the error type of outgoing requests, and translates the errors of the transport into it. So jobs, relays and
//! remote jobs report failures with the same codes. An HTTP status is not an error, but a response.

use std::{io, net::SocketAddr, time::Duration};

use awc::error::PayloadError;
use http::Method;

use super::head::{HeadError, MAX_BYTES, MAX_FIELDS, MAX_PARSED};

/// Why a request failed. Cheap to clone, so that a job's state and an event can contain it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No request can be sent to the URL.
    #[error("bad URL: {reason}")]
    BadUrl {
        /// The mistake; never quotes credentials.
        reason: String,
    },
    /// The method is `CONNECT`, which opens a tunnel, or `TRACE`, which reflects credentials.
    #[error("method `{0}` is not sent; use any other HTTP method, such as GET or POST")]
    BadMethod(Method),
    /// The egress guard refuses every address of the host. The message does not contain the address of a name: the author
    /// of a URL need not know how names resolve in this network. `addr` is for the log.
    #[error("`{host}` is refused: it is {reason}; to permit it name `{host}:{port}` in `[egress] allow`", port = addr.port())]
    Refused {
        /// The host in the URL.
        host: String,
        /// The first refused address.
        addr: SocketAddr,
        /// The kind of the address, e.g. `a loopback address`.
        reason: &'static str,
    },
    /// The name has no address, or the resolver failed.
    #[error("`{host}` cannot be resolved: {reason}")]
    Resolve {
        /// The host in the URL.
        host: String,
        /// The error of the resolver.
        reason: String,
    },
    /// No address accepted the connection.
    #[error("cannot connect to `{host}`: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// The error of the system for the last address.
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
    /// The TLS handshake failed, usually because of the certificate.
    #[error("TLS with `{host}` failed: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// The error of rustls.
        reason: String,
    },
    /// No response head arrived within the time limit.
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
    #[error("the response has more than {} header fields", MAX_FIELDS)]
    TooManyFields,
    /// The response head is too large; the parser does not report which limit was exceeded.
    #[error("the response head has more than {} bytes or {} fields", MAX_BYTES, MAX_PARSED)]
    HeadTooLarge,
    /// The response body is larger than the caller permits.
    #[error("the response has more than {limit} bytes")]
    TooLarge {
        /// The limit in force, in bytes.
        limit: usize,
    },
    /// The request was redirected too often.
    #[error("more than {limit} redirects")]
    TooManyRedirects {
        /// Maximum number of redirects of the request.
        limit: u8,
    },
    /// A redirect that is not followed.
    #[error("redirect refused: {reason}")]
    Redirect {
        /// Why it is refused.
        reason: String,
    },
    /// The response has no valid HTTP status code, which counts as a server error (RFC 9110, section 15).
    #[error("the response has no valid status code")]
    BadStatus,
    /// The causing request is in a loop (`Via`), so this request is not sent.
    #[error("the request is in a loop: {reason}")]
    Loop {
        /// How the loop was detected.
        reason: &'static str,
    },
    /// The response has a transfer coding other than `chunked`, which no request asks for.
    #[error("the response has the transfer coding `{0}`; only `chunked` is accepted")]
    Encoding(String),
    /// The server sent no valid HTTP/1 response.
    #[error("the response is not valid HTTP/1: {0}")]
    Protocol(String),
}

impl Error {
    /// A stable code of the failure, for events and metrics.
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
            Self::TooLarge { .. } | Self::TooManyFields | Self::HeadTooLarge => "response_too_large",
            Self::TooManyRedirects { .. } | Self::Redirect { .. } => "redirect",
            Self::Loop { .. } => "loop_detected",
            Self::Encoding(_) => "unsupported_encoding",
            Self::Protocol(_) | Self::BadStatus => "protocol",
        }
    }

    /// True if the same request may succeed later. The upstream may already have acted on it.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. }
                | Self::Connect { .. }
                | Self::ConnectTimeout { .. }
                | Self::HeadTimeout { .. }
                | Self::IdleTimeout { .. }
                | Self::Closed
                | Self::Truncated
                | Self::BadStatus
        )
    }

    /// Translates an error of awc while it reads a body.
    pub(super) fn in_body(error: &PayloadError) -> Self {
        match error {
            PayloadError::Incomplete(Some(e)) | PayloadError::Io(e)
                if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) =>
            {
                Self::Protocol(e.to_string())
            }
            _ => Self::Truncated,
        }
    }

    /// Translates an error between the TCP connection and the end of the TLS handshake. `host` includes the port.
    pub(super) fn in_handshake(error: &io::Error, host: String) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
                let reason = "its certificate is from an authority that is not trusted here; to trust it, put the \
                              authority's certificate into `[egress] ca_file`";
                Self::Tls { host, reason: reason.into() }
            }
            Some(e) => Self::Tls { host, reason: e.to_string() },
            None => Self::Connect { host, reason: error.to_string() },
        }
    }
}

impl From<HeadError> for Error {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLarge => Self::HeadTooLarge,
            HeadError::TooManyFields => Self::TooManyFields,
            HeadError::Status => Self::BadStatus,
            HeadError::Incomplete => Self::Closed,
            HeadError::Coding(coding) => Self::Encoding(coding),
            HeadError::Protocol(reason) => Self::Protocol(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_error_and_a_lost_connection_have_different_codes() {
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(Error::in_handshake(&tls, "h:443".into()).code(), "tls");
        let lost = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(Error::in_handshake(&lost, "h:443".into()).code(), "connect_failed");
    }

    #[test]
    fn a_refusal_names_the_setting_and_hides_the_address_of_a_name() {
        let addr = SocketAddr::from(([10, 1, 2, 3], 8443));
        let error = Error::Refused { host: "api.internal".into(), addr, reason: "a private address" };
        let text = error.to_string();
        assert!(text.contains("name `api.internal:8443` in `[egress] allow`"), "{text}");
        assert!(!text.contains("10.1.2.3"), "{text}");
    }
}
