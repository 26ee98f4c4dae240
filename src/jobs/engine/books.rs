//! What the engine is asked, and which jobs it lets go.

use std::ops::Bound;

use tokio::time::Instant;

use super::{Engine, Id};
use crate::{
    event::Position,
    jobs::{
        error::Error,
        state::{Snapshot, Status, Summary, TaskStatus},
    },
};

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those that stand so.
    pub status: Option<Status>,
    /// Only those of this user.
    pub user: Option<String>,
    /// Only those older than this job: the `next` of the page before.
    pub after: Option<String>,
    /// Most jobs in the page; 1 to 1000, and 50 where it is 0.
    pub limit: usize,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = JobListing, examples(json!({
    "jobs": [{
        "jobId": "01JB0000000000000000000000", "status": "completed", "user": null, "createdAt": 1_790_000_000_000_u64,
        "startedAt": 1_790_000_000_010_u64, "endedAt": 1_790_000_000_400_u64, "durationMs": 400, "totalTasks": 1,
        "successCount": 1, "errorCount": 0, "progress": 100.0, "lastEventId": "9c1f00aa0b77-12",
        "eventsUrl": "/api/jobs/01JB0000000000000000000000/events",
    }],
    "next": null,
})))]
pub struct Listing {
    /// The jobs.
    pub jobs: Vec<Summary>,
    /// Pass it as `after` for the next page; `None` when this is the last.
    pub next: Option<String>,
}

/// Where a result is kept.
pub enum ResultPlace {
    /// In a record of its own.
    Record { encoding: Option<String> },
    /// In the `task_complete` that stands here.
    Event(Position),
}

/// A job that leaves, and its idempotency key's record.
pub type Leaving = (Id, Option<String>);

// === impl Engine ===

impl Engine {
    pub fn summary(&self, id: &str) -> Result<Summary, Error> {
        self.job(id).map(|job| job.state.summary())
    }

    pub fn snapshot(&self, id: &str) -> Result<Snapshot, Error> {
        self.job(id).map(|job| job.state.snapshot())
    }

    pub fn list(&self, filter: &Filter) -> Listing {
        let limit = if filter.limit == 0 { 50 } else { filter.limit.min(1000) };
        let end = filter.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let wanted =
            self.book.range::<str, _>((Bound::Unbounded, end)).rev().map(|(_, job)| &job.state).filter(|state| {
                filter.status.is_none_or(|status| state.status() == status)
                    && filter.user.as_deref().is_none_or(|user| state.user.as_deref() == Some(user))
            });
        let mut jobs: Vec<_> = wanted.take(limit + 1).map(super::JobState::summary).collect();
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        let next = jobs.last().filter(|_| more).map(|job| job.job_id.to_string());
        Listing { jobs, next }
    }

    /// Where the result of a task is to be had.
    pub fn result_place(&self, id: &str, task_id: &str) -> Result<ResultPlace, Error> {
        let unknown = || Error::UnknownTask { job: id.to_owned(), task: task_id.to_owned() };
        let task = self.job(id)?.state.task(task_id).ok_or_else(unknown)?;
        match (task.result_bytes, task.result_at) {
            (Some(_), _) => Ok(ResultPlace::Record { encoding: task.encoding.as_deref().map(str::to_owned) }),
            (None, Some(position)) => Ok(ResultPlace::Event(position)),
            (None, None) => Err(Error::NoResult(task_id.to_owned())),
        }
    }

    /// The tasks of an ended job that have no result.
    pub fn failed_tasks(&self, id: &str) -> Result<Vec<String>, Error> {
        let state = &self.job(id)?.state;
        if !state.status().ended() {
            return Err(Error::NotEnded(state.status()));
        }
        let failed = state.tasks.iter().filter(|task| task.status != TaskStatus::Completed);
        let failed: Vec<_> = failed.map(|task| task.id.to_string()).collect();
        if failed.is_empty() { Err(Error::NothingFailed) } else { Ok(failed) }
    }

    /// Jobs whose time is over, at most `limit`; from now on the engine knows them no more.
    pub fn expired(&mut self, now: Instant, limit: usize) -> Vec<Leaving> {
        let retention = std::time::Duration::from_millis(self.config.retention_ms);
        let mut leaving = Vec::new();
        while leaving.len() < limit {
            let Some((at, _)) = self.ended.front() else { break };
            if now.duration_since(*at) < retention && self.ended.len() <= self.config.max_kept {
                break;
            }
            leaving.extend(self.oldest());
        }
        leaving
    }

    pub(super) fn oldest(&mut self) -> Option<Leaving> {
        let (_, id) = self.ended.pop_front()?;
        let job = self.book.remove(&id)?;
        Some((id, job.key_record))
    }

    fn job(&self, id: &str) -> Result<&super::Job, Error> {
        self.book.get(id).ok_or_else(|| Error::UnknownJob(id.to_owned()))
    }
}
