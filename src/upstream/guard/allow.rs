//! One exception from the egress guard, and its text form in `[egress] allow`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use url::Host;

/// A target that is not public, but permitted: `127.0.0.1:9000`, `10.1.0.0/16`, `[::1]:80`, `api.internal:8443`.
///
/// Without a port it permits every port. A host name permits every address of that name, but only under the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allow {
    /// Addresses, under any name.
    Addr(Net, Option<u16>),
    /// A host name, in lowercase and without a final dot.
    Host(String, Option<u16>),
}

/// A block of addresses: `10.0.0.0/8`, `::1`. IPv4-mapped addresses are converted to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Net {
    addr: IpAddr,
    prefix: u8,
}

/// Why a text is not a valid [`Allow`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an egress target: {reason}; write it like `127.0.0.1:9000`, `10.1.0.0/16`, `[::1]:80` or `api.internal`"
)]
pub struct BadAllow {
    text: String,
    reason: &'static str,
}

// === impl Allow ===

impl Allow {
    /// True if the entry permits a connection to `addr`, an address of `host` in canonical form.
    pub(super) fn permits(&self, host: &str, addr: SocketAddr) -> bool {
        let (named, port) = match self {
            Self::Addr(net, port) => (net.contains(addr.ip()), port),
            Self::Host(name, port) => (name.eq_ignore_ascii_case(host.strip_suffix('.').unwrap_or(host)), port),
        };
        named && port.is_none_or(|port| port == addr.port())
    }

    /// True if the entry means one target, not a whole network. Only such an entry permits the node itself: an operator who
    /// permits a network rarely intends to permit the node in it.
    pub(super) fn is_specific(&self) -> bool {
        match self {
            Self::Addr(net, port) => port.is_some() || net.prefix == net.bits(),
            Self::Host(..) => true,
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains('*') {
            return Err("`*` would disable the guard");
        }
        // An IPv6 address contains colons, so it needs brackets if a port follows.
        let (target, port) = match text.rsplit_once(':') {
            Some((target, port)) if !target.contains(':') || target.contains(']') => (target, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            // `parse` alone would accept `+80`.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => match port.parse() {
                Ok(0) | Err(_) => return Err("the port is a number from 1 to 65535"),
                Ok(port) => Some(port),
            },
            Some(_) => return Err("the port is a number from 1 to 65535"),
            None => None,
        };
        if let Some((addr, prefix)) = target.split_once('/') {
            let prefix = prefix.parse().map_err(|_| "the prefix length is not a number")?;
            return Ok(Self::Addr(Net::new(ip(addr).ok_or("the network has no address")?, prefix)?, port));
        }
        if let Some(ip) = ip(target) {
            return Ok(Self::Addr(Net::single(ip), port));
        }
        match Host::parse(target) {
            Ok(Host::Domain(name)) => Ok(Self::Host(name.strip_suffix('.').unwrap_or(&name).to_owned(), port)),
            Ok(Host::Ipv4(ip)) => Ok(Self::Addr(Net::single(ip.into()), port)),
            Ok(Host::Ipv6(ip)) => Ok(Self::Addr(Net::single(ip.into()), port)),
            Err(_) => Err("neither an address nor a host name"),
        }
    }
}

impl FromStr for Allow {
    type Err = BadAllow;

    fn from_str(text: &str) -> Result<Self, BadAllow> {
        Self::parse(text).map_err(|reason| BadAllow { text: text.to_owned(), reason })
    }
}

impl TryFrom<String> for Allow {
    type Error = BadAllow;

