//! The public interface of the jobs of a node.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    actor::{
        self, Cancel, FindFailedTasks, FindResult, GetSnapshot, GetSummary, JobsActor, ListJobs, Started, Stop, Submit,
    },
    config::{Config, Deps},
    engine::{Filter, Listing, QuotaGuard, ResultBounds, ResultLocation, failed_tasks},
    error::{Error, SubmitError},
    event::{Fact, JobEvent},
    handler::Handlers,
    record::{self, Key},
    recovery::Recovery,
    spec::{Limits, Plan, Spec},
    state::{JobState, Snapshot, Summary},
    stats::{Figures, Stats},
    status::Status,
    urls,
};
use crate::{
    durable::{Mailbox, Reader},
    event::Position,
    journal::{Query, Shared},
    json::FieldError,
    topic::Topic,
    upstream::{Remotes, Via},
};

/// Submits, reads and ends jobs. Cheap to clone; when the last clone is dropped, the jobs end.
#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<JobsActor>,
    shared: Arc<Resources>,
}

struct Resources {
    max_tasks: usize,
    figures: Figures,
    /// Ends the actor when the last handle is dropped.
    _alive: DropGuard,
    handlers: Handlers,
    remotes: Remotes,
    journal: Shared,
    /// Limits the histories that are replayed for readers at once.
    recalls: Semaphore,
}

/// A request for a job.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// The request body.
    pub spec: Spec,
    /// The submitter; `None` for a request without a user.
    pub user: Option<String>,
    /// The groups of that user; handlers see them as [`Task::groups`](super::handler::Task::groups).
    pub groups: Vec<String>,
    /// `Idempotency-Key`, 1 to 255 bytes. A repeat with the same key, body and user returns the same job.
    pub key: Option<String>,
    /// The `Via` of the request; requests of its tasks extend it.
    pub via: Via,
    /// Held until the job or the node ends. A job that is restored after a restart has none.
    pub quota_guard: Option<QuotaGuard>,
}

/// A job that was accepted. It will reach `complete`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Submitted {
    /// The job.
    pub job_id: String,
    /// Its status; `queued` unless the key was known.
    pub status: Status,
    /// Its events as a stream.
    pub events_url: String,
    /// True if the idempotency key was known; then this is the job of that key.
    #[serde(skip)]
    pub existing: bool,
}

/// A result of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskResult {
    /// The JSON text.
    pub json: Bytes,
    /// `base64` if the JSON is a string that encodes bytes.
    pub encoding: Option<String>,
}

/// Maximum number of histories of ended jobs that are replayed at once.
const RECALLS: usize = 2;

/// Maximum duration of a stop after its grace: handlers have two seconds, the rest is for the journal.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Starts the jobs of a node on a thread of their own.
///
/// # Panics
/// Outside of an actix system.
pub fn start(config: Config, deps: Deps) -> Handle {
    Handle::launch(config, deps, actor::spawn)
}

/// Starts the jobs on this thread, where a test can control the clock.
#[cfg(test)]
pub(crate) fn start_here(config: Config, deps: Deps) -> Handle {
    Handle::launch(config, deps, actor::spawn_here)
}

// === impl Handle ===

impl Handle {
    fn launch(config: Config, deps: Deps, spawn: fn(Config, Deps) -> Started) -> Self {
        let (max_tasks, handlers) = (config.max_tasks, deps.handlers.clone());
        let (remotes, journal) = (deps.remotes.clone(), deps.journal.clone());
        let Started { mailbox, figures, alive } = spawn(config, deps);
        let (alive, recalls) = (alive.drop_guard(), Semaphore::new(RECALLS));
        let shared = Arc::new(Resources { max_tasks, figures, _alive: alive, handlers, remotes, journal, recalls });
        Self { mailbox, shared }
    }

