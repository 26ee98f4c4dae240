//! The status of a job and of a task, in the form of the API and of events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The status of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobStatus)]
pub enum Status {
    /// Accepted; no task has begun.
    Queued,
    /// Some task has begun.
    Running,
    /// Ended: every task has a result.
    Completed,
    /// Ended: some tasks have a result.
    Partial,
    /// Ended: no task has a result, or a task failed in a job with `failFast`.
    Failed,
    /// Ended by a client or by the node's stop.
    Cancelled,
    /// Ended by its deadline.
    TimedOut,
}

/// The status of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// It waits for its first attempt.
    Queued,
    /// An attempt runs.
    Running,
    /// An attempt failed and another one will follow.
    Retrying,
    /// It has a result.
    Completed,
    /// It has failed.
    Failed,
    /// The job or the node ended before it did.
    Cancelled,
}

// === impl Status ===

impl Status {
    /// True if no event follows.
    pub fn ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The status in the form of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

// === impl TaskStatus ===

impl TaskStatus {
    /// True if no event of the task follows.
    pub fn finished(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}
