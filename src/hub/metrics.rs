//! The metrics of the hub.

use std::sync::atomic::Ordering::Relaxed;

use super::{Handle, Reason};
use crate::metrics::Rows;

impl Handle {
    /// Adds the metrics of streams and emitters.
    pub fn metrics(&self, rows: &mut Rows) {
        let hub = self.counters();
        rows.gauge("streams_open", "Open streams.", hub.open());
        rows.counter("streams_opened", "Streams opened.", hub.opened.load(Relaxed));
        let closed = Reason::ALL.map(|reason| (reason.as_str(), hub.closed(reason)));
        rows.counters("streams_closed", "Streams closed, by reason.", "reason", closed);
        rows.counter("events_delivered", "Events put into outboxes of emitters.", hub.delivered.load(Relaxed));
        rows.counter("events_dropped", "Events that overflow policies dropped.", hub.dropped.load(Relaxed));
        let help = "Times a full outbox sent an emitter to the journal.";
        rows.counter("emitters_lagged", help, hub.lagged.load(Relaxed));
        rows.counter("gaps", "Gap frames sent.", hub.gaps.load(Relaxed));
        let help = "Times a filter could not be applied to an emitter: a key was missing, or of another type.";
        rows.counter("filters_failed", help, hub.filters_failed.load(Relaxed));
        rows.counter("heartbeats", "Heartbeats sent.", hub.heartbeats.load(Relaxed));
    }
}
