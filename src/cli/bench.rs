//! `bench`: a load generator for a node's own API, on this machine, and for other servers beside it.
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

use std::time::Duration;

use clap::Subcommand;

use super::{Failure, complain, serve::stop_signal, text::say};
use crate::telemetry;

mod call;
mod clock;
mod crew;
mod fanout;
mod idle;
mod jobs;
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
mod target;
mod usage;
mod wire;

use self::{
    process::Node,
    report::Report,
    target::{Target, TargetArguments},
};

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
    /// Live delivery beside clients that replay a long history, and beside clients that read nothing.
    Laggards(laggards::LaggardsArguments),
    /// Reading a stream through the node instead of from its source, beside nginx where that is installed.
    Relay(relay::RelayArguments),
    /// A job of many HTTP tasks, beside a bare loop that does the same requests.
    Jobs(jobs::JobsArguments),
    /// The journal on disk, without HTTP: appending, coming up again, resuming, disk and memory.
    Journal(journal::JournalArguments),
}

/// A case: it says how long it takes, and runs on a thread that may block.
trait Case: Send + 'static {
    fn target(&self) -> &TargetArguments;
    fn time(&self) -> Duration;
    fn run(&self, node: &Target) -> Result<Report, String>;
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
        BenchCommand::Jobs(arguments) => run(move || arguments.run()).await,
        BenchCommand::Journal(arguments) => run(move || arguments.run()).await,
    }
}

/// A case that starts its own nodes; its limits are its own.
async fn run(case: impl FnOnce() -> Result<Report, String> + Send + 'static) -> Result<u8, Failure> {
    process::raise_open_files();
    let measured = tokio::task::spawn_blocking(case).await;
    let measured = measured.map_err(|error| error.to_string()).flatten();
    let report = measured.map_err(|message| Failure { message, code: EXIT_NOT_RUN })?;
    telemetry::say(report.table().trim_end());
    say(&report.json())?;
    Ok(u8::from(!report.clean()))
}

async fn measure(case: impl Case) -> Result<u8, Failure> {
    let not_run = |message: String| Failure { message, code: EXIT_NOT_RUN };
    let arguments = case.target().clone();
    let running = arguments.running()?;
    process::raise_open_files();
    let signal = stop_signal()?;
    // Dropping it ends the process, whatever happens here.
    let (started, target) = match running {
        Some(target) => (None, target),
        None => {
            let node = Node::start().map_err(not_run)?;
            let target = arguments.started(&node);
            (Some(node), target)
        }
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
    telemetry::say(report.table().trim_end());
    say(&report.json())?;
    Ok(u8::from(!report.clean()))
}

/// Ends the process with its node. The threads of a measurement cannot be waited for.
fn leave(node: Option<Node>, code: u8, why: &str) -> ! {
    drop(node);
    complain(why);
    std::process::exit(code.into());
}
