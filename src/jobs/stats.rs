//! Figures for metrics and status.

use serde::Serialize;
use utoipa::ToSchema;

use super::state::Status;

/// Figures of the jobs component. Counters run since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobStats)]
pub struct Stats {
    /// Jobs that have not ended.
    pub jobs_running: u64,
    /// Jobs that have ended and are kept.
    pub jobs_kept: u64,
    /// Jobs accepted.
    pub jobs_accepted: u64,
    /// Jobs that ended, by status.
    pub jobs_ended: Ended,
    /// Attempts that run.
    pub tasks_running: u64,
    /// Tasks of unfinished jobs.
    pub unfinished_tasks: u64,
    /// Tasks that wait for a slot.
    pub tasks_queued: u64,
    /// Tasks that ended with a result.
    pub tasks_succeeded: u64,
    /// Tasks that ended with an error.
    pub tasks_failed: u64,
    /// Attempts that followed a failed one.
    pub task_retries: u64,
    /// Sum of the durations of all tasks that began and ended, in milliseconds.
    pub task_duration_ms_sum: u64,
    /// Number of those durations.
    pub task_duration_count: u64,
    /// Jobs on remotes that run tasks of jobs here.
    pub remote_jobs: u64,
    /// Events that wait for the journal.
    pub events_pending: u64,
    /// Unfinished jobs of the time before that were taken up at the start.
    pub jobs_taken_up: u64,
    /// Times that an owner was skipped or rejected because it already had its share of slots, tasks or journal space.
    pub shares_refused: u64,
    /// Records of jobs that could not be read at the start; they are left alone.
    pub records_unreadable: u64,
}

/// Jobs that ended, by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobsEnded)]
pub struct Ended {
    /// With a result of every task.
    pub completed: u64,
    /// With some results.
    pub partial: u64,
    /// Without a result, or by `failFast`.
    pub failed: u64,
    /// By a client or the node's stop.
    pub cancelled: u64,
    /// By their deadline.
    pub timed_out: u64,
}

// === impl Ended ===

impl Ended {
    /// Name and figure of each status.
    pub fn by_status(&self) -> [(&'static str, u64); 5] {
        [
            (Status::Completed.as_str(), self.completed),
            (Status::Partial.as_str(), self.partial),
            (Status::Failed.as_str(), self.failed),
            (Status::Cancelled.as_str(), self.cancelled),
            (Status::TimedOut.as_str(), self.timed_out),
        ]
    }

    pub(super) fn count(&mut self, status: Status) {
        match status {
            Status::Completed => self.completed += 1,
            Status::Partial => self.partial += 1,
            Status::Failed => self.failed += 1,
            Status::Cancelled => self.cancelled += 1,
            Status::TimedOut => self.timed_out += 1,
            Status::Queued | Status::Running => {}
        }
    }
}
