//! Figures for metrics and status.

use serde::Serialize;
use utoipa::ToSchema;

/// Figures of the relays. Counters run since the start of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelayStats)]
pub struct Stats {
    /// Relays that have not ended.
    pub relays_running: u64,
    /// Ended relays that are still shown.
    pub relays_ended: u64,
    /// Events relayed; an event that several relays share counts once.
    pub events: u64,
    /// Connections after the first one of a source.
    pub reconnects: u64,
    /// Duplicates after a reconnect, which were dropped.
    pub doubles_dropped: u64,
    /// Dropped events that returned to a topic where they had already been.
    pub loops_dropped: u64,
    /// Events that were reported and not stored: too large, or with a name that no stream can carry.
    pub skipped: u64,
    /// Sources that were given up.
    pub sources_failed: u64,
    /// Times that a user was rejected because it already had its share of the relays.
    pub shares_refused: u64,
    /// Records of relays that could not be read at the start; they stay in the journal.
    pub records_unreadable: u64,
}

// === impl Stats ===

impl Stats {
    /// Adds the counters of one write.
    pub(super) fn add(&mut self, counted: Self) {
        self.events += counted.events;
        self.reconnects += counted.reconnects;
        self.doubles_dropped += counted.doubles_dropped;
        self.loops_dropped += counted.loops_dropped;
        self.skipped += counted.skipped;
        self.sources_failed += counted.sources_failed;
    }
}
