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
use http::{
    Uri, Version,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, USER_AGENT, VIA},
};
use http_body_util::Full;
use hyper_util::{
    client::legacy::Client as Pool,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use crate::clock::Clock;

mod backoff;
mod body;
mod chunks;
mod connect;
mod connections;
mod error;
pub mod events;
mod guard;
mod method;
mod redirect;
mod remote;
mod reuse;
mod status;
#[cfg(test)]
mod tests;
mod via;

pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
pub use rustls::pki_types::CertificateDer;
pub use url::Url;

pub(crate) use self::chunks::Chunks;
pub use self::{
    backoff::{Backoff, retry_after},
    body::Body,
    connect::read_roots,
    connections::{Busy, Connections, Figures, Lease, Open, Purpose},
    error::Error,
    guard::{Allow, BadAllow, Net},
    method::parse_method,
    redirect::parse_url,
    remote::{BadPath, Remote, RemoteConfig, Remotes, UnknownRemote},
    status::{Verdict, describe, verdict},
    via::Via,
};
use self::{connect::Connector, guard::Guard, redirect::Hop};

/// Largest response head in bytes, and the read buffer of a connection. Generous: common servers stop at 8 or 16 KiB.
const HEAD_MAX: usize = 64 * 1024;
/// Maximum number of header fields of a response.
const FIELDS_MAX: usize = 100;
/// Maximum number of fields for the parser. It is above [`FIELDS_MAX`], since the parser reports more fields as too
/// many bytes.
const FIELDS_PARSED: usize = 5 * FIELDS_MAX;

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
    guarded: Pools,
    operator: Pools,
}

/// Connection pools of one trust level.
#[derive(Clone)]
struct Pools {
    /// Connections that are reused.
    kept: Pool<Connector, Full<Bytes>>,
    /// Connections for one request each, to repeat a request whose kept-alive connection the server had closed.
    fresh: Pool<Connector, Full<Bytes>>,
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
        Self::with(Arc::new(config), guard, Arc::default(), clock)
    }

    /// A client with pools of its own and the same guard, whose connections must be made within `limit`.
    #[must_use]
    pub fn with_connect_timeout(&self, limit: Duration) -> Self {
        let config = Config { connect_timeout: limit, ..Config::clone(&self.config) };
        Self::with(Arc::new(config), self.guard.clone(), self.node.clone(), self.clock.clone())
    }

    fn with(config: Arc<Config>, guard: Arc<Guard>, node: Arc<OnceLock<String>>, clock: Clock) -> Self {
        let pool = |connector: Connector, idle_connections| {
            Pool::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(config.idle_timeout)
                .pool_max_idle_per_host(idle_connections)
                .http1_max_buf_size(HEAD_MAX)
                .http1_max_headers(FIELDS_PARSED)
                .build(connector)
        };
        let pools = |guard| {
            let connector = Connector::new(guard, config.connect_timeout, &config.roots, config.own.clone());
            Pools { kept: pool(connector.clone(), config.idle_connections), fresh: pool(connector, 0) }
        };
        Self { guarded: pools(Some(guard.clone())), operator: pools(None), guard, node, clock, config }
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
            let response = self.exchange(&hop).await?;
            hop = match redirect::location(response.status(), response.headers()) {
                Some(_) if left == 0 && limit > 0 => break,
                Some(location) if limit > 0 => {
                    *redirected = true;
                    hop.follow(response.status(), location)?
                }
                _ => {
                    let (head, body) = response.into_parts();
                    let body = Body::new(body);
                    let (status, headers, received) = (head.status, head.headers, self.clock.now());
                    return Ok(Response { status, headers, url: hop.url, received, body });
                }
            };
        }
        Err(Error::TooManyRedirects { limit })
    }

    async fn exchange(&self, hop: &Hop) -> Result<hyper::Response<hyper::body::Incoming>, Error> {
        let pools = match hop.trust {
            Trust::Client => &self.guarded,
            Trust::Operator => &self.operator,
        };
        let answer = match pools.kept.request(hop.to_http()?).await {
            Err(error) if reuse::may_repeat(&hop.method, &error) => pools.fresh.request(hop.to_http()?).await,
            answer => answer,
        };
        let response = answer.map_err(|error| Error::before_head(&error))?;
        if response.headers().len() > FIELDS_MAX {
            return Err(Error::TooManyFields { limit: FIELDS_MAX });
        }
        Ok(response)
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
    /// The message as hyper sends it, which adds `host` and `content-length`.
    fn to_http(&self) -> Result<http::Request<Full<Bytes>>, Error> {
        let uri: Uri = self.url[..url::Position::AfterQuery]
            .parse()
            .map_err(|error: http::uri::InvalidUri| Error::BadUrl { reason: error.to_string() })?;
        let mut request = http::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        // What comes in is passed on or decoded as it is; nobody here unpacks it.
        headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(PRODUCT));
        if self.body.is_empty() && matches!(self.method, Method::POST | Method::PUT | Method::PATCH) {
            // hyper says nothing about an empty body, and some servers then answer 411.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(request)
    }
}
