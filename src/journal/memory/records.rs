//! Records in memory: a sorted map with revisions.

use std::{collections::BTreeMap, ops::Bound};

use crate::journal::{AppendError, Expect, Record, RecordWrite};

/// Keyed values beside the events.
#[derive(Default)]
pub(super) struct Records {
    map: BTreeMap<String, Record>,
    revision: u64,
    bytes: u64,
}

// === impl Records ===

impl Records {
    pub(super) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn check(&self, expectations: &[Expect]) -> Result<(), AppendError> {
        match expectations.iter().find(|e| self.map.get(&e.key).map(|r| r.revision) != e.revision) {
            Some(broken) => Err(AppendError::Conflict(broken.key.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn write(&mut self, writes: Vec<RecordWrite>) {
        for RecordWrite { key, value } in writes {
            self.revision += 1;
            let size = |key: &str, record: Option<&Record>| record.map_or(0, |r| (key.len() + r.value.len()) as u64);
            self.bytes -= size(&key, self.map.get(&key));
            match value {
                Some(value) => {
                    let record = Record { value, revision: self.revision };
                    self.bytes += size(&key, Some(&record));
                    self.map.insert(key, record);
                }
                None => {
                    self.map.remove(&key);
                }
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Record> {
        self.map.get(key).cloned()
    }

    pub(super) fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Record)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.map
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect()
    }
}
