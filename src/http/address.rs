//! The address of the client, also behind proxies.
//!
//! Only the peer address of the connection is trusted. If the peer is one of `server.trusted_proxies`, its header is
//! read from the end, where the nearest hop is. Trusted hops are skipped, and the first other hop is the client. A hop
//! that cannot be parsed ends the search at the hop before it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::{
    node::Node,
    upstream::{Net, Via},
};

/// No chain of proxies has more hops.
const MAX_HOPS: usize = 32;

/// The address of the client.
pub(super) fn client(node: &Node, request: &HttpRequest) -> IpAddr {
    // Only an embedding server on a transport without addresses gives no peer address.
    let peer = request.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip().to_canonical());
    behind(peer, &node.config.server.trusted_proxies, request.headers())
}

/// The `Via` members and the trace of a request.
pub(super) fn via(request: &HttpRequest) -> Via {
    let headers = request.headers();
    let trace = headers.get("traceparent").map(HeaderValue::as_bytes);
    Via::read(headers.get_all(header::VIA).map(HeaderValue::as_bytes)).traced(trace)
}

/// The scheme that a trusted proxy reports in `X-Forwarded-Proto`; `None` without a trusted proxy or without the field.
pub(super) fn scheme(node: &Node, request: &HttpRequest) -> Option<String> {
    let peer = request.peer_addr()?.ip().to_canonical();
    if !node.config.server.trusted_proxies.iter().any(|net| net.contains(peer)) {
        return None;
    }
    let named = request.headers().get_all("x-forwarded-proto").last()?.to_str().ok()?;
    named.rsplit(',').next().map(|scheme| scheme.trim().to_owned())
}

/// Proxies write one of the two headers and may pass the client's own version of the other. If the two differ, neither
/// is trusted, and a client that forges one is counted as the proxy.
fn behind(peer: IpAddr, trusted: &[Net], headers: &HeaderMap) -> IpAddr {
    let trusts = |address: IpAddr| trusted.iter().any(|net| net.contains(address));
    if !trusts(peer) {
        return peer;
    }
    let walk = |name: &HeaderName, read: fn(&str) -> Option<IpAddr>| {
        headers.contains_key(name).then(|| {
            let mut client = peer;
            for hop in hops(headers, name).take(MAX_HOPS) {
                let Some(address) = hop.and_then(read) else { break };
                client = address;
                if !trusts(client) {
                    break;
                }
            }
            client
        })
    };
    match (walk(&header::FORWARDED, forwarded), walk(&header::X_FORWARDED_FOR, plain)) {
        (Some(client), None) | (None, Some(client)) => client,
        (Some(one), Some(other)) if one == other => one,
        (None, None) | (Some(_), Some(_)) => peer,
    }
}

/// The elements of a list header over all its lines, last element first; `None` for a line that is not text. Empty
/// elements are skipped (RFC 9110, section 5.6.1). Addresses contain no comma, not even in quotes, so values further
/// left, which a client may forge, cannot change how the last elements are parsed.
fn hops<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = Option<&'a str>> {
    let lines: Vec<_> = headers.get_all(name).collect();
    let elements = |line: &'a HeaderValue| {
        let text = line.to_str().ok();
        let none = text.is_none().then_some(None);
        text.into_iter().flat_map(|text| text.rsplit(',')).map(Some).chain(none)
    };
    lines.into_iter().rev().flat_map(elements).filter(|element| element.is_none_or(|text| !text.trim().is_empty()))
}

/// An element of `Forwarded` (RFC 7239): `for=192.0.2.60;proto=http`, `for="[2001:db8::1]:8080"`. A hop that hides
/// itself (`unknown`, `_name`) has no address.
fn forwarded(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let Some((name, value)) = pair.trim().split_once('=') else { continue };
        if name.eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?;
    match value.strip_prefix('"') {
        Some(quoted) => plain(quoted.strip_suffix('"')?),
        None => plain(value),
    }
}

