//! One request and its response through awc, on the thread of the caller.
//!
//! Each exchange creates an awc client around one connection, which costs about 100 ns. So the connection comes from
//! [`Pool`] or [`Connector`], passes the egress guard, and this module decides whether it is closed or kept. TLS is below
//! awc: for awc, no connection is encrypted.

use std::{
    cell::{RefCell, RefMut},
    fmt,
    future::{Ready, ready},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{
    HttpMessage as _, Payload, body,
    header::{HeaderMap as AwcHeaders, HeaderName as AwcName, HeaderValue as AwcValue},
};
use actix_rt::net::{ActixStream, Ready as Readiness};
use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _};
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Error,
    connect::{Connector, Socket},
    head::Head,
    method::is_idempotent,
    pool::{Key, Pool},
    redirect::Hop,
    wire::Wire,
};

/// A body while it arrives. Dropping it before its end closes the connection.
pub(super) struct IncomingBody {
    payload: Payload,
    connection: SharedWire,
    pool: Rc<Pool>,
    key: Key,
}

/// A connection that awc and the exchange share. Both are on one thread, and neither holds the borrow across a call of
/// the other.
#[derive(Clone)]
struct SharedWire(Rc<RefCell<Wire<Socket>>>);

/// The connector of an awc client. It returns the one connection.
#[derive(Clone)]
struct SingleConnection(SharedWire);

/// Maximum size of a piece that is gathered from several small ones.
const PIECE: usize = 16 * 1024;

/// awc's limit for connecting. [`SingleConnection`] is always ready.
const UNUSED_TIMEOUT: Duration = Duration::from_mins(1);

/// Sends a request and waits for the head of the response.
///
/// # Errors
/// See [`Error`].
pub(super) async fn exchange(
    pool: &Rc<Pool>,
    connector: &Arc<Connector>,
    hop: &Hop,
) -> Result<(Head, IncomingBody), Error> {
    let key = Key::new(connector.clone(), hop.url.origin());
    if let Some(wire) = pool.take(&key) {
        let connection = SharedWire::new(wire);
        match send(pool, key.clone(), connection.clone(), hop).await {
            // The server closed the idle connection while the request was sent. RFC 9112, section 9.3.1, permits to
            // repeat an idempotent request.
            Err(Error::Closed) if is_idempotent(&hop.method) && !connection.wire().is_answered() => {}
            result => return result,
        }
    }
    let connection = SharedWire::new(Wire::new(connector.connect(&hop.url).await?));
    send(pool, key, connection, hop).await
}

async fn send(pool: &Rc<Pool>, key: Key, connection: SharedWire, hop: &Hop) -> Result<(Head, IncomingBody), Error> {
    connection.wire().begin(hop.method == Method::HEAD);
    let client = awc::Client::builder()
        .connector(awc::Connector::new().connector(SingleConnection(connection.clone())).timeout(UNUSED_TIMEOUT))
        .disable_timeout()
        .disable_redirects()
        .no_default_headers()
        .finish();
    let method = awc::http::Method::from_bytes(hop.method.as_str().as_bytes()).expect("both crates accept any token");
    let mut request = client.request(method, uri(hop)?);
    *request.headers_mut() = headers(hop);
    let sent = if hop.body.is_empty() && !hop.announces_empty_body() {
        request.send_body(body::None::new()).await
    } else {
        request.send_body(hop.body.clone()).await
    };
    // The wire knows the cause of a failure; the error of awc is only a translation.
    let mut response = sent.map_err(|_| connection.wire().take_failure().unwrap_or(Error::Closed))?;
    let head = connection.wire().take_response().ok_or(Error::Closed)?;
    Ok((head, IncomingBody { payload: response.take_payload(), connection, pool: pool.clone(), key }))
}

/// The target in awc's type.
fn uri(hop: &Hop) -> Result<Uri, Error> {
    let target = &hop.url[url::Position::BeforeHost..url::Position::AfterQuery];
    format!("http://{target}")
        .parse()
        .map_err(|error: awc::http::uri::InvalidUri| Error::BadUrl { reason: error.to_string() })
}

/// The header fields in awc's types, which are those of an older version of the `http` crate.
fn headers(hop: &Hop) -> AwcHeaders {
    let fields = hop.fields();
    let mut headers = AwcHeaders::with_capacity(fields.len());
    for (name, value) in &fields {
        let name = AwcName::from_bytes(name.as_str().as_bytes()).expect("both versions accept the same names");
        headers.append(name, AwcValue::from_bytes(value.as_bytes()).expect("both versions accept the same values"));
    }
    headers
}

// === impl IncomingBody ===

impl IncomingBody {
    /// The next bytes, never empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            return match self.payload.next().await? {
                Ok(bytes) if bytes.is_empty() => continue,
                Ok(bytes) => Some(Ok(bytes)),
                Err(error) => Some(Err(Error::in_body(&error))),
            };
        }
    }

    /// Appends to `first` the bytes that are available now, up to a limit. Also returns the end, if it was reached.
    pub(super) fn gather(&mut self, first: Bytes) -> (Bytes, Option<Result<(), Error>>) {
        let Some(second) = self.next().now_or_never() else { return (first, None) };
        let mut whole = BytesMut::new();
        let mut next = Some(second);
        let end = loop {
            match next {
                None => break None,
                Some(None) => break Some(Ok(())),
                Some(Some(Err(error))) => break Some(Err(error)),
                Some(Some(Ok(more))) => {
                    if whole.is_empty() {
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&more);
                    if whole.len() >= PIECE {
                        break None;
                    }
                    next = self.next().now_or_never();
                }
            }
        };
        (if whole.is_empty() { first } else { whole.freeze() }, end)
    }

    /// Keeps the connection for another request. Call it at the complete end of the body.
    pub(super) fn release(self) {
        let Self { payload, connection, pool, key } = self;
        // The payload holds the connection too.
        drop(payload);
        if let Some(wire) = Rc::into_inner(connection.0).map(RefCell::into_inner).filter(Wire::is_reusable) {
            pool.put(key, wire);
        }
    }
}

// === impl SingleConnection ===

impl Service<ConnectInfo<Uri>> for SingleConnection {
    type Response = Connection<Uri, SharedWire>;
    type Error = ConnectError;
    type Future = Ready<Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        ready(Ok(Connection::new(info.request().clone(), self.0.clone())))
    }
}

// === impl SharedWire ===

impl SharedWire {
    fn new(wire: Wire<Socket>) -> Self {
        Self(Rc::new(RefCell::new(wire)))
    }

    fn wire(&self) -> RefMut<'_, Wire<Socket>> {
        self.0.borrow_mut()
    }
}

impl fmt::Debug for SharedWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedWire")
    }
}

impl AsyncRead for SharedWire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.wire()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedWire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.wire()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.wire()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.wire()).poll_shutdown(cx)
    }
}

/// awc requires this trait of its connections, and calls none of its methods.
impl ActixStream for SharedWire {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Readiness>> {
        Poll::Ready(Ok(Readiness::READABLE))
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Readiness>> {
        Poll::Ready(Ok(Readiness::WRITABLE))
    }
}
