//! What the items of the log mean for the index: the index becomes items, and items become the index again.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use serde::{Deserialize, Serialize};

use super::segments::{Body, Draft, Extra, Field, Files, Item, JournalState, Visit};
use crate::{
    clock::Moment,
    event::{self, Event, Filter, Position},
    journal::{
        Config,
        log::{
            CommitGroup, EventMeta, LastDeleted, Log, LogState, RecordInfo, Restore, Stored, TopicId, TopicSet, size,
        },
    },
    topic::Topic,
};

/// The body of an event. Its position is in the head.
#[derive(Serialize, Deserialize)]
struct EventBody<'a> {
    topics: Cow<'a, [Topic]>,
    event: &'a str,
    data: &'a str,
    timestamp: u64,
    publisher: &'a str,
    #[serde(borrow)]
    extra: Option<Box<EventExtra<'a>>>,
}

/// Fields that few events have.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct EventExtra<'a> {
    retry: Option<u64>,
    comment: Option<&'a str>,
    expires: Option<u64>,
    /// JSON, because metadata have any type.
    filter: Option<String>,
    origin: Option<&'a str>,
    key: Option<&'a str>,
}

/// The index that is restored from the items of a log.
#[derive(Default)]
pub(super) struct Restored {
    pub index: Restore,
    /// The segment of each topic.
    pub topic_segments: HashMap<TopicId, u32>,
    /// The greatest offset of an event, id of a topic, and revision of a record.
    greatest: (u64, TopicId, u64),
    /// Topics that were removed.
    removed_topics: HashSet<TopicId>,
    /// Segment and position of bodies that have changed.
    pub damaged: HashSet<(u32, u32)>,
}

/// Adds the body of an event.
fn encode_event(draft: &mut Draft, event: &Event) -> Body {
    let extra = EventExtra {
        retry: event.retry,
        comment: event.comment.as_deref(),
        expires: event.expires,
        filter: event.filter.as_ref().and_then(|filter| serde_json::to_string(filter).ok()),
        origin: event.origin.as_deref(),
        key: event.key.as_deref(),
    };
    draft.encoded_body(&EventBody {
        topics: Cow::Borrowed(&event.topics),
        event: &event.event,
        data: &event.data,
        timestamp: event.timestamp,
        publisher: &event.publisher,
        extra: (extra != EventExtra::default()).then(|| Box::new(extra)),
    })
}

/// Reads the body of the event at a position. The error is the reason why it is not one.
pub(super) fn decode_event(bytes: &[u8], position: Position) -> Result<Event, postcard::Error> {
    let body: EventBody<'_> = postcard::from_bytes(bytes)?;
    let extra = body.extra.map(|extra| *extra).unwrap_or_default();
    let draft = event::Draft {
        topics: body.topics.into_owned(),
        event: body.event.to_owned(),
        data: body.data.to_owned(),
        retry: extra.retry,
        comment: extra.comment.map(str::to_owned),
        key: extra.key.map(str::to_owned),
        publisher: body.publisher.to_owned(),
        ttl_ms: extra.expires.map(|expires| expires.saturating_sub(body.timestamp)),
        filter: extra.filter.map(|json| Filter::restore(&json)),
        origin: extra.origin.map(str::to_owned),
    };
    Ok(draft.into_event(position, body.timestamp))
}

/// Adds the items of a commit group. Returns the bodies of its events, then those of its records that have a value.
pub(super) fn add_group(draft: &mut Draft, group: &CommitGroup, log_state: &LogState) -> Vec<Body> {
    let mut bodies = Vec::with_capacity(group.events.len() + group.records.len());
    for (name, id) in &group.topics {
        add_topic(draft, *id, name, log_state.topic_begins_after(name));
    }
    for planned in &group.events {
        let event = &planned.event;
        let body = encode_event(draft, event);
        bodies.push(body);
        draft.add(&Item::Event {
            offset: event.position.offset,
            size: size(event),
            topics: TopicSet::of(&planned.topics),
            extra: boxed(Extra { age: 0, expires: event.expires, key: planned.key }),
            body,
        });
    }
    for write in &group.records {
        let (key, revision) = (write.key.as_str(), write.revision);
        match &write.value {
            Some(value) => {
                let body = draft.body(value);
                bodies.push(body);
                draft.add(&Item::Record { key, revision, body });
            }
            None => draft.add(&Item::DeletedRecord { key, revision }),
        }
    }
    bodies
}

fn boxed(extra: Extra) -> Option<Box<Extra>> {
    (extra != Extra::default()).then(|| Box::new(extra))
}

pub(super) fn add_topic(draft: &mut Draft, id: TopicId, name: &Topic, trimmed_through: u64) {
    draft.add(&Item::Topic { id, name: name.as_str(), trimmed_through });
}

/// Adds an event that is stored already. Returns its new body.
pub(super) fn add_event(draft: &mut Draft, meta: EventMeta, bytes: &[u8]) -> Body {
    let EventMeta { offset, timestamp, size, topics, expires, key, stored } = meta;
    let age = draft.state().get(Field::LastTimestamp).wrapping_sub(timestamp).cast_signed();
    let body = draft.stored_body(bytes, stored.checksum);
    draft.add(&Item::Event { offset, size, topics, extra: boxed(Extra { age, expires, key }), body });
    body
}

