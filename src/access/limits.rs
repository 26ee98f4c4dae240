//! Limits: the part of the node that one caller may use.
//!
//! ```text
//!  request ──> user, or address without one ──> Rate     how much in a window: 429 with `Retry-After`
//!                                          ──> Permits  how much at once: refused until a permit is free
//! ```
//!
//! Owns the rates and permits of all callers, and counts the refusals. `limits/table.rs` has a row for each limit. A
//! caller is the hash of a user's name or of an address, so that each caller takes the same memory. An IPv6 address
//! counts by its /64, which belongs to one customer. A limit that is off costs one check of an enum, and does not
//! compute the caller.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::clock::DefaultClock;

mod config;
mod permits;
mod rate;
mod store;
mod table;

pub use self::{
    config::{Config, RouteConfig},
    permits::Permit,
    rate::Allowance,
    table::Limit,
};
use self::{
    permits::Permits,
    rate::{Rate, TooMany},
    table::{Kind, TABLE},
};
use super::Mode;
use crate::metrics::Rows;

/// The limits of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// One counter for each row of the table.
    counters: [Counter; TABLE.len()],
    routes: Vec<(RouteConfig, Rate)>,
    queued_bytes: Option<usize>,
    exceeded: [AtomicU64; TABLE.len()],
    hashes: RandomState,
}

/// The counter of a limit, for each caller.
#[derive(Debug)]
enum Counter {
    Off,
    Rate(Box<Rate>),
    Permits(Permits),
}

/// The subject of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A user, by name.
    User(String),
    /// All requests without a user from this address.
    Address(IpAddr),
}

/// A limit that a caller has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub limit: Limit,
    /// Its value.
    pub most: u64,
    /// The time after which the caller may try again; `None` if waiting does not help.
    pub wait: Option<Duration>,
    /// The caller's remaining allowance, if the limit is a rate.
    pub allowance: Option<Allowance>,
}

/// The permits of an open stream.
#[derive(Debug)]
pub struct StreamPermit {
    user: Option<Permit>,
    _address: Option<Permit>,
}

/// The time when a permit becomes free is not known; a client may try again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(5);

// === impl Limits ===

impl Limits {
    /// The limits that apply with these settings, in this mode, on a node with at most `connections` connections.
    pub fn new(config: &Config, mode: Mode, connections: usize) -> Self {
        let rate = |limit: u64, window| {
            let limit = NonZeroU32::new(u32::try_from(limit).unwrap_or(u32::MAX))?;
            Some(Rate::new(limit, window, config.max_callers, DefaultClock::default()))
        };
        let in_force = |limit: Limit| limit.row().in_force(config, mode, connections);
        let queued_bytes = in_force(Limit::QueuedBytes).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let counters = TABLE.each_ref().map(|row| match (row.kind, in_force(row.limit)) {
            (Kind::Rate(window), Some(limit)) => {
                rate(limit, window).map_or(Counter::Off, |rate| Counter::Rate(Box::new(rate)))
            }
            (Kind::Permits, Some(limit)) => Counter::Permits(Permits::new(limit)),
            // Permits without a limit still count the bytes of a caller.
            (Kind::Permits, None) if row.limit == Limit::UserStreams && queued_bytes.is_some() => {
                Counter::Permits(Permits::new(u64::MAX))
            }
            _ => Counter::Off,
        });
        let route =
            |route: &RouteConfig| Some((route.clone(), rate(route.requests, Duration::from_millis(route.window_ms))?));
        Self(Arc::new(Inner {
            counters,
            routes: config.routes.iter().filter_map(route).collect(),
            queued_bytes,
            exceeded: Default::default(),
            hashes: RandomState::new(),
        }))
    }

    /// Counts a request from an address, with any caller; `None` if the limit is off.
    ///
    /// # Errors
    /// If the address has made too many requests.
    pub fn request_from(&self, address: impl FnOnce() -> IpAddr) -> Result<Option<Allowance>, Exceeded> {
        self.take(Limit::AddressRequests, || Caller::Address(address()), 1)
    }

    /// Counts a request of a caller; returns the remaining allowance of the tightest limit.
    ///
    /// # Errors
    /// If the caller has made too many requests.
    pub fn request(
        &self,
        caller: impl FnOnce() -> Caller,
        method: &str,
        path: &str,
    ) -> Result<Option<Allowance>, Exceeded> {
        let Some((_, rate)) = self.0.routes.iter().find(|(route, _)| route.matches(method, path)) else {
            return self.take(Limit::Requests, caller, 1);
        };
        let caller = caller();
        let own = self.take_from(Limit::Route, rate, &caller, NonZeroU32::MIN)?;
        Ok(tighter(Some(own), self.take(Limit::Requests, || caller, 1)?))
    }

