//! One request and its response through awc, on the thread of the caller.
//!
//! Each exchange has an awc client of its own around one connection, which costs about 100 ns: so the connection comes
//! from [`Pool`] or [`Connector`], passes the egress guard, and is closed or kept by the rules of this module. For awc the
//! connection is never encrypted; TLS is below it.

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

/// A body on its way. Dropping it before its end closes the connection.
pub struct Incoming {
    payload: Payload,
    connection: Shared,
    pool: Rc<Pool>,
    key: Key,
}

/// The end of a body.
pub type End = Result<(), Error>;

/// A connection that awc uses while the exchange looks at it. Both are on one thread, and neither holds the borrow
/// across a call of the other.
#[derive(Clone)]
struct Shared(Rc<RefCell<Wire<Socket>>>);

/// The connector of an awc client: it gives the one connection.
#[derive(Clone)]
struct Single(Shared);

/// Most bytes in one piece, where awc has several small ones.
const PIECE: usize = 16 * 1024;

/// Limit of awc for its connector, which answers at once.
const AT_ONCE: Duration = Duration::from_mins(1);

/// Sends a request and waits for the head of the response.
///
/// # Errors
/// See [`Error`].
pub async fn exchange(pool: &Rc<Pool>, connector: &Arc<Connector>, hop: &Hop) -> Result<(Head, Incoming), Error> {
    let key = Key::new(connector.clone(), hop.url.origin());
    if let Some(wire) = pool.take(&key) {
        let connection = Shared::new(wire);
        match send(pool, key.clone(), connection.clone(), hop).await {
            // The server closed the idle connection while the request was on its way. RFC 9112, section 9.3.1, permits
            // to repeat an idempotent request.
            Err(Error::Closed) if is_idempotent(&hop.method) && !connection.wire().is_answered() => {}
            result => return result,
        }
    }
    let connection = Shared::new(Wire::new(connector.connect(&hop.url).await?));
    send(pool, key, connection, hop).await
}

async fn send(pool: &Rc<Pool>, key: Key, connection: Shared, hop: &Hop) -> Result<(Head, Incoming), Error> {
    connection.wire().begin(hop.method == Method::HEAD);
    let client = awc::Client::builder()
        .connector(awc::Connector::new().connector(Single(connection.clone())).timeout(AT_ONCE))
        .disable_timeout()
        .disable_redirects()
        .no_default_headers()
        .finish();
    let method = awc::http::Method::from_bytes(hop.method.as_str().as_bytes()).expect("both crates take any token");
    let mut request = client.request(method, uri(hop)?);
    *request.headers_mut() = headers(hop);
    let sent = if hop.body.is_empty() && !hop.announces_empty_body() {
        request.send_body(body::None::new()).await
    } else {
        request.send_body(hop.body.clone()).await
    };
    // What awc says of a failure is a translation of what the wire has seen.
    let mut response = sent.map_err(|_| connection.wire().take_failure().unwrap_or(Error::Closed))?;
    let head = connection.wire().take_response().ok_or(Error::Closed)?;
    Ok((head, Incoming { payload: response.take_payload(), connection, pool: pool.clone(), key }))
}

/// The target as awc takes it.
fn uri(hop: &Hop) -> Result<Uri, Error> {
    let target = &hop.url[url::Position::BeforeHost..url::Position::AfterQuery];
    format!("http://{target}")
        .parse()
        .map_err(|error: awc::http::uri::InvalidUri| Error::BadUrl { reason: error.to_string() })
}

/// The header fields as awc takes them, which has an older version of their types.
fn headers(hop: &Hop) -> AwcHeaders {
    let all = hop.fields();
    let mut headers = AwcHeaders::with_capacity(all.len());
    for (name, value) in &all {
        let name = AwcName::from_bytes(name.as_str().as_bytes()).expect("both versions have the same names");
        headers.append(name, AwcValue::from_bytes(value.as_bytes()).expect("both versions have the same values"));
    }
    headers
}

// === impl Incoming ===

impl Incoming {
    /// The next bytes, never empty; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            return match self.payload.next().await? {
                Ok(bytes) if bytes.is_empty() => continue,
                Ok(bytes) => Some(Ok(bytes)),
                Err(error) => Some(Err(Error::in_body(&error))),
            };
        }
    }

    /// `first` and the bytes that follow it at once, up to a limit. The end, if it was reached.
    pub fn gather(&mut self, first: Bytes) -> (Bytes, Option<End>) {
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

    /// Keeps the connection for another request. To be called at a good end of the body.
    pub fn release(self) {
        let Self { payload, connection, pool, key } = self;
        // The payload holds the connection too.
        drop(payload);
        if let Some(wire) = Rc::into_inner(connection.0).map(RefCell::into_inner).filter(Wire::is_reusable) {
            pool.put(key, wire);
        }
    }
}

// === impl Single ===

impl Service<ConnectInfo<Uri>> for Single {
    type Response = Connection<Uri, Shared>;
    type Error = ConnectError;
    type Future = Ready<Result<Self::Response, ConnectError>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        ready(Ok(Connection::new(info.request().clone(), self.0.clone())))
    }
}

// === impl Shared ===

impl Shared {
    fn new(wire: Wire<Socket>) -> Self {
        Self(Rc::new(RefCell::new(wire)))
    }

    fn wire(&self) -> RefMut<'_, Wire<Socket>> {
        self.0.borrow_mut()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.wire()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared {
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

/// awc asks its connections for this trait, and calls none of its methods.
impl ActixStream for Shared {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Readiness>> {
        Poll::Ready(Ok(Readiness::READABLE))
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Readiness>> {
        Poll::Ready(Ok(Readiness::WRITABLE))
    }
}
