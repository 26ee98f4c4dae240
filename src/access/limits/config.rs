//! The form of the section `[limits]`; `table.rs` has the default of each limit.

use serde::{Deserialize, Serialize};

use crate::{access::Mode, shares::Share};

/// `[limits]`: the part of the node that one caller may use. 0 switches a limit off; unset limits are off in open mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Maximum number of requests of a user per minute; callers without a name are counted by address.
    pub requests_per_minute: Option<u64>,
    /// Maximum number of requests from an address per minute, with any caller.
    pub requests_per_minute_per_address: Option<u64>,
    /// Maximum number of open streams of a user; callers without a name are counted by address.
    pub connections_per_user: Option<u64>,
    /// Maximum number of open streams from an address.
    pub connections_per_address: Option<u64>,
    /// Maximum number of events that a user publishes per second; an array counts each of its events.
    pub publishes_per_second: Option<u64>,
    /// Maximum number of unfinished jobs of a user.
    pub jobs_per_user: Option<u64>,
    /// Maximum number of bytes in the outboxes of a user's streams. Above it, an outbox that is not empty is full.
    pub queued_bytes_per_user: Option<u64>,
    /// Percentage of each limited resource that one user may hold while other users use it.
    pub share_percent: Option<u8>,
    /// Maximum number of callers with a rate of their own, for each rate. Further callers share one rate.
    pub max_callers: usize,
    /// Rates of single routes.
    pub routes: Vec<RouteConfig>,
}

/// `[[limits.routes]]`: maximum rate of a caller's requests to a route. The first matching row counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteConfig {
    /// The path, or its beginning and `*`.
    pub path: String,
    /// Only requests with this method.
    pub method: Option<String>,
    /// Maximum number of requests in a window.
    pub requests: u64,
    /// The window in milliseconds.
    pub window_ms: u64,
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
    /// The share of each limited resource that one user may hold. In open mode user names are not verified, so one user
    /// may hold everything unless `share_percent` is set.
    pub fn share(&self, mode: Mode) -> Share {
        match self.share_percent {
            Some(percent) => Share::percent(percent),
            None if mode == Mode::Open => Share::WHOLE,
            None => Share::percent(USUAL_SHARE),
        }
    }

    /// The number of the node's connections that one user may hold by default.
    pub(super) fn connection_share(&self, connections: usize) -> u64 {
        let share = Share::percent(self.share_percent.unwrap_or(USUAL_SHARE));
        share.most(connections as u64, false)
    }

    /// Checks the settings that have no row in the table.
    pub(super) fn check_others(&self) -> Result<(), String> {
        if self.share_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Err("`limits.share_percent` must be from 1 to 100; 100 permits one user to take everything".into());
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
    fn in_token_mode_one_user_may_use_half_of_each_resource() {
        assert_eq!(Config::default().share(Mode::Open), Share::WHOLE);
        assert_eq!(Config::default().share(Mode::Token), Share::percent(50));
        assert!(Config { share_percent: Some(0), ..Config::default() }.check_others().is_err());
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
