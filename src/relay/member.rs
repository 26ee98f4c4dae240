//! A source of a relay, as seen by the upstream that reads it; pure.

use std::sync::Arc;

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
    /// The source with this number of a relay that publishes into `target` and into its own topic.
    pub(super) fn new(relay: &str, index: usize, label: &str, target: Option<&Topic>) -> Arc<Self> {
        Arc::new(Self { relay: relay.to_owned(), index, label: label.to_owned(), topics: topics(relay, target) })
    }

    /// The publisher of the events that this source receives.
    pub(super) fn publisher(&self) -> String {
        format!("relay:{}/{}", self.relay, self.label)
    }
}

/// The topics of a relay: the target, if it has one, and the relay's own topic.
pub(super) fn topics(relay: &str, target: Option<&Topic>) -> Vec<Topic> {
    let own = Topic::relay(relay).expect("an id is a short word");
    target.cloned().into_iter().chain([own]).collect()
}