    /// Takes `count` from the caller's allowance of a rate, or nothing. If the limit is off, it returns `None` and does
    /// not compute the caller.
    ///
    /// # Errors
    /// If the allowance is used up, or `count` is more than the limit.
    pub fn take(
        &self,
        limit: Limit,
        caller: impl FnOnce() -> Caller,
        count: usize,
    ) -> Result<Option<Allowance>, Exceeded> {
        let Counter::Rate(rate) = &self.0.counters[limit as usize] else { return Ok(None) };
        let Some(count) = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)) else { return Ok(None) };
        self.take_from(limit, rate, &caller(), count).map(Some)
    }

    /// Takes one of the caller's permits. If the limit is off, it returns `None` and does not compute the caller.
    ///
    /// # Errors
    /// If the caller holds all its permits.
    pub fn permit(&self, limit: Limit, caller: impl FnOnce() -> Caller) -> Result<Option<Permit>, Exceeded> {
        let Counter::Permits(permits) = &self.0.counters[limit as usize] else { return Ok(None) };
        let exceeded = || Exceeded { limit, most: permits.limit(), wait: Some(ASK_AGAIN), allowance: None };
        permits.take(self.hash(&caller())).map(Some).ok_or_else(|| self.count(exceeded()))
    }

    /// Takes the permits of a stream that is about to open, of its caller and of its address; `None` if both limits are off.
    ///
    /// # Errors
    /// If the caller or the address holds all its permits.
    pub fn stream(
        &self,
        caller: impl FnOnce() -> Caller,
        address: impl FnOnce() -> IpAddr,
    ) -> Result<Option<StreamPermit>, Exceeded> {
        let user = self.permit(Limit::UserStreams, caller)?;
        let address = self.permit(Limit::AddressStreams, || Caller::Address(address()))?;
        let limited = user.is_some() || address.is_some();
        Ok(limited.then_some(StreamPermit { user, _address: address }))
    }

    /// Maximum number of bytes that may wait for all streams of one caller.
    pub fn queued_bytes(&self) -> Option<usize> {
        self.0.queued_bytes
    }

    /// Number of times that each limit was exceeded, by the name of its setting.
    pub fn exceeded(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = TABLE.iter().zip(&self.0.exceeded).filter(|(row, _)| row.kind != Kind::Bytes);
        counts.map(|(row, count)| (row.name, count.load(Relaxed)))
    }

    /// Number of callers with a stored rate or permits, over all limits.
    pub fn callers(&self) -> usize {
        let counters = self.0.counters.iter().map(|counter| match counter {
            Counter::Off => 0,
            Counter::Rate(rate) => rate.callers(),
            Counter::Permits(permits) => permits.callers(),
        });
        counters.chain(self.0.routes.iter().map(|(_, rate)| rate.callers())).sum()
    }

    /// Adds the metrics of all limits.
    pub fn metrics(&self, rows: &mut Rows) {
        rows.counters("limited", "Requests that a limit refused, by setting.", "limit", self.exceeded());
        rows.gauge("limited_callers", "Callers with a stored rate or permits, over all limits.", self.callers() as u64);
    }

    fn take_from(&self, limit: Limit, rate: &Rate, caller: &Caller, count: NonZeroU32) -> Result<Allowance, Exceeded> {
        let (allowance, passed) = rate.take(self.hash(caller), count);
        let wait = match passed {
            Ok(()) => return Ok(allowance),
            Err(TooMany::Wait(wait)) => Some(wait),
            Err(TooMany::Never) => None,
        };
        Err(self.count(Exceeded { limit, most: u64::from(rate.limit()), wait, allowance: Some(allowance) }))
    }

    fn count(&self, exceeded: Exceeded) -> Exceeded {
        self.0.exceeded[exceeded.limit as usize].fetch_add(1, Relaxed);
        exceeded
    }

    /// With 64 bits of a keyed hash, two of a million callers share one in one of ten million nodes.
    fn hash(&self, caller: &Caller) -> u64 {
        match caller {
            Caller::User(user) => self.0.hashes.hash_one((0_u8, user)),
            Caller::Address(address) => self.0.hashes.hash_one((1_u8, network(*address))),
        }
    }
}

// === impl Exceeded ===

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.limit.row().refusal.replace("{}", &self.most.to_string()))
    }
}

// === impl StreamPermit ===

