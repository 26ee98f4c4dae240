//! What a reader of an event stream tells: its events, its connections, its end.

use std::time::Duration;

use super::Failure;

/// Prefix of the comment that lists the path of an event.
pub const TRAIL: &str = "via ";
/// Maximum length of a path, in bytes; longer than the path of any event that is passed on.
pub const TRAIL_MAX: usize = 1024;

/// An event as it came from a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEvent {
    /// Its name, `message` where it had none.
    pub event: String,
    /// Its payload.
    pub data: String,
    /// The last event id in force; ids are sticky, and empty where the stream has none. An id of more than 4096 bytes
    /// counts as none: no server would take it back, and every event would carry it.
    pub id: String,
    /// Its positions at other nodes: the text after [`TRAIL`] in a comment before the event, at most [`TRAIL_MAX`]
    /// bytes; empty without such a comment.
    pub trail: String,
    /// A frame with which another Millstream speaks of the stream itself: `connection` (or what its settings call it),
    /// `heartbeat`, `gap`, `disconnect`. None of what was published there.
    pub control: bool,
}

/// What a source says next.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A connection is open.
    Open {
        /// How many connections were lost before; 0 for the first one.
        reconnects: u64,
        /// The id that was sent as `Last-Event-ID`.
        resumed_after: Option<String>,
        /// True when events may be missing that nobody can ask for: what was read so far had no ids.
        may_have_missed: bool,
    },
    /// Events in order; at least one.
    Events(Vec<RemoteEvent>),
    /// The connection is lost or was not made; another one follows after the delay.
    Retry {
        /// How many attempts in a row have brought no event, this one included; from 1.
        attempt: u32,
        /// How long until the next one.
        delay: Duration,
        /// Why.
        failure: Failure,
    },
    /// It is over. Nothing follows.
    End(End),
    /// It was given up. Nothing follows.
    GaveUp(Failure),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum End {
    /// With status 204.
    #[serde(rename = "204")]
    NoContent,
    /// With the event that was named as its last.
    #[serde(rename = "end_event")]
    EndEvent,
    /// Closed in good order.
    #[serde(rename = "closed")]
    Closed,
    /// Closed; whether in good order cannot be known, as its length was not framed (HTTP/1.0).
    #[serde(rename = "unknown")]
    Unknown,
}
