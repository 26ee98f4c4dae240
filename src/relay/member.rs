//! A source of a relay, as seen by the upstream that reads it; pure.

use crate::topic::Topic;

/// One source of one relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// The id of the relay.
    pub(super) relay: String,
    /// The number of the source in the spec, from 0.
    pub(super) index: usize,
    /// The label of the source.
    pub(super) label: String,
    /// The topics that receive its events: the target of the relay, if it has one, and the relay's own topic.
    pub(super) topics: Vec<Topic>,
}

// === impl Member ===

impl Member {
    /// The publisher of the events that this source receives.
    pub(super) fn publisher(&self) -> String {
        format!("relay:{}/{}", self.relay, self.label)
    }
}
