//! The connector: from a URL's host to a connected, if need be encrypted socket.
//!
//! Every new connection of every request and of every redirect hop comes through here, so this is where the egress
//! guard stands. The name is resolved once; the addresses that were checked are the ones connected to, so a DNS answer
//! that changes in between (rebinding) changes nothing. One limit holds for lookup, TCP and TLS together.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
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

/// Name lookups at one time. The system's resolver blocks a thread for each, which cannot be interrupted: without a
/// bound a client could fill tokio's blocking pool with names that never resolve.
const LOOKUPS: usize = 64;

/// Most addresses of one name that are tried; more would only shorten the time for each.
const ADDRESSES: usize = 8;

/// Reads certificates in PEM form, of which each must be one that can be trusted.
///
/// # Errors
/// Says what is wrong.
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
pub type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Makes the connections of one trust level.
pub struct Connector {
    tcp: Tcp,
    tls: Arc<ClientConfig>,
    limit: Duration,
    /// Maximum number of idle connections that a thread keeps per origin.
    pub idle_connections: usize,
    /// Time after which an idle connection is closed.
    pub idle_timeout: Duration,
}

/// The part below TLS: lookup, guard, TCP.
struct Tcp {
    guard: Option<Arc<Guard>>,
    lookup: Lookup,
    lookups: Arc<Semaphore>,
    limit: Duration,
}

/// Asks for the addresses of a name; blocks.
type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

// === impl Connector ===

impl Connector {
    /// A connector with these settings. With a guard it connects only to addresses that the guard permits.
    ///
    /// Certificates are checked against the public authorities and `config.roots`. A certificate of `roots` that cannot
    /// be parsed is skipped here; [`read_roots`] has refused it before.
    pub fn new(config: &Config, guard: Option<Arc<Guard>>) -> Self {
        let limit = config.connect_timeout;
        let tcp = Tcp { guard, lookup: ask_the_system, lookups: Arc::new(Semaphore::new(LOOKUPS)), limit };
        let mut trusted: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        trusted.add_parsable_certificates(config.roots.iter().cloned());
        // The provider is passed in: a process-wide default might be missing, or another library's choice.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), provider.clone())
            .build()
            .expect("there are public authorities among them");
        let verifier = config.own.clone().map_or(usual.clone() as Arc<_>, |own| own.beside(usual));
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("this provider supports the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let Config { idle_connections, idle_timeout, .. } = *config;
        Self { tcp, tls: Arc::new(tls), limit, idle_connections, idle_timeout }
    }

    /// Connects to the host of a URL.
    ///
    /// # Errors
    /// The step that failed, or [`Error::ConnectTimeout`] for all of them together.
    pub async fn connect(&self, url: &Url) -> Result<Socket, Error> {
        let steps = async {
            let stream = self.tcp.connect(url).await?;
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
}

// === impl Tcp ===

impl Tcp {
    async fn connect(&self, url: &Url) -> Result<TcpStream, Error> {
        let host = url.host_str().ok_or_else(|| Error::BadUrl { reason: "the host is missing".into() })?;
        let port = url.port_or_known_default().unwrap_or(80);
        let addrs = self.permitted(host, self.resolve(host, port).await?)?;
        // One silent address must not use up the time of the others.
        let share = self.limit / u32::try_from(addrs.len()).unwrap_or(1).max(1);
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for addr in addrs {
            match timeout(share, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => {
                    // Requests are small and complete: waiting to fill a segment only delays them. A failure to set it
                    // costs time, not correctness.
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
        let permit = self.lookups.clone().acquire_owned().await.map_err(|_| failed("the resolver is closed".into()))?;
        let (name, lookup) = (host.to_owned(), self.lookup);
        // The permit goes with the thread: a lookup that nobody waits for any more still occupies it.
        let lookup = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            lookup(&name, port)
        });
        match lookup.await {
            Ok(Ok(addrs)) if addrs.is_empty() => Err(failed("the name has no address".into())),
            Ok(Ok(addrs)) => Ok(addrs),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The addresses to which this connector may connect; the refusal of the first one if there are none.
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

fn ask_the_system(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (name, port).to_socket_addrs().map(|addrs| addrs.take(ADDRESSES).collect())
}

/// Host and port, for messages.
fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

    use super::*;

    fn tcp(guard: Option<Guard>) -> Tcp {
        Tcp {
            guard: guard.map(Arc::new),
            lookup: ask_the_system,
            lookups: Arc::new(Semaphore::new(1)),
            limit: Duration::from_secs(5),
        }
    }

    #[test]
    fn of_mixed_answers_only_the_permitted_addresses_are_used() {
        let addrs: Vec<SocketAddr> =
            ["10.0.0.1:80", "8.8.8.8:80", "[::1]:80"].map(|a| a.parse().expect("an address")).into();
        let tcp = tcp(Some(Guard::default()));
        assert_eq!(tcp.permitted("h", addrs.clone()), Ok(vec![addrs[1]]));
        let error = tcp.permitted("h", vec![addrs[0], addrs[2]]).expect_err("none is public");
        assert_eq!(error, Error::Refused { host: "h".into(), addr: addrs[0], reason: "a private address" });
    }

    /// DNS rebinding: a name that was good when it was checked is another one when it is asked for again.
    #[tokio::test]
    async fn a_name_is_asked_for_once_and_the_address_that_was_checked_is_connected_to() {
        static ASKED: AtomicU16 = AtomicU16::new(0);
        // The first answer is an address that is permitted, all later ones lead inside.
        #[expect(clippy::unnecessary_wraps, reason = "it stands for a lookup, which may fail")]
        fn rebinding(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            let last = if ASKED.fetch_add(1, Relaxed) == 0 { 1 } else { 2 };
            Ok(vec![SocketAddr::from(([127, 0, 0, last], port))])
        }
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let guard = Guard::new(vec![format!("127.0.0.1:{port}").parse().expect("a good entry")]);
        let tcp = Tcp { lookup: rebinding, ..tcp(Some(guard)) };
        let url: Url = format!("http://rebinding.example:{port}/").parse().expect("a URL");
        let stream = tcp.connect(&url).await.expect("the first answer is permitted");
        assert_eq!(stream.peer_addr().expect("connected").ip().to_string(), "127.0.0.1");
        assert_eq!(ASKED.load(Relaxed), 1, "between check and connection nobody is asked");
        let error = tcp.connect(&url).await.map(drop).expect_err("the next connection has the other answer");
        assert_eq!(error.code(), "egress_refused");
    }

    #[test]
    fn without_guard_every_address_is_used() {
        let addrs = vec![SocketAddr::from(([127, 0, 0, 1], 80))];
        assert_eq!(tcp(None).permitted("h", addrs.clone()), Ok(addrs));
    }

    #[test]
    fn the_scheme_gives_the_port() {
        let authority = |url: &str| authority(&url.parse().expect("a URL"));
        assert_eq!(authority("http://h/"), "h:80");
        assert_eq!(authority("https://h/"), "h:443");
        assert_eq!(authority("https://[::1]:8443/"), "[::1]:8443");
    }
}
