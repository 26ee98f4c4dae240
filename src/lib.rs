//! Millstream: one binary between your services and their users.
//!
//! It runs many slow tasks in parallel and shows their progress live over Server-Sent Events. It merges remote streams
//! with local ones, and loses no event when a connection breaks.
//!
//! ```text
//!              main.rs ── cli ── app (the composition root: Config -> App -> Server::run(shutdown))
//!                                 │
//!   http   one resource per file; parse, call a Handle, render; the only place that knows status codes
//!    │
//!   node   the handles of all components, as handlers and embedding programs use them
//!    │        │           │
//!   hub     jobs       relay   access   intake  components: Config, Handle, Error; pure core beside, thin actor shell
//!    │        │           │
//!    │        ├───────────┴─ upstream  every outgoing request; remotes, and the client for their event streams
//!    └────────┴─ journal              the one ordered record of all events; publishing is appending
//!                   │
//!          event · topic · sse · json the shared vocabulary; pure, no I/O
//!          socket · transport · tls   the connection under the HTTP framework, and how a stream takes it over
//!          unsent                     limits on bytes that wait for clients, in time and in size
//!          metrics                    rows of figures of every component
//!          clock                      wall clock and monotonic clock, and jumps between them
//!          supervise · telemetry      failure policies of long-lived tasks; output of log lines
//!          spans                      where in the node a log line belongs
//! ```
//!
//! To run a node inside a program of your own see [`app::App`]; to run your own tasks see
//! [`jobs::handler::TaskHandler`].

// `print!` panics if its stream is broken, and blocks if the stream is not read: see `telemetry`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod access;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod durable;
pub mod event;
pub mod http;
pub mod hub;
pub mod intake;
pub mod jobs;
pub mod journal;
pub mod json;
pub mod metrics;
pub mod node;
pub mod relay;
pub mod shares;
pub mod socket;
mod spans;
pub mod sse;
pub mod supervise;
pub mod telemetry;
mod text;
pub mod tls;
pub mod topic;
pub mod transport;
pub mod unsent;
pub mod upstream;

/// Cases of a property test: the given number, and ten times as many if `MILLSTREAM_LONG` is set (`scripts/long`).
#[cfg(test)]
pub(crate) fn cases(usual: u32) -> u32 {
    if std::env::var_os("MILLSTREAM_LONG").is_some() { 10 * usual } else { usual }
}
