//! Status of emitters, and the requests that select, change or end them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use utoipa::ToSchema;

use super::emitter::{Emitter, Phase};
use crate::{event::Meta, topic::Pattern};

/// Selects emitters.
#[derive(Clone, Debug)]
pub enum Selector {
    /// All emitters of the node.
    All,
    /// The emitter with this id.
    Id(String),
    /// The emitters of a user.
    User(String),
    /// The emitters in a group.
    Group(String),
    /// The emitters that were opened with the static token of this name.
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
    /// Its id, as in the `connection` frame.
    pub emitter_id: String,
    /// The user of the connection.
    pub user_id: Option<String>,
    /// Groups that it has joined.
    pub groups: Vec<String>,
    /// Topics and patterns that it receives.
    #[schema(value_type = Vec<String>)]
    pub topics: Vec<Pattern>,
    /// Metadata of the client.
    #[schema(value_type = Object)]
    pub meta: Meta,
    /// When it connected, in Unix milliseconds.
    pub connected_at: u64,
    /// `live`, `catch_up` or `closing`.
    pub state: &'static str,
    /// Frames that wait for the client.
    pub queued_events: usize,
    /// Bytes that wait for the client.
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
    /// Users with at least one connection.
    pub total_users: u64,
    /// Groups with at least one connection.
    pub total_groups: u64,
    /// Topics and patterns with at least one subscriber.
    pub total_topics: u64,
    /// Connections by user.
    pub emitters_by_user: BTreeMap<String, u64>,
    /// Connections by group.
    pub emitters_by_group: BTreeMap<String, u64>,
    /// Events that overflow policies dropped since the start of the node.
    pub dropped_events: u64,
}

/// A change of an emitter. An absent field keeps its value.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Its new groups.
    pub groups: Option<Vec<String>>,
    /// Its new topics, in addition to the user's own topic and the broadcast topic.
    pub topics: Option<Vec<Pattern>>,
    /// Its new metadata.
    pub meta: Option<Meta>,
    /// The credential of the change; `None` for a change that needs none.
    pub by: Option<ChangedBy>,
}

/// The credential of a change. The emitter ends at the latest when the credential expires.
#[derive(Clone, Debug)]
pub struct ChangedBy {
    /// Name of the static token. It must be that of the emitter; `None` if neither has one.
    pub token: Option<Arc<str>>,
    /// Time from now until the credential expires.
    pub expires: Option<Duration>,
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
    /// True if it selects this emitter.
    pub(super) fn matches(&self, emitter: &Emitter) -> bool {
        match self {
            Self::All => true,
            Self::Id(id) => **id == *emitter.id,
            Self::User(user) => emitter.request.user.as_ref() == Some(user),
            Self::Group(group) => emitter.request.groups.contains(group),
            Self::Token(name) => emitter.request.token.as_deref() == Some(name),
        }
    }
}

// === impl EmitterStatus ===

impl EmitterStatus {
    pub(super) fn of(emitter: &Emitter) -> Self {
        Self {
            emitter_id: emitter.id.to_string(),
            user_id: emitter.request.user.clone(),
            groups: emitter.request.groups.clone(),
            topics: emitter.patterns.to_vec(),
            meta: emitter.request.meta.clone(),
            connected_at: emitter.opened_at_ms,
            state: match emitter.phase {
                Phase::Live => "live",
                Phase::CatchUp { .. } => "catch_up",
                Phase::Ending { .. } => "closing",
            },
            queued_events: emitter.outbox.len(),
            queued_bytes: emitter.outbox.bytes(),
            delivered_events: emitter.delivered,
            dropped_events: emitter.dropped,
        }
    }
}
