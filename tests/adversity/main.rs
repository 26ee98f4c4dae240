//! The environment of a node fails: its standard streams, its files, a part of the node itself. It reports that,
//! continues if possible, and ends otherwise.

mod files;
mod log;
mod readiness;
#[path = "../support/mod.rs"]
mod support;
