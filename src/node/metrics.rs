//! The metrics of a node: each component adds its own rows. A new component is one line here.

use super::Node;
use crate::{metrics::Rows, telemetry};

impl Node {
    /// Adds the metrics of all components.
    pub(crate) fn metrics(&self, rows: &mut Rows) {
        self.hub.metrics(rows);
        self.journal.stats().metrics(rows);
        self.jobs.metrics(rows);
        self.memory.metrics(rows);
        self.relays.metrics(rows);
        self.connections.metrics(rows);
        self.webhooks.metrics(rows);
        self.limits.metrics(rows);
        self.unsent.metrics(rows);
        rows.counter("clock_jumps", "Jumps of the wall clock that the node has adopted.", self.clock.jumps());
        let help = "Connections cut because a request's head, or a TLS handshake, did not arrive in time.";
        rows.counter("heads_timed_out", help, self.heads.cut());
        let help = "Times that a part of the node failed and was restarted.";
        rows.counter("part_restarts", help, self.supervisor.restarts());
        let help = "Log lines that were lost: stderr accepted them too slowly, or not at all.";
        rows.counter("log_lines_dropped", help, telemetry::lines_dropped());
        rows.gauge("ready", "1 while the node accepts work.", u64::from(self.trouble().is_none()));
    }
}
