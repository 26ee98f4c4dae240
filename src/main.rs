//! The program. Parses the arguments and returns the exit code; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use millstream::{
    cli::{self, Arguments},
    telemetry,
};
use rustix::process::{Resource, getrlimit};

/// A task of a job allocates some hundred times on three threads. With the allocator of the system, jobs need 50 % more CPU
/// time (docs/performance.md). The library leaves the choice of the allocator to the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Freed memory returns to the system after this time, in milliseconds. With mimalloc's default of 1000, some 50 MiB more
/// are held after a burst of large responses. `MIMALLOC_PURGE_DELAY` has precedence.
const PURGE_DELAY: (libmimalloc_sys::mi_option_t, libc::c_long) = (15, 100);

/// With fewer open files the runtime panics. A node needs more, see `config::TooFewFiles`.
const LEAST_FILES: u64 = 16;

fn main() -> ExitCode {
    let (option, delay) = PURGE_DELAY;
    // SAFETY: sets a number before there is another thread. mimalloc ignores a number that is not an option.
    #[expect(unsafe_code, reason = "the crate gives no safe way to set an option of the allocator")]
    unsafe {
        libmimalloc_sys::mi_option_set_default(option, delay);
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            // Help and version were requested; everything else is invalid usage.
            return if error.use_stderr() { ExitCode::from(cli::EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < LEAST_FILES {
        telemetry::print_notice(&format!(
            "millstream: the limit of open files is {files}, and the program needs at least {LEAST_FILES}: raise it (`ulimit -n`)"
        ));
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::print_notice(&format!("millstream: the program cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    actix_rt::System::with_tokio_rt(move || runtime).block_on(cli::run(arguments))
}

#[cfg(test)]
mod tests {
    use super::PURGE_DELAY;

    /// The crate has no name for the option, so its number may change with the crate.
    #[test]
    #[expect(unsafe_code, reason = "the crate gives no safe way to read an option of the allocator")]
    fn the_option_of_the_allocator_is_its_purge_delay() {
        // SAFETY: reads a number.
        let usual = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY.0) };
        assert_eq!(usual, 1000, "the default of mimalloc's purge_delay");
    }
}
