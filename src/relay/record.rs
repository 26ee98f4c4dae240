//! What is kept of a relay beside its events.
//!
//! A relay exists exactly as long as its spec record: that is written, with the first cursors, before the client hears of
//! the relay, and all of it leaves in one commit.
//!
//! ```text
//! relay/{id}/spec          the spec as accepted, secrets included, with remotes and labels filled in
//! relay/{id}/cursor/{n}    how far source n was read; written in the same commit as the events that it covers
//! relay/{id}/end           how and when the relay ended; while there is none, it goes on at the next start
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Spec, Status};
use crate::{
    event::now_ms,
    journal::{Record, RecordWrite, Shared, Unavailable},
    upstream::events::{Cursor, End},
};

/// What a spec record holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecRecord {
    /// Of this form; a later one can tell.
    pub version: u32,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub spec: Spec,
}

/// How far a source was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Grows with every write, so that a write whose answer was lost can be told from one that did not happen.
    pub seq: u64,
    pub cursor: Cursor,
    /// Connections that were open so far.
    pub opens: u64,
    /// Events may be missing among those that were read.
    #[serde(default)]
    pub missed: bool,
    /// A request that must not be sent twice may have been sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// Unix milliseconds of the last change of its state.
    pub since: u64,
    /// How it ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// How a source ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// It was read to its end.
    Complete(End),
    /// It was given up.
    Failed {
        /// Why.
        error: String,
        /// The same as one word.
        code: String,
    },
}

/// How a relay ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndRecord {
    pub status: Status,
    /// Unix milliseconds.
    pub ended_at: u64,
}

/// What the keys of all records of relays begin with.
pub const RECORDS: &str = "relay/";
/// The form of [`SpecRecord`].
pub const VERSION: u32 = 1;

// === impl Progress ===

impl Progress {
    /// Nothing read, to begin after this id; empty for none.
    pub fn initial(start: &str) -> Self {
        Self { cursor: Cursor::after(start), since: now_ms(), ..Self::default() }
    }
}

/// The key of a spec record.
pub fn spec_key(id: &str) -> String {
    format!("{RECORDS}{id}/spec")
}

/// The key of the cursor of a source.
pub fn cursor_key(id: &str, source: usize) -> String {
    format!("{RECORDS}{id}/cursor/{source}")
}

/// The key of an end.
pub fn end_key(id: &str) -> String {
    format!("{RECORDS}{id}/end")
}

/// The relay whose spec this key names.
pub fn relay_of_spec(key: &str) -> Option<&str> {
    key.strip_prefix(RECORDS)?.strip_suffix("/spec")
}

/// A record to write.
pub fn put(key: String, value: &impl Serialize) -> RecordWrite {
    RecordWrite { key, value: Some(encode(value)) }
}

/// The bytes of a record.
pub fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain data serialises").into()
}

/// All records of a relay with so many sources, to be deleted.
pub fn all_gone(id: &str, sources: usize) -> Vec<RecordWrite> {
    let keys = [spec_key(id), end_key(id)].into_iter().chain((0..sources).map(|source| cursor_key(id, source)));
    keys.map(|key| RecordWrite { key, value: None }).collect()
}

/// Why a record was not read.
#[derive(Debug)]
pub enum ReadError {
    /// The journal cannot tell now.
    Journal(Unavailable),
    /// What is there is none of ours.
    Unreadable(String),
}

/// Reads a record, and its revision.
///
/// # Errors
/// When the journal cannot tell, or what is there cannot be read.
pub async fn read<T: DeserializeOwned>(journal: &Shared, key: String) -> Result<Option<(T, u64)>, ReadError> {
    let Some(Record { value, revision }) = journal.get(key.clone()).await.map_err(ReadError::Journal)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&value) {
        Ok(value) => Ok(Some((value, revision))),
        Err(error) => Err(ReadError::Unreadable(format!("the record `{key}` cannot be read: {error}"))),
    }
}

// === impl ReadError ===

impl From<ReadError> for Unavailable {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Journal(unavailable) => unavailable,
            ReadError::Unreadable(reason) => Self::Failed(reason),
        }
    }
}
