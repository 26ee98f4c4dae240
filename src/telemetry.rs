//! Log output: all log lines pass through one queue, which never blocks and never fails.
//!
//! ```text
//!  tracing, panics ──line──> queue (bounded bytes) ──writer thread──> stderr
//!                              └ full, or stderr fails: the line is dropped and counted
//! ```
//!
//! The node never waits for its log. If stderr is closed, full or not read, only log lines are lost. There is one queue
//! per process, like stderr and the subscriber of `tracing`.

use std::{
    io::{self, IsTerminal},
    panic::PanicHookInfo,
    sync::OnceLock,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing::Dispatch;
use tracing_subscriber::{EnvFilter, fmt::format};

#[cfg(test)]
mod captured;
mod form;
mod lines;
mod note;

#[cfg(test)]
pub(crate) use self::captured::Captured;
use self::{
    form::{SpanFields, TextLines},
    lines::{Lines, Stderr},
};

/// Settings of section `[telemetry]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Filter of log lines: a level, or directives such as `info,millstream::hub=debug`.
    pub log: String,
    /// Form of log lines.
    pub format: Format,
    /// Maximum bytes of log lines that wait to be written; further lines are dropped.
    pub queue_bytes: usize,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The queue of this process; set by [`install`].
static LINES: OnceLock<Lines> = OnceLock::new();

/// Minimum of `queue_bytes`: the longest lines of the node must fit.
const MIN_QUEUE_BYTES: usize = 64 << 10;

/// Time for the writer to drain the queue at exit. A blocked stderr does not delay the exit longer.
pub const FLUSH: Duration = Duration::from_secs(1);

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        // The framework logs requests that it cannot parse, so any client could fill the log.
        Self { log: "info,actix_http=off,actix_server=warn".into(), format: Format::Text, queue_bytes: 1 << 20 }
    }
}

impl Config {
    /// Checks values that the types do not check.
    ///
    /// # Errors
    /// Names the setting and the accepted values.
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

/// Sends log lines and panics of this process to stderr through the queue. Later calls have no effect.
///
/// # Errors
/// When the filter is not valid, the writer thread cannot start, or the program already has a subscriber.
pub fn install(config: &Config) -> Result<(), String> {
    let filter = config.filter()?;
    if LINES.get().is_some() {
        return Ok(());
    }
    let lines = Lines::start(config.queue_bytes, config.format, Stderr)
        .map_err(|error| format!("no thread for the log: {error}"))?;
    let dispatch = dispatch(filter, config.format, stderr_takes_colours(), lines.clone());
    tracing::dispatcher::set_global_default(dispatch).map_err(|error| format!("the log cannot be set up: {error}"))?;
    let _ = LINES.set(lines);
    // The default hook writes directly to stderr, and would block if stderr is not read.
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Formats the lines that the filter passes, and queues them.
fn dispatch(filter: EnvFilter, form: Format, colours: bool, lines: Lines) -> Dispatch {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        // The subscriber would report a failed write with `eprintln!`, which panics if stderr is broken.
        .log_internal_errors(false)
        .fmt_fields(SpanFields(form));
    match form {
        Format::Text => subscriber.with_ansi(colours).event_format(TextLines).finish().into(),
        Format::Json => subscriber.with_ansi(false).event_format(format::json()).finish().into(),
    }
}

/// Log lines dropped since the start, because the queue was full or stderr failed.
pub fn lines_dropped() -> u64 {
    LINES.get().map_or(0, Lines::dropped)
}

/// Waits until all lines are written, but not longer than `timeout`.
pub fn flush(timeout: Duration) {
    if let Some(lines) = LINES.get() {
        lines.flush(timeout);
    }
}

/// Writes a line to stderr, independent of the filter. A broken stderr is not an error. If the log is installed, the
/// line goes through the queue, so that it does not block and the order is kept.
pub fn print_notice(line: &str) {
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
    let location = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let trace = std::backtrace::Backtrace::capture();
    let trace = (trace.status() == std::backtrace::BacktraceStatus::Captured).then(|| tracing::field::display(trace));
    tracing::error!(thread, backtrace = trace, "panicked at {location}: {message}");
}
