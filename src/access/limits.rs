//! Limits: how much of the node one caller may use.
//!
//! ```text
//!  request ──> user, or address without one ──> Rate   so many in a time: 429, and when to come back
//!                                          ──> Places  so many at once: refused until one is given back
//! ```
//!
//! Owns the rates and places of all callers, and counts what it refused. A caller is the hash of a user's name or of an
//! address (of an IPv6 address its /64, which is what one customer has), so what is kept has one size. A limit that is
//! off costs one look at an `Option`.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::clock::DefaultClock;

mod config;
mod places;
mod rate;
mod store;

use self::config::InForce;
pub use self::{
    config::{Config, RouteConfig},
    places::{Place, Places},
    rate::{Allowance, Rate, TooMany},
};
use super::Mode;

/// The limits of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Option<Rate>,
    address_requests: Option<Rate>,
    routes: Vec<(RouteConfig, Rate)>,
    publishes: Option<Rate>,
    user_streams: Option<Places>,
    address_streams: Option<Places>,
    jobs: Option<Places>,
    queued_bytes: Option<usize>,
    refused: [AtomicU64; Limit::ALL.len()],
    hashes: RandomState,
}

/// Who is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// A user, by name.
    User(&'a str),
    /// Whoever calls from this address.
    Address(IpAddr),
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `requests_per_minute`.
    Requests,
    /// `requests_per_minute_per_address`.
    AddressRequests,
    /// `routes`.
    Route,
    /// `publishes_per_second`.
    Publishes,
    /// `connections_per_user`.
    UserStreams,
    /// `connections_per_address`.
    AddressStreams,
    /// `jobs_per_user`.
    Jobs,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// By which limit.
    pub limit: Limit,
    /// How much that is.
    pub most: u64,
    /// When to come back; `None` where waiting does not help.
    pub wait: Option<Duration>,
    /// What the caller has left, where the limit is a rate.
    pub allowance: Option<Allowance>,
}

/// The places of an open stream.
#[derive(Debug, Default)]
pub struct StreamPlace {
    user: Option<Place>,
    _address: Option<Place>,
}

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
/// When a place will be free nobody knows; this is how soon to ask again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

// === impl Limits ===

impl Limits {
    /// The limits that apply with these settings, in this mode, on a node with at most `connections` connections.
    pub fn new(config: &Config, mode: Mode, connections: usize) -> Self {
        let InForce { requests, address_requests, user_streams, address_streams, publishes, jobs, queued_bytes } =
            config.in_force(mode, connections);
        let rate = |limit: u64, window| {
            let limit = NonZeroU32::new(u32::try_from(limit).unwrap_or(u32::MAX))?;
            Some(Rate::new(limit, window, config.max_callers, DefaultClock::default()))
        };
        let route =
            |route: &RouteConfig| Some((route.clone(), rate(route.requests, Duration::from_millis(route.window_ms))?));
        // Where only the bytes are bounded, the places are there to count them.
        let user_streams = user_streams.or(queued_bytes.map(|_| u64::MAX));
        Self(Arc::new(Inner {
            requests: requests.and_then(|limit| rate(limit, MINUTE)),
            address_requests: address_requests.and_then(|limit| rate(limit, MINUTE)),
            routes: config.routes.iter().filter_map(route).collect(),
            publishes: publishes.and_then(|limit| rate(limit, SECOND)),
            user_streams: user_streams.map(Places::new),
            address_streams: address_streams.map(Places::new),
            jobs: jobs.map(Places::new),
            queued_bytes: queued_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            refused: Default::default(),
            hashes: RandomState::new(),
        }))
    }

    /// A request from an address, whoever makes it; `None` where that is not limited.
    ///
    /// # Errors
    /// When the address has made too many.
    pub fn request_from(&self, address: impl FnOnce() -> IpAddr) -> Result<Option<Allowance>, Refusal> {
        let Some(rate) = &self.0.address_requests else { return Ok(None) };
        self.pass(Limit::AddressRequests, rate, Caller::Address(address()), NonZeroU32::MIN).map(Some)
    }

    /// True when requests of this kind are limited by their caller.
    pub fn limits_request(&self, method: &str, path: &str) -> bool {
        self.0.requests.is_some() || self.route(method, path).is_some()
    }

