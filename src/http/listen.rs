//! The listener: passes connections to the framework through [`Transport`], which enables a stream to take over its
//! connection. HTTP/2 connections go to `h2.rs`.
//!
//! ```text
//!  accept ─> counted (connection) ─┬─ plain ──────────────> Transport ─> framework (HTTP/1.1)
//!                                  │                            └─ begins with the preface of HTTP/2 ─┐
//!                                  └─ TLS handshake ─┬─ ALPN http/1.1, none ─> Transport ─> framework  ├─> h2
//!                                                    └─ ALPN h2 ──────────────────────────────────────┘
//! ```

use std::{
    cell::Cell,
    future::ready,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::Duration,
};

use actix_http::{HttpService, Protocol, Request, error::DispatchError};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config,
};
use actix_web::{
    App, HttpResponse,
    body::MessageBody,
    dev::{AppConfig, Extensions, ServiceResponse},
    rt::net::TcpStream,
    web::Data,
};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{connection::Connection, elsewhere, frontend::Frontend, h2, heads, routes};
use crate::{
    node::Node,
    socket,
    transport::{Rewound, Transport, Wire},
};

/// An HTTP/1.1 connection without a request is closed after this time.
pub(crate) const IDLE: Duration = Duration::from_secs(5);
/// Time that a client has to read the end of a connection.
const LAST: Duration = Duration::from_secs(1);
/// The framework polls the body while its write buffer holds fewer bytes than this.
const WRITE_BUFFER: usize = 8 << 10;
/// Maximum number of bytes that TLS holds for a connection whose socket is full.
const TLS_BUFFER: usize = 16 << 10;

/// Binds an address. Clients get responses only when the server of [`serve`] runs.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    socket::listen(address)
}

/// A server for all routes of the node; it runs when it is polled.
///
/// # Errors
/// If the listener has no address.
pub(crate) fn serve(node: &Node, frontend: &Frontend, listener: TcpListener) -> io::Result<Server> {
    let address = listener.local_addr()?;
    let mut server = Server::build()
        // Connections above the limit get a response; the framework would leave them in the backlog.
        .max_concurrent_connections(usize::MAX >> 8)
        .disable_signals()
        .shutdown_timeout(1);
    if node.config.server.workers > 0 {
        server = server.workers(node.config.server.workers);
    }
    let stop = server.graceful_shutdown_signal();
    let (node, frontend) = (node.clone(), frontend.clone());
    let service = move || {
        let (node, frontend, stop) = (node.clone(), frontend.clone(), stop.clone());
        // The default service is outside the scope of the routes and needs the same data.
        let app = App::new().app_data(Data::new(node.clone())).app_data(Data::new(frontend.clone()));
        let app = app.configure(routes(node.clone(), frontend.clone())).default_service(elsewhere()).into_factory();
        let app = app.map_err(|error: actix_web::Error| error.error_response());
        let app = map_config(app, |()| AppConfig::default());
        fn_factory(move || {
            let (node, frontend, stop, app) = (node.clone(), frontend.clone(), stop.clone(), app.new_service(()));
            async move {
                // One instance for both protocols: HTTP/2 calls it without the framework.
                let app = Rc::new(app.await?);
                // Passes the accepted connection to the framework's data of it.
                let entering = Rc::new(Cell::<Option<Connection>>::default());
                let entered = entering.clone();
                let framework = app.clone();
                let http1 = HttpService::build()
                    .graceful_shutdown_signal(move || {
                        let stop = stop.clone();
                        async move { stop.notified().await }
                    })
                    .keep_alive(IDLE)
                    .h1_write_buffer_size(WRITE_BUFFER)
                    // The transport limits the time of all heads, not only of the first one.
                    .client_request_timeout(Duration::ZERO)
                    .client_disconnect_timeout(LAST)
                    // A complete request gets its response. The transport ends a stream whose client has closed its
                    // sending side.
                    .h1_allow_half_closed(true)
                    .local_addr(address)
                    .on_connect_ext(move |_: &Transport, data: &mut Extensions| {
                        if let Some(connection) = entered.take() {
                            data.insert(connection);
                        }
                    })
                    .finish(fn_factory(move || ready(Ok::<_, ()>(framework.clone()))))
                    .new_service(())
                    .await?;
                let acceptor = node.tls.as_ref().map(|tls| TlsAcceptor::from(tls.server()));
                let here = Rc::new(Here { node, frontend, acceptor, app, http1, entering });
                Ok::<_, ()>(fn_service(move |tcp: TcpStream| here.clone().connection(tcp)))
            }
        })
    };
    Ok(server.listen("http", listener, service)?.run())
}

/// The data that one worker thread needs to serve its connections.
struct Here<A, H> {
    node: Node,
    frontend: Frontend,
    acceptor: Option<TlsAcceptor>,
    app: Rc<A>,
    http1: H,
    entering: Rc<Cell<Option<Connection>>>,
}

// === impl Here ===

impl<A, H, B> Here<A, H>
where
    A: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse> + 'static,
    B: MessageBody + 'static,
    H: Service<(Transport, Protocol, Option<SocketAddr>), Response = (), Error = DispatchError> + 'static,
{
    /// Serves a connection from its first byte to its last. An error ends only this connection.
    async fn connection(self: Rc<Self>, tcp: TcpStream) -> Result<(), ()> {
        let peer = tcp.peer_addr().ok();
        let connection = self.frontend.connections.admit(Some(&tcp));
        let Some(acceptor) = &self.acceptor else {
            self.http1(Wire::Plain(tcp), connection, peer).await;
            return Ok(());
        };
        let limit = self.node.heads.timeout;
        let handshake = timeout(limit, acceptor.accept(tcp));
        let mut tls = match Box::pin(handshake).await {
            Ok(Ok(tls)) => Box::new(tls),
            // Every stranger can cause it, so it is not logged as a problem.
            Ok(Err(error)) => {
                tracing::debug!(%error, ?peer, "the TLS handshake failed");
                return Ok(());
            }
            Err(_) => {
                self.node.heads.count();
                return Ok(());
            }
        };
        tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let wire = Wire::Tls(tls);
        if http2 {
            self.http2(Rewound::new(Vec::new(), wire), &connection, peer).await;
        } else {
            self.http1(wire, connection, peer).await;
        }
        Ok(())
    }

    async fn http1(&self, wire: Wire, connection: Connection, peer: Option<SocketAddr>) {
        let transport = Transport::new(wire, self.node.heads.clone(), self.node.unsent.clone(), heads::render);
        let handover = transport.handover();
        let connection = connection.with_handover(handover.clone());
        // The framework takes it in the same poll, in `on_connect_ext`.
        self.entering.set(Some(connection.clone()));
        let served = self.http1.call((transport, Protocol::Http1, peer));
        // Every stranger can cause the errors of the framework, so they are not logged.
        let _ = served.await;
        if let Some(rest) = handover.http2() {
            self.http2(rest, &connection, peer).await;
        }
    }

    async fn http2(&self, wire: Rewound, connection: &Connection, peer: Option<SocketAddr>) {
        // Boxed, so that other connections do not need the memory of this one.
        Box::pin(h2::serve(&self.node, wire, self.app.clone(), connection, peer)).await;
    }
}
