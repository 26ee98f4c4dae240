//! A node: the handles of all its components, as handlers and embedding programs use them.
//!
//! [`crate::app`] builds it. It knows the components and does not depend on HTTP; the parts of a node that exist only
//! for HTTP are in `http/frontend.rs`. It publishes from Rust (`node/publish.rs`), reloads settings (`node/reload.rs`),
//! collects the metrics of all components (`node/metrics.rs`), and reports whether it accepts work.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use crate::{
    access::{self, limits::Limits},
    clock::Clock,
    config::Config,
    hub, intake, jobs, journal, relay,
    supervise::Supervisor,
    tls::Tls,
    transport::Heads,
    unsent::Unsent,
    upstream,
};

mod metrics;
mod publish;
mod reload;

pub use self::publish::{PublishError, Published};

/// The parts of a node. Cheap to clone; clones are the same node.
#[derive(Clone)]
pub struct Node {
    /// The settings in force.
    pub config: Arc<Config>,
    /// The wall clock and the monotonic clock of the node.
    pub clock: Clock,
    /// The journal of all events.
    pub journal: journal::Shared,
    /// Identities, tokens and tickets.
    pub access: access::Handle,
    /// Connected subscribers.
    pub hub: hub::Handle,
    /// Jobs with parallel tasks.
    pub jobs: jobs::Handle,
    /// The memory budget for specs, inputs and responses of jobs.
    pub memory: jobs::Memory,
    /// Remote streams that are copied into the journal.
    pub relays: relay::Handle,
    /// Deliveries of other services.
    pub webhooks: intake::Webhooks,
    /// Outgoing requests.
    pub upstream: upstream::Client,
    /// The configured remotes.
    pub remotes: upstream::Remotes,
    /// Open streams from these servers.
    pub connections: upstream::Connections,
    /// Limits for each caller.
    pub limits: Limits,
    /// The certificate; `None` if the node uses plain HTTP.
    pub tls: Option<Tls>,
    /// The time limit for request heads, and the count of connections that exceeded it.
    pub heads: Heads,
    /// Accounting of response bytes that wait for clients.
    pub unsent: Unsent,
    /// Supervisor of the long-lived tasks.
    pub supervisor: Supervisor,
    /// Fires at the beginning of a stop.
    pub stopping: CancellationToken,
    /// The start time of the node.
    pub started: Instant,
    /// The URL of the node itself; set when it listens.
    pub own_url: Arc<OnceLock<String>>,
}

// === impl Node ===

impl Node {
    /// The reason why the node accepts no work at the moment; `None` if it accepts work.
    pub fn trouble(&self) -> Option<String> {
        if self.stopping.is_cancelled() {
            return Some("the node is stopping".into());
        }
        let unread = |what| Some(format!("the node has just started, and its {what} are being read from the journal"));
        let failed = self.supervisor.trouble().or_else(|| self.journal.refusal());
        failed
            .or_else(|| unread("jobs").filter(|_| !self.jobs.is_ready()))
            .or_else(|| unread("relays").filter(|_| !self.relays.is_ready()))
    }

    /// The URL scheme of the node's listener.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}
