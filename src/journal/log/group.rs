//! A group: batches that are committed together. It is planned against the log, then made durable by the adapter, and
//! only then applied: a group that cannot be written leaves no trace.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Log, dedupe,
    records::Known,
    restore::{Marks, Meta},
    size,
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

/// What a commit consists of.
#[derive(Default)]
pub(crate) struct Group {
    /// Monotonic time of all its events.
    now: u64,
    /// Wall-clock timestamp of all its events.
    stamp: u64,
    pub events: Vec<Planned>,
    pub records: Vec<Write>,
    /// Topics that the log does not know yet.
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
pub(crate) struct Planned {
    pub event: SharedEvent,
    pub topics: Box<[TopicId]>,
    /// As in [`Extra::key`].
    pub key: Option<(u128, u128)>,
}

/// Receipts, and the keys that are new.
type Plan = (Vec<Receipt>, HashMap<u128, (Position, u128)>);

/// A record of a group.
pub(crate) struct Write {
    pub key: String,
    /// `None` deletes.
    pub value: Option<Bytes>,
    pub revision: u64,
}

// === impl Log ===

impl Log {
    /// Begins a group. Nothing else may change the log until it is applied or dropped.
    pub(crate) fn begin(&mut self, now: Moment) -> Group {
        self.follow(now);
        let now = self.time(now.steady);
        self.last_timestamp = now;
        let label = self.label(now);
        // Small corrections keep timestamps in order; after a larger jump timestamps follow the clock, also backwards.
        let stamp = if self.last_label.saturating_sub(label) < ORDERED_MS { self.last_label.max(label) } else { label };
        self.last_label = stamp;
        self.dedupe.expire(now);
        Group {
            now,
            stamp,
            next_offset: self.head + 1,
            next_topic: self.topics.next_id(),
            next_revision: self.records.revision + 1,
            ..Group::default()
        }
    }

    /// Makes a group part of the log.
    pub(crate) fn apply(&mut self, group: &Group) {
        for Write { key, value, revision } in &group.records {
            let known = value.as_ref().map(|value| Known { revision: *revision, size: value.len() as u64 });
            self.records.write(key.clone(), known);
        }
        self.records.revision = self.records.revision.max(group.next_revision.saturating_sub(1));
        self.stats.duplicates += group.duplicates;
        for planned in &group.events {
            self.push(planned);
        }
    }
}

// === impl Group ===

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.records.is_empty()
    }

    /// The marks of the log as they will be once the group is applied, but for what retention does then.
    pub(crate) fn marks(&self, log: &Log) -> Marks {
        Marks {
            head: self.next_offset - 1,
            last_timestamp: self.stamp,
            last_topic: self.next_topic - 1,
            revision: self.next_revision - 1,
            ..log.marks()
        }
    }

    /// What is kept of its events beside their payloads.
    pub(crate) fn metas(&self) -> impl Iterator<Item = Meta> {
        self.events.iter().map(|Planned { event, topics, key }| Meta {
            offset: event.position.offset,
            timestamp: event.timestamp,
            size: size(event),
            topics: topics.to_vec(),
            expires: event.expires,
            key: *key,
        })
    }

    /// The last write of each record. A commit contains each row of the store once: all its rows have the same sequence
    /// number, which gives two writes of one row no order.
    pub(crate) fn last_records(&self) -> impl Iterator<Item = &Write> {
        let mut seen = HashSet::new();
        self.records.iter().rev().filter(move |write| seen.insert(write.key.as_str()))
    }

    /// Takes a batch in, or refuses it and stays as it was.
    pub(crate) fn add(&mut self, log: &Log, mut batch: Batch) -> Result<Vec<Receipt>, AppendError> {
        if let Some(broken) = batch.expect.iter().find(|expect| !self.holds(log, expect)) {
            return Err(AppendError::Conflict(broken.key.clone()));
        }
        batch.events.iter_mut().for_each(name_each_topic_once);
        let hashes: Vec<_> = batch.events.iter().map(dedupe::hashes).collect();
        let (receipts, keys) = self.plan(log, &batch.events, &hashes)?;
        let new = batch.events.into_iter().zip(hashes).zip(&receipts).filter(|(_, receipt)| !receipt.duplicate);
        let events: Vec<_> = new
            .map(|((draft, key), receipt)| (Arc::new(draft.into_event(receipt.position, self.stamp)), key))
            .collect();
        self.check_room(log, events.iter().map(|(event, _)| event))?;
        self.duplicates += (receipts.len() - events.len()) as u64;
        self.next_offset += events.len() as u64;
        self.keys.extend(keys);
        for (event, key) in events {
            let topics = event.topics.iter().map(|topic| self.topic(log, topic)).collect();
            self.events.push(Planned { event, topics, key });
        }
        for RecordWrite { key, value } in batch.records {
            let revision = self.next_revision;
            self.next_revision += 1;
            self.revisions.insert(key.clone(), value.as_ref().map(|_| revision));
            self.records.push(Write { key, value, revision });
        }
        Ok(receipts)
    }

    fn holds(&self, log: &Log, expect: &Expect) -> bool {
        let here = self.revisions.get(&expect.key).copied();
        here.unwrap_or_else(|| log.records.get(&expect.key).map(|known| known.revision)) == expect.revision
    }

    /// Gives each draft its position, or refuses them all.
    fn plan(&self, log: &Log, drafts: &[Draft], hashes: &[Option<(u128, u128)>]) -> Result<Plan, AppendError> {
        let mut next = self.next_offset;
        let mut receipts: Vec<Receipt> = Vec::with_capacity(drafts.len());
        let mut keys = HashMap::new();
        for (index, (draft, hashes)) in drafts.iter().zip(hashes).enumerate() {
            draft.check(log.rules.max_event_bytes).map_err(|reason| AppendError::Invalid { index, reason })?;
            let first = hashes.and_then(|(key, content)| {
                // The same key twice in one batch, in one group, or kept from before.
                let first: Option<(Position, u128)> = keys.get(&key).or_else(|| self.keys.get(&key)).copied();
                first.or_else(|| log.known(key, self.now)).map(|(position, seen)| (position, seen == content))
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

    /// Refuses what could not be kept even if all went that may go.
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

/// An event that names a topic twice is kept by it once.
fn name_each_topic_once(draft: &mut Draft) {
    if draft.topics.len() > 1 {
        let mut seen = std::collections::BTreeSet::new();
        draft.topics.retain(|topic| seen.insert(topic.clone()));
    }
}
