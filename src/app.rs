//! The composition root: settings become a node, a node becomes a server.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use millstream::{app::App, config::Config};
//! let server = App::build(Config::load(None)?)?.bind()?;
//! println!("listening on {}", server.url());
//! server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(()) }
//! ```
//!
//! Order of a stop: reject new work, end the streams, the relays, the jobs, the journal, the listener.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use actix_web::{dev, web};
use tokio_util::sync::CancellationToken;

use crate::{
    access::{self, limits::Limits},
    clock::Clock,
    config::{self, Config},
    http::{self, ConnectionLimiter, Frontend},
    hub, intake,
    jobs::{
        self,
        handler::{Handlers, Registered},
        handlers,
    },
    journal,
    node::Node,
    relay,
    supervise::Supervisor,
    tls::Tls,
    transport::Heads,
    unsent::Unsent,
    upstream,
};

mod sweep;

use self::sweep::Sweep;

/// A node that does not listen yet.
pub struct App {
    node: Node,
    frontend: Frontend,
}

/// A node that has bound its port.
pub struct Server {
    node: Node,
    frontend: Frontend,
    addr: SocketAddr,
    server: dev::Server,
}

/// Why the node cannot start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The limit of open files is too low.
    #[error(transparent)]
    Files(#[from] config::TooFewFiles),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The address cannot be bound.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The reason.
        error: std::io::Error,
    },
    /// An essential part of the node has failed.
    #[error("a part of the node has failed: {0}; its log has the reason")]
    Failed(&'static str),
    /// The server failed while it ran.
    #[error("the server failed: {0}")]
    Serve(#[from] std::io::Error),
}

/// Time that jobs have after the streams have ended; then they are cancelled.
const JOBS_GRACE: Duration = Duration::from_secs(5);

// === impl App ===

impl App {
    /// Builds a node with the handlers of its settings.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn build(config: Config) -> Result<Self, Error> {
        Self::with_handlers(config, std::iter::empty())
    }

    /// Builds a node with handlers of the program in addition to those of its settings. Must be called inside an actix
    /// system.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn with_handlers(config: Config, own: impl IntoIterator<Item = (String, Registered)>) -> Result<Self, Error> {
        config.check()?;
        let connection_limit = config.server.connection_limit()?;
        if connection_limit < config.server.max_connections {
            let max_connections = config.server.max_connections;
            tracing::warn!(max_connections, connection_limit, "the limit of open files permits fewer connections");
        }
        let own_url = Arc::<OnceLock<String>>::default();
        let supervisor = Supervisor::default();
        let tls = config.server.tls()?;
        let upstream = upstream::Config { own: tls.as_ref().map(Tls::own), ..config.upstream()? };
        let clock = Clock::system();
        let upstream = upstream::Client::with_clock(upstream, clock.clone());
        let remotes = upstream::Remotes::build(&config.remotes, &upstream).map_err(config::Error)?;
        let share = config.limits.share(config.access.mode);
        let connections = upstream::Connections::shared(config.relay.max_upstreams, share);
        let webhooks = intake::Webhooks::build(&config.webhooks).map_err(config::Error)?;
        let journal = journal::open_with(&config.journal, &config.server.data_dir, clock.clone())?;
        // The epoch is random, is as old as the journal, and is already part of each event id.
        upstream.set_node(format!("{:x}", journal.epoch()));
        let access = access::Handle::new(&config.access, upstream.clone(), journal.clone(), clock.clone());
        let access = access.map_err(config::Error)?;
        let deadline = Duration::from_millis(config.emitter.write_deadline_ms);
        let unsent = Unsent::new(deadline, config.server.max_unsent_bytes);
        let bounds = hub::Bounds { unsent: unsent.clone(), max_page_bytes: config.server.max_page_bytes() };
        let hub =
            hub::Handle::of_node(config.emitter.clone(), journal.clone(), supervisor.clone(), clock.clone(), bounds);
        let deps = handlers::Deps {
            client: upstream.clone(),
            own_url: own_url.clone(),
            max_response_bytes: config.jobs.max_response_bytes,
            max_event_bytes: config.journal.max_event_bytes,
        };
        let mut handlers: Handlers = handlers::build(&config.handlers, &deps).map_err(config::Error)?;
        for (name, registered) in own {
            handlers.register(name, registered);
        }
        if config.samples.enabled {
            handlers::sample::register_missing(&mut handlers, &deps);
        }
        let http = Arc::new(handlers::HttpTask::new(&deps));
        let deps = jobs::Deps::new(journal.clone(), &config.journal, handlers, http);
        let deps = deps.with_remotes(remotes.clone(), connections.clone(), config.relay.pace());
        let memory = jobs::Memory::new(config.jobs.max_memory_bytes, share);
        let deps = deps.with_bounds(share, memory.clone()).supervised(supervisor.clone()).by_clock(clock.clone());
        let jobs = jobs::start(config.jobs.clone(), deps);
        let relays = relay::start(
            config.relay.clone(),
            relay::Deps {
                journal: journal.clone(),
                max_event_bytes: config.journal.max_event_bytes,
                remotes: remotes.clone(),
                connections: connections.clone(),
                share,
                clock: clock.clone(),
                supervisor: supervisor.clone(),
            },
        );
        let frontend = Frontend::start(&config, connection_limit, &journal);
        let limits = Limits::new(&config.limits, config.access.mode, connection_limit);
        let heads = Heads::new(Duration::from_millis(config.server.head_timeout_ms), http::IDLE);
        let node = Node {
            config: Arc::new(config),
            clock,
            journal,
            access,
            hub,
            jobs,
            memory,
            relays,
            webhooks,
            upstream,
            remotes,
            connections,
            limits,
            tls,
            heads,
            unsent,
            supervisor: supervisor.clone(),
            stopping: CancellationToken::new(),
            started: Instant::now(),
            own_url,
        };
        // The sweep must not hold the whole node: parts of the node end when their last handle is dropped.
        let sweep = Sweep {
            journal: node.journal.clone(),
            clock: node.clock.clone(),
            stopping: node.stopping.clone(),
            supervisor: supervisor.clone(),
        };
        actix_rt::spawn(supervisor.clone().keep("retention of the journal", move || sweep.clone().run()));
        if let Some(tls) = node.tls.clone() {
            let stopping = node.stopping.clone();
            actix_rt::spawn(supervisor.keep("watch of the certificate", move || tls.clone().watch(stopping.clone())));
        }
        Ok(Self { node, frontend })
    }

    /// The parts of the node: publish, submit and connect without HTTP.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// All routes, for an actix-web application of another program. Call it inside the application factory, so that
    /// every worker thread gets its shard. Authentication is then the task of the program's middleware, which puts an
    /// [`crate::access::Identity`] into the request's extensions. Without one, token mode requires a credential, and
    /// open mode permits everything.
    ///
    /// [`Server::run`] ends when a part of the node fails. An embedding application must end the node itself when
    /// [`Supervisor::failure`] resolves.
    pub fn routes(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        http::routes(self.node.clone(), self.frontend.clone().embedded())
    }

    /// The limiter of the connections. Another program's server must call [`ConnectionLimiter::enter`] for each
    /// accepted connection (`HttpServer::on_connect`): it counts the connection, and enables the node to cut a client
    /// that does not read.
    pub fn connections(&self) -> &ConnectionLimiter {
        self.frontend.connections()
    }

    /// Stops the parts of the node in order. Another program's server must be stopped after this call.
    pub async fn stop(&self) {
        stop(&self.node, &self.frontend).await;
    }

    /// Binds the port. Requests get responses only after [`Server::run`] starts.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn bind(self) -> Result<Server, Error> {
        let Self { node, frontend } = self;
        let listen = node.config.server.listen;
        let taken = |error| Error::Listen { addr: listen, error };
        let listener = http::bind(listen).map_err(taken)?;
        let addr = listener.local_addr().map_err(taken)?;
        node.upstream.set_own(vec![addr]);
        let host = if addr.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())) } else { addr };
        let _ = node.own_url.set(format!("{}://{host}", node.scheme()));
        let server = http::serve(&node, &frontend, listener).map_err(taken)?;
        Ok(Server { node, frontend, addr, server })
    }
}

