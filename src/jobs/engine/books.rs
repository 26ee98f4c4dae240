//! What the engine is asked, and which jobs it lets go.

use tokio::time::Instant;

use super::{Engine, Id};
use crate::{
    durable,
    event::Position,
    jobs::{
        error::Error,
        state::{JobState, Snapshot, Status, Summary, TaskStatus},
    },
};

/// Which jobs to list.
pub type Filter = durable::Filter<Status>;

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
    /// Stored jobs that cannot be read; only on the last page of an unfiltered list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Unreadable>,
}

/// A job whose record or history cannot be read. The node neither runs nor deletes it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UnreadableJob)]
pub struct Unreadable {
    /// The job.
    pub job_id: String,
    /// The reason.
    pub reason: String,
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

// === impl ResultPlace ===

impl ResultPlace {
    /// Where the result of a task is stored.
    pub fn of(state: &JobState, task_id: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownTask { job: state.job_id.to_string(), task: task_id.to_owned() };
        let task = state.task(task_id).ok_or_else(unknown)?;
        match (task.result_bytes, task.result_at) {
            (Some(_), _) => Ok(Self::Record { encoding: task.encoding.as_deref().map(str::to_owned) }),
            (None, Some(position)) => Ok(Self::Event(position)),
            (None, None) => Err(Error::NoResult(task_id.to_owned())),
        }
    }
}

/// The tasks of an ended job that have no result.
pub fn failed_tasks(state: &JobState) -> Result<Vec<String>, Error> {
    if !state.status().ended() {
        return Err(Error::NotEnded(state.status()));
    }
    let failed = state.tasks.iter().filter(|task| task.status != TaskStatus::Completed);
    let failed: Vec<_> = failed.map(|task| task.id.to_string()).collect();
    if failed.is_empty() { Err(Error::NothingFailed) } else { Ok(failed) }
}

// === impl Engine ===

impl Engine {
    pub fn summary(&self, id: &str) -> Result<Summary, Error> {
        self.job(id).map(|job| job.state.summary())
    }

    /// `None` if the tasks of the job are not in memory and must be read back.
    pub fn snapshot(&self, id: &str) -> Result<Option<Snapshot>, Error> {
        let state = &self.job(id)?.state;
        Ok(state.remembers_tasks().then(|| state.snapshot()))
    }

    pub fn list(&self, filter: &Filter) -> Listing {
        let (jobs, next) = durable::list(
            &self.book,
            filter,
            |job| (job.state.status(), job.state.user.as_deref()),
            |job| job.state.summary(),
        );
        let unreadable =
            self.unreadable.iter().map(|(id, reason)| Unreadable { job_id: id.clone(), reason: reason.clone() });
        // Only on the last page of an unfiltered list: the user of an unreadable job is unknown, so only callers that
        // may see all jobs get it.
        let complete = next.is_none() && filter.is_empty();
        Listing { jobs, next, unreadable: if complete { unreadable.collect() } else { Vec::new() } }
    }

    /// Where the result of a task is stored; `None` if the tasks of the job are not in memory and must be read back.
    pub fn result_place(&self, id: &str, task_id: &str) -> Result<Option<ResultPlace>, Error> {
        let state = &self.job(id)?.state;
        state.remembers_tasks().then(|| ResultPlace::of(state, task_id)).transpose()
    }

    /// The tasks of an ended job that have no result; `None` if they are not in memory and must be read back.
    pub fn failed_tasks(&self, id: &str) -> Result<Option<Vec<String>>, Error> {
        let state = &self.job(id)?.state;
        state.remembers_tasks().then(|| failed_tasks(state)).transpose()
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
        self.remembered_tasks -= job.state.tasks.len();
        Some((id, job.key_record))
    }

    /// Keeps the tasks of an ended job in memory. Above `max_kept_tasks` the tasks of the jobs that ended first are
    /// dropped; they can be read back.
    pub(super) fn remember(&mut self, id: Id) {
        self.remembered_tasks += self.book.get(&id).map_or(0, |job| job.state.tasks.len());
        self.remembered.push_back(id);
        while self.remembered_tasks > self.config.max_kept_tasks {
            let Some(oldest) = self.remembered.pop_front() else { return };
            // The job may have been deleted meanwhile.
            if let Some(job) = self.book.get_mut(&oldest) {
                self.remembered_tasks -= job.state.forget_tasks();
            }
        }
    }

    fn job(&self, id: &str) -> Result<&super::Job, Error> {
        self.book.get(id).ok_or_else(|| match self.unreadable.get(id) {
            Some(reason) => Error::Unreadable { job: id.to_owned(), reason: reason.clone() },
            None => Error::UnknownJob(id.to_owned()),
        })
    }
}
