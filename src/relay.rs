//! Relays: remote event streams that live on this node, merged, resumable and independent of who watches them.
//!
//! ```text
//!  http ──create──> Handle ──> journal: spec, cursors           accepted: only now the client hears of it
//!                                │
//!                                v
//!   Group: equal sources, one    Runner ──next()──> EventSource ──> remote
//!   upstream connection            │
//!                                  └──append(events + the cursors that cover them)──> journal ──> hub ──> watchers
//! ```
//!
//! [`Handle`] is the only door. `spec` checks, `state` and `books` say what is known, `group` says who shares an upstream;
//! `runner` reads one upstream and writes what it brings, `lifecycle` begins and ends relays, `actor` is the thread that
//! all of it runs on. With a journal that outlives the process so do relays: at the start `recovery` takes them up where
//! their cursors stand.
//!
//! Promises: an event of a source is in the relay's topics once, in order, whatever happens to this node; what cannot be
//! kept or cannot be known is told in band; a source that fails harms no other one; while the journal takes nothing the
//! upstream is held, and nothing is dropped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    journal,
    shares::Share,
    supervise::Supervisor,
    upstream::{Connections, Remotes, events::Pace},
};

mod actor;
mod append;
mod ask;
mod books;
mod copy;
mod error;
mod group;
mod handle;
mod lifecycle;
mod loops;
mod metrics;
mod record;
mod recovery;
mod runner;
mod shared;
pub mod spec;
pub mod state;
mod stats;
#[cfg(test)]
mod tests;
mod told;
mod trail;

pub use self::{
    actor::start,
    ask::Limits,
    books::{Filter, Listing},
    error::Error,
    handle::{Created, Handle},
    spec::{FieldError, Spec},
    state::{Status, Summary, View},
    stats::Stats,
    told::LAST_EVENT,
};

/// What the relays of a node work with.
#[derive(Clone)]
pub struct Deps {
    /// Where events and cursors go.
    pub journal: journal::Shared,
    /// The journal's `max_event_bytes`: what is larger is told of, not kept.
    pub max_event_bytes: usize,
    /// Who can be asked.
    pub remotes: Remotes,
    /// The places for upstream streams.
    pub connections: Connections,
    /// The share of the relays that one owner may hold.
    pub share: Share,
    /// Measures the time since the end of a relay.
    pub clock: Clock,
    /// Ends the node when the thread of the relays fails.
    pub supervisor: Supervisor,
}

pub mod merge;
pub mod passthrough;

/// Settings of section `[relay]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The remote that is meant where a request names none.
    pub default_remote: Option<String>,
    /// Most upstream streams of the node at once: proxied, merged, relayed and those of remote jobs.
    pub max_upstreams: usize,
    /// Most relays that have not ended; more are refused.
    pub max_relays: usize,
    /// Most sources of one relay or one merged stream.
    pub max_sources: usize,
    /// What is known of a relay leaves so many milliseconds after its end.
    pub retention_ms: u64,
    /// The first delay before a lost stream is opened again, in milliseconds, until the upstream names one with `retry:`.
    pub initial_retry_ms: u64,
    /// The longest delay to which that grows, in milliseconds; what the upstream asks for may be longer.
    pub max_retry_ms: u64,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            default_remote: None,
            max_upstreams: 2000,
            max_relays: 1000,
            max_sources: 256,
            retention_ms: 24 * 60 * 60 * 1000,
            initial_retry_ms: 1000,
            max_retry_ms: 30_000,
        }
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key and the accepted form.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("max_upstreams", self.max_upstreams as u64),
            ("max_relays", self.max_relays as u64),
            ("max_sources", self.max_sources as u64),
            ("initial_retry_ms", self.initial_retry_ms),
            ("max_retry_ms", self.max_retry_ms),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("`relay.{key}` must be at least 1")),
            None => Ok(()),
        }
    }

    /// How fast lost streams are opened again.
    pub fn pace(&self) -> Pace {
        Pace {
            initial: Duration::from_millis(self.initial_retry_ms),
            max: Duration::from_millis(self.max_retry_ms.max(self.initial_retry_ms)),
        }
    }
}
