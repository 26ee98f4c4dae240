//! Repair: a new store of all that can be read, put in the place of the damaged one.
//!
//! ```text
//!  look (copy) ──survey──> store.new ──check──> store.damaged-<ms> <──exchange──> store ──> MARK
//! ```
//!
//! Nothing is deleted. The new store is whole and on the disk before anything is renamed; then the two directories change
//! places in one step. Before it the old store is in force, after it the new one, whose commits are beyond the old mark.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    exchange::exchange,
    look::{self, Look},
    restore,
    rows::{self, RecordRow, STATE, State, TopicRow},
    store::{Commit, Store, StoreError},
    survey::{Survey, unbounded},
    values::Value,
};
use crate::{
    clock::Clock,
    event::Position,
    journal::{
        Verified,
        log::{self, Log, Marks, Meta, TopicId},
        new_epoch,
    },
    topic::Topic,
};

/// What a repair has kept, or would keep.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repaired {
    /// What was wrong.
    pub found: Verified,
    /// Events kept.
    pub events: u64,
    /// Events of which it is known that they are lost.
    pub lost_events: u64,
    /// Topics kept.
    pub topics: u64,
    /// Records kept.
    pub records: u64,
    /// Records of which it is known that they are lost.
    pub lost_records: u64,
    /// Where the damaged store lies; none when nothing was written.
    pub damaged_store: Option<PathBuf>,
}

/// Bytes of rows that are written at once.
const AT_ONCE: usize = 1 << 20;

/// What goes into the new store.
struct Plan {
    log: Log,
    topics: Vec<TopicId>,
    metas: Vec<Meta>,
    records: Vec<(String, RecordRow, Value)>,
    state: State,
}

/// Repairs what was looked at; `survey` is what can be read of it.
pub(super) fn repair(look: &Look, mut survey: Survey, dry_run: bool) -> Result<Repaired, StoreError> {
    let before = survey.log(Clock::system().moment());
    let mut known: BTreeSet<u64> = before.metas(0, u64::MAX).map(|meta| meta.offset).collect();
    known.extend(&survey.bad_events);
    let known_records = survey.records.len().max(survey.values.len()) as u64;
    let store = Store::open(&look.store())?;
    if survey.index_hurt {
        index_again(&mut survey, &store)?;
    }
    let plan = Plan::of(&survey, look);
    let mut done = Repaired {
        found: survey.findings,
        events: plan.metas.len() as u64,
        lost_events: known.into_iter().filter(|offset| !plan.log.contains(*offset)).count() as u64,
        topics: plan.topics.len() as u64,
        records: plan.records.len() as u64,
        lost_records: known_records.saturating_sub(plan.records.len() as u64),
        damaged_store: None,
    };
    if !dry_run {
        let fresh = look.place.journal().join("store.new");
        let io = |error: io::Error| StoreError::Io(error.to_string());
        look::remove(&fresh).map_err(io)?;
        plan.write(&store, &fresh)?;
        done.damaged_store = Some(exchange(&look.place, &fresh, plan.state.commit).map_err(io)?);
    }
    Ok(done)
}

/// Makes index rows and topics from the events themselves where the index may have holes.
fn index_again(survey: &mut Survey, store: &Store) -> Result<(), StoreError> {
    let mut ids: HashMap<Topic, TopicId> = survey.topics.iter().map(|(id, row)| (row.name.clone(), *id)).collect();
    let used =
        survey.topics.keys().chain(survey.metas.values().flat_map(|meta| &meta.topics)).chain(survey.events.values());
    let mut next = 1 + used.max().copied().unwrap_or(0).max(survey.state.map_or(0, |state| state.marks().last_topic));
    let homes: Vec<(u64, TopicId)> = survey.events.iter().map(|(offset, home)| (*offset, *home)).collect();
    for (offset, home) in homes {
        let Some(row) = store.get(rows::event_key(home, offset))? else { continue };
        let Ok((draft, timestamp)) = rows::decode_draft(&row) else { continue };
        let known = survey.metas.get(&offset).map(|meta| meta.topics.clone());
        let mut topics = Vec::with_capacity(draft.topics.len());
        for (index, name) in draft.topics.iter().enumerate() {
            // The home stands in the event's own key; of the others the index knows, or their name.
            let own = known.as_ref().and_then(|known| known.get(index).copied()).or((index == 0).then_some(home));
            let id = ids.get(name).copied().or(own).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            ids.entry(name.clone()).or_insert(id);
            // What it had before its first event that is left, nobody knows.
            let begins = || TopicRow { name: name.clone(), trimmed_through: offset.saturating_sub(1) };
            survey.topics.entry(id).or_insert_with(begins);
            topics.push(id);
        }
        // One whose home has another id now was let go with its topic.
        if known.is_none() && topics.first() == Some(&home) {
            let key = log::hashes(&draft);
            let event = draft.into_event(Position { epoch: 0, offset }, timestamp);
            let (size, expires) = (log::size(&event), event.expires);
            survey.metas.insert(offset, Meta { offset, timestamp, size, topics, expires, key });
        }
    }
    Ok(())
}

