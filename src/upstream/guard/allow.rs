//! One exception from the egress guard, as it is written in `[egress] allow`.

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    target: Target,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// Addresses, under any name.
    Addr(Net),
    /// A host name, in lowercase and without a final dot.
    Host(String),
}

/// A block of addresses: `10.0.0.0/8`, `::1`. IPv4-mapped addresses are converted to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Net {
    addr: IpAddr,
    prefix: u8,
}

// === impl Allow ===

impl Allow {
    /// True if the entry permits a connection to `addr`, an address of `host` in canonical form.
    pub(super) fn permits(&self, host: &str, addr: SocketAddr) -> bool {
        let named = match &self.target {
            Target::Addr(net) => net.contains(addr.ip()),
            Target::Host(name) => name.eq_ignore_ascii_case(host.strip_suffix('.').unwrap_or(host)),
        };
        named && self.port.is_none_or(|port| port == addr.port())
    }

    /// True if the entry means one target, not a whole network. Only such an entry permits the node itself: an operator who
    /// permits a network rarely intends to permit the node in it.
    pub(super) fn is_specific(&self) -> bool {
        match &self.target {
            Target::Addr(net) => self.port.is_some() || net.prefix == net.bits(),
            Target::Host(_) => true,
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
        let port = port.map(|text| match text.parse() {
            // `parse` alone would accept `+80`.
            Ok(port @ 1..) if !text.starts_with('+') => Ok(port),
            _ => Err("the port is a number from 1 to 65535"),
        });
        Ok(Self { port: port.transpose()?, target: Target::parse(target)? })
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|reason| {
            format!(
                "`{text}` is not an egress target: {reason}; write it like `127.0.0.1:9000`, `10.1.0.0/16`, `[::1]:80` or `api.internal`"
            )
        })
    }
}

// === impl Target ===

impl Target {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some((addr, prefix)) = text.split_once('/') {
            let prefix = prefix.parse().map_err(|_| "the prefix length is not a number")?;
            return Net::new(ip(addr).ok_or("the network has no address")?, prefix).map(Self::Addr);
        }
        if let Some(ip) = ip(text) {
            return Ok(Self::Addr(Net::single(ip)));
        }
        match Host::parse(text) {
            Ok(Host::Domain(name)) => Ok(Self::Host(name.strip_suffix('.').unwrap_or(&name).to_owned())),
            Ok(Host::Ipv4(ip)) => Ok(Self::Addr(Net::single(ip.into()))),
            Ok(Host::Ipv6(ip)) => Ok(Self::Addr(Net::single(ip.into()))),
            Err(_) => Err("neither an address nor a host name"),
        }
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
    /// Creates a block. Fails if the prefix is too long, or the address has bits beyond it: then one of them is a mistake.
    fn new(addr: IpAddr, prefix: u8) -> Result<Self, &'static str> {
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
    fn single(addr: IpAddr) -> Self {
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

    /// The entry with this target, in its shortest form, and this port.
    fn entry(target: &str, port: Option<u16>) -> Allow {
        Allow { target: target.parse().map_or_else(|_| Target::Host(target.to_owned()), Target::Addr), port }
    }

    #[test]
    fn entries_have_a_target_and_a_port() {
        for (text, target, port) in [
            ("127.0.0.1:9000", "127.0.0.1", Some(9000)),
            ("10.1.0.0/16", "10.1.0.0/16", None),
            ("10.1.0.0/16:8080", "10.1.0.0/16", Some(8080)),
            ("127.0.0.1", "127.0.0.1", None),
            ("::1", "::1", None),
            ("[::1]:80", "::1", Some(80)),
            ("fd00::/8", "fd00::/8", None),
            ("[fd00::]/8:443", "fd00::/8", Some(443)),
            ("api.internal", "api.internal", None),
            ("api.internal:8443", "api.internal", Some(8443)),
            ("localhost", "localhost", None),
            ("0.0.0.0/0", "0.0.0.0/0", None),
            ("::/0", "::/0", None),
        ] {
            assert_eq!(text.parse(), Ok(entry(target, port)), "{text}");
        }
    }

    #[test]
    fn every_form_of_a_target_becomes_one_entry() {
        for (text, target, port) in [
            ("API.Internal.", "api.internal", None),
            ("[::1]", "::1", None),
            ("2130706433", "127.0.0.1", None),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1", Some(80)),
            ("bücher.example", "xn--bcher-kva.example", None),
        ] {
            assert_eq!(text.parse(), Ok(entry(target, port)), "{text}");
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
