//! Section `[limits]`, and which limits are in force in which mode.

use serde::{Deserialize, Serialize};

use crate::{access::Mode, shares::Share};

/// `[limits]`: how much of the node one caller may use. 0 switches a limit off; what is not set is off in open mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most requests of a user in a minute; who gives no name is counted by address.
    pub requests_per_minute: Option<u64>,
    /// Most requests from an address in a minute, whoever makes them.
    pub requests_per_minute_per_address: Option<u64>,
    /// Most open streams of a user; who gives no name is counted by address.
    pub connections_per_user: Option<u64>,
    /// Most open streams from an address.
    pub connections_per_address: Option<u64>,
    /// Most events that a user publishes in a second; an array counts each of its events.
    pub publishes_per_second: Option<u64>,
    /// Most jobs of a user that have not ended.
    pub jobs_per_user: Option<u64>,
    /// Bytes that wait in the outboxes of a user's streams; above, an outbox that is not empty is full.
    pub queued_bytes_per_user: Option<u64>,
    /// Percentage of each limited resource that one user may hold while other users use it.
    pub share_percent: Option<u8>,
    /// Most callers whose rate is kept apart, for each rate; beyond, newcomers share one.
    pub max_callers: usize,
    /// Rates of single routes.
    pub routes: Vec<RouteConfig>,
}

/// `[[limits.routes]]`: how often one caller may ask a route. Of several that match the first counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteConfig {
    /// The path, or its beginning and `*`.
    pub path: String,
    /// Only requests with this method.
    pub method: Option<String>,
    /// Most requests in a window.
    pub requests: u64,
    /// The window in milliseconds.
    pub window_ms: u64,
}

/// The limits in force; `None` is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    pub requests: Option<u64>,
    pub address_requests: Option<u64>,
    pub user_streams: Option<u64>,
    pub address_streams: Option<u64>,
    pub publishes: Option<u64>,
    pub jobs: Option<u64>,
    pub queued_bytes: Option<u64>,
}

/// The default share of a user in percent, in token mode.
const USUAL_SHARE: u8 = 50;
/// The longest window of a rate: a day.
const LONGEST_WINDOW_MS: u64 = 24 * 60 * 60 * 1000;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            requests_per_minute_per_address: None,
            connections_per_user: None,
            connections_per_address: None,
            publishes_per_second: None,
            jobs_per_user: None,
            queued_bytes_per_user: None,
            share_percent: None,
            max_callers: 100_000,
            routes: Vec::new(),
        }
    }
}

impl Config {
    /// What is in force. Where everybody may do everything, nobody is limited unasked: a user's name means nothing there.
    pub fn in_force(&self, mode: Mode, connections: usize) -> InForce {
        self.guarded(mode != Mode::Open, connections)
    }

    /// The share of each limited resource that one user may hold. In open mode user names are not verified, so one user
    /// may hold everything unless `share_percent` is set.
    pub fn share(&self, mode: Mode) -> Share {
        match self.share_percent {
            Some(percent) => Share::percent(percent),
            None if mode == Mode::Open => Share::WHOLE,
            None => Share::percent(USUAL_SHARE),
        }
    }

