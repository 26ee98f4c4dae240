//! The log itself: appending. Reading is in `read.rs`, letting go in `retention.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map},
    sync::Arc,
};

use super::{
    dedupe::{self, Dedupe},
    records::Records,
    retention::Rules,
    topics::Topics,
};
use crate::{
    event::{Draft, Event, Position, SharedEvent},
    journal::{AppendError, Batch, Config, Receipt, Stats, Unavailable},
    topic::Topic,
};

/// An event and who still keeps it.
pub(super) struct Entry {
    pub(super) event: SharedEvent,
    /// So many of its topics.
    pub(super) kept_by: u32,
    /// So many of them are pinned.
    pub(super) pinned_by: u32,
}

/// The youngest event that was taken away from all its topics: how far back the log as a whole is complete.
#[derive(Clone, Copy, Default)]
pub(super) struct Gone {
    pub(super) through: u64,
    pub(super) timestamp: u64,
}

/// The pure core of the adapter.
pub(super) struct Log {
    pub(super) epoch: u64,
    head: u64,
    /// Timestamps never go back, so that a search by time is a search by offset.
    last_timestamp: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) topics: Topics,
    pub(super) records: Records,
    pub(super) dedupe: Dedupe,
    pub(super) rules: Rules,
    pub(super) bytes: u64,
    /// The greatest offset that retention or a purge has taken from any topic; no topic's mark is beyond it.
    pub(super) trimmed_through: u64,
    pub(super) gone: Gone,
    /// Expiry times of events with a time to live, soonest first.
    pub(super) expiring: BTreeSet<(u64, u64)>,
    /// Events that the node-wide bounds may take, oldest first; may name some that are gone.
    pub(super) evictable: VecDeque<u64>,
    /// The topic after which the sweep by age goes on.
    pub(super) sweep_after: Option<Topic>,
    pub(super) stats: Stats,
}

// === impl Log ===

impl Log {
    pub(super) fn new(config: &Config, epoch: u64) -> Self {
        Self {
            epoch,
            head: 0,
            last_timestamp: 0,
            entries: BTreeMap::new(),
            topics: Topics::default(),
            records: Records::default(),
            dedupe: Dedupe::default(),
            rules: Rules::new(config),
            bytes: 0,
            trimmed_through: 0,
            gone: Gone::default(),
            expiring: BTreeSet::new(),
            evictable: VecDeque::new(),
            sweep_after: None,
            stats: Stats::default(),
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// The time to judge by: a clock that was set back brings nothing back to life.
    pub(super) fn time(&self, now: u64) -> u64 {
        now.max(self.last_timestamp)
    }

    pub(super) fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch, offset }
    }

    pub(super) fn append(&mut self, mut batch: Batch, now: u64) -> Result<Vec<Receipt>, AppendError> {
        self.records.check(&batch.expect)?;
        self.last_timestamp = self.time(now);
        self.dedupe.expire(self.last_timestamp);
        batch.events.iter_mut().for_each(name_each_topic_once);
        let receipts = self.plan(&batch.events)?;
        let new = batch.events.into_iter().zip(&receipts).filter(|(_, receipt)| !receipt.duplicate);
        let events: Vec<Event> = new.map(|(draft, r)| draft.into_event(r.position, self.last_timestamp)).collect();
        self.check_room(events.iter().map(|event| event.footprint() as u64).sum())?;
        self.stats.duplicates += (receipts.len() - events.len()) as u64;
        self.records.write(batch.records);
        events.into_iter().for_each(|event| self.push(event));
        Ok(receipts)
    }

    /// Gives each draft its position, or refuses them all.
    fn plan(&self, drafts: &[Draft]) -> Result<Vec<Receipt>, AppendError> {
        let mut next = self.head + 1;
        let mut receipts: Vec<Receipt> = Vec::with_capacity(drafts.len());
        let mut first_with = HashMap::new();
        for (index, draft) in drafts.iter().enumerate() {
            draft.check(self.rules.max_event_bytes).map_err(|reason| AppendError::Invalid { index, reason })?;
            let known = match (self.known(draft), &draft.key) {
                (Some(event), _) => Some((event.position, dedupe::same(draft, event))),
                (None, Some(key)) => match first_with.entry((&draft.publisher, key)) {
                    // The same key twice in one batch.
                    hash_map::Entry::Occupied(first) => {
                        let first: usize = *first.get();
                        Some((receipts[first].position, drafts[first] == *draft))
                    }
                    hash_map::Entry::Vacant(vacant) => {
                        vacant.insert(index);
                        None
                    }
                },
                (None, None) => None,
            };
            receipts.push(match known {
                Some((_, false)) => {
                    return Err(AppendError::KeyReused { index, key: draft.key.clone().unwrap_or_default() });
                }
                Some((position, true)) => Receipt { position, duplicate: true },
                None => {
                    next += 1;
                    Receipt { position: self.position(next - 1), duplicate: false }
                }
            });
        }
        Ok(receipts)
    }

    /// The event that the draft's key stands for. A key lives no longer than its event.
    fn known(&self, draft: &Draft) -> Option<&SharedEvent> {
        let entry = self.entries.get(&self.dedupe.find(draft)?)?;
        Some(&entry.event).filter(|event| !event.expired(self.last_timestamp))
    }

    fn push(&mut self, event: Event) {
        let event = Arc::new(event);
        let offset = event.position.offset;
        let size = event.footprint() as u64;
        self.dedupe.remember(&event, self.last_timestamp.saturating_add(self.rules.dedupe_ms));
        if let Some(expires) = event.expires {
            self.expiring.insert((expires, offset));
        }
        let (mut kept_by, mut pinned_by) = (0, 0);
        for topic in &event.topics {
            let log = self.topics.entry(topic, || self.rules.limits(topic));
            log.offsets.push_back(offset);
            log.last = offset;
            log.live += 1;
            log.bytes += size;
            kept_by += 1;
            pinned_by += u32::from(log.limits.pinned);
        }
        if pinned_by > 0 {
            self.stats.pinned_bytes += size;
        }
        if pinned_by < kept_by {
            self.evictable.push_back(offset);
        }
        self.entries.insert(offset, Entry { event: event.clone(), kept_by, pinned_by });
        self.bytes += size;
        self.head = offset;
        self.stats.appended += 1;
        for topic in &event.topics {
            self.trim_topic(topic, self.last_timestamp);
        }
        self.trim_node(self.last_timestamp);
    }

    /// Refuses what could not be kept even if all went that may go.
    fn check_room(&self, wanted: u64) -> Result<(), Unavailable> {
        let (pinned, most) = (self.stats.pinned_bytes, self.rules.max_bytes);
        if wanted > 0 && pinned + wanted > most {
            return Err(Unavailable::Full(format!(
                "{wanted} bytes of new events beside {pinned} bytes of job histories pass `journal.max_bytes` = {most}"
            )));
        }
        Ok(())
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            events: self.entries.len() as u64,
            bytes: self.bytes,
            topics: self.topics.len() as u64,
            records: self.records.len(),
            record_bytes: self.records.bytes(),
            ..self.stats
        }
    }
}

/// An event that names a topic twice is kept by it once.
fn name_each_topic_once(draft: &mut Draft) {
    if draft.topics.len() > 1 {
        let mut seen = BTreeSet::new();
        draft.topics.retain(|topic| seen.insert(topic.clone()));
    }
}
