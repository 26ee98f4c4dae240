//! The certificate that the node shows, and how it is replaced while the node runs.
//!
//! Owns what a TLS handshake needs. Promises: a pair of files that does not fit is refused at the start, with words that
//! say what to do; later it is refused too, and the certificate before it stays. New handshakes see a new certificate,
//! connections that are open go on.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

mod own;

pub use self::own::Own;

/// A certificate and its key, from files that may change. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    pair: Arc<Pair>,
    server: Arc<ServerConfig>,
}

/// The pair in force, for handshakes.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
    /// How the files looked before they were read first.
    first: [Stamp; 2],
    current: RwLock<Arc<CertifiedKey>>,
}

/// What of a file changes with its content.
type Stamp = Option<(SystemTime, u64)>;

/// How often the files are looked at. Two looks must agree before a change is read: certificate and key are two files,
/// and are seldom replaced in one moment.
const LOOK_EVERY: Duration = Duration::from_secs(2);

// === impl Tls ===

impl Tls {
    /// Reads a certificate with its chain, and its key, both in PEM form.
    ///
    /// # Errors
    /// Names the setting, the file, what is wrong with it and what is wanted.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, String> {
        let first = [stamp(cert), stamp(key)];
        let current = RwLock::new(Arc::new(read(cert, key)?));
        let pair = Arc::new(Pair { cert: cert.to_owned(), key: key.to_owned(), first, current });
        let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_cert_resolver(pair.clone());
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // What is resumed is in the client's ticket, so that clients that come back by the thousand cost no memory here.
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("no random numbers for TLS: {error}"))?;
        Ok(Self { pair, server: Arc::new(server) })
    }

    /// Reads the files again. New handshakes show what they hold now; where it is no good the certificate before it stays.
    /// Reads files: not for an async thread.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn reload(&self) -> Result<(), String> {
        let new = Arc::new(read(&self.pair.cert, &self.pair.key)?);
        *self.pair.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// What a handshake is made with.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// What a client of the same process knows this node by.
    pub fn own(&self) -> Own {
        Own::new(self.clone())
    }

    /// Whether this is the certificate that is shown now.
    fn shows(&self, certificate: &CertificateDer<'_>) -> bool {
        self.pair.current().cert.first().is_some_and(|own| own == certificate)
    }

    /// Notices that the files have changed, and reads them. What came of it stands in the log.
    pub async fn watch(self, stopping: CancellationToken) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut known, mut before) = (self.pair.first, self.pair.first);
        while stopping.run_until_cancelled(every.tick()).await.is_some() {
            let tls = self.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let seen = [stamp(&tls.pair.cert), stamp(&tls.pair.key)];
                if seen == before && seen != known {
                    known = seen;
                    tls.reload_and_tell();
                }
                (known, seen)
            });
            let Ok(looked) = looked.await else { continue };
            (known, before) = looked;
        }
    }

    fn reload_and_tell(&self) {
        let (cert, key) = (self.pair.cert.display(), self.pair.key.display());
        match self.reload() {
            Ok(()) => tracing::info!(tls_cert = %cert, "certificate reloaded"),
            Err(error) => tracing::error!(
                %error, tls_cert = %cert, tls_key = %key,
                "the new certificate is no good and the one before it stays: put a certificate and its key into these files"
            ),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("cert", &self.pair.cert).finish_non_exhaustive()
    }
}

// === impl Pair ===

impl Pair {
    fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("cert", &self.cert).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Pair {
    /// One certificate for whatever name is asked for: a client that wants another one says so itself.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn stamp(path: &Path) -> Stamp {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn read(cert: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let text = |setting: &str, path: &Path| {
        std::fs::read(path)
            .map_err(|error| format!("`server.{setting}` = `{}`: {error}; name a file in PEM form", path.display()))
    };
    let (chain, secret) = (text("tls_cert", cert)?, text("tls_key", key)?);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("`server.tls_cert` = `{}`: it cannot be read as PEM: {error}", cert.display()))?;
    if chain.is_empty() {
        return Err(format!(
            "`server.tls_cert` = `{}`: it holds no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)",
            cert.display()
        ));
    }
    let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "`server.tls_key` = `{}`: it holds no private key in PEM form (`-----BEGIN PRIVATE KEY-----`); an encrypted one must be decrypted first",
            key.display()
        ),
        error => format!("`server.tls_key` = `{}`: it cannot be read as PEM: {error}", key.display()),
    })?;
    CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "`server.tls_key` = `{}` is not the key of the first certificate in `server.tls_cert` = `{}`: the node's own certificate stands first, the chain behind it",
            key.display(),
            cert.display()
        ),
        error => format!(
            "`server.tls_cert` = `{}`, `server.tls_key` = `{}`: they are no good: {error}",
            cert.display(),
            key.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

    use super::*;

    /// A pair of files with a certificate for this name.
    fn files(dir: &Path, name: &str) -> (PathBuf, PathBuf, Vec<u8>) {
        let Made { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let (certs, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&certs, cert.pem()).expect("write");
        std::fs::write(&key, signing_key.serialize_pem()).expect("write");
        (certs, key, cert.der().to_vec())
    }

    fn shown(tls: &Tls) -> Vec<u8> {
        tls.pair.current().cert[0].to_vec()
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said_with_the_setting() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key, _) = files(dir.path(), "a");
        let (_, other, _) = files(dir.path(), "b");
        let missing = dir.path().join("missing");
        let broken = dir.path().join("broken");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("write");
        for (cert, key, wanted) in [
            (&missing, &key, ["`server.tls_cert`", "No such file"]),
            (&cert, &missing, ["`server.tls_key`", "No such file"]),
            (&key, &key, ["`server.tls_cert`", "no certificate"]),
            (&cert, &cert, ["`server.tls_key`", "no private key"]),
            (&cert, &other, ["is not the key of", "chain behind it"]),
            (&broken, &key, ["`server.tls_cert`", "no good"]),
        ] {
            let error = Tls::load(cert, key).unwrap_err();
            assert!(wanted.iter().all(|wanted| error.contains(wanted)), "{wanted:?}: {error}");
        }
    }

    #[test]
    fn a_bad_new_certificate_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key, first) = files(dir.path(), "a");
        let tls = Tls::load(&cert, &key).expect("a good pair");
        let (new_cert, new_key, second) = files(dir.path(), "b");
        std::fs::copy(&new_cert, &cert).expect("copy");
        assert!(tls.reload().unwrap_err().contains("is not the key of"));
        assert_eq!(shown(&tls), first);
        std::fs::copy(&new_key, &key).expect("copy");
        tls.reload().expect("now they belong together");
        assert_eq!(shown(&tls), second);
    }

    #[tokio::test]
    async fn changed_files_are_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key, _) = files(dir.path(), "a");
        let tls = Tls::load(&cert, &key).expect("a good pair");
        let stopping = CancellationToken::new();
        let watch = tokio::spawn(tls.clone().watch(stopping.clone()));
        let (new_cert, new_key, second) = files(dir.path(), "bb");
        let changed = async {
            let mut every = tokio::time::interval(Duration::from_millis(20));
            std::fs::copy(&new_cert, &cert).expect("copy");
            std::fs::copy(&new_key, &key).expect("copy");
            while shown(&tls) != second {
                every.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), changed).await.expect("it is noticed");
        stopping.cancel();
        watch.await.expect("it ends with the node");
    }
}
