//! Streams over TLS, with an authority of one's own (`[egress] ca_file`).

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::rig::{at, begun, of, read, reason, stream, tell, told};
use crate::upstream::{
    Config, RemoteConfig,
    events::{Repeat, Source},
    read_roots,
    tests::support::client_with,
};

/// An authority of this name.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// A server with a certificate for `name`, which takes a step with each connection; its base URL.
async fn serve(authority: &CertifiedIssuer<'static, KeyPair>, name: &str, answers: &[String]) -> String {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .and_then(|params| params.signed_by(&key, authority))
        .expect("a certificate");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a good pair");
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
    let roots = if roots.is_empty() { Vec::new() } else { read_roots(roots.as_bytes()).expect("good roots") };
    of(at(base, RemoteConfig::default(), &client_with(&[], Config { roots, ..Config::default() })))
}

#[tokio::test]
async fn a_stream_over_tls_with_an_authority_of_ones_own_is_resumed_like_any_other() {
    let authority = authority("own");
    let answers = [begun("id: 1\ndata: a\n\n"), stream("id: 2\ndata: b\n\n")];
    let base = serve(&authority, "localhost", &answers).await;
    assert_eq!(
        told(source(&base, &authority.pem())).await,
        ["open", "1=a", "retry 1 truncated", "open after 1", "2=b", "end closed"]
    );
}

#[tokio::test]
async fn an_authority_that_nobody_named_is_refused_with_the_setting_that_names_it() {
    let known = authority("known");
    let base = serve(&authority("other"), "localhost", &[stream("data: a\n\n")]).await;
    for roots in [String::new(), known.pem()] {
        let (said, _) = read(Source { repeat: Repeat::Forever, ..source(&base, &roots) }).await;
        assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["gave up tls"]);
        let reason = reason(&said);
        assert!(reason.starts_with("TLS with `localhost:") && reason.contains("`[egress] ca_file`"), "{reason}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_the_names_are_told() {
    let authority = authority("own");
    let base = serve(&authority, "other.example", &[stream("data: a\n\n")]).await;
    let (said, _) = read(source(&base, &authority.pem())).await;
    assert_eq!(said.iter().map(tell).collect::<Vec<_>>(), ["gave up tls"]);
    let reason = reason(&said);
    assert!(reason.contains("localhost") && reason.contains("other.example"), "{reason}");
}

#[test]
fn several_authorities_stand_in_one_file_and_rubbish_is_named() {
    let both = format!("{}{}", authority("own").pem(), authority("own").pem());
    assert_eq!(read_roots(both.as_bytes()).map(|roots| roots.len()), Ok(2));
    assert_eq!(read_roots(b"nothing").unwrap_err(), "it holds no certificate in PEM form");
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(read_roots(rubbish.as_bytes()).is_err());
    let cut = &both[..both.len() / 3];
    assert!(read_roots(cut.as_bytes()).is_err());
}
