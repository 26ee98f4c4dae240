//! Reads all readable rows of a store that may be damaged.
//!
//! A block that cannot be read hides the rows behind it. So each kind of rows is read from both ends, and events also
//! topic by topic. Rows that other rows refer to are read one by one.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{
    restore::row_name,
    rows::{self, BadRow, KeyDigest, RecordRow, STATE_KEY, StateRow, TopicRow},
    store::{Store, StoreError},
    values::{Value, ValueRows},
};
use crate::{
    clock::Moment,
    event::Position,
    journal::{
        Config, Verified,
        log::{EventMeta, Log, TopicId},
    },
};

/// The readable content of a store.
#[derive(Default)]
pub(super) struct Scan {
    pub state: Option<StateRow>,
    pub topics: BTreeMap<TopicId, TopicRow>,
    pub event_metas: BTreeMap<u64, EventMeta>,
    /// Primary topics of the events whose rows are intact.
    pub events: BTreeMap<u64, TopicId>,
    pub bad_events: BTreeSet<u64>,
    pub records: BTreeMap<String, RecordRow>,
    /// Intact rows of values, by record.
    pub value_rows: BTreeMap<String, ValueRows>,
    /// Complete values.
    pub values: BTreeMap<String, Value>,
    /// Keys of records, by the digests in the keys of their parts.
    names_by_digest: BTreeMap<KeyDigest, String>,
    /// Damaged rows of records. For a damaged part: the key of the record's value, so that it is reported once.
    pub bad_records: BTreeSet<Vec<u8>>,
    /// True if rows of the index or of topics may be missing.
    pub index_incomplete: bool,
    pub findings: Verified,
}

/// Settings without limits, so that nothing is deleted.
pub(super) fn unbounded() -> Config {
    Config {
        retention_ms: 0,
        retention_events: 0,
        retention_bytes: 0,
        max_bytes: u64::MAX,
        max_topics: u64::MAX,
        min_free_bytes: 0,
        retention: Vec::new(),
        ..Config::default()
    }
}

// === impl Scan ===

impl Scan {
    /// Reads everything.
    ///
    /// # Errors
    /// If the operating system cannot read a file. This is not damage, and the scan is incomplete.
    pub(super) fn of(store: &Store) -> Result<Self, StoreError> {
        let mut scan = Self::default();
        match store.get(STATE_KEY) {
            Ok(Some(row)) => match rows::decode(&row) {
                Ok(state) => scan.state = Some(state),
                Err(bad) => scan.findings.damage("damaged-row", format!("the state row is damaged: {bad}")),
            },
            Ok(None) => scan.findings.damage("damaged-row", "the state row is missing"),
            Err(refused @ StoreError::Io(_)) => return Err(refused),
            Err(error) => scan.findings.damage("unreadable", format!("the state row cannot be read: {error}")),
        }
        scan.index_incomplete = scan.state.is_none();
        for kind in [b't', b'i'] {
            scan.index_incomplete |= scan.read_range(store, vec![kind], vec![kind + 1])?;
        }
        if scan.read_range(store, vec![b'e'], vec![b'f'])? {
            scan.read_events_singly(store)?;
        }
        let mut broken = false;
        for kind in [b'k', b'r', b'p'] {
            broken |= scan.read_range(store, vec![kind], vec![kind + 1])?;
        }
        if broken {
            scan.read_records_singly(store);
        }
        let whole = scan.value_rows.iter().filter_map(|(key, value_rows)| {
            let value = value_rows.value(scan.records.get(key))?;
            Some((key.clone(), value))
        });
        scan.values = whole.collect();
        scan.findings.events = scan.events.len() as u64;
        scan.findings.topics = scan.topics.len() as u64;
        scan.findings.records = scan.records.len() as u64;
        Ok(scan)
    }

    /// The index that an opening would restore from these rows.
    pub(super) fn log(&self, now: Moment) -> Log {
        let mut log = Log::new(&unbounded(), self.state.map_or(0, |state| state.epoch));
        log.restore_state(&self.state.map(|state| state.log_state()).unwrap_or_default(), now);
        self.topics.iter().for_each(|(id, topic)| log.restore_topic(*id, &topic.name, topic.trimmed_through));
        self.event_metas.values().for_each(|meta| log.restore_event(meta.clone()));
        log.insert_ahead();
        log
    }

    /// Reads a range of keys; true if a part of it cannot be read.
    fn read_range(&mut self, store: &Store, from: Vec<u8>, before: Vec<u8>) -> Result<bool, StoreError> {
        let mut last = Bound::Included(from);
        let mut rows = store.range(last.clone(), before.clone());
        let error = loop {
            match rows.next() {
                None => return Ok(false),
                Some(Err(refused @ StoreError::Io(_))) => return Err(refused),
                Some(Err(error)) => break error,
                Some(Ok((key, row))) => {
                    self.row(&key, &row);
                    last = Bound::Excluded(key.to_vec());
                }
            }
        };
        let behind = match &last {
            Bound::Excluded(key) => format!("rows after {}", self.name_of_row(key)),
            Bound::Included(key) => format!("rows from {}", row_name(key)),
            Bound::Unbounded => "rows".to_owned(),
        };
        self.findings.damage("unreadable", format!("{behind} cannot be read: {error}"));
        let mut rows = store.range(last, before);
        while let Some(Ok((key, row))) = rows.next_back() {
            self.row(&key, &row);
        }
        Ok(true)
    }

