//! Events: drafts of publishers, and the events that the journal stores.
//!
//! Owns the meaning of the fields of an event stream (WHATWG HTML, section 9.2 "Server-sent events") and their limits.
//! A [`Draft`] is sent by a publisher. The journal gives it a [`Position`], which makes it an [`Event`]. An event is
//! encoded as SSE bytes once, for all emitters.

use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::{
    json::{self, Json},
    sse::{self, Encoded},
    topic::Topic,
};

mod filter;
pub mod names;
mod payload;
mod position;

pub(crate) use self::payload::Payload;
use self::position::Text;
pub use self::{
    filter::{Filter, Meta, Refused as FilterRefused, Subscriber, Undecided},
    position::Position,
};

/// An event that is not in the journal yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Topics of the event. An event in several topics has one position, and an emitter gets it once.
    pub topics: Vec<Topic>,
    /// Name of the event; empty means `message`, as in the standard.
    pub event: String,
    /// The payload; line breaks become several `data:` lines.
    pub data: String,
    /// Reconnection time for clients in milliseconds; larger values are reduced to [`MAX_RETRY_MS`].
    pub retry: Option<u64>,
    /// A comment that goes before the event; clients ignore it.
    pub comment: Option<String>,
    /// Event id of the publisher. If this publisher used the key before in this first topic, nothing is appended.
    pub key: Option<String>,
    /// The publisher. Together with the first topic it is the scope of `key`.
    pub publisher: String,
    /// Time to live in milliseconds. An event that has expired is not a gap.
    pub ttl_ms: Option<u64>,
    /// If set, only matching emitters get the event.
    pub filter: Option<Filter>,
    /// Event id at the original server, for a relayed event.
    pub origin: Option<String>,
}

/// An event in the journal.
#[derive(Debug)]
pub struct Event {
    /// Position in the journal.
    pub position: Position,
    /// Topics of the event.
    pub topics: Box<[Topic]>,
    /// Name of the event; empty means `message`.
    pub event: Box<str>,
    /// The payload.
    pub data: Box<str>,
    /// Time at which it was appended, in Unix milliseconds.
    pub timestamp: u64,
    /// Reconnection time for clients, in milliseconds.
    pub retry: Option<u64>,
    /// A comment that goes before the event.
    pub comment: Option<Box<str>>,
    /// Time at which it expires, in Unix milliseconds.
    pub expires: Option<u64>,
    /// If set, only matching emitters get the event.
    pub filter: Option<Filter>,
    /// Event id at the original server, for a relayed event.
    pub origin: Option<Box<str>>,
    /// Name of the publisher.
    pub publisher: Box<str>,
    /// Event id of the publisher.
    pub key: Option<Box<str>>,
    wire: OnceLock<Encoded>,
    envelope: OnceLock<Encoded>,
}

