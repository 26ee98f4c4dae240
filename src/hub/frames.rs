//! Control frames: `connection`, `gap`, `heartbeat`, `disconnect`.
//!
//! Only `connection` carries an `id:`, the position after which the stream continues: a client that is disconnected
//! before its first event resumes from there without loss. The other frames never move a client's position.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Greeting, HeartbeatKind, Reason, emitter::Emitter};
use crate::{
    event::{Position, now_ms},
    journal::Trimmed,
    sse::{Encoded, Frame, comment},
};

/// How a stream begins relative to what the client had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Resumed {
    Live,
    Resumed,
    Gap,
}

/// Why history is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GapReason {
    /// The id is not a position.
    Unknown,
    /// The id belongs to another journal, or to a life of this one that is over.
    Foreign,
    /// The id is beyond the head.
    Future,
    /// Retention or a purge took events away.
    Trimmed,
    /// The events are stored but cannot be read.
    Damaged,
    /// The overflow policy of the stream dropped events.
    Dropped,
}

pub(super) fn connection(
    emitter: &Emitter,
    greeting: &Greeting,
    position: Position,
    from: Option<&str>,
    resumed: Resumed,
) -> Encoded {
    let mut data = json!({
        "status": "connected",
        "emitterId": &*emitter.id,
        "userId": emitter.user,
        "groups": emitter.groups,
        "topics": &*emitter.patterns,
        "timestamp": now_ms(),
        "resume": { "from": from, "status": resumed },
    });
    let fields = data.as_object_mut().expect("it is an object");
    if greeting.event.is_some() {
        fields.insert("clientId".into(), Value::from(&*emitter.id));
    }
    fields.extend(greeting.fields.clone());
    let event = greeting.event.as_deref().unwrap_or("connection");
    let (id, data) = (position.to_string(), data.to_string());
    Frame { id: Some(&id), event, data: Some(&data), retry: Some(emitter.retry_ms), ..Frame::default() }.encode()
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

/// A heartbeat as an event, or as a comment for who wants anything else.
pub(super) fn heartbeat(kind: HeartbeatKind) -> Encoded {
    if kind != HeartbeatKind::Event {
        return comment("heartbeat");
    }
    let data = json!({ "timestamp": now_ms() }).to_string();
    Frame { event: "heartbeat", data: Some(&data), ..Frame::default() }.encode()
}
