//! Figures for metrics and status.

use std::sync::atomic::AtomicU64;

use serde::Serialize;
use utoipa::ToSchema;

/// Figures of the relays component. Counters run since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelayStats)]
pub struct Stats {
    /// Relays that have not ended.
    pub relays_running: u64,
    /// Relays that have ended and are kept.
    pub relays_kept: u64,
    /// Events relayed; one that several relays share counts once.
    pub events: u64,
    /// Connections after the first one of a source.
    pub reconnects: u64,
    /// Events that came again after a reconnect, and were known.
    pub doubles_dropped: u64,
    /// Dropped events that returned to a topic where they had already been.
    pub loops_dropped: u64,
    /// Events that were told of and not kept: too large, or with a name that no stream can carry.
    pub skipped: u64,
    /// Sources that were given up.
    pub sources_failed: u64,
    /// Times that a user was rejected because it already had its share of the relays.
    pub shares_refused: u64,
    /// Records of relays that could not be read at the start; they are left alone.
    pub records_unreadable: u64,
}

/// What is counted where it happens.
#[derive(Debug, Default)]
pub struct Counters {
    pub events: AtomicU64,
    pub reconnects: AtomicU64,
    pub doubles: AtomicU64,
    pub loops: AtomicU64,
    pub skipped: AtomicU64,
    pub failed: AtomicU64,
    pub unreadable: AtomicU64,
    pub shares_refused: AtomicU64,
}
