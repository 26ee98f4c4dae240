//! The values of the journal as a whole.

/// The values of the journal as a whole. Each frame has those that it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::journal::embedded) enum Field {
    /// Offset of the last event.
    Head,
    /// Timestamp of the last commit.
    LastTimestamp,
    /// The latest time for which retention has deleted events.
    Swept,
    /// The last id of a topic.
    LastTopic,
    /// The last revision of a record.
    Revision,
    TrimmedThrough,
    /// Offset of the newest event that was deleted from all its topics.
    DeletedThrough,
    /// Timestamp of that event.
    DeletedTimestamp,
    ForgottenThrough,
    PinnedForgottenThrough,
    /// Sequence number of the last applied message, if the journal is a replica of another log.
    Applied,
}

/// Number of values.
pub(super) const FIELDS: usize = Field::Applied as usize + 1;

/// All values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::journal::embedded) struct JournalState([u64; FIELDS]);

// === impl JournalState ===

impl JournalState {
    pub(in crate::journal::embedded) fn get(&self, field: Field) -> u64 {
        self.0[field as usize]
    }

    pub(in crate::journal::embedded) fn set(&mut self, field: Field, value: u64) {
        self.0[field as usize] = value;
    }

    pub(super) fn values(&self) -> &[u64; FIELDS] {
        &self.0
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        self.0.iter_mut()
    }

    /// The values that differ from `before`, each with the difference.
    pub(super) fn changes(&self, before: &Self) -> Vec<(u8, i64)> {
        let pairs = (0..).zip(self.0.iter().zip(&before.0));
        let changed = pairs.filter(|(_, (new, old))| new != old);
        changed.map(|(field, (new, old))| (field, new.wrapping_sub(*old).cast_signed())).collect()
    }

    pub(super) fn changed(mut self, changes: &[(u8, i64)]) -> Option<Self> {
        for (field, difference) in changes {
            let value = self.0.get_mut(usize::from(*field))?;
            *value = value.wrapping_add_signed(*difference);
        }
        Some(self)
    }
}