    fn try_from(text: String) -> Result<Self, BadAllow> {
        text.parse()
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> Self {
        allow.to_string()
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Self::Addr(net, None) => return write!(f, "{net}"),
            Self::Host(name, None) => return f.write_str(name),
            Self::Addr(net, Some(port)) => {
                match net.addr {
                    IpAddr::V6(addr) if net.prefix == net.bits() => write!(f, "[{addr}]")?,
                    IpAddr::V6(addr) => write!(f, "[{addr}]/{}", net.prefix)?,
                    IpAddr::V4(_) => write!(f, "{net}")?,
                }
                port
            }
            Self::Host(name, Some(port)) => {
                f.write_str(name)?;
                port
            }
        };
        write!(f, ":{port}")
    }
}

/// An address with or without the brackets of a URL.
fn ip(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

// === impl Net ===

impl Net {
    /// Creates a block.
    ///
    /// # Errors
    /// When the prefix is too long, or the address has bits beyond it: then one of them is a mistake.
    pub fn new(addr: IpAddr, prefix: u8) -> Result<Self, &'static str> {
        let net = Self { addr, prefix };
        if prefix > net.bits() {
            return Err("the prefix is longer than the address");
        }
        if net.masked(addr) != number(addr) {
            return Err("the address has bits beyond the prefix");
        }
        Ok(net)
    }

    /// Creates a block of one address.
    pub fn single(addr: IpAddr) -> Self {
        let addr = addr.to_canonical();
        Self { addr, prefix: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// True if the address is in the block. An IPv4-mapped address counts as its IPv4 address.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        addr.is_ipv4() == self.addr.is_ipv4() && self.masked(addr) == number(self.addr)
    }

    fn bits(&self) -> u8 {
        if self.addr.is_ipv4() { 32 } else { 128 }
    }

    fn masked(&self, addr: IpAddr) -> u128 {
        let host = u32::from(self.bits() - self.prefix);
        number(addr).checked_shr(host).and_then(|bits| bits.checked_shl(host)).unwrap_or(0)
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| format!("`{text}` is not a network: {reason}; write it like `10.0.0.0/8` or `::1`");
        let Some((addr, prefix)) = text.split_once('/') else {
            return Ok(Self::single(text.parse().map_err(|_| wrong("it has no address"))?));
        };
        let addr: IpAddr = addr.parse().map_err(|_| wrong("it has no address"))?;
        Self::new(addr, prefix.parse().map_err(|_| wrong("the prefix length is not a number"))?).map_err(wrong)
    }
}

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Net> for String {
    fn from(net: Net) -> Self {
        net.to_string()
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr)?;
        if self.prefix == self.bits() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(u32::from(addr)),
        IpAddr::V6(addr) => u128::from(addr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_text() {
        for text in [
            "127.0.0.1:9000",
            "10.1.0.0/16",
            "10.1.0.0/16:8080",
            "127.0.0.1",
            "::1",
            "[::1]:80",
            "fd00::/8",
            "[fd00::]/8:443",
            "api.internal",
            "api.internal:8443",
            "localhost",
            "0.0.0.0/0",
            "::/0",
        ] {
            let allow: Allow = text.parse().expect(text);
            assert_eq!(allow.to_string(), text);
        }
    }

    #[test]
    fn every_form_of_a_target_becomes_one_text() {
        for (text, same) in [
            ("API.Internal.", "api.internal"),
            ("[::1]", "::1"),
            ("2130706433", "127.0.0.1"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<Allow>().expect(text).to_string(), same);
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "",
            "*",
            "*.internal",
            "10.1.2.3/16",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/x",
            "api/8",
            "host:0",
            "host:+80",
            "host:70000",
            "host:",
            "http://host",
            "user@host",
            "a b",
            "[::1",
            "1.2.3.4.5:80",
            ":80",
        ] {
            assert!(text.parse::<Allow>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_block_contains_only_its_addresses() {
        let net = Net::new("10.1.0.0".parse().expect("an address"), 16).expect("a network");
        assert!(net.contains("10.1.255.255".parse().expect("an address")));
        assert!(net.contains("::ffff:10.1.0.0".parse().expect("an address")));
        assert!(!net.contains("10.2.0.0".parse().expect("an address")));
        assert!(!net.contains("::a01:0".parse().expect("an address")));
        let all = Net::new("0.0.0.0".parse().expect("an address"), 0).expect("a network");
        assert!(all.contains("255.255.255.255".parse().expect("an address")));
        assert!(!all.contains("::1".parse().expect("an address")));
    }
}
