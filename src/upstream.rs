//! Every outgoing HTTP request: jobs, relays, proxies, webhooks and remote jobs all go out through one [`Client`].
//!
//! It promises that
//! - what a client of this node names passes the egress guard, at each hop and for each address (`[egress] allow`);
//! - a connection that was made in trust is never reused for what a client names: there are two pools;
//! - an answer that stops short is an error, whatever its framing, and one that ends well is not;
//! - nothing waits without limit: connecting, the response head and each pause of the body have one;
//! - dropping a [`Response`] that is not finished closes its connection at once.
//!
//! HTTP/1.1 and 1.0, with TLS if the URL says so. Works on any tokio runtime, as a handle that is `Send` and `Sync`.
//!
//! ```text
//! Request ─> redirect::Hop ─> pool (guarded | operator) ─> connect: lookup ─> guard ─> TCP ─> TLS
//!                 ^                      │
//!                 └── 3xx, at most n ────┴──> Response { head, Body }
//! ```

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HOST, USER_AGENT, VIA};
use tokio::time::timeout;

use crate::clock::Clock;

mod backoff;
mod body;
mod chunks;
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
    connections::{Busy, Connections, Figures, Lease, Open, Purpose},
    error::Error,
    fields::is_reserved_field,
    guard::{Allow, BadAllow, Net},
    method::parse_method,
    redirect::parse_url,
    remote::{BadPath, Remote, RemoteConfig, Remotes, UnknownRemote},
    status::{Verdict, describe, verdict},
    via::Via,
};
pub(crate) use self::{chunks::Chunks, egress::serve_thread};
use self::{
    connect::Connector,
    egress::{Answer, Egress},
    guard::Guard,
    head::Head,
    redirect::Hop,
};

/// What this program calls itself.
const PRODUCT: &str = concat!("millstream/", env!("CARGO_PKG_VERSION"));

/// Settings of the [`Client`].
#[derive(Clone, Debug)]
pub struct Config {
    /// What clients may reach though it is not public.
    pub allow: Vec<Allow>,
    /// Limit for name lookup, TCP and TLS of one connection; 5 s.
    pub connect_timeout: Duration,
    /// Certificates of authorities that are trusted beside the public ones, DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// Names of the node itself (`server.hosts`).
    pub hosts: Vec<String>,
    /// How the node itself is known where it speaks TLS: its certificate is not made for its address.
    pub own: Option<crate::tls::Own>,
    /// Idle connections kept per host and pool; 32, a node keeps one for each task at once (`jobs.concurrency`). What is
    /// beyond is closed.
    pub idle_connections: usize,
    /// How long an idle connection is kept; 15 s, below the keep-alive times that servers commonly have.
    pub idle_timeout: Duration,
}

/// The handle through which requests go out. Cheap to clone; clones share pools and guard.
#[derive(Clone)]
pub struct Client {
    config: Arc<Config>,
    guard: Arc<Guard>,
    /// The id of the node in `Via`; not set in programs that are not a node.
    node: Arc<OnceLock<String>>,
    clock: Clock,
    egress: Egress,
    guarded: Arc<Connector>,
    operator: Arc<Connector>,
}

/// Who has named the URL of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Somebody who uses this node: the egress guard decides.
    Client,
    /// The configuration: no guard, as long as no redirect leads to another origin.
    Operator,
}

/// A request as its sender wants it; make one with [`Request::new`] and set what differs.
#[derive(Clone)]
pub struct Request {
    /// Any method but CONNECT and TRACE.
    pub method: Method,
    /// An absolute URL, http or https, without credentials.
    pub url: String,
    /// Header fields. Host, framing and connection fields are the transport's: they are taken out. Unless set,
    /// `accept-encoding: identity` and `user-agent: millstream/VERSION` are added.
    pub headers: HeaderMap,
    /// The whole body; empty for none.
    pub body: Bytes,
    /// Who has named the URL.
    pub trust: Trust,
    /// Limit until the last response head, connecting and redirects included; 30 s.
    pub head_timeout: Duration,
    /// The `Via` of the request that causes this one; the node adds itself. `None` for requests of the node itself.
    pub via: Option<Via>,
    /// Most redirects that are followed; 5. With 0 a redirect is an answer like any other.
    pub redirects: u8,
}

/// The head of an answer, and its body as it comes.
#[derive(Debug)]
pub struct Response {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// Who has answered in the end, after redirects.
    pub url: Url,
    /// When the head came, by the node's clock: what dates in the header fields are compared with.
    pub received: SystemTime,
    /// The body.
    pub body: Body,
}

