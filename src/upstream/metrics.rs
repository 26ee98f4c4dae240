//! The metrics of the streams that the node reads from remotes.

use super::Connections;
use crate::{metrics::Rows, shares};

impl Connections {
    /// Adds the figures of upstream streams.
    pub fn metrics(&self, rows: &mut Rows) {
        let upstream = self.figures();
        rows.gauge("upstream_streams_open", "Upstream streams that are open.", upstream.open);
        rows.gauge("upstream_streams_limit", "Most upstream streams at once (max_upstreams).", upstream.limit);
        rows.counter("upstream_streams_opened", "Upstream streams opened.", upstream.opened);
        let help = "Times that the limit refused an upstream stream.";
        rows.counter("upstream_streams_refused", help, upstream.refused);
        rows.counter("upstream_bytes", "Bytes read from upstream streams.", upstream.bytes);
        rows.counter("upstream_events", "Events read from upstream streams.", upstream.events);
        shares::count_refused(rows, "upstreams", upstream.over_share);
    }
}
