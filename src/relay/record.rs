//! The records of a relay in the journal.
//!
//! A relay exists exactly as long as its spec record. The spec and the first cursors are written before the client gets
//! its answer, and all records of a relay are deleted in one commit.
//!
//! ```text
//! relay/{id}/spec          the accepted spec, secrets included, with remotes and labels filled in
//! relay/{id}/cursor/{n}    how far source n was read; written in the same commit as the events that it covers
//! relay/{id}/end           how and when the relay ended; without it the relay continues at the next start
//! ```

use serde::{Deserialize, Serialize};

use super::{Spec, Status};
use crate::{
    durable::{self, Records},
    event::now_ms,
    journal::RecordWrite,
    upstream::events::{Cursor, End},
};

/// The value of a spec record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpecRecord {
    /// The version of this form.
    pub(super) version: u32,
    /// Unix milliseconds.
    pub(super) created_at: u64,
    /// The user who created the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    pub(super) spec: Spec,
}

/// How far a source was read: the value of a cursor record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Progress {
    /// Grows with every write. It shows whether a write happened whose answer was lost.
    pub(super) seq: u64,
    pub(super) cursor: Cursor,
    /// The number of connections that were opened so far.
    pub(super) opens: u64,
    /// Events may be missing among those that were read.
    #[serde(default)]
    pub(super) missed: bool,
    /// A request that must not be repeated may have been sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) asked: bool,
    /// When the state of the source last changed, in Unix milliseconds.
    pub(super) since: u64,
    /// How the source ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<Ended>,
}

/// How a source ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ended {
    /// It was read to its end.
    Complete(End),
    /// It was given up.
    Failed(Reason),
}

/// Why a source was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reason {
    /// For people.
    pub(super) error: String,
    /// One stable word.
    pub(super) code: String,
}

/// How a relay ended: the value of an end record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndRecord {
    pub(super) status: Status,
    /// Unix milliseconds.
    pub(super) ended_at: u64,
}

/// The records of all relays.
pub(super) const RELAYS: Records = Records("relay");
/// The current version of [`SpecRecord`].
pub(super) const VERSION: u32 = 1;

// === impl Progress ===

impl Progress {
    /// The progress of a source that begins after this id; empty means from the start.
    pub(super) fn initial(start: &str) -> Self {
        Self { cursor: Cursor::after(start), since: now_ms(), ..Self::default() }
    }
}

/// The key of the cursor record of a source.
pub(super) fn cursor_key(id: &str, source: usize) -> String {
    RELAYS.key(id, format_args!("cursor/{source}"))
}

/// The key of the end record of a relay.
pub(super) fn end_key(id: &str) -> String {
    RELAYS.key(id, "end")
}

/// Deletes all records of a relay with this number of sources.
pub(super) fn delete_all(id: &str, sources: usize) -> Vec<RecordWrite> {
    let keys = [RELAYS.spec(id), end_key(id)].into_iter().chain((0..sources).map(|source| cursor_key(id, source)));
    keys.map(durable::delete).collect()
}
