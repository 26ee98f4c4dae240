//! The table of limits: one row for each, with its setting, its kind and its default.
//!
//! To add a limit: a row here, a variant of [`Limit`], a field of [`Config`], and the call in `http/limited.rs`, which
//! also maps it to a reason of refusal.

use std::time::Duration;

use super::config::Config;
use crate::access::Mode;

/// A limit; each one has a row in `TABLE`, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Requests of a caller.
    Requests,
    /// Requests from an address, of all callers.
    AddressRequests,
    /// Requests of a caller to a route with its own rate.
    Route,
    /// Events that a caller publishes.
    Publishes,
    /// Open streams of a caller.
    UserStreams,
    /// Open streams from an address.
    AddressStreams,
    /// Unfinished jobs of a caller.
    Jobs,
    /// Bytes that wait for all streams of a caller.
    QueuedBytes,
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An amount per window.
    Rate(Duration),
    /// A number at the same time.
    Permits,
    /// A rate for each row of `[[limits.routes]]`.
    Routes,
    /// A number that another component enforces; it rejects nothing here.
    Bytes,
}

/// A row of the table.
pub(super) struct Row {
    pub(super) limit: Limit,
    /// The name of its setting in `[limits]`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The value of its setting.
    set: fn(&Config) -> Option<u64>,
    /// The default in token mode, from the share of the node's connections that one user may hold. Open mode has no
    /// defaults.
    usual: fn(u64) -> u64,
    /// The refusal for a client, with `{}` for the limit.
    pub(super) refusal: &'static str,
}

const MINUTE: Kind = Kind::Rate(Duration::from_secs(60));
const SECOND: Kind = Kind::Rate(Duration::from_secs(1));

/// All limits.
pub(super) static TABLE: [Row; 8] = [
    Row {
        limit: Limit::Requests,
        name: "requests_per_minute",
        kind: MINUTE,
        set: |config| config.requests_per_minute,
        // A service that publishes an event in each request, a thousand times a second.
        usual: |_| 60_000,
        refusal: "you have made the {} requests that one caller has in a minute",
    },
    Row {
        limit: Limit::AddressRequests,
        name: "requests_per_minute_per_address",
        kind: MINUTE,
        set: |config| config.requests_per_minute_per_address,
        // Several such services behind one address, or all browsers of an office.
        usual: |_| 300_000,
        refusal: "your address has made the {} requests that it has in a minute",
    },
    Row {
        limit: Limit::Route,
        name: "routes",
        kind: Kind::Routes,
        set: |_| None,
        usual: |_| 0,
        refusal: "you have asked for this the {} times that one caller may",
    },
    Row {
        limit: Limit::Publishes,
        name: "publishes_per_second",
        kind: SECOND,
        set: |config| config.publishes_per_second,
        usual: |_| 10_000,
        refusal: "you have published the {} events that one caller has in a second",
    },
    Row {
        limit: Limit::UserStreams,
        name: "connections_per_user",
        kind: Kind::Permits,
        set: |config| config.connections_per_user,
        // One token may belong to an application with many browsers, but it never gets more than its share of the node's
        // connections.
        usual: |share| share.min(1000),
        refusal: "you have the {} open streams that one caller may have; close one",
    },
    Row {
        limit: Limit::AddressStreams,
        name: "connections_per_address",
        kind: Kind::Permits,
        set: |config| config.connections_per_address,
        usual: |_| 10_000,
        refusal: "your address has the {} open streams that it may have; close one",
    },
    Row {
        limit: Limit::Jobs,
        name: "jobs_per_user",
        kind: Kind::Permits,
        set: |config| config.jobs_per_user,
        // A tenth of the jobs that the node accepts (`jobs.max_running`).
        usual: |_| 1000,
        refusal: "you have the {} unfinished jobs that one caller may have",
    },
    Row {
        limit: Limit::QueuedBytes,
        name: "queued_bytes_per_user",
        kind: Kind::Bytes,
        set: |config| config.queued_bytes_per_user,
        // 256 full outboxes.
        usual: |_| 64 << 20,
        refusal: "",
    },
];

// The order is checked when the program is compiled.
const _: () = {
    let mut at = 0;
    while at < TABLE.len() {
        assert!(TABLE[at].limit as usize == at, "the rows are in the order of the variants");
        at += 1;
    }
};

// === impl Row ===

impl Row {
    /// The limit in force; `None` if it is off. Open mode has no defaults, since user names are not verified there.
    pub(super) fn in_force(&self, config: &Config, mode: Mode, connections: usize) -> Option<u64> {
        let usual = || (mode != Mode::Open).then(|| (self.usual)(config.connection_share(connections)));
        (self.set)(config).or_else(usual).filter(|limit| *limit > 0)
    }

    /// Checks the value of the setting.
    pub(super) fn check(&self, config: &Config) -> Result<(), String> {
        let most = u64::from(u32::MAX);
        match (self.kind, (self.set)(config)) {
            (Kind::Rate(_), Some(limit)) if limit > most => {
                Err(format!("`limits.{}` must be at most {most}; 0 is no limit", self.name))
            }
            _ => Ok(()),
        }
    }
}

// === impl Config ===

impl Config {
    /// Checks rules that the types do not express.
    ///
    /// # Errors
    /// Names the key and the accepted form.
    pub fn check(&self) -> Result<(), String> {
        TABLE.iter().try_for_each(|row| row.check(self))?;
        self.check_others()
    }
}

// === impl Limit ===

impl Limit {
    /// The name of its setting in `[limits]`.
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    pub(super) fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(config: &Config, mode: Mode, connections: usize) -> [Option<u64>; TABLE.len()] {
        TABLE.each_ref().map(|row| row.in_force(config, mode, connections))
    }

    /// The given limits, and those of `others` for the rest.
    fn with<const N: usize>(
        limits: [(Limit, Option<u64>); N],
        mut others: [Option<u64>; TABLE.len()],
    ) -> [Option<u64>; TABLE.len()] {
        for (limit, value) in limits {
            others[limit as usize] = value;
        }
        others
    }

    #[test]
    fn open_mode_limits_only_what_is_set() {
        let none = [None; TABLE.len()];
        assert_eq!(in_force(&Config::default(), Mode::Open, 1000), none);
        let set = Config { requests_per_minute: Some(5), jobs_per_user: Some(0), ..Config::default() };
        assert_eq!(in_force(&set, Mode::Open, 1000), with([(Limit::Requests, Some(5))], none));
    }

    #[test]
    fn token_mode_limits_everything_that_is_not_switched_off() {
        let usual = in_force(&Config::default(), Mode::Token, 10_000);
        let of = |limit: Limit| usual[limit as usize];
        assert_eq!((of(Limit::Requests), of(Limit::QueuedBytes)), (Some(60_000), Some(64 << 20)));
        let set = Config { requests_per_minute: Some(0), publishes_per_second: Some(7), ..Config::default() };
        let expected = with([(Limit::Requests, None), (Limit::Publishes, Some(7))], usual);
        assert_eq!(in_force(&set, Mode::Token, 10_000), expected);
    }

    #[test]
    fn one_user_has_at_most_its_share_of_the_connections() {
        let streams =
            |config: &Config, connections| Limit::UserStreams.row().in_force(config, Mode::Token, connections);
        assert_eq!(streams(&Config::default(), 524), Some(262));
        assert_eq!(streams(&Config { share_percent: Some(10), ..Config::default() }, 524), Some(52));
        assert_eq!(streams(&Config::default(), 100_000), Some(1000));
    }
}