/// Why a draft is rejected. The message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// `event` or `id` contains a character that would break the framing of the stream.
    #[error("`{0}` must not contain CR, LF or NUL")]
    ControlCharacter(&'static str),
    /// The event has the name of a control frame of the node.
    #[error("`event`: `{0}` is the name of a control frame of this node; choose another one")]
    Reserved(String),
    /// The event is larger than `max_event_bytes`.
    #[error("the event has {size} bytes, the limit (max_event_bytes) is {limit}")]
    TooLarge {
        /// Size of the event, as [`Draft::size`] counts it.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The event id of the publisher is too long.
    #[error("`id` has {0} bytes, at most {MAX_KEY_BYTES}")]
    LongKey(usize),
    /// The event has no topic.
    #[error("an event needs at least one topic")]
    NoTopic,
    /// The event has too many topics. Each is an index entry.
    #[error("an event has at most {MAX_TOPICS_PER_EVENT} topics, this one has {0}")]
    TooManyTopics(usize),
}

/// Maximum length of an event id of a publisher, in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// Maximum length of the comment that lists the positions of a relayed event, in bytes: 17 positions.
const MAX_VIA_BYTES: usize = 1024;

/// Maximum number of topics of one event. Each is an index entry.
pub const MAX_TOPICS_PER_EVENT: usize = 64;

/// Maximum reconnection time that a publisher can set, in milliseconds: one hour. Browsers treat values above 2^31 as
/// zero.
pub const MAX_RETRY_MS: u64 = 60 * 60 * 1000;

// === impl Draft ===

impl Draft {
    /// An event named `event` with `data` for one topic.
    pub fn new(topic: Topic, event: impl Into<String>, data: impl Into<String>) -> Self {
        Self { topics: vec![topic], event: event.into(), data: data.into(), ..Self::default() }
    }

    /// The size that counts for `max_event_bytes`: all fields whose length the publisher chooses.
    ///
    /// Topics have their own limits and do not count. The position comment of a relayed event does not count, so that an
    /// event that fits into one node also fits into the next.
    pub fn size(&self) -> usize {
        let comment = self.comment.as_ref().map_or(0, String::len);
        let is_via = self.by_relay() && comment <= MAX_VIA_BYTES;
        self.data.len()
            + self.event.len()
            + if is_via { 0 } else { comment }
            + self.key.as_ref().map_or(0, String::len)
            + self.filter.as_ref().map_or(0, Filter::size)
    }

    /// Checks the fields against the wire format and the limits.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn check(&self, max_event_bytes: usize) -> Result<(), Invalid> {
        let breaks = |s: &str| s.contains(['\r', '\n', '\0']);
        if breaks(&self.event) {
            return Err(Invalid::ControlCharacter("event"));
        }
        self.check_name()?;
        if self.key.as_deref().is_some_and(breaks) {
            return Err(Invalid::ControlCharacter("id"));
        }
        if let Some(bytes) = self.key.as_ref().map(String::len).filter(|bytes| *bytes > MAX_KEY_BYTES) {
            return Err(Invalid::LongKey(bytes));
        }
        if self.topics.is_empty() {
            return Err(Invalid::NoTopic);
        }
        if self.topics.len() > MAX_TOPICS_PER_EVENT {
            return Err(Invalid::TooManyTopics(self.topics.len()));
        }
        let size = self.size();
        if size > max_event_bytes {
            return Err(Invalid::TooLarge { size, limit: max_event_bytes });
        }
        Ok(())
    }

    /// Checks that the event does not have the name of a control frame. Only events that a relay reports about itself
    /// may have such a name.
    ///
    /// # Errors
    /// [`Invalid::Reserved`].
    pub fn check_name(&self) -> Result<(), Invalid> {
        if names::is_control(&self.event) && !self.by_relay() {
            return Err(Invalid::Reserved(self.event.chars().take(64).collect()));
        }
        Ok(())
    }

    /// True for events that a relay of this node publishes.
    fn by_relay(&self) -> bool {
        self.publisher.starts_with("relay:")
    }

    /// Creates the event with this position and timestamp.
    pub fn into_event(self, position: Position, timestamp: u64) -> Event {
        Event {
            position,
            topics: self.topics.into_boxed_slice(),
            event: self.event.into_boxed_str(),
            data: self.data.into_boxed_str(),
            timestamp,
            retry: self.retry,
            comment: self.comment.map(String::into_boxed_str),
            expires: self.ttl_ms.map(|ttl| timestamp.saturating_add(ttl)),
            filter: self.filter,
            origin: self.origin.map(String::into_boxed_str),
            publisher: self.publisher.into_boxed_str(),
            key: self.key.map(String::into_boxed_str),
            wire: OnceLock::new(),
            envelope: OnceLock::new(),
        }
    }
}

// === impl Event ===

/// The JSON of an event with `?envelope=true`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    topic: &'a Topic,
    #[serde(skip_serializing_if = "<[Topic]>::is_empty")]
    also_in: &'a [Topic],
    id: Position,
    event: &'a str,
    data: Json,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher_id: Option<&'a str>,
}

impl Event {
    /// Label of the relay source that the event came from; `None` for events that were not relayed.
    pub fn source(&self) -> Option<&str> {
        // Only the node publishes into such a topic, so that no user can pretend to be a source.
        let relayed = self.topics.iter().any(|topic| topic.as_str().starts_with("relay:"));
        let (_, label) = self.publisher.strip_prefix("relay:").filter(|_| relayed)?.split_once('/')?;
        Some(label)
    }

    /// Name of the event; `message` if the publisher set none.
    pub fn name(&self) -> &str {
        if self.event.is_empty() { "message" } else { &self.event }
    }

    /// The payload as JSON if it is valid JSON, else as a JSON string.
    pub fn data_json(&self) -> Json {
        json::embed(&self.data)
    }

    /// The payload as a JSON tree. Numbers that the tree cannot hold are rounded.
    pub fn data_value(&self) -> serde_json::Value {
        self.data_json().value()
    }

    /// The SSE bytes. They are encoded at the first call, and shared afterwards.
    pub fn wire(&self) -> Encoded {
        self.wire.get_or_init(|| self.encode(&self.event, &self.data)).clone()
    }

    /// The SSE bytes for emitters with envelope. They are encoded at the first call, and shared afterwards.
    pub fn wire_in_envelope(&self) -> Encoded {
        self.envelope
            .get_or_init(|| {
                let (topic, also_in) = self.topics.split_first().expect("an event has a topic: Draft::check");
                let envelope = Envelope {
                    topic,
                    also_in,
                    id: self.position,
                    event: self.name(),
                    data: self.data_json(),
                    timestamp: self.timestamp,
                    origin: self.origin.as_deref(),
                    source: self.source(),
                    publisher_id: self.key.as_deref(),
                };
                let data = serde_json::to_string(&envelope).expect("plain data serialises");
                self.encode(&self.event, &data)
            })
            .clone()
    }

