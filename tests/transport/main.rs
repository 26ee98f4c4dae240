//! What carries requests and streams: TLS, HTTP/2, and clients that do not say what they want.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod heads;
mod http2;
mod refused;
mod tls;
mod unread;
