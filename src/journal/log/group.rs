//! A commit group: batches that are committed together. It is planned against the log, written by the adapter, and then
//! applied to the log. A group that cannot be written changes nothing.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    Log, dedupe,
    entries::Stored,
    records::RecordInfo,
    restore::LogState,
    topics::{TopicId, pinned},
};
use crate::{
    clock::Moment,
    event::{Draft, Position, SharedEvent},
    journal::{AppendError, Batch, Expect, Receipt, RecordWrite, Unavailable},
    topic::Topic,
};

/// If the clock goes back by less than this, timestamps do not go back.
const ORDERED_MS: u64 = 1000;

/// A planned commit of one or more batches.
#[derive(Default)]
pub(crate) struct CommitGroup {
    /// Monotonic time of all its events.
    now: u64,
    /// Wall-clock timestamp of all its events.
    timestamp: u64,
    pub events: Vec<PlannedEvent>,
    pub records: Vec<PlannedWrite>,
    /// Topics that are not in the log yet.
    pub topics: HashMap<Topic, TopicId>,
    keys: HashMap<u128, (Position, u128)>,
    duplicates: u64,
    /// The newest revision of each record that the group writes.
    revisions: HashMap<String, Option<u64>>,
    next_offset: u64,
    next_topic: TopicId,
    next_revision: u64,
    pinned_bytes: u64,
}

/// An event of a group.
pub(crate) struct PlannedEvent {
    pub event: SharedEvent,
    pub topics: Box<[TopicId]>,
    /// As in [`Extra::key`].
    pub key: Option<(u128, u128)>,
}

/// Receipts, and the keys that are new.
type PlannedReceipts = (Vec<Receipt>, HashMap<u128, (Position, u128)>);

/// A record of a group, to write or delete.
pub(crate) struct PlannedWrite {
    pub key: String,
    /// New value; `None` deletes.
    pub value: Option<Bytes>,
    pub revision: u64,
}

// === impl Log ===

impl Log {
    /// Begins a group. The log must not change until the group is applied or dropped.
    pub(crate) fn begin(&mut self, now: Moment) -> CommitGroup {
        self.update_clock_offset(now);
        let now = self.time(now.steady);
        self.last_timestamp = now;
        let wall = self.to_wall_clock(now);
        // After small corrections of the clock timestamps stay in order. After larger jumps they follow the clock, also back.
        let timestamp = if self.last_wall_timestamp.saturating_sub(wall) < ORDERED_MS {
            self.last_wall_timestamp.max(wall)
        } else {
            wall
        };
        self.last_wall_timestamp = timestamp;
        self.dedupe.expire(now);
        CommitGroup {
            now,
            timestamp,
            next_offset: self.head + 1,
            next_topic: self.topics.next_id(),
            next_revision: self.records.revision + 1,
            ..CommitGroup::default()
        }
    }

    /// Adds a committed group to the log. `stored` has the payload of each event, then the value of each record that is
    /// not deleted. It is empty if the adapter stores nothing on a disk.
    pub(crate) fn apply(&mut self, group: &CommitGroup, stored: &[Stored]) {
        let mut stored = stored.iter().copied();
        self.records.revision = self.records.revision.max(group.next_revision.saturating_sub(1));
        self.stats.duplicates += group.duplicates;
        for planned in &group.events {
            self.push(planned, stored.next().unwrap_or_default());
        }
        for PlannedWrite { key, value, revision } in &group.records {
            let known = value.as_ref().map(|value| {
                let length = u32::try_from(value.len()).expect("a value is shorter than 4 GiB");
                let in_memory = || Stored { length, ..Stored::default() };
                RecordInfo { revision: *revision, stored: stored.next().unwrap_or_else(in_memory) }
            });
            self.write_record(key.clone(), known);
        }
    }
}

// === impl CommitGroup ===

