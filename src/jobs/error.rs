//! What can go wrong, by what the caller can do about it.

use super::{spec::FieldError, status::Status};
use crate::{durable::Refused, journal::Unavailable};

/// Why a job was not accepted. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Fix the spec.
    #[error("the job has {} mistakes, the first: {}", .0.len(), first(.0))]
    Invalid(Vec<FieldError>),
    /// Take a new key, or send the same body again.
    #[error("the idempotency key was used for another job; take a new key")]
    KeyReused,
    /// Try again later.
    #[error(
        "the node has as much unfinished work as it takes (`jobs.max_running`, `journal.max_bytes`); try again later"
    )]
    Full,
    /// End some of your jobs, or wait for their end.
    #[error(
        "your unfinished jobs hold as much of the node as one user may (`limits.share_percent`); try again when some have ended"
    )]
    Share,
    /// Try again soon.
    #[error("the node has just started and still reads the jobs that it kept; try again soon")]
    Starting,
    /// Try another node, or this one after its restart.
    #[error("the node is stopping")]
    Stopping,
    /// Try again later.
    #[error(transparent)]
    Journal(#[from] Unavailable),
}

/// Why a job could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such job, or its history has left.
    #[error("no job `{0}`; its history may have left (`jobs.retention_ms`)")]
    UnknownJob(String),
    /// The stored job cannot be read.
    #[error("what is kept of job `{job}` cannot be read: {reason}")]
    Unreadable {
        /// The job.
        job: String,
        /// The reason.
        reason: String,
    },
    /// The job has no such task.
    #[error("job `{job}` has no task `{task}`")]
    UnknownTask {
        /// The job.
        job: String,
        /// The task.
        task: String,
    },
    /// What ended cannot be cancelled.
    #[error("the job has ended: {}", .0.as_str())]
    Ended(Status),
    /// What has not ended cannot be retried.
    #[error("the job has not ended: {}; wait for its end or cancel it", .0.as_str())]
    NotEnded(Status),
    /// There is nothing to retry.
    #[error("no task of the job has failed")]
    NothingFailed,
    /// The task has no result, or has none yet.
    #[error("task `{0}` has no result")]
    NoResult(String),
    /// The node has not yet read all that it kept.
    #[error("the node has just started and still reads the jobs that it kept; try again soon")]
    Starting,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// Try again later.
    #[error(transparent)]
    Journal(#[from] Unavailable),
    /// The new job was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

// === impl SubmitError ===

impl From<Refused> for SubmitError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Starting => Self::Starting,
            Refused::Stopping => Self::Stopping,
        }
    }
}

// === impl Error ===

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Starting => Self::Starting,
            Refused::Stopping => Self::Stopping,
        }
    }
}

fn first(errors: &[FieldError]) -> String {
    errors.first().map_or_else(String::new, |e| format!("`{}`: {}", e.field, e.detail))
}
