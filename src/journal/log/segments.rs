//! The number of events and records in each segment of an adapter that stores them in segments.

use std::collections::BTreeMap;

use super::entries::Stored;

/// The number of events and records in each segment. Segment 0 does not exist: it stands for memory.
#[derive(Default)]
pub(super) struct SegmentItems(BTreeMap<u32, u64>);

// === impl SegmentItems ===

impl SegmentItems {
    pub(super) fn count(&self, segment: u32) -> u64 {
        self.0.get(&segment).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, stored: Stored) {
        if stored.segment > 0 {
            *self.0.entry(stored.segment).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, stored: Stored) {
        if let Some(count) = self.0.get_mut(&stored.segment) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&stored.segment);
            }
        }
    }
}
