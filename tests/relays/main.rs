//! Journaled relays, end to end: a real node, and upstreams that send what a test tells them to, byte by byte.

mod api;
mod conformance;
mod faults;
mod kills;
mod rig;
mod rings;
mod sharing;
#[path = "../support/mod.rs"]
mod support;
