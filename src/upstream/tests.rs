//! The client against raw sockets: what servers do well, badly and maliciously.

mod differential;
mod egress;
mod events;
mod facts;
mod framing;
mod limits;
mod pool;
mod support;
