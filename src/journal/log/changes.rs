//! Changes that an adapter must store: deleted events, and topics with a new `trimmed_through`.

use std::collections::BTreeSet;

use super::topics::TopicId;

/// Changes of the index beside those of groups.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Events that no topic keeps: primary topic and offset.
    pub dropped: Vec<(TopicId, u64)>,
    /// Topics that were removed, or have a new `trimmed_through`.
    pub topics: BTreeSet<TopicId>,
}

// === impl Changes ===

impl Changes {
    /// Number of changes.
    pub(crate) fn len(&self) -> usize {
        self.dropped.len() + self.topics.len()
    }

    /// Adds later changes.
    pub(crate) fn merge(&mut self, later: Self) {
        self.dropped.extend(later.dropped);
        self.topics.extend(later.topics);
    }
}