/// An address with or without port; with one, IPv6 has brackets.
fn plain(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port.strip_prefix(':').or(port.is_empty().then_some("0"))?)
        }
        None => {
            let (address, port) = text.split_once(':')?;
            (IpAddr::V4(address.parse().ok()?), port)
        }
    };
    let good = !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    good.then(|| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The client behind a proxy on 127.0.0.1; 10.0.0.0/8 is trusted too.
    fn client(lines: &[(&str, &str)]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        behind(ip("127.0.0.1"), &["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()], &headers)
    }

    #[test]
    fn the_first_hop_from_the_right_that_is_not_trusted_is_the_client() {
        for (header, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, 10.1.1.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1, 10.1.1.1,10.2.2.2", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("10.9.9.9", "10.9.9.9"),
            ("6.6.6.6, nonsense, 10.1.1.1", "10.1.1.1"),
            ("6.6.6.6, unknown", "127.0.0.1"),
            ("", "127.0.0.1"),
            ("192.0.2.1,", "192.0.2.1"),
            ("192.0.2.1, , ,,", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1,, 10.1.1.1,", "192.0.2.1"),
            (",", "127.0.0.1"),
            ("192.0.2.1:", "127.0.0.1"),
            ("192.0.2.1:x", "127.0.0.1"),
            ("[2001:db8::1", "127.0.0.1"),
        ] {
            assert_eq!(client(&[("x-forwarded-for", header)]), ip(expected), "{header:?}");
        }
        assert_eq!(
            client(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1, 10.1.1.1")]),
            ip("192.0.2.1")
        );
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (header, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"192.0.2.43:47011\"", "192.0.2.43"),
            ("for=6.6.6.6, for=192.0.2.43, for=10.1.1.1", "192.0.2.43"),
            ("for=\"evil, for=192.0.2.43", "192.0.2.43"),
            ("for=unknown", "127.0.0.1"),
            ("for=_hidden, for=10.1.1.1", "10.1.1.1"),
            ("for=192.0.2.1;for=192.0.2.2", "127.0.0.1"),
            ("for=\"192.0.2.1", "127.0.0.1"),
            ("proto=https", "127.0.0.1"),
            ("192.0.2.1", "127.0.0.1"),
        ] {
            assert_eq!(client(&[("forwarded", header)]), ip(expected), "{header:?}");
        }
    }

    #[test]
    fn two_headers_that_differ_are_both_ignored() {
        let both = |one, other| client(&[("forwarded", one), ("x-forwarded-for", other)]);
        assert_eq!(both("for=192.0.2.1", "192.0.2.1"), ip("192.0.2.1"));
        assert_eq!(both("for=6.6.6.6", "192.0.2.1"), ip("127.0.0.1"));
    }

    #[test]
    fn a_peer_that_is_no_proxy_is_the_client_with_any_header() {
        let mut headers = HeaderMap::new();
        headers.insert(header::X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.1"));
        assert_eq!(behind(ip("203.0.113.1"), &["10.0.0.0/8".parse().unwrap()], &headers), ip("203.0.113.1"));
        assert_eq!(behind(ip("127.0.0.1"), &[], &headers), ip("127.0.0.1"));
    }

    proptest! {
        /// No client input causes a panic or changes the part that the trusted proxy appended.
        #[test]
        fn elements_further_left_change_nothing(
            junk in prop_oneof!["[ -~]{0,80}", "(for=|\"|,|;|\\[|\\]|:|[0-9a-f.]){0,40}"],
            name in prop_oneof![Just("forwarded"), Just("x-forwarded-for")],
        ) {
            client(&[(name, &junk)]);
            let own = if name == "forwarded" { "for=192.0.2.1" } else { "192.0.2.1" };
            prop_assert_eq!(client(&[(name, &format!("{junk},{own}"))]), ip("192.0.2.1"));
        }
    }
}
