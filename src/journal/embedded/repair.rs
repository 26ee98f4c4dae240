//! Repair: writes everything that can be read into a new store, and exchanges the damaged store for it.
//!
//! ```text
//!  snapshot ──scan──> store.new ──check──> store.damaged-<ms> <──exchange──> store ──> MARK
//! ```
//!
//! Nothing is deleted. The new store is complete and on the disk before anything is renamed. Then the two directories are
//! exchanged in one step. The commits of the new store are after the old high-water mark.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    exchange::exchange,
    restore,
    rows::{self, RecordRow, STATE_KEY, StateRow, TopicRow},
    scan::{Scan, unbounded},
    snapshot::{self, JournalSnapshot},
    store::{Commit, Store, StoreError},
    values::Value,
};
use crate::{
    clock::Clock,
    event::Position,
    journal::{
        Verified,
        log::{self, EventMeta, Log, LogState, TopicId},
        new_epoch,
    },
    topic::Topic,
};

/// Result of a repair, or of its dry run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repaired {
    /// The damage that was found.
    pub found: Verified,
    /// Number of events kept.
    pub events: u64,
    /// Number of events that are known to be lost.
    pub lost_events: u64,
    /// Number of topics kept.
    pub topics: u64,
    /// Number of records kept.
    pub records: u64,
    /// Number of records that are known to be lost.
    pub lost_records: u64,
    /// Path of the damaged store. `None` after a dry run.
    pub damaged_store: Option<PathBuf>,
}

/// Bytes of rows in one commit.
const BATCH_BYTES: usize = 1 << 20;

/// The content of the new store.
struct Plan {
    log: Log,
    topics: Vec<TopicId>,
    event_metas: Vec<EventMeta>,
    records: Vec<(String, RecordRow, Value)>,
    state: StateRow,
}

/// Repairs the journal of a snapshot; `scan` is its readable content.
pub(super) fn repair(snapshot: &JournalSnapshot, mut scan: Scan, dry_run: bool) -> Result<Repaired, StoreError> {
    let before = scan.log(Clock::system().moment());
    let mut known: BTreeSet<u64> = before.event_metas(0, u64::MAX).map(|meta| meta.offset).collect();
    known.extend(&scan.bad_events);
    let known_records = scan.records.len().max(scan.values.len()) as u64;
    let store = Store::open(&snapshot.store())?;
    if scan.index_incomplete {
        reindex(&mut scan, &store)?;
    }
    let plan = Plan::of(&scan, snapshot);
    let mut done = Repaired {
        found: scan.findings,
        events: plan.event_metas.len() as u64,
        lost_events: known.into_iter().filter(|offset| !plan.log.contains(*offset)).count() as u64,
        topics: plan.topics.len() as u64,
        records: plan.records.len() as u64,
        lost_records: known_records.saturating_sub(plan.records.len() as u64),
        damaged_store: None,
    };
    if !dry_run {
        let new_store = snapshot.data_dir.journal().join("store.new");
        let io = |error: io::Error| StoreError::Io(error.to_string());
        snapshot::remove(&new_store).map_err(io)?;
        plan.write(&store, &new_store)?;
        done.damaged_store = Some(exchange(&snapshot.data_dir, &new_store, plan.state.commit).map_err(io)?);
    }
    Ok(done)
}

/// Creates the index rows and topics from the events, where the index may be incomplete.
fn reindex(scan: &mut Scan, store: &Store) -> Result<(), StoreError> {
    let mut ids: HashMap<Topic, TopicId> = scan.topics.iter().map(|(id, row)| (row.name.clone(), *id)).collect();
    let used =
        scan.topics.keys().chain(scan.event_metas.values().flat_map(|meta| &meta.topics)).chain(scan.events.values());
    let mut next = 1 + used.max().copied().unwrap_or(0).max(scan.state.map_or(0, |state| state.log_state().last_topic));
    let primary_topics: Vec<(u64, TopicId)> =
        scan.events.iter().map(|(offset, primary_topic)| (*offset, *primary_topic)).collect();
    for (offset, primary_topic) in primary_topics {
        let Some(row) = store.get(rows::event_key(primary_topic, offset))? else { continue };
        let Ok((draft, timestamp)) = rows::decode_draft(&row) else { continue };
        let known = scan.event_metas.get(&offset).map(|meta| meta.topics.clone());
        let mut topics = Vec::with_capacity(draft.topics.len());
        for (index, name) in draft.topics.iter().enumerate() {
            // The key of the event has its primary topic. For the others: their ids in the index, or else their names.
            let own =
                known.as_ref().and_then(|known| known.get(index).copied()).or((index == 0).then_some(primary_topic));
            let id = ids.get(name).copied().or(own).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            ids.entry(name.clone()).or_insert(id);
            // It is unknown whether the topic had events before this one.
            let begins = || TopicRow { name: name.clone(), trimmed_through: offset.saturating_sub(1) };
            scan.topics.entry(id).or_insert_with(begins);
            topics.push(id);
        }
        // If the primary topic has another id now, the event was deleted with its topic.
        if known.is_none() && topics.first() == Some(&primary_topic) {
            let key = log::hashes(&draft);
            let event = draft.into_event(Position { epoch: 0, offset }, timestamp);
            let (size, expires) = (log::size(&event), event.expires);
            scan.event_metas.insert(offset, EventMeta { offset, timestamp, size, topics, expires, key });
        }
    }
    Ok(())
}

