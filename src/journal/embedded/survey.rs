//! Reading a store that may be damaged, row by row, past whatever cannot be read.
//!
//! A block that cannot be read hides its rows from whoever walks by: so each kind of rows is walked from both ends, events
//! also topic by topic, and rows that others tell of are asked for one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{
    restore::row_name,
    rows::{self, BadRow, Owner, RecordRow, STATE, State, TopicRow},
    store::{Store, StoreError},
    values::{Pieces, Value},
};
use crate::{
    clock::Moment,
    event::Position,
    journal::{
        Config, Verified,
        log::{Log, Meta, TopicId},
    },
};

/// What can be read of a store.
#[derive(Default)]
pub(super) struct Survey {
    pub state: Option<State>,
    pub topics: BTreeMap<TopicId, TopicRow>,
    pub metas: BTreeMap<u64, Meta>,
    /// Homes of the events whose rows are sound.
    pub events: BTreeMap<u64, TopicId>,
    pub bad_events: BTreeSet<u64>,
    pub records: BTreeMap<String, RecordRow>,
    /// Rows of values that are sound, by record.
    pub pieces: BTreeMap<String, Pieces>,
    /// Values that are whole.
    pub values: BTreeMap<String, Value>,
    /// Names of records by the digest in the keys of their parts.
    owners: BTreeMap<Owner, String>,
    /// Damaged rows of records; for a damaged part the key of the record's value, so that it is reported once.
    pub bad_records: BTreeSet<Vec<u8>>,
    /// Rows of the index, or of topics, may be missing.
    pub index_hurt: bool,
    pub findings: Verified,
}

/// Keeps everything: for those who only look.
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

// === impl Survey ===

impl Survey {
    /// Reads everything.
    ///
    /// # Errors
    /// When the operating system cannot read a file. This is not damage, and the survey is incomplete.
    pub(super) fn of(store: &Store) -> Result<Self, StoreError> {
        let mut survey = Self::default();
        match store.get(STATE) {
            Ok(Some(row)) => match rows::decode(&row) {
                Ok(state) => survey.state = Some(state),
                Err(bad) => survey.findings.damage("damaged-row", format!("the state row is damaged: {bad}")),
            },
            Ok(None) => survey.findings.damage("damaged-row", "the state row is missing"),
            Err(refused @ StoreError::Io(_)) => return Err(refused),
            Err(error) => survey.findings.damage("unreadable", format!("the state row cannot be read: {error}")),
        }
        survey.index_hurt = survey.state.is_none();
        for kind in [b't', b'i'] {
            survey.index_hurt |= survey.walk(store, vec![kind], vec![kind + 1])?;
        }
        if survey.walk(store, vec![b'e'], vec![b'f'])? {
            survey.events_one_by_one(store)?;
        }
        let mut broken = false;
        for kind in [b'k', b'r', b'p'] {
            broken |= survey.walk(store, vec![kind], vec![kind + 1])?;
        }
        if broken {
            survey.records_one_by_one(store);
        }
        let whole = survey.pieces.iter().filter_map(|(key, pieces)| {
            let value = pieces.value(survey.records.get(key))?;
            Some((key.clone(), value))
        });
        survey.values = whole.collect();
        survey.findings.events = survey.events.len() as u64;
        survey.findings.topics = survey.topics.len() as u64;
        survey.findings.records = survey.records.len() as u64;
        Ok(survey)
    }

    /// The index that an opening would make of it.
    pub(super) fn log(&self, now: Moment) -> Log {
        let mut log = Log::new(&unbounded(), self.state.map_or(0, |state| state.epoch));
        log.restore_marks(&self.state.map(|state| state.marks()).unwrap_or_default(), now);
        self.topics.iter().for_each(|(id, topic)| log.restore_topic(*id, &topic.name, topic.trimmed_through));
        self.metas.values().for_each(|meta| log.restore_event(meta.clone()));
        log.settle();
        log
    }

