//! Errors of the jobs component, grouped by the reaction of the caller.

use super::status::Status;
use crate::{durable::Refused, journal::Unavailable, json::FieldError};

/// Why a job was not accepted. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The spec is wrong: correct it.
    #[error("the job has {} mistakes, the first: {}", .0.len(), FieldError::first(.0))]
    Invalid(Vec<FieldError>),
    /// The key belongs to another job: use a new key, or the body of that job.
    #[error("the idempotency key was used for another job; take a new key")]
    KeyReused,
    /// The node has too much unfinished work: try again later.
    #[error("the node has its maximum of unfinished work (`jobs.max_running`, `journal.max_bytes`); try again later")]
    Full,
    /// The user has too much unfinished work: end some jobs, or wait for their end.
    #[error(
        "your unfinished jobs hold the maximum share of one user (`limits.share_percent`); try again when some have ended"
    )]
    Share,
    /// The node still restores its jobs: try again soon.
    #[error("the node has just started and still reads its stored jobs; try again soon")]
    Starting,
    /// The node is stopping: use another node, or try again after its restart.
    #[error("the node is stopping")]
    Stopping,
    /// The journal is not available: try again later.
    #[error(transparent)]
    Journal(#[from] Unavailable),
}

/// Why a job could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No job has this id, or its history was deleted.
    #[error("no job `{0}`; its history may have been deleted (`jobs.retention_ms`)")]
    UnknownJob(String),
    /// The stored job cannot be read.
    #[error("the stored data of job `{job}` cannot be read: {reason}")]
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
    /// An ended job cannot be cancelled.
    #[error("the job has ended: {}", .0.as_str())]
    Ended(Status),
    /// An unfinished job cannot be retried.
    #[error("the job has not ended: {}; wait for its end or cancel it", .0.as_str())]
    NotEnded(Status),
    /// No task has failed.
    #[error("no task of the job has failed")]
    NothingFailed,
    /// The task has no result, or no result yet.
    #[error("task `{0}` has no result")]
    NoResult(String),
    /// The node still restores its jobs.
    #[error("the node has just started and still reads its stored jobs; try again soon")]
    Starting,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The journal is not available: try again later.
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
