//! Jobs that run in part on another node, end to end: real nodes, real sockets, and remotes that die or lie.

mod deaths;
mod ends;
mod loops;
mod malice;
#[path = "../support/mock.rs"]
mod mock;
mod requests;
mod rig;
mod runs;
#[path = "../support/mod.rs"]
mod support;
