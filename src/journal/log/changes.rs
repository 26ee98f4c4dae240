//! What an adapter has to follow: payloads that nobody needs any more, and topics whose marks have moved.

use std::collections::BTreeSet;

use super::topics::TopicId;

/// What has changed beside what groups brought.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Events that no topic keeps any more: home and offset.
    pub dropped: Vec<(TopicId, u64)>,
    /// Topics whose mark has moved, or that were forgotten.
    pub topics: BTreeSet<TopicId>,
}

// === impl Changes ===

impl Changes {
    /// How much there is to follow.
    pub(crate) fn len(&self) -> usize {
        self.dropped.len() + self.topics.len()
    }

    /// Takes in what came later.
    pub(crate) fn merge(&mut self, later: Self) {
        self.dropped.extend(later.dropped);
        self.topics.extend(later.topics);
    }
}
