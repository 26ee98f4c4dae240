//! Log lines: one way out of the program for all of them, which never blocks and never fails.
//!
//! ```text
//!  tracing, panics ──line──> queue (bounded bytes) ──writer thread──> stderr
//!                              └ full, or stderr refuses: the line is lost and counted
//! ```
//!
//! The log serves the node, so the node never waits for it. A stderr that is closed, full or not read costs lines and
//! nothing else. The queue belongs to the process, as stderr and the subscriber of `tracing` do.

use std::{
    io::{self, IsTerminal},
    panic::PanicHookInfo,
    sync::OnceLock,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

mod lines;
mod note;

use self::{
    lines::{Lines, Stderr},
    note::Note,
};

/// Settings of section `[telemetry]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Filter of log lines: a level, or directives such as `info,millstream::hub=debug`.
    pub log: String,
    /// Form of log lines.
    pub format: Format,
    /// Most bytes of log lines that wait to be written; lines beyond it are lost.
    pub queue_bytes: usize,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The queue of this process, once [`install`] was called.
static LINES: OnceLock<Lines> = OnceLock::new();

/// The least `queue_bytes`: room for the longest lines that the node writes.
const MIN_QUEUE_BYTES: usize = 64 << 10;

/// Time that an exit gives the writer to empty the queue. A stderr that takes nothing does not hold the exit longer.
pub const FLUSH: Duration = Duration::from_secs(1);

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        // What the framework says of requests that it cannot parse is every stranger's to write.
        Self { log: "info,actix_http=off,actix_server=warn".into(), format: Format::Text, queue_bytes: 1 << 20 }
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key and the accepted form.
    pub fn check(&self) -> Result<(), String> {
        if self.queue_bytes < MIN_QUEUE_BYTES {
            return Err(format!("`telemetry.queue_bytes` must be at least {MIN_QUEUE_BYTES}"));
        }
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<EnvFilter, String> {
        EnvFilter::try_new(&self.log).map_err(|error| format!("`telemetry.log` = `{}`: {error}", self.log))
    }
}

/// Sends log lines and panics of this process to stderr, by way of the queue. Later calls change nothing.
///
/// # Errors
/// When the filter is wrong, the system has no thread for the writer, or the program has a subscriber of its own.
pub fn install(config: &Config) -> Result<(), String> {
    let filter = config.filter()?;
    if LINES.get().is_some() {
        return Ok(());
    }
    let lines = Lines::start(config.queue_bytes, Note(config.format), Stderr)
        .map_err(|error| format!("no thread for the log: {error}"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .with_ansi(config.format == Format::Text && stderr_takes_colours())
        // It reports a failed write by `eprintln!`, which panics where stderr is broken.
        .log_internal_errors(false);
    let installed = match config.format {
        Format::Text => subscriber.try_init(),
        Format::Json => subscriber.json().try_init(),
    };
    installed.map_err(|error| format!("the log cannot be set up: {error}"))?;
    let _ = LINES.set(lines);
    // The standard hook writes to stderr itself, and waits there for a reader that does not read.
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Log lines that were lost since the start: there was no room for them, or stderr refused them.
pub fn lines_dropped() -> u64 {
    LINES.get().map_or(0, Lines::dropped)
}

/// Waits until all lines are written, but not longer than `patience`.
pub fn flush(patience: Duration) {
    if let Some(lines) = LINES.get() {
        lines.flush(patience);
    }
}

/// Writes a line to stderr, whatever the filter. A broken stderr is no error. With a log the line takes its turn in the
/// queue, so that it neither blocks nor overtakes.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    match LINES.get() {
        Some(lines) => lines.push(line.as_bytes()),
        None => drop(io::Write::write_all(&mut io::stderr(), line.as_bytes())),
    }
}

/// Whether colours may be sent to stderr: <https://no-color.org>, and terminals without escape codes.
pub fn stderr_takes_colours() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && stderr_takes_escapes()
}

/// Whether stderr is a terminal that understands escape codes.
pub fn stderr_takes_escapes() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, message) = (thread.name().unwrap_or("unnamed"), info.payload_as_str().unwrap_or("no message"));
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let trace = std::backtrace::Backtrace::capture();
    let trace = (trace.status() == std::backtrace::BacktraceStatus::Captured).then(|| tracing::field::display(trace));
    tracing::error!(thread, backtrace = trace, "panicked at {place}: {message}");
}
