//! The door to the jobs of a node.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Config, Filter, Listing,
    actor::Submit,
    door::Door,
    engine::{Bounds, ResultPlace, failed_tasks},
    error::{Error, SubmitError},
    event::{Fact, JobEvent},
    handler::Handlers,
    record::{self, Key},
    recovery::Recovery,
    spec::{FieldError, Limits, Plan, Spec},
    state::{JobState, Snapshot, Status, Summary},
    stats::Stats,
    urls,
};
use crate::{
    durable::Reader,
    event::Position,
    journal::{Query, Shared},
    topic::Topic,
    upstream::{Remotes, Via},
};

/// Submits, asks and ends jobs. Cheap to clone; when the last one is dropped the jobs end.
#[derive(Clone)]
pub struct Handle {
    door: Door,
    shared: Arc<Resources>,
}

struct Resources {
    config: Config,
    handlers: Handlers,
    remotes: Remotes,
    journal: Shared,
    /// Limits the histories that are replayed for readers at once.
    recalls: Semaphore,
}

/// What a client hands in.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// The request body.
    pub spec: Spec,
    /// Who submits.
    pub user: Option<String>,
    /// The groups of that user; handlers see them as [`Task::groups`](super::handler::Task::groups).
    pub groups: Vec<String>,
    /// `Idempotency-Key`: the same key and body of the same user is the same job. 1 to 255 bytes.
    pub key: Option<String>,
    /// The `Via` of the request; requests of its tasks extend it.
    pub via: Via,
    /// Kept until the job ends, or until the node does.
    pub hold: Option<Hold>,
}

/// Something that lives as long as an unfinished job, such as its submitter's place among those who may have one.
pub type Hold = Arc<dyn std::any::Any + Send + Sync>;

/// A job that was accepted: it will reach `complete`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Submitted {
    /// The job.
    pub job_id: String,
    /// How far it is; `queued` unless the key was known.
    pub status: Status,
    /// Its events as a stream.
    pub events_url: String,
    /// True when the key was known and this is the job that it stands for.
    #[serde(skip)]
    pub existing: bool,
}

/// A result of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskResult {
    /// The JSON text.
    pub json: Bytes,
    /// `base64` where the JSON is a string that stands for bytes.
    pub encoding: Option<String>,
}

/// Maximum number of histories of ended jobs that are replayed at once.
const RECALLS: usize = 2;

// === impl Handle ===

impl Handle {
    pub(super) fn new(door: Door, config: Config, handlers: Handlers, remotes: Remotes, journal: Shared) -> Self {
        Self {
            door,
            shared: Arc::new(Resources { config, handlers, remotes, journal, recalls: Semaphore::new(RECALLS) }),
        }
    }