    /// A request of a caller; answers what is left of the tightest limit.
    ///
    /// # Errors
    /// When the caller has made too many.
    pub fn request(&self, caller: Caller<'_>, method: &str, path: &str) -> Result<Option<Allowance>, Refusal> {
        let route = self.route(method, path);
        let own = route.map(|rate| self.pass(Limit::Route, rate, caller, NonZeroU32::MIN)).transpose()?;
        let all = self.0.requests.as_ref();
        let all = all.map(|rate| self.pass(Limit::Requests, rate, caller, NonZeroU32::MIN)).transpose()?;
        Ok(tighter(own, all))
    }

    /// True when publishing is limited.
    pub fn limits_publishing(&self) -> bool {
        self.0.publishes.is_some()
    }

    /// Publishing so many events at once.
    ///
    /// # Errors
    /// When the caller has published too many, or could never publish so many at once.
    pub fn publish(&self, caller: Caller<'_>, events: usize) -> Result<(), Refusal> {
        let Some(rate) = &self.0.publishes else { return Ok(()) };
        let Some(events) = NonZeroU32::new(u32::try_from(events).unwrap_or(u32::MAX)) else { return Ok(()) };
        self.pass(Limit::Publishes, rate, caller, events).map(drop)
    }

    /// True when open streams are limited.
    pub fn limits_streams(&self) -> bool {
        self.0.user_streams.is_some() || self.0.address_streams.is_some()
    }

    /// A stream that is about to open; it keeps the answer until it ends.
    ///
    /// # Errors
    /// When the caller or the address has as many as it may have.
    pub fn stream(&self, caller: Caller<'_>, address: IpAddr) -> Result<StreamPlace, Refusal> {
        Ok(StreamPlace {
            user: self.place(Limit::UserStreams, self.0.user_streams.as_ref(), caller)?,
            _address: self.place(Limit::AddressStreams, self.0.address_streams.as_ref(), Caller::Address(address))?,
        })
    }

    /// True when unfinished jobs are limited.
    pub fn limits_jobs(&self) -> bool {
        self.0.jobs.is_some()
    }

    /// A job that is about to be submitted; it keeps the answer until it ends.
    ///
    /// # Errors
    /// When the caller has as many as it may have.
    pub fn job(&self, caller: Caller<'_>) -> Result<Option<Place>, Refusal> {
        self.place(Limit::Jobs, self.0.jobs.as_ref(), caller)
    }

    /// Most bytes that may wait for the streams of one caller.
    pub fn queued_bytes(&self) -> Option<usize> {
        self.0.queued_bytes
    }

    /// How often each limit has refused.
    pub fn refused(&self) -> [(&'static str, u64); Limit::ALL.len()] {
        Limit::ALL.map(|limit| (limit.as_str(), self.0.refused[limit as usize].load(Relaxed)))
    }

    /// Callers whose rate or places are kept now, over all limits.
    pub fn callers(&self) -> usize {
        let Inner { requests, address_requests, routes, publishes, user_streams, address_streams, jobs, .. } = &*self.0;
        let rates = [requests, address_requests, publishes].into_iter().flatten();
        let rates = rates.chain(routes.iter().map(|(_, rate)| rate)).map(Rate::callers);
        let places = [user_streams, address_streams, jobs].into_iter().flatten().map(Places::callers);
        rates.sum::<usize>() + places.sum::<usize>()
    }

    fn route(&self, method: &str, path: &str) -> Option<&Rate> {
        self.0.routes.iter().find(|(route, _)| route.matches(method, path)).map(|(_, rate)| rate)
    }

    fn pass(&self, limit: Limit, rate: &Rate, caller: Caller<'_>, count: NonZeroU32) -> Result<Allowance, Refusal> {
        let (allowance, passed) = rate.take(self.hash(caller), count);
        let wait = match passed {
            Ok(()) => return Ok(allowance),
            Err(TooMany::Wait(wait)) => Some(wait),
            Err(TooMany::Never) => None,
        };
        Err(self.refuse(Refusal { limit, most: u64::from(rate.limit()), wait, allowance: Some(allowance) }))
    }

    fn place(&self, limit: Limit, places: Option<&Places>, caller: Caller<'_>) -> Result<Option<Place>, Refusal> {
        let Some(places) = places else { return Ok(None) };
        let refusal = || Refusal { limit, most: places.limit(), wait: Some(ASK_AGAIN), allowance: None };
        places.take(self.hash(caller)).map(Some).ok_or_else(|| self.refuse(refusal()))
    }

    fn refuse(&self, refusal: Refusal) -> Refusal {
        self.0.refused[refusal.limit as usize].fetch_add(1, Relaxed);
        refusal
    }

    /// With 64 bits of a keyed hash two of a million callers share theirs once in ten million nodes.
    fn hash(&self, caller: Caller<'_>) -> u64 {
        match caller {
            Caller::User(user) => self.0.hashes.hash_one((0_u8, user)),
            Caller::Address(address) => self.0.hashes.hash_one((1_u8, network(address))),
        }
    }
}

// === impl Limit ===

impl Limit {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Requests,
        Self::AddressRequests,
        Self::Route,
        Self::Publishes,
        Self::UserStreams,
        Self::AddressStreams,
        Self::Jobs,
    ];

