//! Every outgoing HTTP request: jobs, relays, proxies and remote jobs send their requests through one [`Client`].
//!
//! It promises:
//! - The egress guard checks a URL from a client of this node, at each hop and for each address (`[egress] allow`).
//! - A connection for a URL of the configuration is never reused for a URL from a client: there are two pools.
//! - A body that is cut off is an error. A body that is complete is not.
//! - Connecting, the response head and each pause of the body have a time limit.
//! - Dropping an unfinished [`Response`] closes its connection at once.
//!
//! It speaks HTTP/1.1 and 1.0, with TLS for `https`. The handle is `Send` and `Sync`, and works on any tokio runtime.
//!
//! ```text
//! Request ─> redirect::Hop ─> pool (guarded | operator) ─> connect: lookup ─> guard ─> TCP ─> TLS
//!                 ^                      │
//!                 └── 3xx, at most n ────┴──> Response { head, Body }
//! ```

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::header::VIA;
use tokio::time::timeout;

use crate::clock::Clock;

mod backoff;
mod body;
mod connect;
mod connections;
mod egress;
mod error;
pub mod events;
mod exchange;
mod fields;
mod guard;
mod head;
mod method;
mod metrics;
mod pool;
mod redirect;
mod remote;
mod status;
#[cfg(test)]
mod tests;
mod via;
mod wire;

pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
pub use rustls::pki_types::CertificateDer;
pub use url::Url;

pub use self::{
    backoff::{Backoff, retry_after},
    body::Body,
    connect::read_roots,
    connections::{Busy, Connections, Figures, OpenStream, Purpose, StreamPermit},
    error::Error,
    fields::{HOP_BY_HOP, is_reserved},
    guard::{Allow, Net},
    method::parse_method,
    redirect::parse_url,
    remote::{BadPath, Remote, RemoteConfig, Remotes, UnknownRemote},
    status::{Verdict, describe, verdict},
    via::Via,
};
pub(crate) use self::{body::Chunks, egress::serve_thread};
use self::{connect::Connector, egress::Egress, guard::Guard, head::Head, redirect::Hop};

/// Settings of the [`Client`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Exceptions from the egress guard: addresses and hosts that clients may reach although they are not public.
    pub allow: Vec<Allow>,
    /// Time limit of name lookup, TCP and TLS of one connection together. Default: 5 s.
    pub connect_timeout: Duration,
    /// Certificates (DER) of authorities that are trusted in addition to the public ones.
    pub roots: Vec<CertificateDer<'static>>,
    /// Host names of this node (`server.hosts`).
    pub hosts: Vec<String>,
    /// Trust in the node's own certificate, which is not issued for its address. `None` without TLS.
    pub own: Option<crate::tls::Own>,
    /// Maximum number of idle connections per host, pool and thread; further ones are closed. Default: 32. A node uses
    /// the number of tasks that run at the same time (`jobs.concurrency`).
    pub idle_connections: usize,
    /// Time after which an idle connection is closed. Default: 15 s, which is below common keep-alive times of servers.
    pub idle_timeout: Duration,
}

/// Sends requests. Cheap to clone; clones share pools and guard.
#[derive(Clone)]
pub struct Client {
    config: Arc<Config>,
    guard: Arc<Guard>,
    /// The id of the node in `Via`; unset in programs that are not a node.
    node: Arc<OnceLock<String>>,
    clock: Clock,
    egress: Egress,
    guarded: Arc<Connector>,
    operator: Arc<Connector>,
}

/// The origin of a URL, which decides whether the egress guard checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// A client of this node. The egress guard checks each address.
    Client,
    /// The configuration. There is no guard until a redirect leads to another origin.
    Operator,
}

/// An outgoing request. Create it with [`Request::new`], and change the fields that differ.
#[derive(Clone)]
pub struct Request {
    /// Any method except CONNECT and TRACE.
    pub method: Method,
    /// An absolute URL, http or https, without credentials.
    pub url: String,
    /// Header fields. Fields of the transport (`Host`, framing, connection) are removed. The defaults
    /// `accept-encoding: identity` and `user-agent: millstream/VERSION` are added.
    pub headers: HeaderMap,
    /// The whole body; empty for a request without a body.
    pub body: Bytes,
    /// The origin of the URL.
    pub trust: Trust,
    /// Time limit for the final response head, with connecting and redirects. Default: 30 s.
    pub head_timeout: Duration,
    /// The `Via` of the request that causes this one; the node appends itself. `None` for the node's own requests.
    pub via: Option<Via>,
    /// Maximum number of redirects that are followed. Default: 5. With 0, a redirect is returned as the response.
    pub redirects: u8,
}

/// The head of a response, and its body as a stream.
#[derive(Debug)]
pub struct Response {
    /// The status; any status is a response.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The URL that responded, after redirects.
    pub url: Url,
    /// Time of the head by the node's clock. Dates in header fields are compared with it.
    pub received: SystemTime,
    /// The body.
    pub body: Body,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            roots: Vec::new(),
            hosts: Vec::new(),
            own: None,
            connect_timeout: Duration::from_secs(5),
            idle_connections: 32,
            idle_timeout: Duration::from_secs(15),
        }
    }
}

