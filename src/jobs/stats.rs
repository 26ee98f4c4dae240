//! Figures of jobs for metrics and status.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

use super::status::Status;

/// Figures of the jobs component. Counters start at 0 when the node starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobStats)]
pub struct Stats {
    /// Jobs that have not ended.
    pub jobs_running: u64,
    /// Ended jobs that exist in the journal.
    pub jobs_kept: u64,
    /// Jobs accepted.
    pub jobs_accepted: u64,
    /// Jobs that ended, by status.
    pub jobs_ended: Ended,
    /// Attempts that are running.
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
    /// Number of durations in `task_duration_ms_sum`.
    pub task_duration_count: u64,
    /// Jobs on remotes that run tasks of this node's jobs.
    pub remote_jobs: u64,
    /// Events that are not in the journal yet.
    pub events_pending: u64,
    /// Unfinished jobs of an earlier process that continued at the start.
    pub jobs_taken_up: u64,
    /// Times that an owner was skipped or rejected because it already had its share of slots, tasks or journal space.
    pub shares_refused: u64,
    /// Records of jobs that could not be read at the start; the node neither runs nor deletes these jobs.
    pub records_unreadable: u64,
}

/// Jobs that ended, by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobsEnded)]
pub struct Ended {
    /// Jobs with a result of every task.
    pub completed: u64,
    /// Jobs with results of some tasks.
    pub partial: u64,
    /// Jobs without a result, or ended by `failFast`.
    pub failed: u64,
    /// Jobs that a client or a stop of the node has ended.
    pub cancelled: u64,
    /// Jobs that their deadline has ended.
    pub timed_out: u64,
}

/// The figures of the engine's last turn. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Arc<Mutex<Stats>>);

// === impl Figures ===

impl Figures {
    pub(crate) fn get(&self) -> Stats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, stats: Stats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

// === impl Ended ===

impl Ended {
    /// The name and the number of each status.
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
