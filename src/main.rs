//! The program: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use millstream::cli::{self, Arguments};

/// A task of a job allocates some hundred times on three threads: with the system's allocator jobs take half as much CPU
/// again (docs/performance.md). The library leaves the choice to the program that it is in.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            // Help and version are what was asked for; anything else is bad usage.
            return if error.use_stderr() { ExitCode::from(cli::EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    actix_rt::System::new().block_on(cli::run(arguments))
}