// === impl Client ===

impl Client {
    /// Creates a client with empty pools. Needs no runtime before the first request.
    pub fn new(config: Config) -> Self {
        Self::with_clock(config, Clock::system())
    }

    /// Creates a client with empty pools and the clock of a node.
    pub fn with_clock(config: Config, clock: Clock) -> Self {
        let guard = Arc::new(Guard::new(config.allow.clone()));
        let [guarded, operator] = connectors(&config, &guard);
        let (config, node, egress) = (Arc::new(config), Arc::default(), Egress::default());
        Self { config, guard, node, clock, egress, guarded, operator }
    }

    /// Creates a client with empty pools, the guard of this one, and another time limit for connecting.
    #[must_use]
    pub fn with_connect_timeout(&self, limit: Duration) -> Self {
        let config = Config { connect_timeout: limit, ..Config::clone(&self.config) };
        let [guarded, operator] = connectors(&config, &self.guard);
        Self { config: Arc::new(config), guarded, operator, ..self.clone() }
    }

    /// Sets the addresses on which this node listens; the guard refuses them. An unspecified address such as
    /// `0.0.0.0:8080` stands for every address of this machine with that port.
    pub fn set_own(&self, addrs: Vec<SocketAddr>) {
        self.guard.set_own(addrs);
    }

    /// Sets the id of this node in `Via`. Call it once, before the first request.
    pub fn set_node(&self, id: String) {
        drop(self.node.set(id));
    }

    /// Checks that a request with this `Via` may cause further requests.
    ///
    /// # Errors
    /// [`Error::Loop`] if the request has already passed this node, or too many nodes.
    pub fn permits(&self, via: &Via) -> Result<(), Error> {
        self.node.get().map_or(Ok(()), |node| via.check(node))
    }

    /// True if the URL names this node by an address on which it listens, or by a host name. Resolves no name.
    pub fn is_own(&self, url: &Url) -> bool {
        let Some(port) = url.port_or_known_default() else { return false };
        let is_own = |ip: IpAddr| self.guard.is_own(SocketAddr::new(ip, port));
        match url.host() {
            Some(url::Host::Ipv4(ip)) => is_own(ip.into()),
            Some(url::Host::Ipv6(ip)) => is_own(ip.into()),
            Some(url::Host::Domain("localhost")) => {
                is_own(Ipv4Addr::LOCALHOST.into()) || is_own(Ipv6Addr::LOCALHOST.into())
            }
            Some(url::Host::Domain(name)) => {
                let known = self.config.hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
                known && (url.port().is_none() || self.guard.has_port(port))
            }
            None => false,
        }
    }

    /// Sends a request and waits for the response head. [`Response::body`] reads the body.
    ///
    /// Dropping the future cancels the request and closes its connection.
    ///
    /// # Errors
    /// See [`Error`]. An HTTP status is not an error.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        self.send_tracked(request, &mut false).await
    }

    /// Sends a request as [`send`](Self::send) does. Sets `redirected` at the first redirect: a later failure to connect
    /// does not mean that no server received the request.
    async fn send_tracked(&self, mut request: Request, redirected: &mut bool) -> Result<Response, Error> {
        if let (Some(via), Some(node)) = (&request.via, self.node.get()) {
            request.headers.insert(VIA, via.extended(node)?);
            if let Some(trace) = via.traceparent() {
                request.headers.entry("traceparent").or_insert(trace);
            }
        }
        let after = request.head_timeout;
        timeout(after, self.follow(request, redirected)).await.unwrap_or(Err(Error::HeadTimeout { after }))
    }

    async fn follow(&self, request: Request, redirected: &mut bool) -> Result<Response, Error> {
        let limit = request.redirects;
        let mut hop = Hop::first(request)?;
        for left in (0..=limit).rev() {
            let connector = match hop.trust {
                Trust::Client => &self.guarded,
                Trust::Operator => &self.operator,
            };
            let (head, body) = self.egress.send(connector.clone(), hop.clone()).await?;
            hop = match redirect::location(head.status, &head.headers) {
                Some(_) if left == 0 && limit > 0 => break,
                Some(location) if limit > 0 => {
                    *redirected = true;
                    hop.follow(head.status, location)?
                }
                _ => {
                    let Head { status, headers, .. } = head;
                    return Ok(Response { status, headers, url: hop.url, received: self.clock.now(), body });
                }
            };
        }
        Err(Error::TooManyRedirects { limit })
    }
}

/// The connectors with and without the guard.
fn connectors(config: &Config, guard: &Arc<Guard>) -> [Arc<Connector>; 2] {
    [Some(guard.clone()), None].map(|guard| Arc::new(Connector::new(config, guard)))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("guard", &self.guard).finish_non_exhaustive()
    }
}

// === impl Request ===

impl Request {
    /// Creates a request without header fields and body, with the default limits.
    pub fn new(method: Method, url: impl Into<String>, trust: Trust) -> Self {
        Self {
            method,
            url: url.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            via: None,
            trust,
            head_timeout: Duration::from_secs(30),
            redirects: 5,
        }
    }
}

/// Shows no header values, query or body, because they may contain secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &url)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}