impl CommitGroup {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.records.is_empty()
    }

    /// The state of the log after this group is applied, without the changes by retention.
    pub(crate) fn log_state(&self, log: &Log) -> LogState {
        LogState {
            head: self.next_offset - 1,
            last_timestamp: self.timestamp,
            last_topic: self.next_topic - 1,
            revision: self.next_revision - 1,
            ..log.log_state()
        }
    }

    /// Adds a batch. A rejected batch changes nothing.
    pub(crate) fn add(&mut self, log: &Log, mut batch: Batch) -> Result<Vec<Receipt>, AppendError> {
        if let Some(broken) = batch.expect.iter().find(|expect| !self.holds(log, expect)) {
            return Err(AppendError::Conflict(broken.key.clone()));
        }
        batch.events.iter_mut().for_each(name_each_topic_once);
        let hashes: Vec<_> = batch.events.iter().map(dedupe::hashes).collect();
        let (receipts, keys) = self.plan(log, &batch.events, &hashes)?;
        let new = batch.events.into_iter().zip(hashes).zip(&receipts).filter(|(_, receipt)| !receipt.duplicate);
        let events: Vec<_> = new
            .map(|((draft, key), receipt)| (Arc::new(draft.into_event(receipt.position, self.timestamp)), key))
            .collect();
        self.check_room(log, events.iter().map(|(event, _)| event))?;
        self.duplicates += (receipts.len() - events.len()) as u64;
        self.next_offset += events.len() as u64;
        self.keys.extend(keys);
        for (event, key) in events {
            let topics = event.topics.iter().map(|topic| self.topic(log, topic)).collect();
            self.events.push(PlannedEvent { event, topics, key });
        }
        for RecordWrite { key, value } in batch.records {
            let revision = self.next_revision;
            self.next_revision += 1;
            self.revisions.insert(key.clone(), value.as_ref().map(|_| revision));
            self.records.push(PlannedWrite { key, value, revision });
        }
        Ok(receipts)
    }

    fn holds(&self, log: &Log, expect: &Expect) -> bool {
        let here = self.revisions.get(&expect.key).copied();
        here.unwrap_or_else(|| log.records.get(&expect.key).map(|known| known.revision)) == expect.revision
    }

    /// Assigns a position to each draft, or rejects all of them.
    fn plan(
        &self,
        log: &Log,
        drafts: &[Draft],
        hashes: &[Option<(u128, u128)>],
    ) -> Result<PlannedReceipts, AppendError> {
        let mut next = self.next_offset;
        let mut receipts: Vec<Receipt> = Vec::with_capacity(drafts.len());
        let mut keys = HashMap::new();
        for (index, (draft, hashes)) in drafts.iter().zip(hashes).enumerate() {
            draft.check(log.rules.max_event_bytes).map_err(|reason| AppendError::Invalid { index, reason })?;
            let first = hashes.and_then(|(key, content)| {
                // The key may occur twice in this batch, in this group, or in an earlier commit.
                let first: Option<(Position, u128)> = keys.get(&key).or_else(|| self.keys.get(&key)).copied();
                first.or_else(|| log.find_duplicate(key, self.now)).map(|(position, seen)| (position, seen == content))
            });
            receipts.push(match first {
                Some((_, false)) => {
                    return Err(AppendError::KeyReused { index, key: draft.key.clone().unwrap_or_default() });
                }
                Some((position, true)) => Receipt { position, duplicate: true },
                None => {
                    let position = log.position(next);
                    next += 1;
                    keys.extend(hashes.map(|(key, content)| (key, (position, content))));
                    Receipt { position, duplicate: false }
                }
            });
        }
        Ok((receipts, keys))
    }

    /// Rejects events that would not fit even if retention deleted everything that it may delete.
    fn check_room<'a>(&mut self, log: &Log, events: impl Iterator<Item = &'a SharedEvent>) -> Result<(), Unavailable> {
        let (mut wanted, mut to_pin) = (0, 0);
        for event in events {
            let bytes = event.footprint() as u64;
            wanted += bytes;
            to_pin += if event.topics.iter().any(pinned) { bytes } else { 0 };
        }
        let (pinned, most) = (log.stats.pinned_bytes + self.pinned_bytes, log.rules.max_bytes);
        if wanted > 0 && pinned + wanted > most {
            return Err(Unavailable::Full(format!(
                "{wanted} bytes of new events beside {pinned} bytes of job histories pass `journal.max_bytes` = {most}"
            )));
        }
        self.pinned_bytes += to_pin;
        Ok(())
    }

    fn topic(&mut self, log: &Log, topic: &Topic) -> TopicId {
        if let Some(known) = log.topics.id(topic).or_else(|| self.topics.get(topic).copied()) {
            return known;
        }
        let id = self.next_topic;
        self.next_topic += 1;
        self.topics.insert(topic.clone(), id);
        id
    }
}

/// Removes repeated topics, so that an event counts once in each topic.
fn name_each_topic_once(draft: &mut Draft) {
    if draft.topics.len() > 1 {
        let mut seen = std::collections::BTreeSet::new();
        draft.topics.retain(|topic| seen.insert(topic.clone()));
    }
}
