//! The client against raw sockets: correct, faulty and malicious servers.

mod differential;
mod egress;
mod events;
mod facts;
mod framing;
mod limits;
mod pool;
mod support;
