//! The index of records: their keys, revisions and sizes. The adapter stores the values.

use std::{collections::BTreeMap, ops::Bound};

use super::entries::Stored;

/// The index of records.
#[derive(Default)]
pub(super) struct RecordIndex {
    map: BTreeMap<String, RecordInfo>,
    pub(super) revision: u64,
    bytes: u64,
}

/// Metadata of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordInfo {
    pub revision: u64,
    /// Its value. In memory only the length has a meaning.
    pub stored: Stored,
}

// === impl RecordIndex ===

impl RecordIndex {
    pub(super) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All records, in the order of their keys.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut RecordInfo> {
        self.map.values_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RecordInfo> {
        self.map.values()
    }

    pub(super) fn after(&self, after: Option<&str>) -> impl Iterator<Item = (&str, RecordInfo)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.map.range::<str, _>((from, Bound::Unbounded)).map(|(key, known)| (key.as_str(), *known))
    }

    pub(super) fn get(&self, key: &str) -> Option<RecordInfo> {
        self.map.get(key).copied()
    }

    /// Adds, replaces or, with `None`, removes a record.
    pub(super) fn write(&mut self, key: String, known: Option<RecordInfo>) {
        let size = |key: &str, known: Option<&RecordInfo>| {
            known.map_or(0, |known| key.len() as u64 + u64::from(known.stored.length))
        };
        self.bytes -= size(&key, self.map.get(&key));
        self.bytes += size(&key, known.as_ref());
        match known {
            Some(known) => drop(self.map.insert(key, known)),
            None => drop(self.map.remove(&key)),
        }
    }

    pub(super) fn keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.map
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, _)| key.clone())
            .collect()
    }
}
