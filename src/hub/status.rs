//! What the hub tells about its emitters, and how somebody from outside changes or ends them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    Reason,
    emitter::{Emitter, Feed},
    shard::{Shard, State},
};
use crate::{event::Meta, sse::Encoded, topic::Pattern};

/// Which emitters are meant.
#[derive(Clone, Debug)]
pub enum Selector {
    /// All of the node.
    All,
    /// The one with this id.
    Id(String),
    /// A user's.
    User(String),
    /// A group's.
    Group(String),
    /// Those that came with this token.
    Token(String),
}

/// The state of one emitter.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Emitter, examples(json!({
    "emitterId": "user_42_0b5e3c6e-7d0b-4a53-8f4e-6a1c1f0c2b11", "userId": "42", "groups": ["ops"],
    "topics": ["user:42", "order:*", "group:ops", "all"], "meta": { "premium": true }, "connectedAt": 1_790_000_000_000_u64,
    "state": "live", "queuedEvents": 0, "queuedBytes": 0, "deliveredEvents": 17, "droppedEvents": 0,
})))]
pub struct EmitterStatus {
    /// Its id, as the `connection` frame told it.
    pub emitter_id: String,
    /// Whose it is.
    pub user_id: Option<String>,
    /// Groups it has joined.
    pub groups: Vec<String>,
    /// Topics and patterns that it hears.
    #[schema(value_type = Vec<String>)]
    pub topics: Vec<Pattern>,
    /// What the client said about itself.
    #[schema(value_type = Object)]
    pub meta: Meta,
    /// When it connected, in Unix milliseconds.
    pub connected_at: u64,
    /// `live`, `catch_up` or `closing`.
    pub state: &'static str,
    /// Frames that wait for the socket.
    pub queued_events: usize,
    /// Bytes that wait for the socket.
    pub queued_bytes: usize,
    /// Events delivered so far.
    pub delivered_events: u64,
    /// Events that its overflow policy dropped.
    pub dropped_events: u64,
}

/// Figures over all emitters of the node.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Live connections.
    pub total_emitters: u64,
    /// Users with at least one.
    pub total_users: u64,
    /// Groups with at least one.
    pub total_groups: u64,
    /// Topics and patterns that somebody hears.
    pub total_topics: u64,
    /// Connections by user.
    pub emitters_by_user: BTreeMap<String, u64>,
    /// Connections by group.
    pub emitters_by_group: BTreeMap<String, u64>,
    /// Events that overflow policies dropped since the start.
    pub dropped_events: u64,
}

/// What to change of an emitter; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The groups it is in from now on.
    pub groups: Option<Vec<String>>,
    /// The topics it hears from now on, beside its user's own.
    pub topics: Option<Vec<Pattern>>,
    /// Its metadata from now on.
    pub meta: Option<Meta>,
    /// Whose rights the change rests on; `None` where nobody has to have any.
    pub by: Option<By>,
}

/// The credential that a change of an emitter rests on: the emitter must not outlive it.
#[derive(Clone, Debug)]
pub struct By {
    /// The static token; only emitters that came with the same one, or like this one with none, can be changed.
    pub token: Option<std::sync::Arc<str>>,
    /// How long from now it is good.
    pub expires: Option<std::time::Duration>,
}

// === impl Totals ===

impl Totals {
    pub(super) fn add(&mut self, emitter: &EmitterStatus) {
        self.total_emitters += 1;
        if let Some(user) = &emitter.user_id {
            *self.emitters_by_user.entry(user.clone()).or_default() += 1;
        }
        for group in emitter.groups.iter().collect::<BTreeSet<_>>() {
            *self.emitters_by_group.entry(group.clone()).or_default() += 1;
        }
        self.total_users = self.emitters_by_user.len() as u64;
        self.total_groups = self.emitters_by_group.len() as u64;
    }
}

// === impl Selector ===

impl Selector {
    fn names(&self, emitter: &Emitter) -> bool {
        match self {
            Self::All => true,
            Self::Id(id) => **id == *emitter.id,
            Self::User(user) => emitter.user.as_ref() == Some(user),
            Self::Group(group) => emitter.groups.contains(group),
            Self::Token(name) => emitter.token.as_deref() == Some(name),
        }
    }
}

// === impl Shard ===

impl Shard {
    pub(super) fn list(&self, selector: &Selector) -> Vec<EmitterStatus> {
        let state = self.state.borrow();
        state
            .emitters
            .iter()
            .filter(|(_, emitter)| selector.names(emitter))
            .map(|(_, emitter)| describe(emitter))
            .collect()
    }

    pub(super) fn change(&self, id: &str, change: Change) -> Option<EmitterStatus> {
        let mut state = self.state.borrow_mut();
        let key = state.registry.find(id)?;
        let State { emitters, due, .. } = &mut *state;
        let emitter = emitters.get_mut(key)?;
        if let Some(By { token, expires }) = change.by {
            if emitter.token != token {
                return None;
            }
            let now = Instant::now();
            emitter.expires_in(expires, now, self.clock.now_ms());
            due.soon(key, now);
        }
        emitter.groups = change.groups.unwrap_or_else(|| std::mem::take(&mut emitter.groups));
        emitter.topics = change.topics.unwrap_or_else(|| std::mem::take(&mut emitter.topics));
        emitter.meta = change.meta.unwrap_or_else(|| std::mem::take(&mut emitter.meta));
        self.rehear(&mut state, key);
        state.emitters.get(key).map(describe)
    }

    pub(super) fn disconnect(&self, selector: &Selector, reason: Reason) -> u64 {
        let now = Instant::now();
        let mut count = 0;
        let State { emitters, due, .. } = &mut *self.state.borrow_mut();
        for (key, emitter) in emitters {
            if emitter.closing.is_none() && selector.names(emitter) {
                emitter.close(reason, now);
                due.soon(key, now);
                count += 1;
            }
        }
        count
    }

    /// Puts a frame into one emitter's outbox, past the journal.
    pub(super) fn push(&self, id: &str, frame: Encoded) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(key) = state.registry.find(id) else { return false };
        let emitter = &mut state.emitters[key];
        // At most once: when there is no room, it is as if the emitter had just gone.
        if emitter.closing.is_some() || !emitter.outbox.has_room_for_control(frame.len()) {
            return false;
        }
        emitter.control(frame, Instant::now());
        true
    }
}

fn describe(emitter: &Emitter) -> EmitterStatus {
    EmitterStatus {
        emitter_id: emitter.id.to_string(),
        user_id: emitter.user.clone(),
        groups: emitter.groups.clone(),
        topics: emitter.patterns.to_vec(),
        meta: emitter.meta.clone(),
        connected_at: emitter.opened_at_ms,
        state: match (&emitter.closing, emitter.feed) {
            (Some(_), _) => "closing",
            (None, Feed::Live) => "live",
            (None, Feed::CatchUp { .. }) => "catch_up",
        },
        queued_events: emitter.outbox.len(),
        queued_bytes: emitter.outbox.bytes(),
        delivered_events: emitter.delivered,
        dropped_events: emitter.dropped,
    }
}
