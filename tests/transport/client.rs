//! A client that holds one connection of HTTP/2, and certificates for a node that it trusts.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Request, StatusCode};
use millstream::sse::{Decoder, Item, Limits};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Node, PATIENCE};

/// A certificate for `localhost` and its key, in a directory of their own.
pub(crate) struct Pair {
    pub der: CertificateDer<'static>,
    pub cert: PathBuf,
    pub key: PathBuf,
    _dir: tempfile::TempDir,
}

/// One connection of HTTP/2.
pub(crate) struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    pub host: String,
}

/// A response whose body may continue.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: RecvStream,
    decoder: Decoder,
    events: VecDeque<(String, String)>,
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it happens in time")
}

// === impl Pair ===

impl Pair {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&cert, made.cert.pem()).expect("write");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("write");
        Self { der: made.cert.der().clone(), cert, key, _dir: dir }
    }

    /// The settings of a node that shows it.
    pub(crate) fn settings(&self) -> String {
        format!("[server]\ntls_cert = \"{}\"\ntls_key = \"{}\"\n", self.cert.display(), self.key.display())
    }

    /// Puts this pair into the place of another.
    pub(crate) fn replace(&self, cert: &Path, key: &Path) {
        std::fs::copy(&self.cert, cert).expect("copy");
        std::fs::copy(&self.key, key).expect("copy");
    }

    /// A TLS connection for which this certificate is the only one that will do.
    pub(crate) async fn connect(&self, node: &Node, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let tcp = TcpStream::connect(node.addr).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
    }
}

// === impl Client ===

impl Client {
    /// With prior knowledge, without TLS.
    pub(crate) async fn plain(node: &Node) -> Self {
        Self::over(TcpStream::connect(node.addr).await.expect("connect"), node).await
    }

    /// By ALPN over TLS.
    pub(crate) async fn tls(node: &Node, pair: &Pair) -> Self {
        let tls = pair.connect(node, &["h2", "http/1.1"]).await.expect("a handshake");
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(tls, node).await
    }

    async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, node: &Node) -> Self {
        let (send, connection) = soon(h2::client::handshake(io)).await.expect("a handshake");
        let host = format!("localhost:{}", node.addr.port());
        Self { send, connection: tokio::spawn(connection), host }
    }

    /// Sends a request as soon as the node takes one more.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, h2::Error> {
        self.ask(method, path, &[], body).await
    }

    /// A request with these fields, and without a body.
    pub(crate) async fn send_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, String)],
    ) -> Result<Answer, h2::Error> {
        self.ask(method, path, fields, None).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Answer, h2::Error> {
        let uri = format!("http://{}{path}", self.host);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(()).expect("a request");
        let mut send = self.send.clone().ready().await?;
        let (answer, mut sending) = send.send_request(request, body.is_none())?;
        if let Some(body) = body {
            sending.send_data(body.to_string().into(), true)?;
        }
        let (head, body) = answer.await?.into_parts();
        let decoder = Decoder::new(Limits::default());
        Ok(Answer { status: head.status, headers: head.headers, body, decoder, events: VecDeque::new() })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        soon(self.send("GET", path, None)).await.expect("an answer")
    }

    /// Opens a stream of a topic and waits for its first frame.
    pub(crate) async fn stream(&self, topic: &str) -> Answer {
        let mut stream = self.get(&format!("/events?topic={topic}")).await;
        assert_eq!(stream.status, 200);
        stream.until("connection").await;
        stream
    }

    pub(crate) async fn publish(&self, topic: &str, event: &str, data: &Value) {
        let body = serde_json::json!({ "topic": topic, "event": event, "data": data });
        let answer = soon(self.send("POST", "/events", Some(&body))).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }

    /// A figure of the node, its name without the prefix.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.text().await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("millstream_{name} ")));
        let value = line.and_then(|value| value.split('.').next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Maximum number of concurrent requests, as the node has announced.
    pub(crate) fn most_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// How the connection has ended.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        drop(self.send);
        soon(self.connection).await.expect("no panic")
    }
}

// === impl Answer ===

impl Answer {
    /// The next event, its name and data; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, String)> {
        while self.events.is_empty() {
            let bytes = soon(self.body.data()).await?.ok()?;
            self.body.flow_control().release_capacity(bytes.len()).expect("it has come");
            let events = &mut self.events;
            let each = |item: Item<'_>| {
                if let Item::Event { event, data, .. } = item {
                    events.push_back((event.to_owned(), data.to_owned()));
                }
            };
            self.decoder.push(&bytes, each).expect("an event stream");
        }
        self.events.pop_front()
    }

    /// Data of the next event of this name.
    pub(crate) async fn until(&mut self, name: &str) -> String {
        loop {
            let (event, data) = self.next().await.expect("the stream continues");
            if event == name {
                return data;
            }
        }
    }

    pub(crate) async fn text(mut self) -> String {
        let mut text = Vec::new();
        while let Some(bytes) = soon(self.body.data()).await {
            let bytes = bytes.expect("a body");
            self.body.flow_control().release_capacity(bytes.len()).expect("it has come");
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).expect("text")
    }

    /// The error that the stream ends with.
    pub(crate) async fn error(&mut self) -> h2::Error {
        loop {
            match soon(self.body.data()).await.expect("it does not end well") {
                Ok(bytes) => drop(self.body.flow_control().release_capacity(bytes.len())),
                Err(error) => return error,
            }
        }
    }
}

/// A request of HTTP/1.1 on any connection; the input until it contains this text.
pub(crate) async fn ask(io: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, until: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    io.write_all(request.as_bytes()).await.expect("send");
    read_until(io, until).await
}

/// The input until it contains this text, or until the end.
pub(crate) async fn read_until(io: &mut (impl AsyncRead + Unpin), until: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(until) {
        match soon(io.read_buf(&mut bytes)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A pause that is part of what a client does.
pub(crate) async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