// === impl Plan ===

impl Plan {
    fn of(survey: &Survey, look: &Look) -> Self {
        let head = survey.metas.keys().chain(survey.events.keys()).max().copied().unwrap_or(0);
        // Without its marks the whole past may have been trimmed.
        let unknown = Marks {
            trimmed_through: head,
            forgotten_through: head,
            pinned_forgotten_through: head,
            ..Marks::default()
        };
        let known = survey.state.map_or(unknown, |state| state.marks());
        let mut marks = Marks { head: known.head.max(head), ..known };
        let trimmed = survey.topics.values().map(|topic| topic.trimmed_through).max().unwrap_or(0);
        marks.trimmed_through = marks.trimmed_through.max(trimmed);
        let metas = survey.metas.values().filter(|meta| survey.events.get(&meta.offset) == meta.topics.first());
        marks.last_topic = survey.topics.keys().max().copied().unwrap_or(0).max(marks.last_topic);

        let mut log = Log::new(&unbounded(), new_epoch());
        log.restore_marks(&marks, Clock::system().moment());
        survey.topics.iter().for_each(|(id, topic)| log.restore_topic(*id, &topic.name, topic.trimmed_through));
        metas.for_each(|meta| log.restore_event(meta.clone()));
        log.settle();
        let in_parts = survey.values.values().filter_map(|value| value.revision);
        let revisions = survey.records.values().map(|record| record.revision).chain(in_parts);
        let mut revision = revisions.max().unwrap_or(0).max(marks.revision);
        let record = |(name, value): (&String, &Value)| {
            let known = survey.records.get(name).filter(|record| value.is_of(record)).map(|record| record.revision);
            let revision = known.or(value.revision).unwrap_or_else(|| {
                revision += 1;
                revision
            });
            (name.clone(), RecordRow { revision, size: value.size }, *value)
        };
        let records: Vec<_> = survey.values.iter().map(record).collect();
        let marked = look.mark.as_ref().ok().copied().flatten().map_or(0, |mark| mark.commit);
        let commit = survey.state.map_or(0, |state| state.commit).max(marked) + 1;
        let state = State::new(log.epoch(), commit, &Marks { revision, ..log.marks() });
        let metas: Vec<Meta> = log.metas(0, u64::MAX).collect();
        Self { log, topics: survey.topics.keys().copied().collect(), metas, records, state }
    }

    fn write(&self, from: &Store, path: &Path) -> Result<(), StoreError> {
        let to = Store::open(path)?;
        let copy = |commit: &mut Commit, key: &[u8]| -> Result<(), StoreError> {
            let row = from.get(key)?.ok_or_else(|| StoreError::Damaged("a row is gone that was there".to_owned()))?;
            commit.put(key, row.to_vec());
            Ok(())
        };
        step_by_step(&to, &self.topics, |commit, id| {
            if let Some((name, trimmed_through)) = self.log.topic(*id) {
                let row = TopicRow { name: name.clone(), trimmed_through };
                commit.put(rows::topic_key(*id), rows::encode(&row));
            }
            Ok(())
        })?;
        step_by_step(&to, &self.metas, |commit, meta| copy(commit, &rows::event_key(meta.topics[0], meta.offset)))?;
        step_by_step(&to, &rows::encode_metas(self.metas.iter().cloned()), |commit, (first, row)| {
            commit.put(rows::index_key(*first), row.clone());
            Ok(())
        })?;
        step_by_step(&to, &self.records, |commit, (name, row, value)| {
            commit.put(rows::record_index_key(name), rows::encode_record(row));
            value.keys(name).try_for_each(|key| copy(commit, &key))
        })?;
        let mut last = to.commit()?;
        last.put(STATE, rows::encode(&self.state));
        last.write(true)?;
        to.compact()?;
        drop(to);
        // What cannot be opened must not take the place of anything.
        restore::restore(&Store::open(path)?, &unbounded(), Clock::system().moment()).map(drop)
    }
}

fn step_by_step<T>(
    store: &Store,
    rows: &[T],
    mut put: impl FnMut(&mut Commit, &T) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut commit = store.commit()?;
    for row in rows {
        put(&mut commit, row)?;
        if commit.bytes() >= AT_ONCE {
            std::mem::replace(&mut commit, store.commit()?).write(false)?;
        }
    }
    commit.write(false)
}
