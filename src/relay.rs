//! Relays: remote event streams that the node reads on its own, into topics, independent of readers and restarts.
//!
//! ```text
//!  http ── Create, Delete, Restart, GetView, … ──> RelaysActor, one per node, on a thread of its own
//!                                                    │  ^                    │  ^
//!                                   each message is  │  │ effects            │  │ Report: opened, events, lost,
//!                                   one call         v  │                    │  │ ended, gave up; one at a time,
//!                                                   Engine (pure)            │  │ answered when it is written
//!                        relays, groups of equal sources, positions          v  │
//!                                                    │  ^               UpstreamActor, one per group
//!                             Work: append, read, …  │  │ Done            connecting ─> streaming ─> done | failed
//!                                                    v  │                     ^             │
//!  readers <── hub <── topics <───────────────── journal                     └─ backing off <┘
//!                                                                              │
//!                                                                        EventSource ──> remote
//! ```
//!
//! - [`Handle`] sends the messages. `actor` owns the `engine` and carries out its effects; `work` asks the journal.
//! - A *group* is the equal sources of any relays. One upstream reads for all of them; each event is appended once, in the
//!   topics of all, together with the positions that cover it. A source that joins later gets the events that the others
//!   got before from the journal.
//! - The writes of a group follow one another, and so do the changes of a relay. A deletion holds the groups of its relay
//!   until it is written. State changes when the journal has confirmed the write.
//! - With a journal that outlives the process, `recovery` reads the relays at the start, and they continue after their
//!   positions.
//! - A panic in one upstream ends only the sources that it reads; a panic in the actor of the relays ends the node.
//!
//! Promises: each event of a source is in the topics of its relay once and in order, whatever happens to this node. Events
//! that cannot be stored, or may be missing, are reported in band. A source that fails harms no other source. While the journal
//! takes nothing, the upstream is not read, and nothing is dropped.
//!
//! [`merge`] and [`passthrough`] read remote streams for one reader each, without the journal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    durable, journal,
    shares::Share,
    supervise::Supervisor,
    upstream::{Connections, Remotes, events::Pace},
};

mod actor;
mod engine;
mod error;
mod handle;
mod loops;
mod member;
pub mod merge;
mod metrics;
mod output;
pub mod passthrough;
mod record;
mod recovery;
pub mod spec;
pub mod state;
mod stats;
#[cfg(test)]
mod tests;
mod trail;
mod upstream;
mod work;

pub use self::{
    error::Error,
    handle::{Handle, start},
    output::LAST_EVENT,
    spec::{Limits, Spec},
    state::{Created, Listing, Status, Summary, View},
    stats::Stats,
};

/// Which relays to list.
pub type Filter = durable::Filter<Status>;

/// What the relays of a node work with.
#[derive(Clone)]
pub struct Deps {
    /// Stores events and positions.
    pub journal: journal::Shared,
    /// The journal's `max_event_bytes`: a larger event is reported, not stored.
    pub max_event_bytes: usize,
    /// The remotes that relays can read.
    pub remotes: Remotes,
    /// Limits the upstream connections of the node.
    pub connections: Connections,
    /// The share of the relays that one user may hold.
    pub share: Share,
    /// Measures the time since the end of a relay.
    pub clock: Clock,
    /// Ends the node when the actor of the relays fails.
    pub supervisor: Supervisor,
}

/// Settings of section `[relay]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The remote for requests that name none.
    pub default_remote: Option<String>,
    /// Maximum number of upstream streams of the node: proxied, merged, relayed, and those of remote jobs.
    pub max_upstreams: usize,
    /// Maximum number of relays that have not ended; more are refused.
    pub max_relays: usize,
    /// Maximum number of sources of one relay or one merged stream.
    pub max_sources: usize,
    /// How long an ended relay is shown, in milliseconds.
    pub retention_ms: u64,
    /// The first delay before a lost stream is opened again, in milliseconds, unless the upstream sets one with `retry:`.
    pub initial_retry_ms: u64,
    /// The longest delay that growth reaches, in milliseconds; the upstream may ask for a longer one.
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
    /// Checks the limits that the types do not express.
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

    /// The delays before lost streams are opened again.
    pub fn pace(&self) -> Pace {
        Pace {
            initial: Duration::from_millis(self.initial_retry_ms),
            max: Duration::from_millis(self.max_retry_ms.max(self.initial_retry_ms)),
        }
    }
}
