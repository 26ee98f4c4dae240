//! What the hub counts, and the one list of reasons why a stream ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Why a stream ended; the same words in frames, logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The client closed the connection, or it broke.
    ClientGone,
    /// The node stops.
    Shutdown,
    /// The stream's lifetime is over.
    Lifetime,
    /// Its outbox was full and its policy is `disconnect`.
    Slow,
    /// It took nothing for `write_deadline_ms`.
    WriteDeadline,
    /// The token of its user has expired, or was revoked.
    TokenExpired,
    /// Somebody ended it through the API.
    Removed,
    /// The client sent more than any client of a stream has to say.
    InputFlood,
    /// There is nothing more to come: the job is complete.
    Ended,
    /// The journal could not be read any further.
    JournalUnavailable,
}

/// Counters of one hub; all only grow but those named in the gauges' methods.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams opened.
    pub opened: AtomicU64,
    closed: [AtomicU64; Reason::ALL.len()],
    /// Frames put into outboxes for events.
    pub delivered: AtomicU64,
    /// Events that an overflow policy dropped.
    pub dropped: AtomicU64,
    /// Times that a full outbox sent an emitter to read from the journal.
    pub lagged: AtomicU64,
    /// `gap` frames sent.
    pub gaps: AtomicU64,
    /// Times that the filter of an event could not be applied to an emitter, which then does not get it.
    pub filters_failed: AtomicU64,
    /// Heartbeats sent.
    pub heartbeats: AtomicU64,
}

// === impl Reason ===

impl Reason {
    /// All of them, in the order of the enum.
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

    /// The word for it.
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
