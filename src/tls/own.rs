//! Verifies the certificate of the node itself, for requests to the node from this process.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::Tls;

/// The certificate of this node, for its requests to itself.
///
/// Tasks call the node by its address, such as `https://127.0.0.1:8443`, for which its certificate is not valid. A server
/// with exactly this certificate that signs the handshake with its key must be the node: no other process has the key.
/// For this certificate name and authority do not matter. All other certificates are verified as usual.
#[derive(Clone)]
pub struct Own(Tls);

/// Verifies with `usual`, except the certificate of the node itself.
struct OwnVerifier {
    own: Own,
    usual: Arc<dyn ServerCertVerifier>,
}

// === impl Own ===

impl Own {
    pub(super) fn new(tls: Tls) -> Self {
        Self(tls)
    }

    /// A verifier that also accepts the certificate of the node.
    pub fn beside(self, usual: Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(OwnVerifier { own: self, usual })
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

// === impl OwnVerifier ===

impl fmt::Debug for OwnVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("usual", &self.usual).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for OwnVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.own.0.is_current(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
