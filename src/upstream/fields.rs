//! Header fields that a request or response cannot pass on, or that its author cannot set, and their text; pure.
//!
//! Owns the one list of hop-by-hop fields of the program.

use http::{
    HeaderMap, HeaderName,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
};

/// Fields of one connection and its framing (RFC 9110, section 7.6.1). They are never copied from one message to
/// another, and HTTP/2 has none of them.
pub const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Fields of a request, beside [`HOP_BY_HOP`], that the transport sets. With another value the server could see another
/// host or another message than the one that was checked.
pub(super) const TRANSPORT: [HeaderName; 3] = [CONTENT_LENGTH, EXPECT, HOST];

/// Fields that only the node sets, beside those of the transport.
const NODE: [HeaderName; 3] = [PROXY_AUTHORIZATION, VIA, HeaderName::from_static("trailers")];

/// True for fields that the author of a request (a task, a relay) cannot set: the transport or the node sets them.
pub fn is_reserved(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || TRANSPORT.contains(name) || NODE.contains(name)
}

/// The value of a header field. Several lines are joined with a comma (RFC 9110, section 5.3).
pub(super) fn field_text(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_transport_and_node_are_reserved() {
        let is_reserved = |name: &str| is_reserved(&HeaderName::from_bytes(name.as_bytes()).unwrap());
        assert!(["Connection", "Host", "Via", "Trailers", "Proxy-Authorization"].into_iter().all(is_reserved));
        assert!(!["Authorization", "Accept", "Cookie", "Content-Type"].into_iter().any(is_reserved));
    }
}
