//! What is around a node fails: its standard streams, its files, a part of the node itself. It says so, goes on where it can,
//! and ends where it cannot.

mod files;
mod log;
mod readiness;
#[path = "../support/mod.rs"]
mod support;
