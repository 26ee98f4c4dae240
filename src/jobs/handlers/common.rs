//! The common parts of the handlers: their dependencies, and how they stop.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::{jobs::handler::TaskError, upstream::Client};

/// Dependencies of handlers.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Sends their requests.
    pub client: Client,
    /// Base URL at which this node reaches itself, such as `http://127.0.0.1:8090`. It is set when the port is known;
    /// before that the samples that call the node return the retryable error `not_ready`.
    pub own_url: Arc<OnceLock<String>>,
    /// Maximum size of a response in bytes.
    pub max_response_bytes: usize,
    /// Maximum size of an event of a stream in bytes (`journal.max_event_bytes`).
    pub max_event_bytes: usize,
}

/// Runs `work` until it ends or the token fires. Then `work` is dropped, which stops everything that it began.
pub(super) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, TaskError>>,
) -> Result<T, TaskError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled()),
        done = work => done,
    }
}

/// The error of a handler whose token has fired.
pub(super) fn cancelled() -> TaskError {
    TaskError::fatal("cancelled", "the task was cancelled")
}