    /// The name of its setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::AddressRequests => "requests_per_minute_per_address",
            Self::Route => "routes",
            Self::Publishes => "publishes_per_second",
            Self::UserStreams => "connections_per_user",
            Self::AddressStreams => "connections_per_address",
            Self::Jobs => "jobs_per_user",
        }
    }
}

// === impl StreamPlace ===

impl StreamPlace {
    /// The bytes that wait for all streams of the caller, where they are bounded.
    pub fn queued(&self) -> Option<Arc<std::sync::atomic::AtomicUsize>> {
        self.user.as_ref().map(Place::bytes)
    }
}

/// The one with less left, in proportion.
pub fn tighter(one: Option<Allowance>, other: Option<Allowance>) -> Option<Allowance> {
    let left = |allowance: &Allowance| f64::from(allowance.remaining) / f64::from(allowance.limit.max(1));
    one.into_iter().chain(other).min_by(|a, b| left(a).total_cmp(&left(b)))
}

/// What one customer has: an IPv4 address, or the first half of an IPv6 address.
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
        assert!(!passes("::ffff:10.0.0.1"), "an IPv4 address in IPv6 clothes is the same one");
        assert_eq!(limits.refused()[1], ("requests_per_minute_per_address", 2));
    }

    #[test]
    fn a_user_named_like_an_address_is_not_that_address() {
        let limits = limits(&Config { requests_per_minute: Some(1), ..Config::default() });
        assert!(limits.request(Caller::User("10.0.0.1"), "GET", "/").is_ok());
        assert!(limits.request(Caller::Address(ip("10.0.0.1")), "GET", "/").is_ok());
        assert!(limits.request(Caller::User("10.0.0.1"), "GET", "/").is_err());
        assert_eq!(limits.callers(), 2);
    }

    #[test]
    fn the_tightest_limit_is_told_and_a_route_has_its_own() {
        let route = RouteConfig { path: "/a*".into(), requests: 2, window_ms: 1000, method: None };
        let limits = limits(&Config { requests_per_minute: Some(100), routes: vec![route], ..Config::default() });
        let user = Caller::User("u");
        assert_eq!(limits.request(user, "GET", "/b").unwrap().unwrap().limit, 100);
        assert_eq!(limits.request(user, "GET", "/ab").unwrap().unwrap().limit, 2);
        limits.request(user, "GET", "/ab").unwrap();
        let refused = limits.request(user, "GET", "/a").unwrap_err();
        assert_eq!((refused.limit, refused.most), (Limit::Route, 2));
        assert!(limits.request(user, "GET", "/b").is_ok());
    }

    #[test]
    fn what_is_off_asks_for_nothing() {
        let limits = limits(&Config::default());
        assert_eq!(limits.request_from(|| unreachable!("nobody asks")), Ok(None));
        assert!(!limits.limits_request("GET", "/") && !limits.limits_streams());
        assert!(!limits.limits_publishing() && !limits.limits_jobs());
    }

    /// The user's place is given back when the address has none.
    #[test]
    fn a_stream_takes_both_places_or_none() {
        let limits =
            limits(&Config { connections_per_user: Some(1), connections_per_address: Some(1), ..Config::default() });
        let first = limits.stream(Caller::User("a"), ip("10.0.0.1"));
        assert!(first.is_ok());
        let refused = limits.stream(Caller::User("b"), ip("10.0.0.1")).unwrap_err();
        assert_eq!(refused.limit, Limit::AddressStreams);
        assert!(limits.stream(Caller::User("b"), ip("10.0.0.2")).is_ok());
    }

    #[test]
    fn more_at_once_than_a_second_has_is_refused_for_good() {
        let limits = limits(&Config { publishes_per_second: Some(10), ..Config::default() });
        assert_eq!(limits.publish(Caller::User("a"), 11).unwrap_err().wait, None);
        assert!(limits.publish(Caller::User("a"), 10).is_ok());
        assert!(limits.publish(Caller::User("a"), 1).unwrap_err().wait.is_some());
    }
}