    /// True if the event has expired at `now` (Unix milliseconds).
    pub fn expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Approximate size in memory in bytes, for retention by bytes. It never changes: the SSE bytes, which repeat the
    /// data, count before they are encoded.
    pub fn footprint(&self) -> usize {
        let optional =
            [&self.comment, &self.origin, &self.key].into_iter().flatten().map(|text| text.len()).sum::<usize>();
        size_of::<Self>()
            + 2 * self.data.len()
            + self.event.len()
            + self.publisher.len()
            + optional
            + self.filter.as_ref().map_or(0, Filter::size)
            + self.topics.iter().map(|t| t.as_str().len() + 16).sum::<usize>()
    }

    fn encode(&self, event: &str, data: &str) -> Encoded {
        sse::Frame {
            id: Some(Text::of(self.position).as_str()),
            event,
            data: Some(data),
            // Also applies to events that were stored before this limit existed.
            retry: self.retry.map(|ms| ms.min(MAX_RETRY_MS)),
            comment: self.comment.as_deref(),
        }
        .encode()
    }
}

/// Current time of the wall clock in Unix milliseconds, for timestamps only. The wall clock jumps, so ages and expiry use
/// [`crate::clock::Clock`].
#[expect(clippy::disallowed_methods, reason = "a label")]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A shared event.
pub type SharedEvent = Arc<Event>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_would_break_the_framing_are_rejected() {
        let topic = Topic::new("t").unwrap();
        let mut draft = Draft::new(topic, "a\nid: 1", "x");
        assert_eq!(draft.check(10), Err(Invalid::ControlCharacter("event")));
        draft.event = "a".into();
        draft.key = Some("k\0".into());
        assert_eq!(draft.check(10), Err(Invalid::ControlCharacter("id")));
        draft.key = Some("k".repeat(256));
        assert_eq!(draft.check(1000), Err(Invalid::LongKey(256)));
        draft.key = Some("k".repeat(255));
        assert_eq!(draft.check(256), Err(Invalid::TooLarge { size: 257, limit: 256 }));
        draft.key = None;
        assert_eq!(draft.check(1), Err(Invalid::TooLarge { size: 2, limit: 1 }));
        draft.topics.clear();
        assert_eq!(draft.check(10), Err(Invalid::NoTopic));
    }

    #[test]
    fn only_a_relay_has_events_with_the_names_of_control_frames() {
        let mut draft = Draft::new(Topic::new("t").unwrap(), "gap", "x");
        assert_eq!(draft.check(10), Err(Invalid::Reserved("gap".into())));
        draft.publisher = "relay:1".into();
        assert_eq!(draft.check(10), Ok(()));
        draft.comment = Some("via 9c1f00aa0b77-12".into());
        assert_eq!(draft.size(), 4);
        draft.comment = Some("x".repeat(1025));
        assert_eq!(draft.size(), 1029);
    }

    #[test]
    fn only_relayed_events_have_a_source() {
        let source = |topic: &str, publisher: &str| {
            let mut draft = Draft::new(Topic::new(topic).unwrap(), "", "x");
            draft.publisher = publisher.into();
            draft.into_event(Position::start(1), 0).source().map(str::to_owned)
        };
        assert_eq!(source("relay:1", "relay:1/a/b"), Some("a/b".into()));
        assert_eq!(source("relay:1", "relay:1"), None);
        assert_eq!(source("order:1", "relay:1/a"), None);
        assert_eq!(source("job:1", "jobs"), None);
    }

    #[test]
    fn a_reconnection_time_is_at_most_one_hour() {
        for (asked, sent) in
            [(5, 5), (MAX_RETRY_MS, MAX_RETRY_MS), (MAX_RETRY_MS + 1, MAX_RETRY_MS), (u64::MAX, MAX_RETRY_MS)]
        {
            let mut draft = Draft::new(Topic::new("t").unwrap(), "", "x");
            draft.retry = Some(asked);
            let event = draft.into_event(Position { epoch: 1, offset: 2 }, 3);
            assert_eq!(event.wire().frame(), format!("id: 1-2\nretry: {sent}\ndata: x\n\n"));
        }
    }

    #[test]
    fn an_envelope_has_topic_position_origin_and_publisher_id() {
        let mut draft = Draft::new(Topic::new("order:1").unwrap(), "", r#"{"a":1}"#);
        draft.origin = Some("up-7".into());
        draft.key = Some("row 7".into());
        let event = draft.into_event(Position { epoch: 1, offset: 2 }, 3);
        assert_eq!(
            event.wire_in_envelope().frame(),
            "id: 1-2\ndata: {\"topic\":\"order:1\",\"id\":\"1-2\",\"event\":\"message\",\"data\":{\"a\":1},\"timestamp\":3,\"origin\":\"up-7\",\"publisherId\":\"row 7\"}\n\n"
        );
        assert_eq!(event.wire().frame(), "id: 1-2\ndata: {\"a\":1}\n\n");
    }
}