/// Adds a record that is stored already. Returns its new body.
pub(super) fn add_record(draft: &mut Draft, key: &str, revision: u64, stored: Stored, value: &[u8]) -> Body {
    let body = draft.stored_body(value, stored.checksum);
    draft.add(&Item::Record { key, revision, body });
    body
}

// === impl JournalState ===

impl JournalState {
    /// These values, and the others as they were.
    pub(super) fn with(mut self, log_state: &LogState) -> Self {
        self.set(Field::Head, log_state.head);
        self.set(Field::LastTimestamp, log_state.last_timestamp);
        self.set(Field::Swept, log_state.swept);
        self.set(Field::LastTopic, log_state.last_topic);
        self.set(Field::Revision, log_state.revision);
        self.set(Field::TrimmedThrough, log_state.trimmed_through);
        self.set(Field::DeletedThrough, log_state.last_deleted.through);
        self.set(Field::DeletedTimestamp, log_state.last_deleted.timestamp);
        self.set(Field::ForgottenThrough, log_state.forgotten_through);
        self.set(Field::PinnedForgottenThrough, log_state.pinned_forgotten_through);
        self
    }

    pub(super) fn log_state(&self) -> LogState {
        LogState {
            head: self.get(Field::Head),
            last_timestamp: self.get(Field::LastTimestamp),
            swept: self.get(Field::Swept),
            last_topic: self.get(Field::LastTopic),
            revision: self.get(Field::Revision),
            trimmed_through: self.get(Field::TrimmedThrough),
            last_deleted: LastDeleted {
                through: self.get(Field::DeletedThrough),
                timestamp: self.get(Field::DeletedTimestamp),
            },
            forgotten_through: self.get(Field::ForgottenThrough),
            pinned_forgotten_through: self.get(Field::PinnedForgottenThrough),
        }
    }
}

// === impl Restored ===

impl Visit for Restored {
    fn item(&mut self, item: &Item<'_>, stored: Stored, before: &JournalState, after: &JournalState) {
        match item {
            Item::Event { offset, size, topics, extra, .. } => {
                let none = Extra::default();
                let Extra { age, expires, key } = extra.as_deref().unwrap_or(&none);
                let meta = EventMeta {
                    offset: *offset,
                    timestamp: after.get(Field::LastTimestamp).wrapping_sub(age.cast_unsigned()),
                    size: *size,
                    topics: topics.clone(),
                    expires: *expires,
                    key: *key,
                    stored,
                };
                self.greatest.0 = self.greatest.0.max(*offset);
                self.index.event(meta, before.get(Field::Swept));
            }
            Item::Topic { id, name, trimmed_through } => {
                // The frame has the right checksum, so the name was valid when it was written.
                let Ok(name) = Topic::new(name) else { return };
                self.greatest.1 = self.greatest.1.max(*id);
                self.index.topic(*id, name, *trimmed_through);
                self.topic_segments.insert(*id, stored.segment);
            }
            Item::RemovedTopic { id } => {
                self.removed_topics.insert(*id);
                self.index.removed_topic(*id);
                self.topic_segments.remove(id);
            }
            Item::Record { key, revision, .. } => {
                self.greatest.2 = self.greatest.2.max(*revision);
                self.index.record(key, Some(RecordInfo { revision: *revision, stored }));
            }
            Item::DeletedRecord { key, .. } => self.index.record(key, None),
        }
    }

    fn damaged(&mut self, stored: Stored) {
        self.damaged.insert((stored.segment, stored.position));
    }
}

impl Restored {
    /// Completes the index of a log of which commits are missing: raises the values to those of the items, and restores
    /// the names of topics from their events.
    pub(super) fn complete(&mut self, files: &Files, state: &mut JournalState) {
        let mut names = Vec::new();
        for (offset, ids, stored) in self.index.events_of_unknown_topics() {
            let event = files.read(stored).ok();
            let event = event.and_then(|bytes| decode_event(&bytes, Position { epoch: 0, offset }).ok());
            let Some(event) = event.filter(|event| event.topics.len() == ids.len()) else { continue };
            names.extend(ids.iter().zip(event.topics.iter()).map(|(id, name)| (*id, name.clone(), offset)));
        }
        for (id, name, offset) in names {
            if !self.index.has_topic(id) && !self.removed_topics.contains(&id) {
                // It is unknown whether the topic had events before this one.
                self.index.topic(id, name, offset - 1);
                self.greatest.1 = self.greatest.1.max(id);
            }
        }
        let (offset, topic, revision) = self.greatest;
        let trimmed = (Field::TrimmedThrough, self.index.trimmed_through());
        for (field, least) in [(Field::Head, offset), (Field::LastTopic, topic), (Field::Revision, revision), trimmed] {
            state.set(field, state.get(field).max(least));
        }
    }

    /// The index after the last item.
    pub(super) fn finish(self, config: &Config, epoch: u64, state: &JournalState, now: Moment) -> Log {
        self.index.finish(config, epoch, &state.log_state(), now)
    }
}
