//! The certificate of the node, and its replacement while the node runs.
//!
//! Owns the settings of TLS handshakes. An invalid pair of files is rejected: at the start with advice, later with a log
//! line, and the current certificate stays in use. New handshakes use a new certificate; open connections do not change.

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

/// A certificate and its key, from files that may be replaced. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    pair: Arc<Pair>,
    server: Arc<ServerConfig>,
}

/// The current certificate and key, for handshakes.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
    /// State of the files before they were first read.
    first: [FileStamp; 2],
    current: RwLock<Arc<CertifiedKey>>,
}

/// Modification time and size of a file.
type FileStamp = Option<(SystemTime, u64)>;

/// Interval of the check. A change must be seen twice, unchanged: certificate and key are two files, which are not
/// replaced at the same moment.
const CHECK_EVERY: Duration = Duration::from_secs(2);

// === impl Tls ===

impl Tls {
    /// Reads a certificate with its chain, and its key, both in PEM form.
    ///
    /// # Errors
    /// Names the setting, the file, the fault and the accepted form.
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
        // Sessions are stored in tickets at the clients, so that many resuming clients cost no memory here.
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("no random numbers for TLS: {error}"))?;
        Ok(Self { pair, server: Arc::new(server) })
    }

    /// Reads the files again. New handshakes use their content. If it is not valid, the current certificate stays in use.
    /// Blocks on file access: not for an async thread.
    ///
    /// # Errors
    /// Names the setting, the file, the fault and the accepted form.
    pub fn reload(&self) -> Result<(), String> {
        let new = Arc::new(read(&self.pair.cert, &self.pair.key)?);
        *self.pair.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The settings of handshakes.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Identifies this node for clients in this process.
    pub fn own(&self) -> Own {
        Own::new(self.clone())
    }

    /// True if this is the current certificate.
    fn is_current(&self, certificate: &CertificateDer<'_>) -> bool {
        self.pair.current().cert.first().is_some_and(|own| own == certificate)
    }

    /// Watches the files, reads them after changes, and logs the result.
    pub async fn watch(self, stopping: CancellationToken) {
        let mut every = tokio::time::interval(CHECK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut known, mut before) = (self.pair.first, self.pair.first);
        while stopping.run_until_cancelled(every.tick()).await.is_some() {
            let tls = self.clone();
            let checked = tokio::task::spawn_blocking(move || {
                let seen = [stamp(&tls.pair.cert), stamp(&tls.pair.key)];
                if seen == before && seen != known {
                    known = seen;
                    tls.reload_and_log();
                }
                (known, seen)
            });
            let Ok(checked) = checked.await else { continue };
            (known, before) = checked;
        }
    }

    fn reload_and_log(&self) {
        let (cert, key) = (self.pair.cert.display(), self.pair.key.display());
        match self.reload() {
            Ok(()) => tracing::info!(tls_cert = %cert, "certificate reloaded"),
            Err(error) => tracing::error!(
                %error, tls_cert = %cert, tls_key = %key,
                "the new certificate is not valid and the current one stays in use: put a certificate and its key into these files"
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
    /// One certificate for all server names. A client that expects another one rejects it.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn stamp(path: &Path) -> FileStamp {
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
            "`server.tls_cert` = `{}`: it contains no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)",
            cert.display()
        ));
    }
    let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "`server.tls_key` = `{}`: it contains no private key in PEM form (`-----BEGIN PRIVATE KEY-----`); an encrypted one must be decrypted first",
            key.display()
        ),
        error => format!("`server.tls_key` = `{}`: it cannot be read as PEM: {error}", key.display()),
    })?;
    CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "`server.tls_key` = `{}` is not the key of the first certificate in `server.tls_cert` = `{}`: the node's own certificate must be first, its chain after it",
            key.display(),
            cert.display()
        ),
        error => format!(
            "`server.tls_cert` = `{}`, `server.tls_key` = `{}`: they are not valid: {error}",
            cert.display(),
            key.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

    use super::*;

    /// A certificate for this name and its key, as files.
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
    fn an_error_of_the_files_names_the_setting() {
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
            (&cert, &other, ["is not the key of", "chain after it"]),
            (&broken, &key, ["`server.tls_cert`", "not valid"]),
        ] {
            let error = Tls::load(cert, key).unwrap_err();
            assert!(wanted.iter().all(|wanted| error.contains(wanted)), "{wanted:?}: {error}");
        }
    }

    #[test]
    fn an_invalid_new_certificate_leaves_the_current_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key, first) = files(dir.path(), "a");
        let tls = Tls::load(&cert, &key).expect("a good pair");
        let (new_cert, new_key, second) = files(dir.path(), "b");
        std::fs::copy(&new_cert, &cert).expect("copy");
        assert!(tls.reload().unwrap_err().contains("is not the key of"));
        assert_eq!(shown(&tls), first);
        std::fs::copy(&new_key, &key).expect("copy");
        tls.reload().expect("certificate and key match");
        assert_eq!(shown(&tls), second);
    }

    #[tokio::test]
    async fn changed_files_are_detected() {
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
        tokio::time::timeout(Duration::from_secs(30), changed).await.expect("the change is detected");
        stopping.cancel();
        watch.await.expect("it ends with the node");
    }
}
