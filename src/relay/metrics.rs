//! The metrics of relays.

use super::Handle;
use crate::{metrics::Rows, shares};

impl Handle {
    /// Adds the figures of relays.
    pub fn metrics(&self, rows: &mut Rows) {
        let relays = self.stats();
        rows.gauge("relays_running", "Relays that have not ended.", relays.relays_running);
        rows.gauge("relays_kept", "Relays that have ended and are kept.", relays.relays_ended);
        rows.counter("relay_events", "Events that relays have appended.", relays.events);
        let help = "Events of sources that were reported and not kept.";
        rows.counter("relay_events_skipped", help, relays.skipped);
        let help = "Connections of relays after the first one of a source.";
        rows.counter("relay_reconnects", help, relays.reconnects);
        rows.counter("relay_doubles_dropped", "Events that came again after a reconnect.", relays.doubles_dropped);
        let help = "Events that returned to a topic where they had already been.";
        rows.counter("relay_loops_dropped", help, relays.loops_dropped);
        rows.counter("relay_sources_failed", "Sources of relays that were given up.", relays.sources_failed);
        let help = "Records of relays that could not be read.";
        rows.counter("relay_records_unreadable", help, relays.records_unreadable);
        shares::count_refused(rows, "relays", relays.shares_refused);
    }
}