    fn guarded(&self, guarded: bool, connections: usize) -> InForce {
        let limit = |set: Option<u64>, usual| set.or_else(|| guarded.then_some(usual)).filter(|limit| *limit > 0);
        let share = self.share_percent.map_or(Share::percent(USUAL_SHARE), Share::percent);
        InForce {
            // A service that publishes an event in each request, a thousand times a second.
            requests: limit(self.requests_per_minute, 60_000),
            // Several of them behind one address, or all the browsers of an office.
            address_requests: limit(self.requests_per_minute_per_address, 300_000),
            // One token may belong to an application with many browsers, but it never gets more than its share of the
            // node's connections.
            user_streams: limit(self.connections_per_user, share.most(connections as u64, false).min(1000)),
            address_streams: limit(self.connections_per_address, 10_000),
            publishes: limit(self.publishes_per_second, 10_000),
            // A tenth of what the node takes (`jobs.max_running`).
            jobs: limit(self.jobs_per_user, 1000),
            // 256 full outboxes.
            queued_bytes: limit(self.queued_bytes_per_user, 64 << 20),
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key and the accepted form.
    pub fn check(&self) -> Result<(), String> {
        let rates = [
            ("requests_per_minute", self.requests_per_minute),
            ("requests_per_minute_per_address", self.requests_per_minute_per_address),
            ("publishes_per_second", self.publishes_per_second),
        ];
        for (key, limit) in rates {
            if limit.is_some_and(|limit| limit > u64::from(u32::MAX)) {
                return Err(format!("`limits.{key}` must be at most {}; 0 is no limit", u32::MAX));
            }
        }
        if self.share_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Err("`limits.share_percent` must be from 1 to 100; 100 lets one user take everything".into());
        }
        if !(16..=10_000_000).contains(&self.max_callers) {
            return Err("`limits.max_callers` must be from 16 to 10000000".into());
        }
        self.routes.iter().enumerate().try_for_each(|(index, route)| {
            route.check().map_err(|reason| format!("`limits.routes[{index}]`: {reason}"))
        })
    }
}

// === impl RouteConfig ===

impl RouteConfig {
    fn check(&self) -> Result<(), String> {
        let star = self.path.find('*').is_none_or(|at| at + 1 == self.path.len());
        if !self.path.starts_with('/') || !star {
            return Err("`path` must begin with `/` and may have one `*`, at its end".into());
        }
        if self
            .method
            .as_ref()
            .is_some_and(|method| method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err("`method` must be one such as `GET` or `POST`".into());
        }
        if !(1..=u64::from(u32::MAX)).contains(&self.requests) {
            return Err(format!("`requests` must be from 1 to {}", u32::MAX));
        }
        if !(1..=LONGEST_WINDOW_MS).contains(&self.window_ms) {
            return Err(format!("`window_ms` must be from 1 to {LONGEST_WINDOW_MS} (a day)"));
        }
        Ok(())
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        let named = self.path.strip_suffix('*').map_or(path == self.path, |beginning| path.starts_with(beginning));
        named && self.method.as_ref().is_none_or(|own| own == method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_mode_limits_only_what_is_set() {
        assert_eq!(Config::default().in_force(Mode::Open, 1000), InForce::default());
        let set = Config { requests_per_minute: Some(5), jobs_per_user: Some(0), ..Config::default() };
        assert_eq!(set.in_force(Mode::Open, 1000), InForce { requests: Some(5), ..InForce::default() });
    }

    #[test]
    fn where_callers_are_known_all_are_limited_but_for_what_is_switched_off() {
        let usual = Config::default().guarded(true, 10_000);
        assert_eq!((usual.requests, usual.queued_bytes), (Some(60_000), Some(64 << 20)));
        let set = Config { requests_per_minute: Some(0), publishes_per_second: Some(7), ..Config::default() };
        assert_eq!(set.guarded(true, 10_000), InForce { requests: None, publishes: Some(7), ..usual });
    }

    #[test]
    fn one_user_has_at_most_its_share_of_the_connections() {
        assert_eq!(Config::default().guarded(true, 524).user_streams, Some(262));
        assert_eq!(Config { share_percent: Some(10), ..Config::default() }.guarded(true, 524).user_streams, Some(52));
        assert_eq!(Config::default().guarded(true, 100_000).user_streams, Some(1000));
        assert_eq!(Config::default().share(Mode::Open), Share::WHOLE);
        assert_eq!(Config::default().share(Mode::Token), Share::percent(50));
        assert!(Config { share_percent: Some(0), ..Config::default() }.check().is_err());
    }

    #[test]
    fn a_route_is_named_by_its_path_or_its_beginning() {
        let route = |path: &str, method: Option<&str>| RouteConfig {
            path: path.into(),
            method: method.map(str::to_owned),
            requests: 1,
            window_ms: 1,
        };
        assert!(route("/a", None).matches("GET", "/a"));
        assert!(!route("/a", None).matches("GET", "/a/b"));
        assert!(route("/a/*", Some("POST")).matches("POST", "/a/b"));
        assert!(!route("/a/*", Some("POST")).matches("GET", "/a/b"));
        for (path, method) in
            [("a", None), ("/a*b", None), ("/*/*", None), ("", None), ("/a", Some("get")), ("/a", Some(""))]
        {
            assert!(route(path, method).check().is_err(), "{path} {method:?}");
        }
        assert!(RouteConfig { requests: 0, ..route("/a", None) }.check().is_err());
        assert!(RouteConfig { window_ms: 0, ..route("/a", None) }.check().is_err());
        assert!(RouteConfig { window_ms: u64::MAX, ..route("/a", None) }.check().is_err());
    }
}
