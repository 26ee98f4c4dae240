//! What the handlers share: the parts of the node that they need, and how they stop.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::{jobs::handler::TaskError, upstream::Client};

/// What handlers need of the node.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Sends their requests.
    pub client: Client,
    /// Base URL under which this node reaches itself, such as `http://127.0.0.1:8090`. Set once the port is known;
    /// until then the samples that ask the node answer with the retryable error `not_ready`.
    pub own_url: Arc<OnceLock<String>>,
    /// A response above this many bytes is an error.
    pub max_response_bytes: usize,
    /// An event of a stream above this many bytes is an error (`journal.max_event_bytes`).
    pub max_event_bytes: usize,
}

/// Runs `work` until it ends or the token fires. Then `work` is dropped, which stops all that it began.
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