impl StreamPermit {
    /// The counter of the bytes that wait for all streams of the caller; `None` if they have no limit.
    pub fn queued(&self) -> Option<Arc<AtomicUsize>> {
        self.user.as_ref().map(Permit::bytes)
    }
}

/// The allowance with the smaller remaining part.
pub fn tighter(one: Option<Allowance>, other: Option<Allowance>) -> Option<Allowance> {
    let left = |allowance: &Allowance| f64::from(allowance.remaining) / f64::from(allowance.limit.max(1));
    one.into_iter().chain(other).min_by(|a, b| left(a).total_cmp(&left(b)))
}

/// The network of one customer: an IPv4 address, or the first half of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn user(name: &str) -> impl FnOnce() -> Caller {
        let name = name.to_owned();
        move || Caller::User(name)
    }

    fn address(text: &str) -> impl FnOnce() -> Caller {
        let address = ip(text);
        move || Caller::Address(address)
    }

    fn limits(config: &Config) -> Limits {
        Limits::new(config, Mode::Open, 1000)
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_caller() {
        let limits = limits(&Config { requests_per_minute_per_address: Some(1), ..Config::default() });
        let passes = |address: &str| limits.request_from(|| ip(address)).is_ok();
        assert!(passes("2001:db8::1"));
        assert!(!passes("2001:db8::2:1"));
        assert!(passes("2001:db8:0:1::1"));
        assert!(passes("10.0.0.1"));
        assert!(!passes("::ffff:10.0.0.1"), "an IPv4 address mapped into IPv6 is the same address");
        assert_eq!(limits.exceeded().nth(1).unwrap(), ("requests_per_minute_per_address", 2));
    }

    #[test]
    fn a_user_named_like_an_address_is_not_that_address() {
        let limits = limits(&Config { requests_per_minute: Some(1), ..Config::default() });
        assert!(limits.request(user("10.0.0.1"), "GET", "/").is_ok());
        assert!(limits.request(address("10.0.0.1"), "GET", "/").is_ok());
        assert!(limits.request(user("10.0.0.1"), "GET", "/").is_err());
        assert_eq!(limits.callers(), 2);
    }

    #[test]
    fn the_tightest_limit_is_reported_and_a_route_has_its_own() {
        let route = RouteConfig { path: "/a*".into(), requests: 2, window_ms: 1000, method: None };
        let limits = limits(&Config { requests_per_minute: Some(100), routes: vec![route], ..Config::default() });
        assert_eq!(limits.request(user("u"), "GET", "/b").unwrap().unwrap().limit, 100);
        assert_eq!(limits.request(user("u"), "GET", "/ab").unwrap().unwrap().limit, 2);
        limits.request(user("u"), "GET", "/ab").unwrap();
        let refused = limits.request(user("u"), "GET", "/a").unwrap_err();
        assert_eq!((refused.limit, refused.most), (Limit::Route, 2));
        assert!(limits.request(user("u"), "GET", "/b").is_ok());
    }

    #[test]
    fn a_limit_that_is_off_does_not_compute_the_caller() {
        let limits = limits(&Config::default());
        assert_eq!(limits.request_from(|| unreachable!("the limit is off")), Ok(None));
        let caller = || -> Caller { unreachable!("the limit is off") };
        assert_eq!(limits.request(caller, "GET", "/"), Ok(None));
        assert!(limits.stream(caller, || unreachable!("the limit is off")).unwrap().is_none());
        assert_eq!(limits.take(Limit::Publishes, caller, 1), Ok(None));
        assert!(limits.permit(Limit::Jobs, caller).unwrap().is_none());
    }

    /// The user's permit is given back when the address has none.
    #[test]
    fn a_stream_takes_both_permits_or_none() {
        let limits =
            limits(&Config { connections_per_user: Some(1), connections_per_address: Some(1), ..Config::default() });
        let first = limits.stream(user("a"), || ip("10.0.0.1"));
        assert!(first.is_ok());
        let refused = limits.stream(user("b"), || ip("10.0.0.1")).unwrap_err();
        assert_eq!(refused.limit, Limit::AddressStreams);
        assert!(limits.stream(user("b"), || ip("10.0.0.2")).is_ok());
    }

    #[test]
    fn more_at_once_than_a_second_has_is_refused_for_good() {
        let limits = limits(&Config { publishes_per_second: Some(10), ..Config::default() });
        assert_eq!(limits.take(Limit::Publishes, user("a"), 11).unwrap_err().wait, None);
        assert!(limits.take(Limit::Publishes, user("a"), 10).is_ok());
        assert!(limits.take(Limit::Publishes, user("a"), 1).unwrap_err().wait.is_some());
    }
}
