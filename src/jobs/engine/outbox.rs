//! Events on their way into the journal.
//!
//! Everything that waits goes in one append, so what is pushed together is committed together. While an append is in
//! flight events gather here; [`Outbox::has_room`] is what the engine heeds before it makes more.

use crate::{
    event::Draft,
    jobs::event::JobEvent,
    journal::{Batch, RecordWrite},
    shares::Held,
    topic::Topic,
};

/// One event and the records that go with it.
#[derive(Debug)]
pub struct Entry {
    pub event: JobEvent,
    pub topics: Vec<Topic>,
    pub records: Vec<RecordWrite>,
    /// Its part of the memory budget, held until the entry is in the journal.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub held: Vec<Held>,
    /// Rough size of all that.
    pub bytes: usize,
}

/// Events that wait, and those that are being appended.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Vec<Entry>,
    in_flight: Vec<Entry>,
    /// Rough bytes of both.
    bytes: usize,
}

/// Who publishes the events of jobs.
const PUBLISHER: &str = "jobs";
/// Above so many events the engine makes no more of its own accord.
const ENOUGH: usize = 3068;
/// Above so many bytes likewise: large results are the exception, and a few of them must not be thousands.
const ENOUGH_BYTES: usize = 16 << 20;

// === impl Outbox ===

impl Outbox {
    /// Never more than so many events: on top of [`ENOUGH`] come the last step of a turn and one batch of reports
    /// ([`super::REPORTS_PER_TURN`]), and a step or a report brings four events at most.
    pub const MAX: usize = ENOUGH + 4 * (super::REPORTS_PER_TURN + 1);

    pub fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.waiting.push(entry);
        debug_assert!(self.len() <= Self::MAX, "the outbox holds {} events", self.len());
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn has_room(&self) -> bool {
        self.len() < ENOUGH && self.bytes < ENOUGH_BYTES
    }

    /// All that waits, unless an append is in flight already.
    pub fn take(&mut self) -> Option<Batch> {
        if !self.in_flight.is_empty() || self.waiting.is_empty() {
            return None;
        }
        self.in_flight = std::mem::take(&mut self.waiting);
        Some(self.again())
    }

    /// What is in flight, for another try.
    pub fn again(&self) -> Batch {
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

    /// Takes one event out of what is in flight: the journal will never have it.
    pub fn give_up(&mut self, index: usize) -> Option<Entry> {
        let entry = (index < self.in_flight.len()).then(|| self.in_flight.remove(index))?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// What was in flight has arrived.
    pub fn arrived(&mut self) -> Vec<Entry> {
        let arrived = std::mem::take(&mut self.in_flight);
        self.bytes -= arrived.iter().map(|entry| entry.bytes).sum::<usize>();
        arrived
    }
}
