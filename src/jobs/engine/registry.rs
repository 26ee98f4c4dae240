//! The existing jobs, the queries about them, and the choice of jobs to delete; pure.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::{Duration, Instant};

use super::live::LiveJob;
use crate::{
    durable::{self, Retention},
    event::Position,
    jobs::{
        config::Config,
        error::Error,
        record::Deletion,
        state::{JobState, Snapshot, Summary},
        status::{Status, TaskStatus},
        work::JobId,
    },
};

/// The filter of a list of jobs.
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
    /// Pass it as `after` to get the next page; `None` on the last page.
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

/// Where the result of a task is stored.
pub(crate) enum ResultLocation {
    /// In a record of its own.
    Record { encoding: Option<String> },
    /// In the `task_complete` at this position.
    Event(Position),
}

/// A job of the node.
pub(crate) struct Job {
    pub state: JobState,
    /// The record of its idempotency key.
    pub key_record: Option<String>,
    /// `None` once it has ended.
    pub live: Option<Box<LiveJob>>,
}

/// The jobs of a node.
pub(crate) struct Registry {
    jobs: BTreeMap<JobId, Job>,
    /// Ended jobs that exist in the journal.
    ended: Retention<Instant, JobId>,
    /// Ended jobs whose tasks are in memory, oldest end first, and the number of these tasks.
    remembered: VecDeque<JobId>,
    remembered_tasks: usize,
    max_remembered_tasks: usize,
    max_ended: usize,
    retention: Duration,
    /// Jobs that cannot be read, with the reason.
    unreadable: BTreeMap<String, String>,
}

/// Maximum number of unreadable jobs that are listed; further jobs are only counted.
const MAX_UNREADABLE: usize = 1000;

// === impl ResultLocation ===

impl ResultLocation {
    /// Where the result of a task is stored.
    pub(crate) fn of(state: &JobState, task_id: &str) -> Result<Self, Error> {
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
pub(crate) fn failed_tasks(state: &JobState) -> Result<Vec<String>, Error> {
    if !state.status().ended() {
        return Err(Error::NotEnded(state.status()));
    }
    let failed = state.tasks.iter().filter(|task| task.status != TaskStatus::Completed);
    let failed: Vec<_> = failed.map(|task| task.id.to_string()).collect();
    if failed.is_empty() { Err(Error::NothingFailed) } else { Ok(failed) }
}

// === impl Registry ===

impl Registry {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            jobs: BTreeMap::new(),
            ended: Retention::default(),
            remembered: VecDeque::new(),
            remembered_tasks: 0,
            max_remembered_tasks: config.max_kept_tasks,
            max_ended: config.max_kept,
            retention: Duration::from_millis(config.retention_ms),
            unreadable: BTreeMap::new(),
        }
    }

    // --- queries ---

    pub(crate) fn summary(&self, id: &str) -> Result<Summary, Error> {
        self.job(id).map(|job| job.state.summary())
    }

    /// Returns `None` if the tasks of the job are not in memory and must be read back.
    pub(crate) fn snapshot(&self, id: &str) -> Result<Option<Snapshot>, Error> {
        let state = &self.job(id)?.state;
        Ok(state.remembers_tasks().then(|| state.snapshot()))
    }

    pub(crate) fn list(&self, filter: &Filter) -> Listing {
        let (jobs, next) = durable::list(
            &self.jobs,
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
    pub(crate) fn result_location(&self, id: &str, task_id: &str) -> Result<Option<ResultLocation>, Error> {
        let state = &self.job(id)?.state;
        state.remembers_tasks().then(|| ResultLocation::of(state, task_id)).transpose()
    }

    /// The tasks of an ended job that have no result; `None` if they are not in memory and must be read back.
    pub(crate) fn failed_tasks(&self, id: &str) -> Result<Option<Vec<String>>, Error> {
        let state = &self.job(id)?.state;
        state.remembers_tasks().then(|| failed_tasks(state)).transpose()
    }

    /// Number of jobs that have not ended.
    pub(crate) fn unfinished(&self) -> usize {
        self.jobs.len() - self.ended.count()
    }

    /// Number of ended jobs that exist in the journal.
    pub(crate) fn ended(&self) -> usize {
        self.ended.count()
    }

    pub(crate) fn job(&self, id: &str) -> Result<&Job, Error> {
        self.jobs.get(id).ok_or_else(|| match self.unreadable.get(id) {
            Some(reason) => Error::Unreadable { job: id.to_owned(), reason: reason.clone() },
            None => Error::UnknownJob(id.to_owned()),
        })
    }

    // --- jobs that run ---

    pub(crate) fn insert(&mut self, state: JobState, key_record: Option<String>, live: Box<LiveJob>) {
        self.jobs.insert(live.id.clone(), Job { state, key_record, live: Some(live) });
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Job> {
        self.jobs.get_mut(id)
    }

    /// A job that has not ended.
    pub(crate) fn live(&mut self, id: &str) -> Option<&mut LiveJob> {
        self.jobs.get_mut(id)?.live.as_deref_mut()
    }

    /// All jobs that have not ended.
    pub(crate) fn all_live(&mut self) -> impl Iterator<Item = &mut LiveJob> {
        self.jobs.values_mut().filter_map(|job| job.live.as_deref_mut())
    }

    // --- jobs that have ended ---

    pub(crate) fn insert_ended(&mut self, state: JobState, key_record: Option<String>, at: Instant) {
        let id = state.job_id.clone();
        self.jobs.insert(id.clone(), Job { state, key_record, live: None });
        self.end(id, at);
    }

    /// Records that a job has ended. Above `max_kept_tasks` the tasks of the jobs that ended first are dropped from
    /// memory; they can be read back.
    pub(crate) fn end(&mut self, id: JobId, at: Instant) {
        self.remembered_tasks += self.jobs.get(&id).map_or(0, |job| job.state.tasks.len());
        self.ended.push(at, id.clone());
        self.remembered.push_back(id);
        while self.remembered_tasks > self.max_remembered_tasks {
            let Some(oldest) = self.remembered.pop_front() else { return };
            // The job may have been deleted meanwhile.
            if let Some(job) = self.jobs.get_mut(&oldest) {
                self.remembered_tasks -= job.state.forget_tasks();
            }
        }
    }

    /// Orders the ended jobs by their end; needed after a recovery, which inserts them by id.
    pub(crate) fn sort_ended(&mut self) {
        self.ended.sort();
    }

    /// Removes jobs whose retention is over, at most `limit`.
    pub(crate) fn expired(&mut self, now: Instant, limit: usize) -> Vec<Deletion> {
        let until = now.checked_sub(self.retention);
        let mut deletions = Vec::new();
        while deletions.len() < limit {
            let Some(id) = self.ended.expired(until, self.max_ended) else { break };
            deletions.extend(self.remove(id));
        }
        deletions
    }

    /// Removes the job that ended first.
    pub(crate) fn oldest(&mut self) -> Option<Deletion> {
        let id = self.ended.oldest()?;
        self.remove(id)
    }

    fn remove(&mut self, id: JobId) -> Option<Deletion> {
        let job = self.jobs.remove(&id)?;
        self.remembered_tasks -= job.state.tasks.len();
        Some(Deletion { id, key_record: job.key_record })
    }

    /// Records a job whose record or history cannot be read.
    pub(crate) fn unreadable(&mut self, id: String, reason: String) {
        if self.unreadable.len() < MAX_UNREADABLE {
            self.unreadable.insert(id, reason);
        }
    }
}
