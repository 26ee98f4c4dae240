//! Samples: handlers that do real work on data inside the binary, so that a new node can be tried.
//!
//! | name | work |
//! |---|---|
//! | `thumbnail` | decodes a picture, resizes it to three widths, encodes each as JPEG |
//! | `stats` | reads ten thousand orders and describes their values, in all and by region |
//! | `fetch` | downloads the orders from this node ([`ORDERS_PATH`]) and hashes them |
//! | `third_party` | requests freight quotes from this node page by page ([`QUOTES_PATH`]) and compares them |
//!
//! They need no input. The node serves the data of the last two: [`orders_csv`] and [`quotes`].

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use super::common::{Deps, unless_cancelled};
use crate::{
    jobs::handler::{Handlers, Output, Registered, Task, TaskError, TaskHandler},
    journal::BoxFuture,
};

mod data;
mod remote;
mod stats;
mod steps;
mod thumbnail;

pub use self::data::{ORDERS_PATH, QUOTES_PATH, Quote, QuotePage, orders_csv, quotes};
use self::{remote::Node, steps::Steps};

/// The accepted names of `sample = "…"`.
pub const NAMES: [&str; 4] = ["thumbnail", "stats", "fetch", "third_party"];

/// The handlers of the sample jobs, by name.
pub const HANDLERS: [(&str, &str); 4] = [
    ("Process Image", "thumbnail"),
    ("Calculate Stats", "stats"),
    ("Fetch External Data", "fetch"),
    ("Call Third-party API", "third_party"),
];

/// Settings of section `[samples]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// True if the node has the sample jobs, their handlers and their data.
    pub enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Registers the handlers of the sample jobs, unless other handlers have their names.
pub fn register_missing(handlers: &mut Handlers, deps: &Deps) {
    for (name, kind) in HANDLERS {
        if handlers.get(name).is_none() {
            handlers.register(name, sample(kind, deps).expect("each sample has a handler"));
        }
    }
}

/// Makes the handler of a sample; `None` if no sample has this name.
pub fn sample(name: &str, deps: &Deps) -> Option<Registered> {
    Some(match name {
        "thumbnail" => Registered::new(Compute { work: thumbnail::run }),
        "stats" => Registered::new(Compute { work: stats::run }),
        "fetch" => Registered::new(remote::Fetch(Node::new(deps))),
        "third_party" => Registered::new(remote::ThirdParty(Node::new(deps))),
        _ => return None,
    })
}

/// Runs a computation on a blocking thread.
struct Compute {
    work: fn(&Steps) -> Result<Value, TaskError>,
}

// === impl Compute ===

impl TaskHandler for Compute {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            let (reports, mut steps) = mpsc::channel(8);
            let work = self.work;
            // The end of this future and the token both stop the work at its next step.
            let cancel = task.cancel.child_token();
            let _guard = cancel.clone().drop_guard();
            let working = tokio::task::spawn_blocking(move || work(&Steps { reports, cancel }));
            unless_cancelled(&task.cancel, async {
                while let Some((progress, message)) = steps.recv().await {
                    task.progress.report(progress, message).await;
                }
                let done = working.await.map_err(|error| TaskError::fatal("panicked", error.to_string()))?;
                done.map(Output::from)
            })
            .await
        })
    }
}

#[cfg(test)]
mod tests;