// === impl Server ===

impl Server {
    /// The address, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The parts of the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// URL of the server: `http://ADDR`, or `https://ADDR` with a certificate.
    pub fn url(&self) -> String {
        format!("{}://{}", self.node.scheme(), self.addr)
    }

    /// Serves until `shutdown` resolves or an essential part of the node fails, then stops in order.
    ///
    /// # Errors
    /// If the server or another part of the node has failed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let handle = self.server.handle();
        let serving = actix_rt::spawn(self.server);
        tracing::info!(addr = %self.addr, version = env!("CARGO_PKG_VERSION"), connections = self.frontend.connections().limit(), "listening");
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => {
                stop(&self.node, &self.frontend).await;
                return Err(ended.map_err(std::io::Error::other).flatten().err().map_or(Error::Failed("listener"), Error::Serve));
            }
            _ = self.node.supervisor.failure() => {}
            () = shutdown => {}
        }
        stop(&self.node, &self.frontend).await;
        handle.stop(true).await;
        serving.await.map_err(std::io::Error::other)??;
        self.node.supervisor.failed().map_or(Ok(()), |name| Err(Error::Failed(name)))
    }
}

/// Stops all parts in order; the listener stops after them.
async fn stop(node: &Node, frontend: &Frontend) {
    node.stopping.cancel();
    let drain = Duration::from_millis(node.config.server.drain_ms);
    tracing::info!(streams = node.hub.counters().open(), drain_ms = node.config.server.drain_ms, "stopping");
    tokio::join!(node.hub.stop(drain), frontend.streams_ended(drain));
    node.relays.stop().await;
    node.jobs.stop(JOBS_GRACE).await;
    node.journal.close().await;
    tracing::info!("stopped");
}

#[cfg(test)]
mod tests;
