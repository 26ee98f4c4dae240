//! `millstream-bench`: a load generator for a node of Millstream, and for other servers of event streams, on this machine.
//!
//! ```text
//!   publishers (threads, blocking sockets) ──POST /events──> node ──SSE──> subscribers (threads, many raw sockets each)
//!        stamp: planned time, sequence                                     latency, lost, duplicated, reordered
//! ```
//!
//! The generator shares the cores with the server that it measures, so it reads raw sockets. Each event has a sequence
//! number and its planned time: a server that delays its publishers cannot look fast. Every wait has a limit.
//!
//! A table goes to stderr, and one line of JSON to stdout. Exit codes: 0 clean; 1 measured, but events were lost,
//! duplicated or reordered; 2 not measured; 64 wrong usage; 130 stopped by a signal.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

mod call;
mod cases;
mod clock;
mod data;
mod pool;
mod process;
mod publisher;
mod report;
mod subscriber;
mod tally;
mod target;
mod usage;
mod wire;

use self::{cases::Case, report::Report};

/// The allocator of the node: the case `journal` measures a journal in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code when nothing was measured.
const EXIT_NOT_MEASURED: u8 = 2;

/// Exit code for wrong usage (`EX_USAGE` of sysexits).
const EXIT_USAGE: u8 = 64;

/// Puts a server of this machine under load and measures it.
///
/// A case without `--url` and `--subscribe-url` starts its own node: the program `millstream` beside this one, or the
/// one that `MILLSTREAM_BIN` names.
#[derive(Debug, Parser)]
#[command(name = "millstream-bench", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    case: Case,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    process::raise_open_files();
    match measure(arguments.case) {
        Ok(report) => ExitCode::from(u8::from(!report.clean())),
        Err(message) => {
            complain(&message);
            ExitCode::from(EXIT_NOT_MEASURED)
        }
    }
}

/// Runs a case and prints its report. A signal ends this program and the servers that the case started.
fn measure(case: Case) -> Result<Report, String> {
    let failed = |error: io::Error| format!("the measurement cannot start: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        tokio::select! {
            done = tokio::task::spawn_blocking(move || case.run()) => done.map_err(|error| error.to_string()).flatten(),
            _ = terminate.recv() => process::leave(),
            _ = interrupt.recv() => process::leave(),
        }
    })?;
    let _ = write!(io::stderr(), "{}", report.table());
    writeln!(io::stdout(), "{}", report.json()).map_err(|error| format!("cannot write to stdout: {error}"))?;
    Ok(report)
}

/// Prints an error or a notice to stderr; a broken stderr is not an error.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "millstream-bench: {message}");
}