    /// Reads a range of keys; true when something in it cannot be read.
    fn walk(&mut self, store: &Store, from: Vec<u8>, before: Vec<u8>) -> Result<bool, StoreError> {
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
            Bound::Excluded(key) => format!("rows behind {}", self.name_of_row(key)),
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

    fn events_one_by_one(&mut self, store: &Store) -> Result<(), StoreError> {
        let homes: Vec<TopicId> = self.topics.keys().copied().collect();
        for home in homes {
            self.walk(store, rows::event_key(home, 0).to_vec(), rows::event_key(home.saturating_add(1), 0).to_vec())?;
        }
        let unseen = self.metas.values().filter(|meta| !self.events.contains_key(&meta.offset));
        let unseen: Vec<_> = unseen.map(|meta| rows::event_key(meta.topics[0], meta.offset)).collect();
        self.one_by_one(store, unseen);
        Ok(())
    }

    fn records_one_by_one(&mut self, store: &Store) {
        let names: BTreeSet<String> = self.records.keys().chain(self.pieces.keys()).cloned().collect();
        for name in names {
            self.one_by_one(store, [rows::record_key(&name), rows::record_index_key(&name)]);
            // The index row may have been read just now, and says how many parts there are.
            let known = self.records.get(&name).map(|record| record.size);
            let seen =
                self.pieces.get(&name).into_iter().flat_map(|pieces| pieces.parts.values().map(|head| head.size));
            let parts = known.into_iter().chain(seen).map(rows::parts_in).max().unwrap_or(0);
            self.one_by_one(store, (0..parts).map(|part| rows::part_key(&name, part)));
        }
    }

    fn one_by_one(&mut self, store: &Store, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
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
            self.index_hurt |= matches!(key.first(), Some(b'i' | b't'));
            self.findings.damage("damaged-row", format!("{} is damaged: {bad}", self.name_of_row(key)));
        }
    }

    fn event(&mut self, key: &[u8], row: &[u8]) -> Result<(), BadRow> {
        let Some((home, offset)) = rows::place_of(key) else { return Ok(()) };
        match rows::decode_event(row, Position { epoch: 0, offset }) {
            Ok(_) => drop(self.events.insert(offset, home)),
            // It may be met again.
            Err(bad) if self.bad_events.insert(offset) => return Err(bad),
            Err(_) => {}
        }
        Ok(())
    }

    fn index(&mut self, key: &[u8], row: &[u8]) -> Result<(), BadRow> {
        let Some(first) = rows::number_of(key) else { return Ok(()) };
        let metas = rows::decode_metas(first, row)?.filter(|meta| !meta.topics.is_empty());
        self.metas.extend(metas.map(|meta| (meta.offset, meta)));
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
            let row_key =
                self.owners.get(&owner).map_or_else(|| key[..=owner.len()].to_vec(), |name| rows::record_key(name));
            return self.once(row_key, read);
        }
        let Some(name) = rows::name_of(key) else { return Ok(()) };
        let read = if key.first() == Some(&b'k') {
            self.owners.insert(rows::owner(name), name.to_owned());
            rows::decode(row).map(|record| {
                self.records.insert(name.to_owned(), record);
            })
        } else {
            let pieces = self.pieces.entry(name.to_owned()).or_default();
            rows::unseal(row).map(|value| pieces.row = Some(value.len() as u64))
        };
        self.once(key.to_vec(), read)
    }

    fn part(&mut self, owner: Owner, part: u32, row: &[u8]) -> Result<(), BadRow> {
        let (head, name, _) = rows::decode_part(part, row)?;
        if rows::owner(name) != owner {
            return Err(BadRow::Length);
        }
        self.owners.insert(owner, name.to_owned());
        self.pieces.entry(name.to_owned()).or_default().parts.insert(part, head);
        Ok(())
    }

    /// Reports damage of a row, or of a value, once: it may be met again.
    fn once(&mut self, row_key: Vec<u8>, read: Result<(), BadRow>) -> Result<(), BadRow> {
        match read {
            Err(bad) if self.bad_records.insert(row_key) => Err(bad),
            _ => Ok(()),
        }
    }

    /// The name of a row in messages; of a part, that of its record if a row tells it.
    fn name_of_row(&self, key: &[u8]) -> String {
        let name = rows::part_of(key).and_then(|(owner, _)| self.owners.get(&owner));
        row_name(&name.map_or_else(|| key.to_vec(), |name| rows::record_key(name)))
    }
}
