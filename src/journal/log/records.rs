//! Records without their values: which keys there are, in which revision, and how large.

use std::{collections::BTreeMap, ops::Bound};

/// Keyed values beside the events, without the values.
#[derive(Default)]
pub(super) struct Records {
    map: BTreeMap<String, Known>,
    pub(super) revision: u64,
    bytes: u64,
}

/// What is known of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub revision: u64,
    /// Bytes of its value.
    pub size: u64,
}

// === impl Records ===

impl Records {
    pub(super) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, key: &str) -> Option<Known> {
        self.map.get(key).copied()
    }

    /// `None` deletes.
    pub(super) fn write(&mut self, key: String, known: Option<Known>) {
        let size = |key: &str, known: Option<&Known>| known.map_or(0, |known| key.len() as u64 + known.size);
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
