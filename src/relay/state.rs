//! How the API shows a relay and its sources; pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Spec;

/// The state of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RelayStatus)]
pub enum Status {
    /// At least one source has not ended.
    Running,
    /// Every source was read to its end.
    Completed,
    /// Some sources were read to their end, the others were given up.
    Partial,
    /// Every source was given up.
    Failed,
    /// A client deleted the relay.
    Deleted,
}

/// The state of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RelaySourceState)]
pub enum State {
    /// The node is connecting.
    #[default]
    Connecting,
    /// A connection is open.
    Open,
    /// The connection was lost; the next attempt follows after a delay.
    Waiting,
    /// The source was read to its end.
    Ended,
    /// The source was given up.
    Failed,
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
    /// The fields that a list shows.
    #[serde(flatten)]
    pub summary: Summary,
    /// The sources, in the order of the spec.
    pub sources: Vec<SourceView>,
    /// The spec of the relay, without secrets.
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
    /// The id of the relay.
    pub id: String,
    /// The user who created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The topic with its events: its target, or its own topic.
    pub topic: String,
    /// The state of the relay.
    pub status: Status,
    /// The path of its event stream.
    pub events_url: String,
    /// When it was created, in Unix milliseconds.
    pub created_at: u64,
    /// When it ended, in Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// Events relayed so far, of all sources.
    pub events: u64,
}

/// A source of a relay.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelaySourceView)]
pub struct SourceView {
    /// Its label within the relay.
    pub label: String,
    /// The remote that is read.
    pub remote: String,
    /// The path that is read.
    pub path: String,
    /// The state of the source.
    pub state: State,
    /// Events relayed so far.
    pub events: u64,
    /// The id after which the next connection resumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_id: Option<String>,
    /// Connections after the first one.
    pub reconnects: u64,
    /// The last error of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When the source entered its state, in Unix milliseconds.
    pub since: u64,
}

/// A relay that was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelayCreated, examples(json!({
    "id": "01JB0000000000000000000000", "topic": "orders:all", "status": "running",
    "eventsUrl": "/api/relays/01JB0000000000000000000000/events",
})))]
pub struct Created {
    /// The id of the relay.
    pub id: String,
    /// The topic with its events: its target, or its own topic.
    pub topic: String,
    /// Always `running`.
    pub status: Status,
    /// The path of its event stream.
    pub events_url: String,
}

/// A page of relays, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RelayListing, examples(json!({
    "relays": [{
        "id": "01JB0000000000000000000000", "topic": "orders:all", "status": "running",
        "eventsUrl": "/api/relays/01JB0000000000000000000000/events", "createdAt": 1_790_000_000_000_u64, "events": 17,
    }],
    "next": null,
})))]
pub struct Listing {
    /// The relays.
    pub relays: Vec<Summary>,
    /// The `after` of the next page; `None` if this is the last page.
    pub next: Option<String>,
}

// === impl Status ===

impl Status {
    /// True when no more events follow.
    pub fn ended(self) -> bool {
        self != Self::Running
    }

    /// The status of a relay whose sources have these states.
    pub(super) fn of(sources: impl Iterator<Item = State>) -> Self {
        let (mut ended, mut failed) = (false, false);
        for source in sources {
            match source {
                State::Connecting | State::Open | State::Waiting => return Self::Running,
                State::Ended => ended = true,
                State::Failed => failed = true,
            }
        }
        match (ended, failed) {
            (_, false) => Self::Completed,
            (false, true) => Self::Failed,
            (true, true) => Self::Partial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_ends_with_its_last_source() {
        let of = |states: &[State]| Status::of(states.iter().copied());
        assert_eq!(of(&[State::Ended, State::Waiting]), Status::Running);
        assert_eq!(of(&[State::Failed, State::Connecting]), Status::Running);
        assert_eq!(of(&[State::Ended, State::Ended]), Status::Completed);
        assert_eq!(of(&[State::Ended, State::Failed]), Status::Partial);
        assert_eq!(of(&[State::Failed]), Status::Failed);
    }
}
