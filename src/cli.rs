//! The command line, one file per command. Results are written to stdout, messages to stderr.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    app,
    config::{self, Config},
    journal::OpenError,
    telemetry,
};

mod client;
mod demo;
mod journal;
mod progress;
mod publish;
mod run;
mod serve;
mod text;
mod token;
mod watch;

/// Exit code for bad usage and bad configuration (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;

/// Exit code for a damaged journal (`EX_DATAERR`).
pub const EXIT_DAMAGED: u8 = 65;

/// Exit code after a part of the node has failed (`EX_SOFTWARE`). A restart may succeed.
pub const EXIT_FAILED: u8 = 70;

/// Parallel tasks, live events, merged streams: one binary between your services and their users.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(NodeArguments),
    /// Start a node, run a job of local and HTTP tasks on it, and show the results.
    Demo(demo::DemoArguments),
    /// Submit a job, show its progress and print its results; exit code 1 if a task failed.
    Run(run::RunArguments),
    /// Print events as they arrive. After a lost connection the stream resumes.
    Watch(watch::WatchArguments),
    /// Publish an event into a topic.
    Publish(publish::PublishArguments),
    /// Create and inspect tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Inspect, verify, export, import, compact or repair a journal.
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Check the settings and print them as JSON.
    CheckConfig(NodeArguments),
}

/// Settings of a node: from a file, then the environment (`MILLSTREAM__SECTION__KEY`), then these options.
#[derive(Args, Clone, Debug, Default)]
struct NodeArguments {
    /// Settings file (TOML); default: the built-in settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; port 0 selects a free port.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Data directory of the journal; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Filter of log lines, such as `info` or `warn,millstream::hub=debug`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Why a command failed, and its exit code.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

/// Runs a command.
pub async fn run(arguments: Arguments) -> ExitCode {
    let done = match arguments.command {
        Command::Serve(node) => serve::serve(&node).await.map(|()| 0),
        Command::Demo(arguments) => demo::demo(&arguments).await,
        Command::Run(arguments) => run::run(&arguments).await,
        Command::Watch(arguments) => watch::watch(&arguments).await,
        Command::Publish(arguments) => publish::publish(&arguments).await,
        Command::Token(command) => token::token(&command).map(|()| 0),
        Command::Journal(command) => journal::journal(&command).await,
        Command::CheckConfig(node) => serve::check_config(&node).map(|()| 0),
    };
    let code = match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                print_error(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    };
    telemetry::flush(telemetry::FLUSH);
    code
}

/// Prints an error or a notice to stderr. A broken stderr is not an error.
fn print_error(message: &str) {
    telemetry::print_notice(&format!("millstream: {message}"));
}

/// Sends log lines to stderr.
fn log(config: &telemetry::Config) -> Result<(), Failure> {
    telemetry::install(config).map_err(Failure::new)
}

// === impl NodeArguments ===

impl NodeArguments {
    fn load(&self) -> Result<Config, Failure> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if let Some(dir) = &self.data_dir {
            config.server.data_dir.clone_from(dir);
        }
        if let Some(log) = &self.log {
            config.telemetry.log.clone_from(log);
        }
        config.check()?;
        Ok(config)
    }
}

// === impl Failure ===

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// The arguments are not valid.
    fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: EXIT_USAGE }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self { message: error.to_string(), code: EXIT_USAGE }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match error {
            OpenError::Damaged { .. } => EXIT_DAMAGED,
            OpenError::NotADirectory(_) | OpenError::Missing(_) | OpenError::OldFormat(_) => EXIT_USAGE,
            OpenError::InUse { .. } | OpenError::Io { .. } => 1,
        };
        Self { message: error.to_string(), code }
    }
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Self {
        match error {
            app::Error::Config(error) => error.into(),
            app::Error::Journal(error) => error.into(),
            app::Error::Failed(_) => Self { message: error.to_string(), code: EXIT_FAILED },
            other => Self::new(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_part_of_the_node_has_its_own_exit_code() {
        let failure = Failure::from(app::Error::Failed("jobs"));
        assert_eq!((failure.code, EXIT_FAILED), (70, 70));
        assert!(failure.message.contains("jobs"), "{}", failure.message);
    }
}
