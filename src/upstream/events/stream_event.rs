//! The items that a reader of an event stream returns: events, changes of the connection, the end.

use std::time::Duration;

use super::Failure;

/// Prefix of the comment with the path of the next event.
pub const TRAIL: &str = "via ";
/// Maximum length of a path in bytes. The path of a valid event is always shorter.
pub const TRAIL_MAX: usize = 1024;

/// An event from a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEvent {
    /// The name of the event; `message` without one.
    pub event: String,
    /// The data of the event.
    pub data: String,
    /// The current event id. Ids are sticky, and empty in a stream without ids. An id of more than 4096 bytes counts as no
    /// id: servers would reject it, and every event would contain a copy.
    pub id: String,
    /// The positions of the event at other nodes: the text after [`TRAIL`] in a comment before the event, at most
    /// [`TRAIL_MAX`] bytes. Empty without such a comment.
    pub trail: String,
    /// True for a control frame of another Millstream: `connection` (or its configured name), `heartbeat`, `gap`,
    /// `disconnect`. Such a frame was not published there.
    pub control: bool,
}

/// An item of a stream, in the order in which a reader returns them.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// A connection is open.
    Open {
        /// Number of connections that were lost before.
        reconnects: u64,
        /// The id that the request sent as `Last-Event-ID`.
        resumed_after: Option<String>,
        /// True if events may be missing: the stream so far had no id after which it could be resumed.
        may_have_missed: bool,
    },
    /// Events in the order of the stream; at least one.
    Events(Vec<RemoteEvent>),
    /// The connection was lost or could not be opened. The reader reconnects after the delay.
    Retry {
        /// Number of attempts in a row without a new event, with this one.
        attempt: u32,
        /// Delay until the next attempt.
        delay: Duration,
        /// Why this attempt failed.
        failure: Failure,
    },
    /// The stream has ended. No item follows.
    End(End),
    /// The reader gave up. No item follows.
    GaveUp(Failure),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The server responded with status 204.
    #[serde(rename = "204")]
    NoContent,
    /// The server sent the configured last event.
    EndEvent,
    /// The server closed the stream properly.
    Closed,
    /// The connection ended. A cut cannot be excluded, since the response does not mark the end of its body.
    Unknown,
}
