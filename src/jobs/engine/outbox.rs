//! Events that wait for the journal, and the attempts that wait for these events; pure.
//!
//! All waiting events go in one append, so events that are pushed together are committed together. While an append is
//! in flight further events wait here; the engine makes no more while [`Outbox::has_room`] is false.
//!
//! If jobs outlive the process, an attempt starts only after the events that were pushed before it are in the journal.
//! A task that crashes the node must have an event in the journal; otherwise each start of the node would treat it as a
//! task that never ran.

use crate::{
    event::Draft,
    jobs::{attempt::Attempt, event::JobEvent, work::REPORTS_PER_TURN},
    journal::{Batch, RecordWrite},
    shares::Held,
    topic::Topic,
};

/// One event, with the records of the same commit.
#[derive(Debug)]
pub(crate) struct Entry {
    pub event: JobEvent,
    pub topics: Vec<Topic>,
    pub records: Vec<RecordWrite>,
    /// Its part of the memory budget, held until the entry is in the journal.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub held: Vec<Held>,
    /// Approximate size of the entry.
    pub bytes: usize,
}

/// Events that wait or are being appended, and attempts that wait to start.
pub(crate) struct Outbox {
    waiting: Vec<Entry>,
    in_flight: Vec<Entry>,
    /// Approximate bytes of both.
    bytes: usize,
    /// Attempts start only after the events before them are in the journal.
    write_ahead: bool,
    /// Attempts after waiting events. There are never more attempts in all three lists than slots.
    behind_waiting: Vec<Attempt>,
    /// Attempts after events in flight.
    behind_in_flight: Vec<Attempt>,
    /// Attempts that can start.
    ready: Vec<Attempt>,
}

/// The publisher of the events of jobs.
const PUBLISHER: &str = "jobs";
/// Above this number of events the engine begins and ends no more tasks.
const ENOUGH: usize = 3068;
/// Above this number of bytes the engine begins and ends no more tasks: large results are rare, but must not become
/// thousands.
const ENOUGH_BYTES: usize = 16 << 20;

// === impl Outbox ===

impl Outbox {
    /// Maximum number of events. The last step of a turn and one batch of reports are added to [`ENOUGH`]. Each step or
    /// report makes at most four events.
    pub(crate) const MAX: usize = ENOUGH + 4 * (REPORTS_PER_TURN + 1);

    pub(crate) fn new(write_ahead: bool) -> Self {
        Self {
            waiting: Vec::new(),
            in_flight: Vec::new(),
            bytes: 0,
            write_ahead,
            behind_waiting: Vec::new(),
            behind_in_flight: Vec::new(),
            ready: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.waiting.push(entry);
        debug_assert!(self.len() <= Self::MAX, "the outbox holds {} events", self.len());
    }

    /// Adds an attempt, which starts after the events that were pushed before it.
    pub(crate) fn start(&mut self, attempt: Attempt) {
        self.behind_waiting.push(attempt);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn has_room(&self) -> bool {
        self.len() < ENOUGH && self.bytes < ENOUGH_BYTES
    }

    /// All waiting events as one batch, unless an append is in flight.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        if !self.in_flight.is_empty() || self.waiting.is_empty() {
            return None;
        }
        self.in_flight = std::mem::take(&mut self.waiting);
        self.behind_in_flight.append(&mut self.behind_waiting);
        Some(self.again())
    }

    /// The events in flight, for another try.
    pub(crate) fn again(&self) -> Batch {
        let events = self.in_flight.iter().map(|entry| Draft {
            topics: entry.topics.clone(),
            event: entry.event.fact.name().to_owned(),
            data: entry.event.encode(),
            publisher: PUBLISHER.to_owned(),
            ..Draft::default()
        });
        let records = self.in_flight.iter().flat_map(|entry| entry.records.iter().cloned());
        Batch { events: events.collect(), records: records.collect(), expect: Vec::new() }
    }

    /// Removes one event in flight, which the journal rejects permanently.
    pub(crate) fn give_up(&mut self, index: usize) -> Option<Entry> {
        let entry = (index < self.in_flight.len()).then(|| self.in_flight.remove(index))?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// Takes the events in flight, which are now in the journal.
    pub(crate) fn arrived(&mut self) -> Vec<Entry> {
        let arrived = std::mem::take(&mut self.in_flight);
        self.bytes -= arrived.iter().map(|entry| entry.bytes).sum::<usize>();
        self.ready.append(&mut self.behind_in_flight);
        arrived
    }

    /// Attempts to start now. To be called before [`take`](Self::take).
    pub(crate) fn attempts(&mut self) -> Vec<Attempt> {
        if self.len() == 0 || !self.write_ahead {
            self.ready.append(&mut self.behind_waiting);
        }
        if !self.write_ahead {
            self.ready.append(&mut self.behind_in_flight);
        }
        std::mem::take(&mut self.ready)
    }
}