/// W3C Trace Context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

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
    /// A client with empty pools. Needs no runtime before the first request.
    pub fn new(config: Config) -> Self {
        Self::with_clock(config, Clock::system())
    }

    /// The same with the clock of the node.
    pub fn with_clock(config: Config, clock: Clock) -> Self {
        let guard = Arc::new(Guard::new(config.allow.clone()));
        Self::with(config, guard, Arc::default(), clock, Egress::default())
    }

    /// A client with pools of its own and the same guard, whose connections must be made within `limit`.
    #[must_use]
    pub fn with_connect_timeout(&self, limit: Duration) -> Self {
        let config = Config { connect_timeout: limit, ..Config::clone(&self.config) };
        Self::with(config, self.guard.clone(), self.node.clone(), self.clock.clone(), self.egress.clone())
    }

    fn with(config: Config, guard: Arc<Guard>, node: Arc<OnceLock<String>>, clock: Clock, egress: Egress) -> Self {
        let connector = |guard| Arc::new(Connector::new(&config, guard));
        let (guarded, operator) = (connector(Some(guard.clone())), connector(None));
        Self { config: Arc::new(config), guard, node, clock, egress, guarded, operator }
    }

    /// Tells the guard where this node itself listens; replaces what was told before. An unspecified address such as
    /// `0.0.0.0:8080` stands for every address of this machine with that port.
    pub fn set_own(&self, addrs: Vec<SocketAddr>) {
        self.guard.set_own(addrs);
    }

    /// Sets the id of this node in `Via`; call it once, before the first request.
    pub fn set_node(&self, id: String) {
        drop(self.node.set(id));
    }

    /// Checks that a request with this `Via` may cause further requests.
    ///
    /// # Errors
    /// [`Error::Loop`].
    pub fn permits(&self, via: &Via) -> Result<(), Error> {
        self.node.get().map_or(Ok(()), |node| via.check(node))
    }

    /// True if the URL has an address on which this node listens, or one of its names. No name is resolved.
    pub fn is_own(&self, url: &Url) -> bool {
        let Some(port) = url.port_or_known_default() else { return false };
        let ip = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.into(),
            Some(url::Host::Ipv6(ip)) => ip.into(),
            Some(url::Host::Domain("localhost")) => {
                return [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
                    .into_iter()
                    .any(|ip| self.guard.is_own(SocketAddr::new(ip, port)));
            }
            Some(url::Host::Domain(name)) => {
                let known = self.config.hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
                return known && (url.port().is_none() || self.guard.has_port(port));
            }
            None => return false,
        };
        self.guard.is_own(SocketAddr::new(ip, port))
    }

    /// Sends a request and waits for the response head; the body follows in [`Response::body`].
    ///
    /// Dropping the future gives the request up and closes its connection.
    ///
    /// # Errors
    /// See [`Error`]; an HTTP status is none.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        self.send_noting(request, &mut false).await
    }

    /// The same; `redirected` becomes true with the first redirect. A connection that fails after it does not mean that
    /// nobody has got the request.
    async fn send_noting(&self, mut request: Request, redirected: &mut bool) -> Result<Response, Error> {
        if let (Some(via), Some(node)) = (&request.via, self.node.get()) {
            request.headers.insert(VIA, via.onward(node)?);
            if let Some(trace) = via.traceparent() {
                request.headers.entry(TRACEPARENT).or_insert(trace);
            }
        }
        let after = request.head_timeout;
        timeout(after, self.follow(request, redirected)).await.unwrap_or(Err(Error::HeadTimeout { after }))
    }

    async fn follow(&self, request: Request, redirected: &mut bool) -> Result<Response, Error> {
        let Request { method, url, headers, body, trust, redirects: limit, .. } = request;
        let mut hop = Hop::first(method, &url, headers, body, trust)?;
        for left in (0..=limit).rev() {
            let connector = match hop.trust {
                Trust::Client => &self.guarded,
                Trust::Operator => &self.operator,
            };
            let Answer { head, body } = self.egress.send(connector.clone(), hop.clone()).await?;
            hop = match redirect::location(head.status, &head.headers) {
                Some(_) if left == 0 && limit > 0 => break,
                Some(location) if limit > 0 => {
                    *redirected = true;
                    hop.follow(head.status, location)?
                }
                _ => {
                    let Head { status, headers, framing } = head;
                    let (body, received) = (Body::new(body, framing.length()), self.clock.now());
                    return Ok(Response { status, headers, url: hop.url, received, body });
                }
            };
        }
        Err(Error::TooManyRedirects { limit })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("guard", &self.guard).finish_non_exhaustive()
    }
}

// === impl Request ===

impl Request {
    /// A request without header fields and body, with the default limits.
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

/// Without header values, query and body: they may hold secrets, and a log is no place for them.
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

// === impl Hop ===

impl Hop {
    /// The header fields that are sent. awc adds `content-length` and `date`.
    fn fields(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        headers.insert(HOST, HeaderValue::from_str(host).expect("a host has characters of a field value only"));
        // Bodies are passed on or decoded as they arrive.
        headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(PRODUCT));
        headers
    }

    /// True if an empty body is sent with its length: without one some servers answer 411.
    fn announces_empty_body(&self) -> bool {
        matches!(self.method, Method::POST | Method::PUT | Method::PATCH)
    }
}
