//! The steps of a computation on a blocking thread: each reports progress and can stop the computation.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::jobs::{handler::TaskError, handlers::common::cancelled};

/// Takes the progress of a computation, and stops it when its result is no longer wanted.
pub(super) struct Steps {
    pub reports: mpsc::Sender<(f64, String)>,
    pub cancel: CancellationToken,
}

// === impl Steps ===

impl Steps {
    /// Reports that a step is done.
    ///
    /// # Errors
    /// When the computation must stop.
    pub(super) fn done(&self, progress: f64, message: impl Into<String>) -> Result<(), TaskError> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        self.reports.blocking_send((progress, message.into())).map_err(|_| cancelled())
    }
}
