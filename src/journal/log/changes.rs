//! Changes that an adapter must store or apply: deleted events, and topics with a new `trimmed_through`.

use std::collections::BTreeSet;

use super::topics::TopicId;

/// Changes of the index beside those of groups.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Offsets of events that no topic keeps.
    pub dropped: Vec<u64>,
    /// Offsets of restored events that have another time than the stored one.
    pub corrected: Vec<u64>,
    /// Topics that were removed, or have a new `trimmed_through`.
    pub topics: BTreeSet<TopicId>,
}