// === impl Plan ===

impl Plan {
    fn of(scan: &Scan, snapshot: &JournalSnapshot) -> Self {
        let head = scan.event_metas.keys().chain(scan.events.keys()).max().copied().unwrap_or(0);
        // If the state is lost, any event may have been trimmed.
        let unknown = LogState {
            trimmed_through: head,
            forgotten_through: head,
            pinned_forgotten_through: head,
            ..LogState::default()
        };
        let known = scan.state.map_or(unknown, |state| state.log_state());
        let mut log_state = LogState { head: known.head.max(head), ..known };
        let trimmed = scan.topics.values().map(|topic| topic.trimmed_through).max().unwrap_or(0);
        log_state.trimmed_through = log_state.trimmed_through.max(trimmed);
        let event_metas = scan.event_metas.values().filter(|meta| scan.events.get(&meta.offset) == meta.topics.first());
        log_state.last_topic = scan.topics.keys().max().copied().unwrap_or(0).max(log_state.last_topic);

        let mut log = Log::new(&unbounded(), new_epoch());
        log.restore_state(&log_state, Clock::system().moment());
        scan.topics.iter().for_each(|(id, topic)| log.restore_topic(*id, &topic.name, topic.trimmed_through));
        event_metas.for_each(|meta| log.restore_event(meta.clone()));
        log.insert_ahead();
        let in_parts = scan.values.values().filter_map(|value| value.revision);
        let revisions = scan.records.values().map(|record| record.revision).chain(in_parts);
        let mut revision = revisions.max().unwrap_or(0).max(log_state.revision);
        let record = |(name, value): (&String, &Value)| {
            let known = scan.records.get(name).filter(|record| value.is_of(record)).map(|record| record.revision);
            let revision = known.or(value.revision).unwrap_or_else(|| {
                revision += 1;
                revision
            });
            (name.clone(), RecordRow { revision, size: value.size }, *value)
        };
        let records: Vec<_> = scan.values.iter().map(record).collect();
        let marked = snapshot
            .high_water_mark
            .as_ref()
            .ok()
            .copied()
            .flatten()
            .map_or(0, |high_water_mark| high_water_mark.commit);
        let commit = scan.state.map_or(0, |state| state.commit).max(marked) + 1;
        let state = StateRow::new(log.epoch(), commit, &LogState { revision, ..log.log_state() });
        let event_metas: Vec<EventMeta> = log.event_metas(0, u64::MAX).collect();
        Self { log, topics: scan.topics.keys().copied().collect(), event_metas, records, state }
    }

    fn write(&self, from: &Store, path: &Path) -> Result<(), StoreError> {
        let to = Store::open(path)?;
        let copy = |commit: &mut Commit, key: &[u8]| -> Result<(), StoreError> {
            let row = from.get(key)?.ok_or_else(|| StoreError::Damaged("a row has disappeared".to_owned()))?;
            commit.put(key, row.to_vec());
            Ok(())
        };
        write_in_batches(&to, &self.topics, |commit, id| {
            if let Some((name, trimmed_through)) = self.log.topic(*id) {
                let row = TopicRow { name: name.clone(), trimmed_through };
                commit.put(rows::topic_key(*id), rows::encode(&row));
            }
            Ok(())
        })?;
        write_in_batches(&to, &self.event_metas, |commit, meta| {
            copy(commit, &rows::event_key(meta.topics[0], meta.offset))
        })?;
        write_in_batches(&to, &rows::encode_event_metas(self.event_metas.iter().cloned()), |commit, (first, row)| {
            commit.put(rows::index_key(*first), row.clone());
            Ok(())
        })?;
        write_in_batches(&to, &self.records, |commit, (name, row, value)| {
            commit.put(rows::record_index_key(name), rows::encode_record(row));
            value.keys(name).try_for_each(|key| copy(commit, &key))
        })?;
        let mut last = to.commit()?;
        last.put(STATE_KEY, rows::encode(&self.state));
        last.write(true)?;
        to.compact()?;
        drop(to);
        // The new store must open before it replaces the old one.
        restore::restore(&Store::open(path)?, &unbounded(), Clock::system().moment()).map(drop)
    }
}

fn write_in_batches<T>(
    store: &Store,
    rows: &[T],
    mut put: impl FnMut(&mut Commit, &T) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut commit = store.commit()?;
    for row in rows {
        put(&mut commit, row)?;
        if commit.bytes() >= BATCH_BYTES {
            std::mem::replace(&mut commit, store.commit()?).write(false)?;
        }
    }
    commit.write(false)
}
