//! The egress guard: the addresses to which a client of this node can make it connect.
//!
//! Owns the rules, and checks one resolved address at a time. It refuses an address unless it is public unicast or an
//! [`Allow`] permits it. The connector asks for every address just before it connects, so redirects and changed DNS
//! answers cannot bypass the guard. Its only I/O: it asks the system whether an address is local.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{PoisonError, RwLock},
};

mod allow;

pub use self::allow::{Allow, Net};

/// The rules for requests whose URL comes from a client.
#[derive(Debug, Default)]
pub(super) struct Guard {
    allow: Vec<Allow>,
    /// Addresses on which this node listens. They are set later, since the ports are known only after binding.
    own: RwLock<Vec<SocketAddr>>,
}

// === impl Guard ===

impl Guard {
    /// Creates rules with these exceptions.
    pub(super) fn new(allow: Vec<Allow>) -> Self {
        Self { allow, own: RwLock::default() }
    }

    /// Replaces the node's own listen addresses.
    pub(super) fn set_own(&self, addrs: Vec<SocketAddr>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = addrs;
    }

    /// Checks one address of `host`, which is the host in the URL.
    ///
    /// # Errors
    /// The kind of the refused address, in words that fit after "it is".
    pub(super) fn check(&self, host: &str, addr: SocketAddr) -> Result<(), &'static str> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let own = self.is_own(addr);
        if self.allow.iter().any(|allow| allow.permits(host, addr) && (!own || allow.is_specific())) {
            return Ok(());
        }
        if own {
            return Err("an address of this node");
        }
        let kind = match addr.ip() {
            IpAddr::V4(ip) => not_public_v4(ip),
            IpAddr::V6(ip) => not_public_v6(ip),
        };
        kind.map_or(Ok(()), Err)
    }

    /// True if the node listens on this address.
    pub(super) fn is_own(&self, addr: SocketAddr) -> bool {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        own.iter().any(|own| {
            own.port() == addr.port()
                && (own.ip().to_canonical() == addr.ip() || (own.ip().is_unspecified() && is_local(addr.ip())))
        })
    }

    /// True if the node listens on this port.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.own.read().unwrap_or_else(PoisonError::into_inner).iter().any(|own| own.port() == port)
    }
}

/// True if the address belongs to this machine: only such an address can be bound. Any other error counts as true.
fn is_local(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(e) => e.kind() != std::io::ErrorKind::AddrNotAvailable,
    }
}

/// The kind of an address that is not public unicast, by the IANA registries of special-purpose addresses.
fn not_public_v4(ip: Ipv4Addr) -> Option<&'static str> {
    Some(match ip.octets() {
        [0, ..] => "an unspecified address",
        [127, ..] => "a loopback address",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address",
        [100, 64..=127, ..] => "a carrier's shared address",
        [169, 254, ..] => "a link-local address",
        [192, 0, 0, _] | [192, 88, 99, _] => "a reserved address",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "a documentation address",
        [198, 18..=19, ..] => "a benchmarking address",
        [224..=239, ..] => "a multicast address",
        [240..=255, ..] => "a reserved or broadcast address",
        _ => return None,
    })
}

