//! What both adapters share: the pure core that knows which events there are, which topics keep them and what was let
//! go. Payloads and values of records are kept elsewhere, in memory or on disk.
//!
//! ```text
//!  Batch ──begin, add──> Group ──commit by the adapter──> apply ──> entries, topics, records, dedupe
//!                                                           └─────> Changes: what the adapter may drop, and must note
//! ```

use std::collections::BTreeSet;

use crate::{
    clock::Moment,
    event::{Event, Position},
    journal::{Config, Stats},
    topic::Topic,
};

mod changes;
mod dedupe;
mod entries;
mod group;
mod read;
mod records;
mod restore;
mod retention;
mod topics;
mod walk;

#[cfg(test)]
mod tests;

pub(super) use self::{
    changes::Changes,
    dedupe::hashes,
    group::{Group, Planned, Write},
    read::{Chosen, Found},
    records::Known,
    restore::{Marks, Meta},
    topics::TopicId,
    walk::Walk,
};
use self::{
    dedupe::Dedupe,
    entries::{Entries, Entry, Extra, TopicSet},
    records::Records,
    retention::Rules,
    topics::Topics,
};

/// The youngest event that was taken away from all its topics: how far back the log as a whole is complete.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gone {
    pub through: u64,
    pub timestamp: u64,
}

/// The index of a journal.
pub(super) struct Log {
    epoch: u64,
    head: u64,
    /// Monotonic time of the last commit. All times in the log are monotonic, so that no jump of the wall clock changes
    /// an age. They never decrease, so that a search by time is a search by offset.
    last_timestamp: u64,
    /// Wall-clock timestamp of the last commit.
    last_label: u64,
    /// Difference of the wall clock to the monotonic clock.
    shift: i64,
    /// The latest time by which events were let go.
    swept: u64,
    /// Restored events whose timestamps are ahead of the clock; they get the age of the next event that is not.
    ahead: Vec<Meta>,
    entries: Entries,
    topics: Topics,
    records: Records,
    dedupe: Dedupe,
    rules: Rules,
    bytes: u64,
    /// The greatest offset that retention or a purge has taken from any topic; no topic's mark is beyond it.
    trimmed_through: u64,
    gone: Gone,
    /// Expiry times of events with a time to live, soonest first.
    expiring: BTreeSet<(u64, u64)>,
    /// The node-wide bounds have looked at events up to here.
    evicted_through: u64,
    /// The topic after which the sweep by age goes on.
    sweep_after: Option<Topic>,
    stats: Stats,
    changes: Changes,
}

// === impl Log ===

impl Log {
    pub(super) fn new(config: &Config, epoch: u64) -> Self {
        Self {
            epoch,
            head: 0,
            last_timestamp: 0,
            last_label: 0,
            shift: 0,
            swept: 0,
            ahead: Vec::new(),
            entries: Entries::default(),
            topics: Topics::default(),
            records: Records::default(),
            dedupe: Dedupe::default(),
            rules: Rules::new(config),
            bytes: 0,
            trimmed_through: 0,
            gone: Gone::default(),
            expiring: BTreeSet::new(),
            evicted_through: 0,
            sweep_after: None,
            stats: Stats::default(),
            changes: Changes::default(),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// The time for expiry checks; not before the last commit, so that an event that has expired stays expired.
    pub(super) fn time(&self, now: u64) -> u64 {
        now.max(self.last_timestamp)
    }

    /// Updates the difference between wall clock and monotonic clock.
    pub(super) fn follow(&mut self, now: Moment) {
        self.shift = now.shift();
    }

    /// Converts monotonic time to wall-clock time.
    fn label(&self, steady: u64) -> u64 {
        steady.saturating_add_signed(self.shift)
    }

    /// Converts wall-clock time to monotonic time.
    fn steady(&self, label: u64) -> u64 {
        label.saturating_add_signed(self.shift.saturating_neg())
    }

    /// What has changed since the last call, beside what groups brought.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
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

    fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch, offset }
    }

    /// The event that a key stands for, and what a repeat of it must look like. A key lives no longer than its event.
    fn known(&self, key: u128, now: u64) -> Option<(Position, u128)> {
        let offset = self.dedupe.find(key)?;
        let entry = self.entries.get(offset).filter(|entry| !entry.expired(now))?;
        Some((self.position(offset), entry.key()?.1))
    }

    fn push(&mut self, planned: &Planned) {
        let event = &planned.event;
        let (now, topics) = (self.last_timestamp, &planned.topics);
        for (topic, id) in event.topics.iter().zip(topics) {
            self.topics.enter(topic, *id, || self.rules.limits(topic));
        }
        let ttl = event.expires.map(|at| at.saturating_sub(event.timestamp));
        let extra = Extra { expires: ttl.map(|ttl| now.saturating_add(ttl)), key: planned.key };
        self.keep(
            event.position.offset,
            Entry {
                timestamp: now,
                size: size(event),
                kept_by: 0,
                pinned_by: 0,
                topics: TopicSet::new(topics.to_vec()).expect("an event has a topic: Draft::check"),
                extra: (extra.expires.is_some() || extra.key.is_some()).then(|| Box::new(extra)),
            },
        );
        self.stats.appended += 1;
        for id in topics {
            self.trim_topic(*id, now);
        }
        self.trim_node(now);
    }

    /// Enters an event into the index: into those of its topics that are there and have not let go of it yet.
    fn keep(&mut self, offset: u64, mut entry: Entry) {
        let size = u64::from(entry.size);
        for id in entry.topics.ids() {
            let Some(log) = self.topics.get_mut(*id).filter(|log| log.trimmed_through < offset) else { continue };
            log.offsets.push_back(offset);
            log.last = offset;
            log.live += 1;
            log.bytes += size;
            entry.kept_by += 1;
            entry.pinned_by += u8::from(log.limits.pinned);
        }
        self.head = self.head.max(offset);
        if entry.kept_by == 0 {
            return;
        }
        if entry.pinned_by > 0 {
            self.stats.pinned_bytes += size;
        }
        if let Some((key, _)) = entry.key() {
            self.dedupe.remember(key, offset, entry.timestamp.saturating_add(self.rules.dedupe_ms));
        }
        if let Some(expires) = entry.expires() {
            self.expiring.insert((expires, offset));
        }
        self.entries.insert(offset, entry);
        self.bytes += size;
    }
}

/// What an event counts against bounds.
pub(super) fn size(event: &Event) -> u32 {
    u32::try_from(event.footprint()).unwrap_or(u32::MAX)
}
