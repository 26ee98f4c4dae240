//! The request of a client for a stream.

use std::{any::Any, sync::Arc, time::Duration};

use super::{
    Config, Overflow, Reason, SharedBound,
    frames::{Greeting, Heartbeat, HeartbeatKind},
};
use crate::{
    event::Meta,
    topic::{Pattern, Topic},
};

/// The request for a stream. The emitter keeps it until the stream ends.
pub struct Connect {
    /// The user of the stream; `None` for an anonymous one.
    pub user: Option<String>,
    /// Name of the static token of the request; see [`Selector::Token`](super::Selector::Token).
    pub token: Option<Arc<str>>,
    /// Time from now until the token of the request expires; the stream ends with it.
    pub token_expires: Option<Duration>,
    /// Groups that the stream joins. It receives their topics.
    pub groups: Vec<String>,
    /// Topics and patterns that the client requested.
    pub topics: Vec<Pattern>,
    /// Topics that a change of `topics` does not remove: the user's own topic, and the broadcast topic.
    pub own: Vec<Topic>,
    /// Metadata of the client, for filtered events.
    pub meta: Meta,
    /// Where in the journal the stream starts.
    pub start: Start,
    /// What happens to an event when the outbox is full.
    pub overflow: Overflow,
    /// Sent when there are no events.
    pub heartbeat: Heartbeat,
    /// Maximum duration of the stream, jittered by a tenth; `None` for no limit.
    pub lifetime: Option<Duration>,
    /// Reconnection time of the client in milliseconds.
    pub retry_ms: u64,
    /// Wraps the data of each event in `{topic, id, event, data, timestamp}`.
    pub envelope: bool,
    /// The stream ends after an event with this name.
    pub until: Option<&'static str>,
    /// Events up to this offset do not end the stream: an earlier run of the same relay ended with them.
    pub until_after: u64,
    /// The first frame.
    pub greeting: Greeting,
    /// Ends the connection from outside, for a client that reads nothing: its body is not polled then. Called at most once.
    pub cut: Option<Box<dyn Fn()>>,
    /// A bound on waiting bytes that this stream shares with other streams.
    pub shared: Option<SharedBound>,
    /// A value that is dropped when the stream ends, such as a quota guard.
    pub keep: Option<Box<dyn Any>>,
    /// Called once when the stream has ended, for any reason.
    pub on_close: Option<Box<dyn FnOnce(Reason)>>,
}

/// Where in the journal a stream starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the next event.
    #[default]
    Live,
    /// After the event with this id: the text of `Last-Event-ID`. A text that is no position of this journal is a gap.
    After(String),
    /// With this number of events before the next one.
    History(usize),
    /// With the first event that was appended at this time or later, in Unix milliseconds.
    Since(u64),
    /// With the earliest event that exists.
    Beginning,
}

// === impl Connect ===

impl Connect {
    /// An anonymous live stream without topics, with the defaults of the configuration.
    pub fn new(config: &Config) -> Self {
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
            shared: None,
            keep: None,
            on_close: None,
        }
    }
}