    /// Submits a job. When this answers, the job is in the journal. Cancelling this future does not take it back.
    ///
    /// # Errors
    /// Nothing was kept; the variant says what can be done.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        self.submit_as(submission, None).await
    }

    /// A job with its tasks.
    ///
    /// # Errors
    /// When there is no such job, or the node is stopping.
    pub async fn get(&self, id: &str) -> Result<Snapshot, Error> {
        let id = id.to_owned();
        let asked = id.clone();
        match self.door.look(move |engine| engine.snapshot(&asked)).await?? {
            Some(snapshot) => Ok(snapshot),
            None => Ok(self.recall(&id).await?.snapshot()),
        }
    }

    /// A job without its tasks; costs the same whatever their number.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn summary(&self, id: &str) -> Result<Summary, Error> {
        let id = id.to_owned();
        self.door.look(move |engine| engine.summary(&id)).await?
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    /// When the node is stopping.
    pub async fn list(&self, filter: Filter) -> Result<Listing, Error> {
        self.door.look(move |engine| engine.list(&filter)).await
    }

    /// What was submitted, without its secrets; all ids are filled in.
    ///
    /// # Errors
    /// When there is no such job, or the journal cannot tell.
    pub async fn spec(&self, id: &str) -> Result<Spec, Error> {
        self.summary(id).await?;
        Ok(record::read(&self.shared.journal, id).await?.spec.redacted())
    }

    /// Cancels a job: no task is begun any more, and those that run have two seconds to stop. `complete` follows.
    /// Cancelling twice is once.
    ///
    /// # Errors
    /// [`Error::Ended`] when it ended otherwise before; [`Error::Journal`] when it is cancelled and the journal could not
    /// keep that: should the node end before the job does, the job may go on.
    pub async fn cancel(&self, id: &str) -> Result<(), Error> {
        self.door.cancel(id.to_owned()).await
    }

    /// Submits the failed tasks of an ended job as a new one that refers to it.
    ///
    /// # Errors
    /// When the job has not ended, or none failed, or the new job was not accepted.
    pub async fn retry(
        &self,
        id: &str,
        user: Option<String>,
        groups: Vec<String>,
        via: Via,
        hold: Option<Hold>,
    ) -> Result<Submitted, Error> {
        let asked = id.to_owned();
        let failed = match self.door.look(move |engine| engine.failed_tasks(&asked)).await?? {
            Some(failed) => failed,
            None => failed_tasks(&self.recall(id).await?)?,
        };
        let failed: HashSet<String> = failed.into_iter().collect();
        let mut spec = record::read(&self.shared.journal, id).await?.spec;
        spec.tasks.retain(|task| task.id.as_ref().is_some_and(|id| failed.contains(id)));
        let submission = Submission { spec, user, groups, key: None, via, hold };
        Ok(self.submit_as(submission, Some(id.to_owned())).await?)
    }

    /// The result of a task, whether it was too large for an event or not.
    ///
    /// # Errors
    /// When there is no such job or task, or the task has no result (yet).
    pub async fn result(&self, id: &str, task_id: &str) -> Result<TaskResult, Error> {
        let (job, task) = (id.to_owned(), task_id.to_owned());
        let place = match self.door.look(move |engine| engine.result_place(&job, &task)).await?? {
            Some(place) => place,
            None => ResultPlace::of(&self.recall(id).await?, task_id)?,
        };
        match place {
            ResultPlace::Event(position) => self.result_in_event(id, position).await,
            ResultPlace::Record { encoding } => {
                let record = self.shared.journal.get(record::result_key(id, task_id)).await?;
                let record = record.ok_or_else(|| Error::UnknownJob(id.to_owned()))?;
                Ok(TaskResult { json: record.value, encoding })
            }
        }
    }

    /// Takes no more jobs and waits up to `grace` for the running ones. What remains goes on at the next start where the
    /// journal outlives the process, and is cancelled elsewhere: its watchers see a `complete`. Returns when all is in
    /// the journal. Afterwards this handle answers [`Error::Stopping`].
    pub async fn stop(&self, grace: Duration) {
        self.door.stop(grace).await;
    }

    /// True after all jobs of the journal are restored; before that requests wait.
    pub fn is_ready(&self) -> bool {
        self.door.is_ready()
    }

    /// Figures for metrics and status, as of the engine's last turn. Never waits.
    pub fn stats(&self) -> Stats {
        self.door.stats()
    }

    pub(super) fn journal(&self) -> &Shared {
        &self.shared.journal
    }

    /// The names that `run` knows, sorted.
    pub fn handlers(&self) -> Vec<&str> {
        self.shared.handlers.names()
    }

    /// An ended job with its tasks, rebuilt from its history.
    async fn recall(&self, id: &str) -> Result<JobState, Error> {
        let _permit = self.shared.recalls.acquire().await;
        let Resources { journal, handlers, .. } = &*self.shared;
        let (journal, stop) = (journal.clone(), CancellationToken::new());
        let reader = Reader { journal, stop, purpose: "the history of a job is read back" };
        // Results are not needed, so none are kept.
        let bounds = Bounds { inline: 0, total: 0, room: 0 };
        Recovery::new(reader, handlers.clone(), bounds).recall(id).await
    }

    async fn submit_as(&self, submission: Submission, retry_of: Option<String>) -> Result<Submitted, SubmitError> {
        let Submission { mut spec, user, groups, key, via, hold } = submission;
        let Resources { config, handlers, remotes, .. } = &*self.shared;
        let limits = Limits { max_tasks: config.max_tasks, handlers, remotes };
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
        let (job_id, existing) = self.door.submit(Submit { spec, plan, user, key, retry_of, hold }).await?;
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
