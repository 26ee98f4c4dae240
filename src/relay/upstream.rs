//! What an upstream brings to the engine: reports, one at a time, each with the position that it covers.
//!
//! While a report is on its way to the journal, the next one is collected, up to a limit. So commits are few, and a slow
//! journal slows the upstream down. [`actor`] reads the stream; the types here are pure.

use tokio::time::Instant;

use super::{
    output::{self, Arrival, RelayOutput, SourceEvent},
    stats::Stats,
    trail::{Recent, Trail},
};
use crate::{
    shares::Owner,
    upstream::events::{Cursor, Source, StreamEvent},
};

pub(super) mod actor;

/// The number of an upstream, unique in this run of the node.
pub(super) type UpstreamId = u64;

/// An upstream to start.
pub(super) struct Start {
    pub(super) id: UpstreamId,
    pub(super) source: Source,
    /// Begin after this position.
    pub(super) cursor: Cursor,
    /// The source was read before. Its first connection waits for a random part of the first delay: after a start of the
    /// node not all upstreams connect at once.
    pub(super) resumed: bool,
    /// The user for whom it is read.
    pub(super) owner: Owner,
}

/// What happened at an upstream since the report before: events, then perhaps a change of its state. All of it goes into
/// one commit: if the end of a stream came behind its last event, a relay would wait after a crash for an end that was
/// already read.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) upstream: UpstreamId,
    /// The number of reconnects that the engine had ordered when this was reported.
    pub(super) reconnects: u64,
    /// Events of the source, and events about it.
    pub(super) outputs: Vec<RelayOutput>,
    /// Counts the content of the report.
    pub(super) counted: Stats,
    /// The remote has reported a gap.
    pub(super) missed: bool,
    /// The change of the state that follows: a connection, its loss, the end.
    pub(super) then: Option<StreamEvent>,
    /// The position up to which all events were reported, this report included.
    pub(super) cursor: Cursor,
}

/// The next report, while it is collected.
#[derive(Debug)]
pub(super) struct Pending {
    max_event_bytes: usize,
    report: Report,
    /// The memory that the report takes.
    bytes: usize,
    /// The remote has sent a position that is not reported yet, perhaps without an event. The relay would otherwise miss
    /// the events that are published between this moment and a restart of the node.
    moved: bool,
    /// Origins of the events of the last minute.
    recent: Recent,
}

/// From this number of bytes on a report is full. One more piece of the stream may come on top.
const FULL: usize = 256 * 1024;
/// Memory of an event beside its text.
const EVENT_BYTES: usize = 256;

// === impl Pending ===

impl Pending {
    /// An empty report of this upstream that continues after this position.
    pub(super) fn new(upstream: UpstreamId, cursor: Cursor, max_event_bytes: usize) -> Self {
        let report = Report { upstream, cursor, ..Report::default() };
        Self { max_event_bytes, report, bytes: 0, moved: false, recent: Recent::default() }
    }

    /// Adds what the reader brings next, and the position after it.
    pub(super) fn add(&mut self, next: StreamEvent, cursor: &Cursor, now: Instant) {
        let report = &mut self.report;
        self.moved |= report.cursor.last_id != cursor.last_id;
        report.cursor.clone_from(cursor);
        let StreamEvent::Events(events) = next else {
            report.then = Some(next);
            return;
        };
        for event in events {
            if !event.control {
                self.bytes += EVENT_BYTES + event.event.len() + event.data.len() + event.id.len() + event.trail.len();
                let unfit = output::unfit(&event, self.max_event_bytes);
                report.counted.skipped += u64::from(unfit);
                report.counted.events += u64::from(!unfit);
                let trail = Trail::of(&event);
                let repeated = trail.begin().is_some_and(|begin| self.recent.again(begin, now));
                report.outputs.push(RelayOutput::Event(Arrival::new(event, trail, repeated)));
            } else if event.event == "gap" {
                // Of all control frames of another node, only a gap concerns the readers of this one.
                report.missed = true;
                // The gap is kept as a JSON value, which may be several times as long.
                self.bytes += EVENT_BYTES + 4 * event.data.len();
                report.outputs.push(RelayOutput::Source(SourceEvent::gap(&event.data, self.max_event_bytes)));
            }
        }
    }

    /// Adds dropped duplicates.
    pub(super) fn duplicates(&mut self, count: u64) {
        self.report.counted.doubles_dropped += count;
    }

    /// Forgets the state of a connection that is replaced. The end of a stream stays, because the relay must report it.
    /// Returns the position from which the new connection continues.
    pub(super) fn reconnect(&mut self) -> Cursor {
        self.report.reconnects += 1;
        self.report.then.take_if(|then| !matches!(then, StreamEvent::End(_)));
        self.report.cursor.clone()
    }

    /// The number of reconnects.
    pub(super) fn reconnects(&self) -> u64 {
        self.report.reconnects
    }

    /// True when there is nothing to report.
    pub(super) fn is_empty(&self) -> bool {
        self.report.then.is_none() && self.report.outputs.is_empty() && !self.moved
    }

    /// True when nothing more may be read before the next [`take`](Self::take).
    pub(super) fn is_full(&self) -> bool {
        self.report.then.is_some() || self.bytes >= FULL
    }

    /// Takes the report that was collected.
    pub(super) fn take(&mut self) -> Report {
        (self.moved, self.bytes) = (false, 0);
        let Report { upstream, reconnects, cursor, .. } = &self.report;
        let next = Report { upstream: *upstream, reconnects: *reconnects, cursor: cursor.clone(), ..Report::default() };
        std::mem::replace(&mut self.report, next)
    }
}
