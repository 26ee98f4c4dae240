//! What is known of a relay and its sources, and how the API shows it; pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Spec,
    record::{Ended, Progress},
};
use crate::event::now_ms;

/// How far a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RelayStatus)]
pub enum Status {
    /// At least one source goes on.
    Running,
    /// Every source was read to its end.
    Completed,
    /// Some were.
    Partial,
    /// None was.
    Failed,
    /// A client ended it.
    Deleted,
}

/// What a source is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RelaySourceState)]
pub enum State {
    /// A connection is being made.
    Connecting,
    /// A connection is open.
    Open,
    /// The connection was lost; the next one follows after a delay.
    Waiting,
    /// It was read to its end.
    Ended,
    /// It was given up.
    Failed,
}

/// A source as it is now.
#[derive(Clone, Debug)]
pub(super) struct SourceState {
    pub state: State,
    pub events: u64,
    pub last_event_id: String,
    pub reconnects: u64,
    pub last_error: Option<String>,
    /// Unix milliseconds.
    pub since: u64,
}

/// A relay with its sources.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Relay, examples(json!({
    "id": "01JB0000000000000000000000", "topic": "orders:all", "status": "running",
    "eventsUrl": "/api/relays/01JB0000000000000000000000/events", "createdAt": 1_790_000_000_000_u64, "events": 17,
    "sources": [{
        "label": "sample", "remote": "reactive", "path": "/api/sse/sample-parallel", "state": "open", "events": 17,
        "lastEventId": "4d20ab12cc00-31", "reconnects": 0, "since": 1_790_000_000_000_u64,
    }],
    "spec": {
        "topic": "orders:all", "repeat": "until_end",
        "sources": [{ "remote": "reactive", "path": "/api/sse/sample-parallel", "label": "sample" }],
    },
})))]
pub struct View {
    /// What a list shows.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its sources, in the order of the spec.
    pub sources: Vec<SourceView>,
    /// What was asked for, without secrets.
    pub spec: Spec,
}

/// A relay without its sources.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelaySummary, examples(json!({
    "id": "01JB0000000000000000000000", "topic": "orders:all", "status": "running",
    "eventsUrl": "/api/relays/01JB0000000000000000000000/events", "createdAt": 1_790_000_000_000_u64, "events": 17,
})))]
pub struct Summary {
    /// The relay.
    pub id: String,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where its events are to be heard: its target, or its own topic.
    pub topic: String,
    /// How far it is.
    pub status: Status,
    /// Its events as a stream.
    pub events_url: String,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// Events relayed so far.
    pub events: u64,
}

/// A source of a relay.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelaySourceView)]
pub struct SourceView {
    /// Its name within the relay.
    pub label: String,
    /// Whom it asks.
    pub remote: String,
    /// For what.
    pub path: String,
    /// What it is doing.
    pub state: State,
    /// Events relayed so far.
    pub events: u64,
    /// Where the next connection would go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_id: Option<String>,
    /// Connections after the first one.
    pub reconnects: u64,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Since when it is in this state, in Unix milliseconds.
    pub since: u64,
}

// === impl Status ===

impl Status {
    /// The status as the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
        }
    }

    /// True when nothing more comes.
    pub fn ended(self) -> bool {
        self != Self::Running
    }

    /// What becomes of a relay whose sources are in these states.
    pub(super) fn of(sources: &[SourceState]) -> Self {
        let count = |state| sources.iter().filter(|source| source.state == state).count();
        match (count(State::Ended), count(State::Failed)) {
            (ended, failed) if ended + failed < sources.len() => Self::Running,
            (_, 0) => Self::Completed,
            (0, _) => Self::Failed,
            _ => Self::Partial,
        }
    }
}

// === impl SourceState ===

impl SourceState {
    /// A source that stands where its record says.
    pub fn new(progress: &Progress) -> Self {
        let (state, last_error) = match &progress.ended {
            None => (State::Connecting, None),
            Some(Ended::Complete(_)) => (State::Ended, None),
            Some(Ended::Failed { error, .. }) => (State::Failed, Some(error.clone())),
        };
        Self {
            state,
            events: progress.cursor.events,
            last_event_id: progress.cursor.last_id.clone(),
            reconnects: progress.opens.saturating_sub(1),
            last_error,
            since: progress.since,
        }
    }

    /// Takes what was written.
    pub fn update(&mut self, progress: &Progress, state: Option<State>, error: Option<&str>) {
        self.events = progress.cursor.events;
        self.last_event_id.clone_from(&progress.cursor.last_id);
        self.reconnects = progress.opens.saturating_sub(1);
        if let Some(error) = error {
            self.last_error = Some(error.to_owned());
        }
        if let Some(state) = state.filter(|state| *state != self.state) {
            self.state = state;
            self.since = now_ms();
        }
    }

    /// True when no runner has it.
    pub fn over(&self) -> bool {
        matches!(self.state, State::Ended | State::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_ends_with_its_last_source() {
        let source = |state| SourceState { state, ..SourceState::new(&Progress::default()) };
        let of = |states: &[State]| Status::of(&states.iter().map(|state| source(*state)).collect::<Vec<_>>());
        assert_eq!(of(&[State::Ended, State::Waiting]), Status::Running);
        assert_eq!(of(&[State::Failed, State::Connecting]), Status::Running);
        assert_eq!(of(&[State::Ended, State::Ended]), Status::Completed);
        assert_eq!(of(&[State::Ended, State::Failed]), Status::Partial);
        assert_eq!(of(&[State::Failed]), Status::Failed);
    }
}
