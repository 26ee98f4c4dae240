//! `serve` and `check-config`.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, NodeArguments, log, text::print_line};
use crate::{app::App, jobs::handlers, node::Node, telemetry};

/// Time to write the last log lines when the second signal ends the process.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Exit code after a second signal: 128 + SIGINT, as in shells.
const EXIT_NOW: i32 = 130;

/// Runs a node until a signal. The first SIGTERM or SIGINT stops it cleanly, the second one at once.
pub(super) async fn serve(arguments: &NodeArguments) -> Result<(), Failure> {
    let config = arguments.load()?;
    log(&config.telemetry)?;
    let server = App::build(config)?.bind()?;
    // Install the signal handlers before printing the address: its reader may send a signal immediately.
    let stop = stop_signal()?;
    let (node, own) = (server.node().clone(), arguments.clone());
    drop(hangups()?);
    let reload = move || reload_on_hangup(node.clone(), own.clone());
    let reloading = actix_rt::spawn(server.node().supervisor.clone().keep("reload of the settings", reload));
    announce(format!("listening on {}", server.url()))?;
    let adopting = actix_rt::spawn(handlers::adopt());
    let served = server.run(stop).await;
    adopting.abort();
    reloading.abort();
    Ok(served?)
}

/// Prints a line on stdout for the program that starts the node. A closed or unread stdout does not stop the node.
fn announce(line: String) -> Result<(), Failure> {
    let print = move || {
        if let Err(Failure { message, .. }) = print_line(&line) {
            let error = if message.is_empty() { "its reader has closed it" } else { &message };
            tracing::warn!(error, "cannot write to stdout; the node runs without it");
        }
    };
    let thread = std::thread::Builder::new().name("announce".into()).spawn(print);
    thread.map(drop).map_err(|error| Failure::new(format!("no thread to print the address: {error}")))
}

fn hangups() -> Result<Signal, Failure> {
    signal(SignalKind::hangup()).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))
}

/// Reads the settings again at each SIGHUP, and applies those that can change without a restart.
async fn reload_on_hangup(node: Node, arguments: NodeArguments) {
    let Ok(mut hangup) = hangups() else { return };
    while hangup.recv().await.is_some() {
        match arguments.load() {
            // A file that is being written may be empty. Empty settings mean open mode, with all rights for all callers.
            Ok(config) if config.access.mode != node.config.access.mode => {
                tracing::error!("`access.mode` has changed, which needs a restart; the current tokens stay valid");
            }
            Ok(config) => node.reload(&config).await,
            Err(Failure { message, .. }) => {
                tracing::error!(error = message, "the settings cannot be read; the current ones stay valid");
            }
        }
    }
}

/// Resolves at the first signal to stop; the second one ends the process.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let no_signals = |error| Failure::new(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        actix_rt::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::warn!("second signal, stopping at once");
            telemetry::flush(LAST_LINES);
            std::process::exit(EXIT_NOW);
        });
    })
}

/// Prints the settings as JSON, or the error.
pub(super) fn check_config(arguments: &NodeArguments) -> Result<(), Failure> {
    let config = arguments.load()?;
    let json = serde_json::to_string_pretty(&config.to_json()).expect("settings are plain data");
    print_line(&json)
}
