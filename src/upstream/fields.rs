//! Header fields that clients of the node cannot set in outgoing requests.

use http::{HeaderName, header};

/// Fields of the connection and of the framing (RFC 9110, section 7.6.1), credentials for proxies, and `Via`, which the
/// node writes itself.
const RESERVED: [HeaderName; 14] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    HeaderName::from_static("trailers"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
];

/// True for a field that belongs to the connection or to the node, so that a client cannot set it.
pub fn is_reserved_field(name: &HeaderName) -> bool {
    RESERVED.contains(name)
}
