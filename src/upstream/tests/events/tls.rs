//! Streams over TLS, with a private authority (`[egress] ca_file`).

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::rig::{at, begun, brief, of, read, read_brief, reason, stream};
use crate::upstream::{
    Config, RemoteConfig,
    events::{Repeat, Source},
    read_roots,
    tests::support::client_with,
};

/// A certificate authority with this name.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// Starts a server with a certificate for `name` that sends one answer per connection. Returns its base URL.
async fn serve(authority: &CertifiedIssuer<'static, KeyPair>, name: &str, answers: &[String]) -> String {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .and_then(|params| params.signed_by(&key, authority))
        .expect("a certificate");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a valid pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let answers = answers.to_vec();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _ = stream.write_all(answers.next().unwrap_or_default().as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("https://localhost:{port}")
}

fn source(base: &str, roots: &str) -> Source {
    let roots = if roots.is_empty() { Vec::new() } else { read_roots(roots.as_bytes()).expect("valid roots") };
    of(at(base, RemoteConfig::default(), &client_with(&[], Config { roots, ..Config::default() })))
}

#[tokio::test]
async fn a_stream_with_a_private_authority_is_resumed() {
    let authority = authority("own");
    let answers = [begun("id: 1\ndata: a\n\n"), stream("id: 2\ndata: b\n\n")];
    let base = serve(&authority, "localhost", &answers).await;
    assert_eq!(
        read_brief(source(&base, &authority.pem())).await,
        ["open", "1=a", "retry 1 truncated", "open after 1", "2=b", "end closed"]
    );
}

#[tokio::test]
async fn an_unknown_authority_is_refused_with_the_setting() {
    let known = authority("known");
    let base = serve(&authority("other"), "localhost", &[stream("data: a\n\n")]).await;
    for roots in [String::new(), known.pem()] {
        let (items, _) = read(Source { repeat: Repeat::Forever, ..source(&base, &roots) }).await;
        assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["gave up tls"]);
        let reason = reason(&items);
        assert!(reason.starts_with("TLS with `localhost:") && reason.contains("`[egress] ca_file`"), "{reason}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_with_both_names() {
    let authority = authority("own");
    let base = serve(&authority, "other.example", &[stream("data: a\n\n")]).await;
    let (items, _) = read(source(&base, &authority.pem())).await;
    assert_eq!(items.iter().map(brief).collect::<Vec<_>>(), ["gave up tls"]);
    let reason = reason(&items);
    assert!(reason.contains("localhost") && reason.contains("other.example"), "{reason}");
}

#[test]
fn a_file_can_contain_several_authorities_and_an_invalid_one_is_refused() {
    let both = format!("{}{}", authority("own").pem(), authority("own").pem());
    assert_eq!(read_roots(both.as_bytes()).map(|roots| roots.len()), Ok(2));
    assert_eq!(read_roots(b"nothing").unwrap_err(), "it holds no certificate in PEM form");
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(read_roots(rubbish.as_bytes()).is_err());
    let cut = &both[..both.len() / 3];
    assert!(read_roots(cut.as_bytes()).is_err());
}