fn not_public_v6(ip: Ipv6Addr) -> Option<&'static str> {
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "an unspecified address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback address",
        // NAT64 and 6to4 contain the IPv4 address that receives the packet.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            return not_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
        }
        [0xfc00..=0xfdff, ..] => "a unique local address",
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "a documentation address",
        // 2001::/23 contains protocol assignments such as Teredo, whose addresses contain IPv4 addresses too.
        [0x2001, 0..=0x1ff, ..] => "a reserved address",
        [0x2000..=0x3fff, ..] => return None,
        // Only 2000::/3 is assigned as global unicast. The rest is obsolete, reserved, or a translation prefix.
        _ => "not a global unicast address",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(guard: &Guard, host: &str, ip: &str, port: u16) -> Result<(), &'static str> {
        guard.check(host, SocketAddr::new(ip.parse().expect("a test address"), port))
    }

    fn allowing(entries: &[&str]) -> Guard {
        Guard::new(entries.iter().map(|entry| entry.parse().expect("a test entry")).collect())
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_form() {
        let not_public = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        ];
        let guard = Guard::default();
        for ip in not_public {
            assert!(verdict(&guard, "h", ip, 80).is_err(), "{ip}");
            let v4: Ipv4Addr = ip.parse().expect("a test address");
            let [a, b] = [u32::from(v4) >> 16, u32::from(v4) & 0xffff];
            for v6 in [
                format!("::ffff:{ip}"),
                format!("::{ip}"),
                format!("64:ff9b::{ip}"),
                format!("2002:{a:x}:{b:x}::1"),
                format!("2002:{a:x}:{b:x}:7:8:9:a:b"),
            ] {
                assert!(verdict(&guard, "h", &v6, 80).is_err(), "{v6}");
            }
        }
        for ip in [
            "::",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "2001::1",
            "2001:20::1",
            "100::1",
            "64:ff9b:1::1",
            "5f00::1",
            "::ffff:0:8.8.8.8",
            "4000::1",
        ] {
            assert!(verdict(&guard, "h", ip, 80).is_err(), "{ip}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        for ip in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.0.0.1",
            "128.0.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.254",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(verdict(&Guard::default(), "h", ip, 80), Ok(()), "{ip}");
        }
    }

    #[test]
    fn an_allow_entry_permits_only_its_targets() {
        let guard = allowing(&["127.0.0.1:9000", "10.1.0.0/16", "api.internal", "db.internal:5000", "[::1]:80"]);
        assert!(verdict(&guard, "127.0.0.1", "127.0.0.1", 9000).is_ok());
        assert!(verdict(&guard, "127.0.0.1", "127.0.0.1", 9001).is_err());
        assert!(verdict(&guard, "127.0.0.2", "127.0.0.2", 9000).is_err());
        assert!(verdict(&guard, "[::ffff:127.0.0.1]", "::ffff:127.0.0.1", 9000).is_ok(), "two forms of one address");
        assert!(verdict(&guard, "whatever", "10.1.255.1", 1).is_ok());
        assert!(verdict(&guard, "whatever", "10.2.0.1", 1).is_err());
        assert!(verdict(&guard, "api.internal", "192.168.7.7", 8443).is_ok());
        assert!(verdict(&guard, "API.internal.", "192.168.7.7", 8443).is_ok(), "names have no case and no final dot");
        assert!(verdict(&guard, "evil.api.internal", "192.168.7.7", 8443).is_err());
        assert!(verdict(&guard, "db.internal", "10.9.0.1", 5000).is_ok());
        assert!(verdict(&guard, "db.internal", "10.9.0.1", 5001).is_err());
        assert!(verdict(&guard, "[::1]", "::1", 80).is_ok());
        assert!(verdict(&guard, "[::1]", "::1", 81).is_err());
    }

    #[test]
    fn the_nodes_own_address_is_rejected_although_it_is_public() {
        let guard = Guard::default();
        guard.set_own(vec!["8.8.8.8:8080".parse().expect("an address")]);
        assert_eq!(verdict(&guard, "h", "8.8.8.8", 8080), Err("an address of this node"));
        assert_eq!(verdict(&guard, "h", "::ffff:8.8.8.8", 8080), Err("an address of this node"));
        assert_eq!(verdict(&guard, "h", "8.8.8.8", 8081), Ok(()));
    }

    #[test]
    fn a_wildcard_listener_means_every_local_address_and_no_other() {
        let guard = allowing(&["127.0.0.0/8"]);
        guard.set_own(vec!["0.0.0.0:8080".parse().expect("an address")]);
        assert_eq!(verdict(&guard, "h", "127.0.0.1", 8080), Err("an address of this node"));
        assert_eq!(verdict(&guard, "h", "127.0.0.1", 8081), Ok(()));
        assert_eq!(verdict(&guard, "h", "8.8.8.8", 8080), Ok(()));
    }

    #[test]
    fn only_a_specific_entry_permits_the_node_itself() {
        let own = vec!["127.0.0.1:8080".parse().expect("an address")];
        for (entry, permitted) in [
            ("127.0.0.0/8", false),
            ("127.0.0.0/8:8080", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8080", true),
            ("h", true),
        ] {
            let guard = allowing(&[entry]);
            guard.set_own(own.clone());
            assert_eq!(verdict(&guard, "h", "127.0.0.1", 8080).is_ok(), permitted, "{entry}");
        }
    }
}
