//! Connections: their count and the data of each.

use std::{
    any::Any,
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use actix_web::{
    HttpMessage, HttpRequest,
    dev::{Extensions, ServiceRequest},
    rt::net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::h2::OneAnswering;
use crate::{
    config::Server,
    socket::{self, Socket},
    transport::{Answering, Handover, Rest},
};

/// Counts the connections of a node, and marks those above the limit.
#[derive(Clone, Debug)]
pub struct Door {
    open: Arc<AtomicUsize>,
    limit: usize,
    send_buffer: usize,
    unacknowledged: std::time::Duration,
}

/// The data of a connection. It counts until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    place: Rc<Place>,
    /// It is above the limit.
    pub(super) over: bool,
    /// Ends the one request, not the connection (HTTP/2).
    cut: Option<CancellationToken>,
    socket: Option<Socket>,
    handover: Option<Handover>,
    /// The part of the response that the connection does not have yet.
    pub(super) rest: Option<Rest>,
    /// Counts the request as being answered (HTTP/2).
    answering: Option<Rc<RefCell<Option<OneAnswering>>>>,
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    door: Door,
}

// === impl Door ===

impl Door {
    /// With these bounds.
    pub fn new(server: &Server, limit: usize, write_deadline: std::time::Duration) -> Self {
        Self {
            open: Arc::default(),
            limit,
            send_buffer: server.send_buffer_bytes,
            // A heartbeat may be half a tick late, and the kernel's timers are coarse. The margin lets a silent peer
            // end within heartbeat and deadline.
            unacknowledged: write_deadline
                .saturating_sub((write_deadline / 4).min(std::time::Duration::from_millis(500))),
        }
    }

    /// Call it for each accepted connection (`HttpServer::on_connect`); it adds a [`Connection`] to the data.
    pub fn enter(&self, io: &dyn Any, data: &mut Extensions) {
        data.insert(self.admit(io.downcast_ref()));
    }

    /// Counts a connection, and prepares its socket.
    pub(super) fn admit(&self, tcp: Option<&TcpStream>) -> Connection {
        let over = self.open.fetch_add(1, Relaxed) >= self.limit;
        let place = Rc::new(Place { door: self.clone() });
        let socket = tcp.map(|tcp| {
            socket::prepare(tcp, self.send_buffer, self.unacknowledged);
            Socket::of(tcp)
        });
        Connection { place, over, cut: None, socket, handover: None, rest: None, answering: None }
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Most connections at once.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

// === impl Connection ===

impl Connection {
    /// The connection of a request: the framework keeps it with the connection, HTTP/2 with each request.
    pub(super) fn of(request: &HttpRequest) -> Option<Self> {
        Self::look(request, Self::clone)
    }

    /// Reads from the connection of a request.
    pub(super) fn look<T>(request: &HttpRequest, read: impl FnOnce(&Self) -> T) -> Option<T> {
        match request.conn_data::<Self>() {
            Some(connection) => Some(read(connection)),
            None => request.extensions().get::<Self>().map(read),
        }
    }

    /// Lets a stream take the connection over.
    pub(super) fn with_handover(self, handover: Handover) -> Self {
        Self { rest: Some(handover.rest()), handover: Some(handover), ..self }
    }

    /// For one of several requests (HTTP/2), which ends with this token.
    pub(super) fn for_one(
        &self,
        cut: CancellationToken,
        rest: Rest,
        answering: Rc<RefCell<Option<OneAnswering>>>,
    ) -> Self {
        let (cut, rest, answering) = (Some(cut), Some(rest), Some(answering));
        Self { cut, rest, answering, socket: None, handover: None, ..self.clone() }
    }

    /// The request waits for an event, perhaps for long, so it no longer counts as being answered.
    pub(super) fn waits(&self) {
        if let Some(answering) = &self.answering {
            answering.take();
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

    /// The handover of the connection to a stream, and the count that the stream then keeps.
    pub(super) fn handover(&self) -> Option<(Handover, Rc<Place>)> {
        Some((self.handover.clone()?, self.place.clone()))
    }

    pub(super) fn answering(request: &ServiceRequest) -> Option<Answering> {
        Some(request.conn_data::<Self>()?.handover.as_ref()?.answering())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.open.fetch_sub(1, Relaxed);
    }
}
