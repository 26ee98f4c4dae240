//! The listener: connections into the framework, by way of the [`Transport`] that lets a stream take its connection over.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use actix_http::{HttpService, Protocol};
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::{App, dev::AppConfig, rt::net::TcpStream};

use super::routes;
use crate::{app::Node, socket, transport::Transport};

/// A connection between two requests is closed after so long, and one that has not sent the head of its first.
const IDLE: Duration = Duration::from_secs(5);
/// A client is given so long to take the end of a connection.
const LAST: Duration = Duration::from_secs(1);

/// Takes an address. Nobody is answered before the server of [`serve`] runs.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    socket::listen(address)
}

/// A server for all routes of the node; it runs when it is polled.
///
/// # Errors
/// When the listener has no address.
pub(crate) fn serve(node: &Node, listener: TcpListener) -> io::Result<Server> {
    let address = listener.local_addr()?;
    let mut server = Server::build()
        // The door answers what is too much; the framework would leave it in the backlog without a word.
        .max_concurrent_connections(usize::MAX >> 8)
        .disable_signals()
        .shutdown_timeout(1);
    if node.config.server.workers > 0 {
        server = server.workers(node.config.server.workers);
    }
    let stop = server.graceful_shutdown_signal();
    let node = node.clone();
    let service = move || {
        let (door, stop) = (node.door.clone(), stop.clone());
        let app = App::new().configure(routes(node.clone())).into_factory();
        let app = app.map_err(|error: actix_web::Error| error.error_response());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stop = stop.clone();
                async move { stop.notified().await }
            })
            .keep_alive(IDLE)
            .client_request_timeout(IDLE)
            .client_disconnect_timeout(LAST)
            // A peer that closed its side is gone; half-closed clients of event streams do not exist.
            .h1_allow_half_closed(false)
            .local_addr(address)
            .on_connect_ext(move |transport: &Transport, data| door.enter(transport, data))
            .finish(map_config(app, |()| AppConfig::default()));
        let accept = |connection: TcpStream| async move {
            let peer = connection.peer_addr().ok();
            Ok((Transport::new(connection), Protocol::Http1, peer))
        };
        fn_service(accept).and_then(http)
    };
    Ok(server.listen("http", listener, service)?.run())
}