    fn read_events_singly(&mut self, store: &Store) -> Result<(), StoreError> {
        let primary_topics: Vec<TopicId> = self.topics.keys().copied().collect();
        for primary_topic in primary_topics {
            self.read_range(
                store,
                rows::event_key(primary_topic, 0).to_vec(),
                rows::event_key(primary_topic.saturating_add(1), 0).to_vec(),
            )?;
        }
        let unseen = self.event_metas.values().filter(|meta| !self.events.contains_key(&meta.offset));
        let unseen: Vec<_> = unseen.map(|meta| rows::event_key(meta.topics[0], meta.offset)).collect();
        self.read_singly(store, unseen);
        Ok(())
    }

    fn read_records_singly(&mut self, store: &Store) {
        let names: BTreeSet<String> = self.records.keys().chain(self.value_rows.keys()).cloned().collect();
        for name in names {
            self.read_singly(store, [rows::record_key(&name), rows::record_index_key(&name)]);
            // The index row may have been read just now. It contains the number of parts.
            let known = self.records.get(&name).map(|record| record.size);
            let seen = self
                .value_rows
                .get(&name)
                .into_iter()
                .flat_map(|value_rows| value_rows.parts.values().map(|head| head.size));
            let parts = known.into_iter().chain(seen).map(rows::parts_in).max().unwrap_or(0);
            self.read_singly(store, (0..parts).map(|part| rows::part_key(&name, part)));
        }
    }

    fn read_singly(&mut self, store: &Store, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        for key in keys {
            if let Ok(Some(row)) = store.get(&key) {
                self.row(key.as_ref(), &row);
            }
        }
    }

    fn row(&mut self, key: &[u8], row: &[u8]) {
        let read = match key.first() {
            Some(b'e') => self.event(key, row),
            Some(b'i') => self.index(key, row),
            Some(b't') => self.topic(key, row),
            Some(b'k' | b'p' | b'r') => self.record(key, row),
            _ => Ok(()),
        };
        if let Err(bad) = read {
            self.index_incomplete |= matches!(key.first(), Some(b'i' | b't'));
            self.findings.damage("damaged-row", format!("{} is damaged: {bad}", self.name_of_row(key)));
        }
    }

    fn event(&mut self, key: &[u8], row: &[u8]) -> Result<(), BadRow> {
        let Some((primary_topic, offset)) = rows::topic_and_offset_of(key) else { return Ok(()) };
        match rows::decode_event(row, Position { epoch: 0, offset }) {
            Ok(_) => drop(self.events.insert(offset, primary_topic)),
            // This row may be read more than once.
            Err(bad) if self.bad_events.insert(offset) => return Err(bad),
            Err(_) => {}
        }
        Ok(())
    }

    fn index(&mut self, key: &[u8], row: &[u8]) -> Result<(), BadRow> {
        let Some(first) = rows::number_of(key) else { return Ok(()) };
        let event_metas = rows::decode_event_metas(first, row)?.filter(|meta| !meta.topics.is_empty());
        self.event_metas.extend(event_metas.map(|meta| (meta.offset, meta)));
        Ok(())
    }

    fn topic(&mut self, key: &[u8], row: &[u8]) -> Result<(), BadRow> {
        let topic = rows::decode(row)?;
        if let Some(id) = rows::number_of(key) {
            self.topics.insert(id, topic);
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], row: &[u8]) -> Result<(), BadRow> {
        if let Some((owner, part)) = rows::part_of(key) {
            let read = self.part(owner, part, row);
            let row_key = self
                .names_by_digest
                .get(&owner)
                .map_or_else(|| key[..=owner.len()].to_vec(), |name| rows::record_key(name));
            return self.report_once(row_key, read);
        }
        let Some(name) = rows::name_of(key) else { return Ok(()) };
        let read = if key.first() == Some(&b'k') {
            self.names_by_digest.insert(rows::key_digest(name), name.to_owned());
            rows::decode(row).map(|record| {
                self.records.insert(name.to_owned(), record);
            })
        } else {
            let value_rows = self.value_rows.entry(name.to_owned()).or_default();
            rows::unseal(row).map(|value| value_rows.row = Some(value.len() as u64))
        };
        self.report_once(key.to_vec(), read)
    }

    fn part(&mut self, owner: KeyDigest, part: u32, row: &[u8]) -> Result<(), BadRow> {
        let (head, name, _) = rows::decode_part(part, row)?;
        if rows::key_digest(name) != owner {
            return Err(BadRow::Length);
        }
        self.names_by_digest.insert(owner, name.to_owned());
        self.value_rows.entry(name.to_owned()).or_default().parts.insert(part, head);
        Ok(())
    }

    /// Reports damage of a row or value once, because it may be read more than once.
    fn report_once(&mut self, row_key: Vec<u8>, read: Result<(), BadRow>) -> Result<(), BadRow> {
        match read {
            Err(bad) if self.bad_records.insert(row_key) => Err(bad),
            _ => Ok(()),
        }
    }

    /// The name of a row in messages. For a part: the name of its record, if it is known.
    fn name_of_row(&self, key: &[u8]) -> String {
        let name = rows::part_of(key).and_then(|(owner, _)| self.names_by_digest.get(&owner));
        row_name(&name.map_or_else(|| key.to_vec(), |name| rows::record_key(name)))
    }
}
