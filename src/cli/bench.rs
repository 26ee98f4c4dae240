//! `bench`: a load generator for a node's own API, on this machine.
//!
//! ```text
//!   publishers (threads, blocking sockets) ──POST /events──> node ──SSE──> subscribers (threads, many raw sockets each)
//!        stamp: planned time, sequence                                     latency, lost, duplicated, reordered
//! ```
//!
//! It measures the node and must cost little itself, hence raw sockets. Every event carries a sequence number and the
//! time for which it was planned, so a node that holds its publishers up cannot look fast. The table goes to stderr,
//! one line of JSON to stdout. Nothing waits without a limit. Exit codes: 0 clean, 1 measured but not clean (lost,
//! duplicated or reordered), 2 could not run.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use clap::{Args, Subcommand};

use super::{Failure, serve::stop_signal, text::say};
use crate::upstream;

mod clock;
mod crew;
mod fanout;
mod idle;
mod journal;
mod laggards;
mod process;
mod publish;
mod publisher;
mod relay;
mod replay;
mod report;
mod scratch;
mod subscriber;
mod tally;
mod wire;

use self::{process::Node, report::Report};

/// Exit code when nothing could be measured.
const EXIT_NOT_RUN: u8 = 2;

/// Beside what a case takes by its arguments: starting, connecting, draining and stopping, each with a limit of its own.
const OVERHEAD: Duration = Duration::from_mins(3);

/// What to measure.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Many subscribers, few publishers: latency, throughput, and whether every event arrives once and in order.
    Fanout(fanout::FanoutArguments),
    /// Many subscribers to whom nothing happens: how fast they connect, what each costs.
    Idle(idle::IdleArguments),
    /// Many subscribers who come back at once and missed something.
    Replay(replay::ReplayArguments),
    /// Publishing over HTTP into the journal on disk: batches beside the journal's own rate, one publisher beside eight.
    Publish(publish::PublishArguments),
    /// Live delivery while many clients replay a long history and one reads nothing, beside live delivery alone.
    Laggards(laggards::LaggardsArguments),
    /// Reading a stream through the node instead of from its source, beside nginx where that is installed.
    Relay(relay::RelayArguments),
    /// The journal on disk, without HTTP: appending, coming up again, resuming, disk and memory.
    Journal(journal::JournalArguments),
}

/// Which node is measured.
#[derive(Args, Clone, Debug)]
struct TargetArguments {
    /// A node that runs already, on loopback; without it one is started for the measurement.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The process of that node, for its CPU time and memory.
    #[arg(long, value_name = "PID", requires = "url")]
    server_pid: Option<u32>,
    /// The token, sent as `X-Auth-Token`.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Threads that read for the subscribers.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    readers: u16,
}

/// A case: it says how long it takes, and runs on a thread that may block.
trait Case: Send + 'static {
    fn target(&self) -> &TargetArguments;
    fn time(&self) -> Duration;
    fn run(&self, node: &Target) -> Result<Report, String>;
}

/// The node under load.
#[derive(Clone, Debug)]
struct Target {
    addr: SocketAddr,
    pid: Option<u32>,
    token: Option<String>,
    readers: usize,
}

/// Measures, prints, and says whether all was clean.
pub(super) async fn bench(command: BenchCommand) -> Result<u8, Failure> {
    match command {
        BenchCommand::Fanout(case) => measure(case).await,
        BenchCommand::Idle(case) => measure(case).await,
        BenchCommand::Replay(case) => measure(case).await,
        BenchCommand::Publish(arguments) => run(move || arguments.run()).await,
        BenchCommand::Laggards(arguments) => run(move || arguments.run()).await,
        BenchCommand::Relay(arguments) => run(move || arguments.run()).await,
        BenchCommand::Journal(arguments) => run(move || arguments.run()).await,
    }
}

/// A case that starts its own nodes; its limits are its own.
async fn run(case: impl FnOnce() -> Result<Report, String> + Send + 'static) -> Result<u8, Failure> {
    process::raise_open_files();
    let measured = tokio::task::spawn_blocking(case).await;
    let measured = measured.map_err(|error| error.to_string()).flatten();
    let report = measured.map_err(|message| Failure { message, code: EXIT_NOT_RUN })?;
    eprint!("{}", report.table());
    say(&report.json())?;
    Ok(u8::from(!report.clean()))
}

async fn measure(case: impl Case) -> Result<u8, Failure> {
    let not_run = |message: String| Failure { message, code: EXIT_NOT_RUN };
    let arguments = case.target().clone();
    let addr = arguments.url.as_deref().map(loopback).transpose()?;
    process::raise_open_files();
    let signal = stop_signal()?;
    // Dropping it ends the process, whatever happens here.
    let started = match addr {
        Some(_) => None,
        None => Some(Node::start().map_err(not_run)?),
    };
    let target = Target {
        addr: addr.or(started.as_ref().map(|node| node.addr)).expect("one of the two is there"),
        pid: started.as_ref().map(Node::pid).or(arguments.server_pid),
        token: arguments.token,
        readers: usize::from(arguments.readers),
    };
    let limit = case.time() + OVERHEAD;
    let running = tokio::task::spawn_blocking(move || case.run(&target));
    let done = tokio::select! {
        done = tokio::time::timeout(limit, running) => done,
        () = signal => leave(started, 130, "stopped"),
    };
    let Ok(done) = done else { leave(started, EXIT_NOT_RUN, &format!("not done after {limit:?}")) };
    // Its end is waited for where that may block.
    let _ = tokio::task::spawn_blocking(move || drop(started)).await;
    let report = done.map_err(|error| not_run(error.to_string()))?.map_err(not_run)?;
    eprint!("{}", report.table());
    say(&report.json())?;
    Ok(u8::from(!report.clean()))
}

/// Ends the process with its node. The threads of a measurement cannot be waited for.
fn leave(node: Option<Node>, code: u8, why: &str) -> ! {
    drop(node);
    eprintln!("millstream: {why}");
    std::process::exit(code.into());
}

/// The address of a node on this machine: nobody else is put under load.
fn loopback(url: &str) -> Result<SocketAddr, Failure> {
    let refused = |why: &str| Failure::usage(format!("`{url}`: {why}; bench takes http://127.0.0.1:PORT"));
    let parsed = upstream::parse_url(url).map_err(|error| refused(&error.to_string()))?;
    if parsed.scheme() != "http" || parsed.path() != "/" {
        return Err(refused("only plain http without a path can be loaded"));
    }
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = parsed.port_or_known_default().unwrap_or(80);
    let addrs = (host, port).to_socket_addrs().map_err(|error| refused(&error.to_string()))?;
    let addrs: Vec<SocketAddr> = addrs.collect();
    match addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first()) {
        Some(addr) if addrs.iter().all(|addr| addr.ip().is_loopback()) => Ok(*addr),
        _ => Err(refused("that is not this machine's loopback, and load is for nobody else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_put_under_load() {
        assert_eq!(loopback("http://127.0.0.1:8090").unwrap(), "127.0.0.1:8090".parse().unwrap());
        assert_eq!(loopback("http://[::1]:8090/").unwrap(), "[::1]:8090".parse().unwrap());
        assert!(loopback("http://localhost:1").unwrap().ip().is_loopback());
        for url in ["http://192.0.2.1:80", "http://10.0.0.1", "https://127.0.0.1", "http://127.0.0.1:1/x", "nonsense"] {
            assert_eq!(loopback(url).unwrap_err().code, super::super::EXIT_USAGE, "{url}");
        }
    }
}
