//! Counters of the hub, and the list of reasons why a stream ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Why a stream ended. Frames, logs and metrics use the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The client closed the connection, or the connection broke.
    ClientGone,
    /// The node stops.
    Shutdown,
    /// The stream's lifetime is over.
    Lifetime,
    /// The outbox was full, and the overflow policy is `disconnect`.
    Slow,
    /// The client took nothing for `write_deadline_ms`.
    WriteDeadline,
    /// The token of the stream has expired, or was revoked.
    TokenExpired,
    /// A caller of the API ended it.
    Removed,
    /// The client sent more than [`MOST_INPUT`](super::MOST_INPUT) bytes after its request.
    InputFlood,
    /// The stream is complete: its job or relay has ended.
    Ended,
    /// The journal could not be read.
    JournalUnavailable,
}

/// Counters of one hub. They only grow; [`Counters::open`] is computed from them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams opened.
    pub opened: AtomicU64,
    closed: [AtomicU64; Reason::ALL.len()],
    /// Events that were queued in outboxes.
    pub delivered: AtomicU64,
    /// Events that overflow policies dropped.
    pub dropped: AtomicU64,
    /// Times that an emitter with a full outbox began to read from the journal.
    pub lagged: AtomicU64,
    /// `gap` frames sent.
    pub gaps: AtomicU64,
    /// Times that the filter of an event could not be applied to an emitter, which then does not get the event.
    pub filters_failed: AtomicU64,
    /// Heartbeats sent.
    pub heartbeats: AtomicU64,
}

// === impl Reason ===

impl Reason {
    /// All reasons, in the order of the enum.
    pub const ALL: [Self; 10] = [
        Self::ClientGone,
        Self::Shutdown,
        Self::Lifetime,
        Self::Slow,
        Self::WriteDeadline,
        Self::TokenExpired,
        Self::Removed,
        Self::InputFlood,
        Self::Ended,
        Self::JournalUnavailable,
    ];

    /// The word in frames, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::Shutdown => "shutdown",
            Self::Lifetime => "lifetime",
            Self::Slow => "slow",
            Self::WriteDeadline => "write_deadline",
            Self::TokenExpired => "token_expired",
            Self::Removed => "removed",
            Self::InputFlood => "input_flood",
            Self::Ended => "ended",
            Self::JournalUnavailable => "journal_unavailable",
        }
    }
}

// === impl Counters ===

impl Counters {
    pub(super) fn close(&self, reason: Reason) {
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    /// Streams that ended for this reason.
    pub fn closed(&self, reason: Reason) -> u64 {
        self.closed[reason as usize].load(Relaxed)
    }

    /// Streams that are open now.
    pub fn open(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|count| count.load(Relaxed)).sum();
        self.opened.load(Relaxed).saturating_sub(closed)
    }
}
