//! Control frames: `connection`, `gap`, `heartbeat`, `disconnect`.
//!
//! Only `connection` carries an `id:`, the position after which the stream continues: a client that is disconnected
//! before its first event resumes from there without loss. The other frames never move a client's position.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::Reason;
use crate::{
    event::{Position, now_ms},
    journal::Trimmed,
    sse::{Encoded, Frame, comment},
    topic::Pattern,
};

/// The first frame of a stream.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// Name of the frame instead of `connection`; its data then also have `clientId`.
    pub event: Option<String>,
    /// Fields in addition to the standard ones.
    pub fields: Map<String, Value>,
}

/// Frames that show during a pause that the connection still works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The form.
    pub kind: HeartbeatKind,
    /// Time without another frame after which a heartbeat is sent; at least [`Heartbeat::MIN_MS`].
    pub every: Duration,
}

/// The form of a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeartbeatKind {
    /// `event: heartbeat` with a timestamp.
    #[default]
    Event,
    /// A comment, which clients ignore.
    Comment,
    /// No heartbeat: only the operating system detects dead connections.
    None,
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Shortest interval in milliseconds: two ticks of the shard.
    pub const MIN_MS: u64 = 1000;
}

/// How the start of a stream relates to the position of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Resumed {
    /// The client has no position.
    Live,
    /// The stream continues after the position of the client.
    Resumed,
    /// Events after the position of the client are missing.
    Gap,
}

/// Why history is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GapReason {
    /// The id is not a position.
    Unknown,
    /// The id belongs to another journal, or to an earlier epoch of this one.
    Foreign,
    /// The id is beyond the head.
    Future,
    /// Retention or a purge deleted events.
    Trimmed,
    /// The events are stored but cannot be read.
    Damaged,
    /// The overflow policy of the stream dropped events.
    Dropped,
}

/// What the first frame reports.
pub(super) struct Connection<'a> {
    pub(super) emitter_id: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) groups: &'a [String],
    pub(super) topics: &'a [Pattern],
    pub(super) greeting: &'a Greeting,
    pub(super) retry_ms: u64,
    /// The position after which the stream continues.
    pub(super) position: Position,
    /// The position that the client asked for.
    pub(super) requested: Option<&'a str>,
    pub(super) resumed: Resumed,
}

pub(super) fn connection(connection: &Connection<'_>) -> Encoded {
    let Connection { emitter_id, user, groups, topics, greeting, retry_ms, position, requested, resumed } = *connection;
    let mut data = json!({
        "status": "connected",
        "emitterId": emitter_id,
        "userId": user,
        "groups": groups,
        "topics": topics,
        "timestamp": now_ms(),
        "resume": { "from": requested, "status": resumed },
    });
    let fields = data.as_object_mut().expect("it is an object");
    if greeting.event.is_some() {
        fields.insert("clientId".into(), emitter_id.into());
    }
    fields.extend(greeting.fields.clone());
    let event = greeting.event.as_deref().unwrap_or("connection");
    let (id, data) = (position.to_string(), data.to_string());
    Frame { id: Some(&id), event, data: Some(&data), retry: Some(retry_ms), ..Frame::default() }.encode()
}

pub(super) fn gap(requested: Option<&str>, reason: GapReason, topics: &[Trimmed]) -> Encoded {
    let data = json!({ "requested": requested, "reason": reason, "topics": topics });
    Frame { event: "gap", data: Some(&data.to_string()), ..Frame::default() }.encode()
}

pub(super) fn dropped(count: u64) -> Encoded {
    let data = json!({ "requested": null, "reason": GapReason::Dropped, "topics": [], "dropped": count });
    Frame { event: "gap", data: Some(&data.to_string()), ..Frame::default() }.encode()
}

pub(super) fn disconnect(reason: Reason, retry_ms: u64) -> Encoded {
    let data = json!({ "reason": reason });
    Frame { event: "disconnect", data: Some(&data.to_string()), retry: Some(retry_ms), ..Frame::default() }.encode()
}

/// A heartbeat: an event for [`HeartbeatKind::Event`], otherwise a comment.
pub(super) fn heartbeat(kind: HeartbeatKind) -> Encoded {
    if kind != HeartbeatKind::Event {
        return comment("heartbeat");
    }
    let data = json!({ "timestamp": now_ms() }).to_string();
    Frame { event: "heartbeat", data: Some(&data), ..Frame::default() }.encode()
}
