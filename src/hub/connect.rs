//! What a connection asks for.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Reason, Shared};
use crate::{
    event::Meta,
    topic::{Pattern, Topic},
};

/// A connection that is about to be made.
pub struct Connect {
    /// Whose it is.
    pub user: Option<String>,
    /// The token that it came with; see [`Selector::Token`](super::Selector::Token).
    pub token: Option<std::sync::Arc<str>>,
    /// How long from now its user is one.
    pub token_expires: Option<Duration>,
    /// Groups that it joins; their topics are heard.
    pub groups: Vec<String>,
    /// Topics and patterns beside those of the user and the groups.
    pub topics: Vec<Pattern>,
    /// Topics heard as the user's own and as broadcast, which a change of `topics` leaves alone.
    pub own: Vec<Topic>,
    /// What the client said about itself.
    pub meta: Meta,
    /// Where in the journal it begins.
    pub start: Start,
    /// What happens when its outbox is full.
    pub overflow: Overflow,
    /// How silence is filled.
    pub heartbeat: Heartbeat,
    /// How long the stream may live.
    pub lifetime: Option<Duration>,
    /// Reconnection time for the client, in milliseconds.
    pub retry_ms: u64,
    /// Whether events come in an envelope.
    pub envelope: bool,
    /// The stream ends after an event of this name.
    pub until: Option<&'static str>,
    /// Only behind this offset; what stands before it was the end of an earlier life.
    pub until_after: u64,
    /// The first frame.
    pub greeting: Greeting,
    /// Cuts the connection when its body is no longer polled.
    pub cut: Option<Box<dyn Fn()>>,
    /// Says whether the client has sent more than any client of a stream has to say; asked about once a second. For
    /// connections that the hub does not read itself.
    pub flooded: Option<Box<dyn Fn() -> bool>>,
    /// A bound on the bytes that wait, shared with other streams.
    pub shared: Option<Shared>,
    /// Kept as long as the stream lives.
    pub keep: Option<Box<dyn std::any::Any>>,
    /// Called once when the stream has ended, whatever the reason.
    pub on_close: Option<Box<dyn FnOnce(Reason)>>,
}

/// The first frame of a stream: `connection`, unless a named stream calls it otherwise.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// Another name for the frame.
    pub event: Option<String>,
    /// Fields beside the standard ones.
    pub fields: Map<String, Value>,
}

/// Where a stream begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on.
    #[default]
    Live,
    /// After the event that the client saw last: the text of its `Last-Event-ID`.
    After(String),
    /// With the last so many events.
    History(usize),
    /// With what was appended since this time (Unix milliseconds).
    Since(u64),
    /// With the first event that is kept.
    Beginning,
}

/// What happens when an outbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The emitter reads from the journal until it has caught up. Loses nothing within the retention.
    #[default]
    CatchUp,
    /// The oldest waiting event goes; a `gap` tells how many went.
    DropOldest,
    /// The new event goes; a `gap` tells how many went.
    DropLatest,
    /// The stream ends with `disconnect {"reason":"slow"}`.
    Disconnect,
}

/// How silence is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// In which form.
    pub kind: HeartbeatKind,
    /// After how much silence.
    pub every: Duration,
}

/// The form of a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeartbeatKind {
    /// `event: heartbeat` with a timestamp.
    #[default]
    Event,
    /// A comment, which clients do not see.
    Comment,
    /// None: dead peers are then found by the operating system alone.
    None,
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Shortest interval in milliseconds: heartbeats are made by a tick of half a second.
    pub const MIN_MS: u64 = 1000;
}

// === impl Connect ===

impl Connect {
    /// A live connection of nobody to nothing; set what you need.
    pub fn new(config: &super::Config) -> Self {
        let lifetime = Some(config.default_timeout_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
        Self {
            user: None,
            token: None,
            token_expires: None,
            groups: Vec::new(),
            topics: Vec::new(),
            own: Vec::new(),
            meta: Meta::default(),
            start: Start::Live,
            overflow: config.overflow,
            heartbeat: Heartbeat { kind: HeartbeatKind::Event, every: Duration::from_millis(config.heartbeat_ms) },
            lifetime,
            retry_ms: config.reconnect_time_ms,
            envelope: false,
            until: None,
            until_after: 0,
            greeting: Greeting::default(),
            cut: None,
            flooded: None,
            shared: None,
            keep: None,
            on_close: None,
        }
    }
}
