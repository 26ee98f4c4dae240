//! The connector: makes a socket, encrypted for `https`, to the host of a URL.
//!
//! It makes every new connection, also those of redirects, so it asks the egress guard. It resolves a name once, and
//! connects only to the addresses that the guard has checked: a DNS answer that changes later (rebinding) has no effect.
//! Lookup, TCP and TLS share one time limit.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use url::Url;

use super::{Config, Error, guard::Guard};

/// Maximum number of name lookups at the same time. Each one blocks a thread and cannot be cancelled: without a limit,
/// a client could fill tokio's blocking pool with names that never resolve.
const LOOKUPS: usize = 64;

/// Maximum number of addresses per name. More of them would only shorten the time for each.
const ADDRESSES: usize = 8;

/// Reads certificates of authorities in PEM form. Each must be usable as a root.
///
/// # Errors
/// Describes the first mistake.
pub fn read_roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let roots: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if roots.is_empty() {
        return Err("it holds no certificate in PEM form".into());
    }
    let mut store = RootCertStore::empty();
    for root in &roots {
        store.add(root.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// A connection, plain or encrypted. The state of TLS takes more than a kilobyte, which plain connections do not need.
pub(super) type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Makes the connections of one trust level.
pub(super) struct Connector {
    /// Distinguishes the connections of this connector from those of others.
    pub id: u64,
    guard: Option<Arc<Guard>>,
    lookup: Lookup,
    lookups: Arc<Semaphore>,
    tls: Arc<ClientConfig>,
    /// Time limit of lookup, TCP and TLS together.
    limit: Duration,
    /// Maximum number of idle connections that a thread keeps per origin.
    pub idle_connections: usize,
    /// Time after which an idle connection is closed.
    pub idle_timeout: Duration,
}

/// Resolves a name to addresses; blocks.
type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

// === impl Connector ===

impl Connector {
    /// Creates a connector. With a guard it connects only to addresses that the guard permits.
    ///
    /// It accepts certificates of the public authorities and of `config.roots`. It skips a root that cannot be parsed;
    /// [`read_roots`] has refused it before.
    pub(super) fn new(config: &Config, guard: Option<Arc<Guard>>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let mut trusted: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        trusted.add_parsable_certificates(config.roots.iter().cloned());
        // The provider is passed in, since a process-wide default may be missing or set by another library.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let public = WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), provider.clone())
            .build()
            .expect("the public authorities are included");
        let verifier = config.own.clone().map_or(public.clone() as Arc<_>, |own| own.beside(public));
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("this provider supports the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            guard,
            lookup: system_lookup,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            tls: Arc::new(tls),
            limit: config.connect_timeout,
            idle_connections: config.idle_connections,
            idle_timeout: config.idle_timeout,
        }
    }

    /// Connects to the host of a URL.
    ///
    /// # Errors
    /// The error of the failed step, or [`Error::ConnectTimeout`].
    pub(super) async fn connect(&self, url: &Url) -> Result<Socket, Error> {
        let steps = async {
            let stream = self.connect_tcp(url).await?;
            match url.scheme() {
                "https" => self.encrypt(url, stream).await.map(|stream| Either::Right(Box::new(stream))),
                _ => Ok(Either::Left(stream)),
            }
        };
        let late = |_| Err(Error::ConnectTimeout { host: authority(url), after: self.limit });
        timeout(self.limit, steps).await.unwrap_or_else(late)
    }

    async fn encrypt(&self, url: &Url, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let failed = |error: io::Error| Error::in_handshake(&error, authority(url));
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(failed)
    }

    async fn connect_tcp(&self, url: &Url) -> Result<TcpStream, Error> {
        let host = url.host_str().ok_or_else(|| Error::BadUrl { reason: "the host is missing".into() })?;
        let port = url.port_or_known_default().unwrap_or(80);
        let addrs = self.permitted(host, self.resolve(host, port).await?)?;
        // Each address has its share, so that a silent one does not use up the time of the others.
        let share = self.limit / u32::try_from(addrs.len()).unwrap_or(1).max(1);
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for addr in addrs {
            match timeout(share, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => {
                    // A request is written at once, so waiting to fill a segment only delays it. Failing to set the
                    // option costs only time.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        let host = authority(url);
        match last.kind() {
            io::ErrorKind::TimedOut => Err(Error::ConnectTimeout { host, after: self.limit }),
            _ => Err(Error::Connect { host, reason: last.to_string() }),
        }
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let failed = |reason: String| Error::Resolve { host: host.to_owned(), reason };
        let permit = self.lookups.clone().acquire_owned().await.expect("it is never closed");
        let (name, lookup) = (host.to_owned(), self.lookup);
        // The thread holds the permit: a lookup whose request was cancelled still occupies the thread.
        let lookup = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            lookup(&name, port)
        });
        match lookup.await.map_err(io::Error::from).flatten() {
            Ok(addrs) if addrs.is_empty() => Err(failed("the name has no address".into())),
            Ok(addrs) => Ok(addrs),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The permitted ones of these addresses.
    ///
    /// # Errors
    /// The refusal of the first address, if no address is permitted.
    fn permitted(&self, host: &str, addrs: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        let Some(guard) = &self.guard else { return Ok(addrs) };
        let mut refused = None;
        let mut permitted = Vec::with_capacity(addrs.len());
        for addr in addrs {
            match guard.check(host, addr) {
                Ok(()) => permitted.push(addr),
                Err(reason) => {
                    refused.get_or_insert(Error::Refused { host: host.to_owned(), addr, reason });
                }
            }
        }
        match refused {
            Some(error) if permitted.is_empty() => Err(error),
            _ => Ok(permitted),
        }
    }
}

fn system_lookup(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (name, port).to_socket_addrs().map(|addrs| addrs.take(ADDRESSES).collect())
}

/// Host and port, for messages.
fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU16;

    use super::*;

    fn connector(guard: Option<Guard>) -> Connector {
        Connector::new(&Config::default(), guard.map(Arc::new))
    }

    #[test]
    fn only_the_permitted_addresses_of_a_name_are_used() {
        let addrs: Vec<SocketAddr> =
            ["10.0.0.1:80", "8.8.8.8:80", "[::1]:80"].map(|a| a.parse().expect("an address")).into();
        let connector = connector(Some(Guard::default()));
        assert_eq!(connector.permitted("h", addrs.clone()), Ok(vec![addrs[1]]));
        let error = connector.permitted("h", vec![addrs[0], addrs[2]]).expect_err("no address is public");
        assert_eq!(error, Error::Refused { host: "h".into(), addr: addrs[0], reason: "a private address" });
    }

    /// DNS rebinding: a second lookup of a checked name returns another address.
    #[tokio::test]
    async fn a_name_is_resolved_once_and_only_the_checked_address_is_used() {
        static LOOKUPS: AtomicU16 = AtomicU16::new(0);
        // The first answer is a permitted address, later answers are not.
        #[expect(clippy::unnecessary_wraps, reason = "the type of a lookup, which may fail")]
        fn rebinding(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            let last = if LOOKUPS.fetch_add(1, Relaxed) == 0 { 1 } else { 2 };
            Ok(vec![SocketAddr::from(([127, 0, 0, last], port))])
        }
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let guard = Guard::new(vec![format!("127.0.0.1:{port}").parse().expect("a valid entry")]);
        let connector = Connector { lookup: rebinding, ..connector(Some(guard)) };
        let url: Url = format!("http://rebinding.example:{port}/").parse().expect("a URL");
        let stream = connector.connect_tcp(&url).await.expect("the first answer is permitted");
        assert_eq!(stream.peer_addr().expect("connected").ip().to_string(), "127.0.0.1");
        assert_eq!(LOOKUPS.load(Relaxed), 1, "one lookup for check and connection");
        let error = connector.connect_tcp(&url).await.map(drop).expect_err("the second answer is refused");
        assert_eq!(error.code(), "egress_refused");
    }

    #[test]
    fn without_guard_every_address_is_used() {
        let addrs = vec![SocketAddr::from(([127, 0, 0, 1], 80))];
        assert_eq!(connector(None).permitted("h", addrs.clone()), Ok(addrs));
    }

    #[test]
    fn the_scheme_determines_the_default_port() {
        let authority = |url: &str| authority(&url.parse().expect("a URL"));
        assert_eq!(authority("http://h/"), "h:80");
        assert_eq!(authority("https://h/"), "h:443");
        assert_eq!(authority("https://[::1]:8443/"), "[::1]:8443");
    }
}
