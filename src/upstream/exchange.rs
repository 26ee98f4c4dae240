//! One request and its response through awc, on the thread of the caller.
//!
//! Each exchange creates an awc client around one connection, which costs about 100 ns. So the connection comes from
//! [`Pool`] or [`Connector`], passes the egress guard, and this module decides whether it is closed or kept. TLS is below
//! awc: for awc, no connection is encrypted.

use std::{
    cell::{RefCell, RefMut},
    future::ready,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{
    HttpMessage as _, Payload, body,
    header::{
        ACCEPT_ENCODING, HOST, HeaderMap as AwcHeaders, HeaderName as AwcName, HeaderValue as AwcValue, USER_AGENT,
    },
};
use actix_rt::net::{ActixStream, Ready as Readiness};
use actix_service::IntoService as _;
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
    connector: Arc<Connector>,
    pool: Rc<Pool>,
    key: Key,
}

/// The end of a body: complete, or the reason why it is cut off. Boxed, since each waiting stream has room for it.
pub(super) type BodyEnd = Result<(), Box<Error>>;

/// A connection that awc and the exchange share. Both are on one thread, and neither holds the borrow across a call of
/// the other.
#[derive(Clone, Debug)]
struct SharedWire(Rc<RefCell<Wire<Socket>>>);

/// The default `User-Agent`.
const PRODUCT: &str = concat!("millstream/", env!("CARGO_PKG_VERSION"));

/// Maximum size of a piece that is gathered from several small ones.
const PIECE: usize = 16 * 1024;

/// awc's time limit for connecting. It has no effect, since awc receives its connection at once.
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
    let key = (connector.id, hop.url.origin());
    let idle = pool.take(&key);
    let received = |connection, (head, payload)| {
        (head, IncomingBody { payload, connection, connector: connector.clone(), pool: pool.clone(), key })
    };
    if let Some(wire) = idle {
        let connection = SharedWire::new(wire);
        match send(&connection, hop).await {
            // The server closed the idle connection while the request was sent. RFC 9112, section 9.3.1, permits to
            // repeat an idempotent request.
            Err(Error::Closed) if is_idempotent(&hop.method) && !connection.wire().is_answered() => {}
            result => return result.map(|response| received(connection, response)),
        }
    }
    let connection = SharedWire::new(Wire::new(connector.connect(&hop.url).await?));
    let response = send(&connection, hop).await?;
    Ok(received(connection, response))
}

async fn send(connection: &SharedWire, hop: &Hop) -> Result<(Head, Payload), Error> {
    connection.wire().begin(hop.method == Method::HEAD);
    let io = connection.clone();
    let connect =
        move |info: ConnectInfo<Uri>| ready(Ok::<_, ConnectError>(Connection::new(info.request().clone(), io.clone())));
    let client = awc::Client::builder()
        .connector(awc::Connector::new().connector(connect.into_service()).timeout(UNUSED_TIMEOUT))
        .disable_timeout()
        .disable_redirects()
        .no_default_headers()
        .finish();
    let method = awc::http::Method::from_bytes(hop.method.as_str().as_bytes()).expect("both crates accept any token");
    let mut request = client.request(method, uri(hop)?);
    *request.headers_mut() = headers(hop);
    // Some servers respond 411 to these methods without `content-length: 0`.
    let announced = matches!(hop.method, Method::POST | Method::PUT | Method::PATCH);
    let sent = if hop.body.is_empty() && !announced {
        request.send_body(body::None::new()).await
    } else {
        request.send_body(hop.body.clone()).await
    };
    // The wire knows the cause of a failure; the error of awc is only a translation.
    let head = connection.wire().take_outcome().unwrap_or(Err(Error::Closed))?;
    let mut response = sent.map_err(|_| Error::Closed)?;
    Ok((head, response.take_payload()))
}

/// The target in awc's type.
fn uri(hop: &Hop) -> Result<Uri, Error> {
    let target = &hop.url[url::Position::BeforeHost..url::Position::AfterQuery];
    format!("http://{target}")
        .parse()
        .map_err(|error: awc::http::uri::InvalidUri| Error::BadUrl { reason: error.to_string() })
}

/// The header fields to send, in awc's types, which are those of an older version of the `http` crate. awc adds
/// `content-length` and `date`.
fn headers(hop: &Hop) -> AwcHeaders {
    let mut headers = AwcHeaders::with_capacity(hop.headers.len() + 3);
    for (name, value) in &hop.headers {
        let name = AwcName::from_bytes(name.as_str().as_bytes()).expect("both versions accept the same names");
        headers.append(name, AwcValue::from_bytes(value.as_bytes()).expect("both versions accept the same values"));
    }
    let host = &hop.url[url::Position::BeforeHost..url::Position::AfterPort];
    headers.insert(HOST, AwcValue::from_str(host).expect("a host has only characters of a field value"));
    // Bodies are forwarded as they arrive, so they must not be compressed.
    for (name, default) in [(ACCEPT_ENCODING, "identity"), (USER_AGENT, PRODUCT)] {
        if !headers.contains_key(&name) {
            headers.append(name, AwcValue::from_static(default));
        }
    }
    headers
}

// === impl IncomingBody ===

impl IncomingBody {
    /// Waits for bytes, and returns all that are available, up to a limit. Also returns the end, if it was reached. The
    /// bytes may be empty.
    pub(super) async fn read(&mut self) -> (Bytes, Option<BodyEnd>) {
        let mut next = self.payload.next().await;
        let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
        let end = loop {
            match next {
                None => break Some(Ok(())),
                Some(Err(error)) => break Some(Err(Error::in_body(&error).into())),
                // A single piece is not copied.
                Some(Ok(bytes)) if first.is_empty() => first = bytes,
                Some(Ok(bytes)) => {
                    if whole.is_empty() {
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&bytes);
                    if whole.len() >= PIECE {
                        break None;
                    }
                }
            }
            match self.payload.next().now_or_never() {
                Some(available) => next = available,
                None => break None,
            }
        };
        (if whole.is_empty() { first } else { whole.freeze() }, end)
    }

    /// Keeps the connection for another request. Call it at the complete end of the body.
    pub(super) fn release(self) {
        let Self { payload, connection, connector, pool, key } = self;
        // The payload holds the connection too.
        drop(payload);
        if let Some(wire) = Rc::into_inner(connection.0).map(RefCell::into_inner).filter(Wire::is_reusable) {
            pool.put(key, wire, &connector);
        }
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
