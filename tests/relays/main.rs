//! Journaled relays, end to end: a real node, and upstreams that send the bytes of a test.

mod api;
mod conformance;
mod cycles;
mod faults;
mod kills;
mod rig;
mod sharing;
#[path = "../support/mod.rs"]
mod support;
