//! The client against raw sockets: what servers do well, badly and maliciously.

mod egress;
mod events;
mod framing;
mod limits;
mod pool;
mod support;
