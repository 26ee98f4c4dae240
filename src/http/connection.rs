//! Connections: their count and limit, and the data of each: its socket, its requests, and its handover to a stream.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_web::{
    HttpMessage, HttpRequest,
    dev::{Extensions, ServiceRequest},
    rt::net::TcpStream,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Server,
    socket::{self, Socket},
    transport::{Answering, Handover, Rest},
    unsent::{Begun, Unsent},
};

/// Counts the connections of a node, and marks those above the limit.
#[derive(Clone, Debug)]
pub struct ConnectionLimiter {
    open: Arc<AtomicUsize>,
    limit: usize,
    send_buffer: usize,
    unacknowledged: Duration,
}

/// The data of a connection. It counts until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    permit: Rc<ConnectionPermit>,
    /// True if the connection is above the limit.
    pub(super) over: bool,
    /// Cancels this request, not the connection (HTTP/2).
    cut: Option<CancellationToken>,
    socket: Option<Socket>,
    handover: Option<Handover>,
    /// The part of the response that the connection has not received yet.
    pub(super) rest: Option<Rest>,
    /// Counts the request while it is being answered (HTTP/2).
    counted: Option<Counted>,
}

/// The count of a request; emptied when its response has begun, or when the request waits for an event.
pub(super) type Counted = Rc<RefCell<Option<OpenRequest>>>;

/// The number of requests of an HTTP/2 connection that are being answered.
#[derive(Default)]
pub(super) struct OpenRequests {
    count: Cell<usize>,
    fewer: Notify,
}

/// Counts one request, on its connection and in the node, until it is dropped.
pub(super) struct OpenRequest {
    requests: Rc<OpenRequests>,
    _begun: Begun,
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: ConnectionLimiter,
}

// === impl ConnectionLimiter ===

impl ConnectionLimiter {
    /// Sets the limits. `write_deadline` is the time after which a client that reads nothing is cut.
    pub(super) fn new(server: &Server, limit: usize, write_deadline: Duration) -> Self {
        Self {
            open: Arc::default(),
            limit,
            send_buffer: server.send_buffer_bytes,
            // A heartbeat may be half a tick late, and kernel timers are coarse. The margin ensures that a silent peer
            // is closed within heartbeat plus deadline.
            unacknowledged: write_deadline.saturating_sub((write_deadline / 4).min(Duration::from_millis(500))),
        }
    }

    /// Call it for each accepted connection (`HttpServer::on_connect`); it adds a [`Connection`] to the data.
    pub fn enter(&self, io: &dyn Any, data: &mut Extensions) {
        data.insert(self.admit(io.downcast_ref()));
    }

    /// Counts a connection, and prepares its socket.
    pub(super) fn admit(&self, tcp: Option<&TcpStream>) -> Connection {
        let over = self.open.fetch_add(1, Relaxed) >= self.limit;
        let permit = Rc::new(ConnectionPermit { limiter: self.clone() });
        let socket = tcp.map(|tcp| {
            socket::prepare(tcp, self.send_buffer, self.unacknowledged);
            Socket::of(tcp)
        });
        Connection { permit, over, cut: None, socket, handover: None, rest: None, counted: None }
    }

    /// Number of open connections.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Maximum number of open connections.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

// === impl Connection ===

impl Connection {
    /// The connection of a request. HTTP/1.1 keeps it with the connection, HTTP/2 with each request.
    pub(super) fn of(request: &HttpRequest) -> Option<Self> {
        Self::read(request, Self::clone)
    }

    /// Reads from the connection of a request.
    pub(super) fn read<T>(request: &HttpRequest, read: impl FnOnce(&Self) -> T) -> Option<T> {
        match request.conn_data::<Self>() {
            Some(connection) => Some(read(connection)),
            None => request.extensions().get::<Self>().map(read),
        }
    }

    /// Enables a stream to take over the connection.
    pub(super) fn with_handover(self, handover: Handover) -> Self {
        Self { rest: Some(handover.rest()), handover: Some(handover), ..self }
    }

    /// The connection for one of several requests (HTTP/2). The token ends this request.
    pub(super) fn for_one(&self, cut: CancellationToken, rest: Rest, counted: Counted) -> Self {
        let (cut, rest, counted) = (Some(cut), Some(rest), Some(counted));
        Self { cut, rest, counted, socket: None, handover: None, ..self.clone() }
    }

    /// The request waits for an event, perhaps for long, so it no longer counts as being answered.
    pub(super) fn waits(&self) {
        if let Some(counted) = &self.counted {
            counted.take();
        }
    }

    pub(super) fn socket(&self) -> Option<Socket> {
        self.socket
    }

    /// Ends a stream whose client reads nothing.
    pub(super) fn cutter(&self) -> Option<Box<dyn Fn()>> {
        let socket = self.socket.map(|socket| Box::new(move || socket.cut()) as Box<dyn Fn()>);
        let one = self.cut.clone().map(|cut| Box::new(move || cut.cancel()) as Box<dyn Fn()>);
        one.or(socket)
    }

    /// The handover of the connection to a stream, and the permit that the stream then holds.
    pub(super) fn handover(&self) -> Option<(Handover, Rc<ConnectionPermit>)> {
        Some((self.handover.clone()?, self.permit.clone()))
    }

    pub(super) fn answering(request: &ServiceRequest) -> Option<Answering> {
        Some(request.conn_data::<Self>()?.handover.as_ref()?.answering())
    }
}

// === impl OpenRequests ===

impl OpenRequests {
    /// The number of requests that are being answered.
    pub(super) fn count(&self) -> usize {
        self.count.get()
    }

    /// Resolves when the number has become smaller.
    pub(super) async fn fewer(&self) {
        self.fewer.notified().await;
    }
}

// === impl OpenRequest ===

impl OpenRequest {
    /// Counts a request from now on.
    pub(super) fn new(requests: &Rc<OpenRequests>, unsent: &Unsent) -> Self {
        requests.count.set(requests.count.get() + 1);
        Self { requests: requests.clone(), _begun: unsent.begin() }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.requests.count.set(self.requests.count.get() - 1);
        self.requests.fewer.notify_one();
    }
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenRequest")
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.open.fetch_sub(1, Relaxed);
    }
}