    /// Submits a job. When this returns, the job is in the journal. Dropping the future does not cancel the job.
    ///
    /// # Errors
    /// Nothing was stored; the variant names the reaction of the caller.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        self.submit_as(submission, None).await
    }

    /// A job with its tasks.
    ///
    /// # Errors
    /// If no job has this id, or the node is stopping.
    pub async fn get(&self, id: &str) -> Result<Snapshot, Error> {
        match self.mailbox.ask(GetSnapshot(id.to_owned())).await?? {
            Some(snapshot) => Ok(snapshot),
            None => Ok(self.recall(id).await?.snapshot()),
        }
    }

    /// A job without its tasks. The cost does not depend on their number.
    ///
    /// # Errors
    /// If no job has this id, or the node is stopping.
    pub async fn summary(&self, id: &str) -> Result<Summary, Error> {
        self.mailbox.ask(GetSummary(id.to_owned())).await?
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    /// If the node is stopping.
    pub async fn list(&self, filter: Filter) -> Result<Listing, Error> {
        Ok(self.mailbox.ask(ListJobs(filter)).await?)
    }

    /// The spec of a job, without its secrets; all ids are set.
    ///
    /// # Errors
    /// If no job has this id, or the journal cannot be read.
    pub async fn spec(&self, id: &str) -> Result<Spec, Error> {
        self.summary(id).await?;
        Ok(record::read(&self.shared.journal, id).await?.spec.redacted())
    }

    /// Cancels a job: no further task is begun, and running tasks have two seconds to stop. `complete` follows. A second
    /// cancel succeeds too.
    ///
    /// # Errors
    /// [`Error::Ended`] if the job has ended in another way. [`Error::Journal`] if the job is cancelled but the journal
    /// could not write the cancellation: if the node ends before the job, the job may continue.
    pub async fn cancel(&self, id: &str) -> Result<(), Error> {
        self.mailbox.ask(Cancel(id.to_owned())).await?
    }

    /// Submits the failed tasks of an ended job as a new one that refers to it.
    ///
    /// # Errors
    /// If the job has not ended, or no task failed, or the new job was not accepted.
    pub async fn retry(
        &self,
        id: &str,
        user: Option<String>,
        groups: Vec<String>,
        via: Via,
        quota_guard: Option<QuotaGuard>,
    ) -> Result<Submitted, Error> {
        let failed = match self.mailbox.ask(FindFailedTasks(id.to_owned())).await?? {
            Some(failed) => failed,
            None => failed_tasks(&self.recall(id).await?)?,
        };
        let failed: HashSet<String> = failed.into_iter().collect();
        let mut spec = record::read(&self.shared.journal, id).await?.spec;
        spec.tasks.retain(|task| task.id.as_ref().is_some_and(|id| failed.contains(id)));
        let submission = Submission { spec, user, groups, key: None, via, quota_guard };
        Ok(self.submit_as(submission, Some(id.to_owned())).await?)
    }

    /// The result of a task, also if it was too large for an event.
    ///
    /// # Errors
    /// If no job or task has this id, or the task has no result.
    pub async fn result(&self, id: &str, task_id: &str) -> Result<TaskResult, Error> {
        let find = FindResult { job: id.to_owned(), task: task_id.to_owned() };
        let location = match self.mailbox.ask(find).await?? {
            Some(location) => location,
            None => ResultLocation::of(&self.recall(id).await?, task_id)?,
        };
        match location {
            ResultLocation::Event(position) => self.result_in_event(id, position).await,
            ResultLocation::Record { encoding } => {
                let record = self.shared.journal.get(record::result_key(id, task_id)).await?;
                let record = record.ok_or_else(|| Error::UnknownJob(id.to_owned()))?;
                Ok(TaskResult { json: record.value, encoding })
            }
        }
    }

    /// Accepts no more jobs and waits up to `grace` for the running ones. If the journal outlives the process,
    /// unfinished jobs continue at the next start; otherwise they are cancelled, and their watchers get a `complete`.
    /// Returns when everything is in the journal. Afterwards this handle returns [`Error::Stopping`].
    pub async fn stop(&self, grace: Duration) {
        // An error means that the actor has ended already.
        if self.mailbox.ask_now(Stop(grace)).await.is_ok()
            && timeout(grace + STOP_MARGIN, self.mailbox.ended()).await.is_err()
        {
            tracing::error!("jobs did not end in time");
        }
    }

    /// True after all jobs of the journal are restored; requests before that wait.
    pub fn is_ready(&self) -> bool {
        self.mailbox.is_ready()
    }

    /// Figures for metrics and status, as of the engine's last turn. Never waits.
    pub fn stats(&self) -> Stats {
        self.shared.figures.get()
    }

    pub(super) fn journal(&self) -> &Shared {
        &self.shared.journal
    }

    /// The handler names that `run` accepts, sorted.
    pub fn handlers(&self) -> Vec<&str> {
        self.shared.handlers.names()
    }

    /// An ended job with its tasks, rebuilt from its history.
    async fn recall(&self, id: &str) -> Result<JobState, Error> {
        let _permit = self.shared.recalls.acquire().await;
        let Resources { journal, handlers, .. } = &*self.shared;
        // When the node stops the journal is closed, which ends the read.
        let (journal, stop) = (journal.clone(), CancellationToken::new());
        let reader = Reader { journal, stop, purpose: "the history of a job is read back" };
        // Results are not needed.
        Recovery::new(reader, handlers.clone(), ResultBounds::NONE).recall(id).await
    }

    async fn submit_as(&self, submission: Submission, retry_of: Option<String>) -> Result<Submitted, SubmitError> {
        let Submission { mut spec, user, groups, key, via, quota_guard } = submission;
        let Resources { max_tasks, handlers, remotes, .. } = &*self.shared;
        let limits = Limits { max_tasks: *max_tasks, handlers, remotes };
        let checked = Plan::check(&spec, limits);
        let mut errors = checked.as_ref().err().cloned().unwrap_or_default();
        if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255 || key.contains(char::is_control)) {
            errors.push(FieldError::new("Idempotency-Key", "must have 1 to 255 bytes without control characters"));
        }
        let mut plan = checked.ok().filter(|_| errors.is_empty()).ok_or(SubmitError::Invalid(errors))?;
        (plan.via, plan.groups) = (via.nodes(), groups.into());
        let key = key.map(|key| Key::new(user.as_deref(), &key, &spec));
        for (task, planned) in spec.tasks.iter_mut().zip(&plan.tasks) {
            task.id = Some(planned.id.clone());
        }
        let (job_id, existing) = self.mailbox.ask(Submit { spec, plan, user, key, retry_of, quota_guard }).await??;
        let status =
            if existing { self.summary(&job_id).await.map_or(Status::Queued, |s| s.status) } else { Status::Queued };
        Ok(Submitted { events_url: urls::events(&job_id), job_id, status, existing })
    }

    async fn result_in_event(&self, id: &str, position: Position) -> Result<TaskResult, Error> {
        let gone = || Error::UnknownJob(id.to_owned());
        let topic = Topic::job(id).map_err(|_| gone())?;
        let after = position.offset.saturating_sub(1);
        let query = Query { patterns: [topic.into()].into(), after, floor: after, limit: 1, max_bytes: usize::MAX };
        let page = self.shared.journal.read(query).await?;
        let event = page.events.first().filter(|event| event.position == position).ok_or_else(gone)?;
        match JobEvent::decode(event.name(), &event.data).map(|event| event.fact) {
            Ok(Fact::TaskComplete(done)) => {
                let json = Bytes::from(Box::<str>::from(done.result).into_boxed_bytes());
                Ok(TaskResult { json, encoding: done.encoding })
            }
            _ => Err(gone()),
        }
    }
}
