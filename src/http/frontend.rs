//! The state of a node that exists only for HTTP: its connections, and the data that its responses share.
//!
//! [`crate::app`] builds it beside the [`Node`](crate::node::Node), and `routes` in `http.rs` gives both to the handlers.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, web::Data};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{connection::ConnectionLimiter, polls::Polls, requests::Requests, results::Results};
use crate::{config::Config, journal, metrics::Rows};

/// The HTTP side of a node. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Frontend {
    /// Connections of the listener.
    pub(super) connections: ConnectionLimiter,
    /// Results of tasks that are being sent to clients, one copy each.
    pub(super) results: Results,
    /// Open proxied and merged streams.
    pub(super) pulled: TaskTracker,
    /// Long-polling requests.
    pub(super) polls: Polls,
    /// Counts of the responses.
    pub(super) requests: Arc<Requests>,
    /// True in another program's server, which decides itself which requests it accepts.
    pub(super) embedded: bool,
}

/// Time that clients have after the drain time to read the end of their stream.
const LAST_READ: Duration = Duration::from_secs(1);

// === impl Frontend ===

impl Frontend {
    /// Starts to watch the journal for long polls. Must be called inside an actix system.
    pub(crate) fn start(config: &Config, connection_limit: usize, journal: &journal::Shared) -> Self {
        let write_deadline = Duration::from_millis(config.emitter.write_deadline_ms);
        Self {
            connections: ConnectionLimiter::new(&config.server, connection_limit, write_deadline),
            results: Results::default(),
            pulled: TaskTracker::new(),
            polls: Polls::start(journal),
            requests: Arc::default(),
            embedded: false,
        }
    }

    /// This frontend, mounted in another program's server.
    pub(crate) fn embedded(self) -> Self {
        Self { embedded: true, ..self }
    }

    /// The frontend of the routes that handle this request.
    pub(super) fn of(request: &HttpRequest) -> &Self {
        request.app_data::<Data<Self>>().expect("the routes are mounted with their frontend")
    }

    /// The count of the connections, and their limit.
    pub(crate) fn connections(&self) -> &ConnectionLimiter {
        &self.connections
    }

    /// Adds the metrics of connections, requests and responses.
    pub(super) fn metrics(&self, rows: &mut Rows) {
        rows.gauge("connections", "Open connections.", self.connections.open() as u64);
        rows.gauge(
            "connections_limit",
            "Maximum number of connections (max_connections).",
            self.connections.limit() as u64,
        );
        rows.gauge("requests_waiting", "Requests that wait for an event (`wait=`).", self.polls.waiting() as u64);
        self.requests.metrics(rows);
    }

    /// Waits until all proxied and merged streams have ended; at most one second longer than the drain time. The listener
    /// cuts the remaining ones.
    pub(crate) async fn streams_ended(&self, drain: Duration) {
        self.pulled.close();
        let _ = timeout(drain + LAST_READ, self.pulled.wait()).await;
    }
}
