//! `serve` and `check-config`.

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, NodeArguments, log, text::say};
use crate::{
    app::{App, Node},
    jobs::handlers,
};

/// Exit code after a second signal: 128 + SIGINT, as shells have it.
const EXIT_NOW: i32 = 130;

/// Runs a node until it is told to stop. The first SIGTERM or SIGINT stops it in order, the second at once.
pub(super) async fn serve(arguments: &NodeArguments) -> Result<(), Failure> {
    let config = arguments.load()?;
    log(&config.telemetry)?;
    let server = App::build(config)?.bind()?;
    // First the ears, then the word: whoever reads it may send a signal at once.
    let stop = stop_signal()?;
    say(&format!("listening on {}", server.url()))?;
    let reloading = actix_rt::spawn(reload_on_hangup(server.node().clone(), arguments.clone())?);
    let adopting = actix_rt::spawn(handlers::adopt());
    let served = server.run(stop).await;
    adopting.abort();
    reloading.abort();
    Ok(served?)
}

/// Reads the settings again at each SIGHUP, and puts in force what can change without a restart.
fn reload_on_hangup(node: Node, arguments: NodeArguments) -> Result<impl Future<Output = ()>, Failure> {
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            match arguments.load() {
                // A file that is being written may be empty, and that is a file that lets everybody in.
                Ok(config) if config.access.mode != node.config.access.mode => {
                    tracing::error!("`access.mode` is another one, which needs a restart; the tokens in force stay");
                }
                Ok(config) => node.reload(&config).await,
                Err(Failure { message, .. }) => {
                    tracing::error!(error = message, "the settings cannot be read again; those in force stay");
                }
            }
        }
    })
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
            tracing::warn!("second signal, leaving at once");
            std::process::exit(EXIT_NOW);
        });
    })
}

/// Prints the settings in force as JSON, or says what is wrong.
pub(super) fn check_config(arguments: &NodeArguments) -> Result<(), Failure> {
    let config = arguments.load()?;
    tracing_subscriber::EnvFilter::try_new(&config.telemetry.log)
        .map_err(|error| crate::config::Error(format!("`telemetry.log` = `{}`: {error}", config.telemetry.log)))?;
    let json = serde_json::to_string_pretty(&config.to_json()).expect("settings are plain data");
    say(&json)
}
