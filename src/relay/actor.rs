//! The thread that relays run on, and what runs there for as long as anybody holds a [`Handle`].

use std::sync::Arc;

use actix::Arbiter;
use tokio::sync::{mpsc, watch};

use super::{
    Config, Deps, Handle,
    handle::{MAX_REQUESTS, Work},
    lifecycle, recovery,
    shared::Shared,
};

/// Starts the relays of a node on a thread of their own.
///
/// # Panics
/// Outside of an actix system.
pub fn start(config: Config, deps: Deps) -> Handle {
    let (handle, running) = prepare(config, deps);
    Arbiter::new().spawn(async {
        running.await;
        Arbiter::current().stop();
    });
    handle
}

/// Starts the relays on this thread, where a test can hold the clock.
#[cfg(test)]
pub fn start_here(config: Config, deps: Deps) -> Handle {
    let (handle, running) = prepare(config, deps);
    tokio::spawn(running);
    handle
}

fn prepare(config: Config, deps: Deps) -> (Handle, impl Future<Output = ()> + Send) {
    let shared = Arc::new(Shared::new(config, deps));
    let (asked, work) = mpsc::channel(MAX_REQUESTS);
    let (ready, read) = watch::channel(false);
    let handle = Handle::new(shared.clone(), asked, read);
    (handle, shared.deps.supervisor.vital("relays").run(run(shared, work, ready)))
}

/// Begins what goes on by itself, and what is asked for; ends when the relays are stopped, or nobody is left to ask.
async fn run(shared: Arc<Shared>, mut work: mpsc::Receiver<Work>, ready: watch::Sender<bool>) {
    let recovery = shared.deps.supervisor.vital("recovery of relays");
    shared.tasks.spawn(recovery.run(recovery::run(shared.clone(), ready)));
    let sweeping = shared.clone();
    shared.keep("retention of relays", move || lifecycle::sweep(sweeping.clone()));
    while let Some(Some(work)) = shared.stop.run_until_cancelled(work.recv()).await {
        shared.tasks.spawn(work);
    }
    shared.stop.cancel();
    shared.tasks.close();
    shared.tasks.wait().await;
}
