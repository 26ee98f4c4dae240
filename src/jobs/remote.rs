//! Follows the tasks of a job that one remote runs: one job of the remote contains all of them.
//!
//! ```text
//! RemoteTasks ─> record (is there a job already?) ─> POST /api/jobs ─> record (its id) ─> follow: its events ─> reports
//!    cancelled meanwhile: DELETE, then an error for each task that has not ended
//!    this node stops:     no event; the next start continues here
//! ```
//!
//! A [`Session`] reports to the engine over the channel that attempts use. It promises an end of each task, and that it
//! ends by itself: at once when `leave` fires, and within [`GRACE`] when `cancel` fires. The POST carries an
//! idempotency key, so it may be repeated, also after a restart of the node. Data of the remote is checked before use.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    code,
    config::{Config, Deps},
    event_size::data_bytes,
    handler::TaskError,
    memory::Memory,
    work::{RemoteReport, RemoteTasks, ReportBody, TaskReport},
};
use crate::{
    journal::{AppendError, Shared, insist},
    supervise,
    upstream::{
        Connections, Remote, Remotes,
        events::{Failure, Pace},
    },
};

mod follow;
mod record;
mod request;
mod retries;

use self::{record::RemoteJobRecord, request::RequestError, retries::Retries};

/// Time that a remote has to stop a job: as long as a handler.
const GRACE: Duration = Duration::from_secs(2);
/// The pause before a failed cancel is sent again. It is short, because the session ends soon.
const CANCEL_RETRY: Duration = Duration::from_millis(100);
/// Times that the journal is asked to write the record, about a minute. Then the job on the remote is followed without
/// it: the idempotency key finds it again.
const MAX_SAVES: usize = 240;
/// The time by which a remote's deadline is later than this node's deadline, which is decisive.
const LATER: Duration = Duration::from_secs(1);
/// The longest timeout that a job may have.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);
/// The first consecutive failures are reported in band, then the 16th, the 32nd and so on.
const REPORTED_RETRIES: u32 = 8;
/// Maximum number of waiting tasks that report an unreachable remote; in a job of thousands more reports would not
/// help.
const REPORTED_TASKS: usize = 32;

/// The context that all sessions of a node share.
pub(crate) struct RemoteContext {
    journal: Shared,
    remotes: Remotes,
    connections: Connections,
    pace: Pace,
    max_result_bytes: usize,
    max_data_bytes: usize,
    memory: Memory,
}

/// Follows the tasks of a job on one remote.
pub(crate) struct Session {
    tasks: RemoteTasks,
    /// The tasks that have not ended, by id.
    open: HashMap<String, OpenTask>,
    stage: Stage,
    context: Arc<RemoteContext>,
    reports: mpsc::Sender<TaskReport>,
}

/// A task that has not ended.
#[derive(Clone, Copy)]
struct OpenTask {
    index: u32,
    /// True after its start was reported.
    started: bool,
    /// The highest reported progress.
    progress: f64,
}

/// The stage of the handover to the remote.
enum Stage {
    /// The record was not read yet.
    Unknown,
    /// No job on the remote is known. `sent` is true once the remote may have got this body.
    Submitting { body: Bytes, record: Box<RemoteJobRecord>, sent: bool },
    /// The id of the job on the remote.
    Following(String),
}

// === impl RemoteContext ===

impl RemoteContext {
    pub(crate) fn new(config: &Config, deps: &Deps) -> Arc<Self> {
        Arc::new(Self {
            journal: deps.journal.clone(),
            remotes: deps.remotes.clone(),
            connections: deps.connections.clone(),
            pace: deps.pace,
            max_result_bytes: config.max_response_bytes,
            max_data_bytes: data_bytes(deps.max_event_bytes),
            memory: deps.memory.clone(),
        })
    }
}

// === impl Session ===

impl Session {
    pub(crate) fn new(tasks: RemoteTasks, context: Arc<RemoteContext>, reports: mpsc::Sender<TaskReport>) -> Self {
        let open =
            |(id, index): &(String, u32)| (id.clone(), OpenTask { index: *index, started: false, progress: 0.0 });
        Self { open: tasks.tasks.iter().map(open).collect(), tasks, stage: Stage::Unknown, context, reports }
    }

    /// Runs to the end and reports it in any case.
    pub(crate) async fn run(mut self) {
        tracing::debug!(job_id = %self.tasks.job, remote = %self.tasks.remote, tasks = self.open.len(), "following");
        let ended = AssertUnwindSafe(self.live()).catch_unwind().await;
        let reason = ended.unwrap_or_else(|panic| {
            let message = format!("following the remote panicked: {}", supervise::text(&*panic));
            Some(TaskError::fatal(code::PANIC, message))
        });
        if let Some(reason) = reason {
            self.fail_open(&reason).await;
        }
        self.send(0, ReportBody::SessionEnded).await;
    }

    /// Returns the error of the tasks that are still open; `None` if they continue without this node.
    async fn live(&mut self) -> Option<TaskError> {
        let (cancel, leave) = (self.tasks.cancel.clone(), self.tasks.leave.clone());
        select! {
            biased;
            () = cancel.cancelled() => {}
            () = leave.cancelled() => return None,
            reason = self.work() => {
                // The remote need not run tasks whose results are lost.
                if !self.open.is_empty() && matches!(self.stage, Stage::Following(_)) {
                    select! {
                        () = leave.cancelled() => return None,
                        _ = timeout(GRACE, self.withdraw()) => {}
                    }
                }
                return Some(reason);
            }
        }
        if timeout(GRACE, self.withdraw()).await.is_err() {
            let (job_id, remote) = (&self.tasks.job, &self.tasks.remote);
            tracing::warn!(%job_id, %remote, "the job on the remote could not be cancelled in time");
        }
        Some(TaskError::fatal(code::CANCELLED, "the task was stopped"))
    }

    /// Finds or creates the job on the remote and follows it.
    async fn work(&mut self) -> TaskError {
        let remote = match self.context.remotes.get(&self.tasks.remote) {
            Ok(remote) => remote.clone(),
            Err(unknown) => return self.lost(&unknown.to_string()),
        };
        if let Err(error) = self.prepare().await {
            return error;
        }
        let job_id = match self.submit(&remote).await {
            Ok(job_id) => job_id,
            Err(error) => return error,
        };
        self.stage = Stage::Following(job_id.clone());
        self.follow(&remote, &job_id).await
    }

    /// Reads the record, and writes the request that will be sent: a repeat must be identical.
    async fn prepare(&mut self) -> Result<(), TaskError> {
        let record = self.load().await.map_err(|unreadable| self.lost(&unreadable))?;
        let mut record = record.ok_or_else(|| self.lost("the job no longer exists"))?;
        if let Some(job_id) = record.job_id() {
            self.stage = Stage::Following(job_id.to_owned());
            return Ok(());
        }
        if !record.begun() {
            record.begin(self.timeout());
            self.save(&record).await;
        }
        self.stage = Stage::Submitting { body: record.body(), record: Box::new(record), sent: false };
        Ok(())
    }

    /// Submits the tasks to the remote, and repeats that after temporary failures.
    async fn submit(&mut self, remote: &Remote) -> Result<String, TaskError> {
        let (key, connections) = (self.key(), self.context.connections.of(&self.tasks.owner));
        let mut retries = Retries::new(remote, self.context.pace);
        let mut failures = 0;
        while let Stage::Submitting { body, sent, record } = &mut self.stage {
            let before = std::mem::replace(sent, true);
            let failure = match request::submit(remote, &connections, &self.tasks.via, &key, body.clone()).await {
                Ok(job_id) => {
                    record.found(job_id.clone());
                    let record = record.clone();
                    self.save(&record).await;
                    return Ok(job_id);
                }
                Err(RequestError::Refused { http_status, detail }) => {
                    let detail = request::name_tasks(&detail, &record.ids());
                    let message = format!("remote `{}` refused the job: {detail}", remote.name());
                    return Err(TaskError { http_status, ..TaskError::fatal(code::REMOTE_REFUSED, message) });
                }
                Err(RequestError::Failed(failure)) => {
                    // Without a connection nothing was sent.
                    *sent = before || !matches!(failure, Failure::Busy(_));
                    failure
                }
            };
            let Some(delay) = retries.delay(&failure) else {
                let message = format!("the job could not be handed to remote `{}`: {failure}", remote.name());
                return Err(TaskError::transient(code::REMOTE_LOST, message));
            };
            tracing::debug!(job_id = %self.tasks.job, remote = remote.name(), %failure, ?delay, "submitting again");
            failures += 1;
            let next = Instant::now() + delay;
            self.unreached(failures, delay, &failure).await;
            sleep_until(next).await;
        }
        match &self.stage {
            Stage::Following(job_id) => Ok(job_id.clone()),
            _ => Err(self.lost("nothing is known of the job")),
        }
    }

    /// Cancels the job on the remote, if the remote may have received it.
    async fn withdraw(&mut self) {
        let Ok(remote) = self.context.remotes.get(&self.tasks.remote).cloned() else { return };
        if matches!(self.stage, Stage::Unknown) {
            let record = self.load().await.ok().flatten();
            let Some(record) = record.filter(RemoteJobRecord::begun) else { return };
            self.stage = match record.job_id() {
                Some(job_id) => Stage::Following(job_id.to_owned()),
                None => Stage::Submitting { body: record.body(), record: Box::new(record), sent: true },
            };
        }
        let job_id = match &self.stage {
            Stage::Following(job_id) => job_id.clone(),
            Stage::Submitting { body, sent: true, .. } => {
                // The repeat answers with the id of the job.
                loop {
                    let connections = self.context.connections.of(&self.tasks.owner);
                    match request::submit(&remote, &connections, &self.tasks.via, &self.key(), body.clone()).await {
                        Ok(job_id) => break job_id,
                        Err(RequestError::Failed(failure)) if failure.is_transient() => sleep(CANCEL_RETRY).await,
                        Err(_) => return,
                    }
                }
            }
            _ => return,
        };
        request::cancel(&remote, &job_id, CANCEL_RETRY).await;
    }

    /// Ends each task that is still open with this error.
    async fn fail_open(&mut self, reason: &TaskError) {
        for OpenTask { index, .. } in std::mem::take(&mut self.open).into_values() {
            self.report(index, RemoteReport::Ended { result: Err(reason.clone()), attempts: 0 }).await;
        }
    }

    /// The timeout for the remote: the time until the job's own deadline.
    fn timeout(&self) -> Option<Duration> {
        let left = self.tasks.deadline?.saturating_duration_since(Instant::now());
        Some((left + LATER).min(MAX_TIMEOUT))
    }

    fn key(&self) -> String {
        format!("{}:{}", self.tasks.job, self.tasks.remote)
    }

    fn lost(&self, reason: &str) -> TaskError {
        let message = format!("remote `{}` was lost before the task had ended: {reason}", self.tasks.remote);
        TaskError::transient(code::REMOTE_LOST, message)
    }

    /// Reads the record, for as long as the journal fails; a caller can drop the future.
    async fn load(&self) -> Result<Option<RemoteJobRecord>, String> {
        let RemoteTasks { job, remote, leave, .. } = &self.tasks;
        let load = async || RemoteJobRecord::load(&self.context.journal, job, remote).await;
        insist(leave, "the record of a job on a remote is read", load).await.unwrap_or(Ok(None))
    }

    /// Writes the record. A journal that is full or fails may recover; a job that was deleted needs no record.
    async fn save(&self, record: &RemoteJobRecord) {
        let mut saves = 0;
        let save = async || match record.save(&self.context.journal).await {
            Ok(()) | Err(AppendError::Conflict(_)) => Ok(()),
            Err(error) => {
                saves += 1;
                if saves < MAX_SAVES { Err(error.into()) } else { Ok(()) }
            }
        };
        insist(&self.tasks.leave, "the record of a job on a remote is written", save).await;
    }

    /// Reports that the remote cannot be reached, and the delay of the retry. `failures` counts consecutive failures.
    async fn unreached(&mut self, failures: u32, delay: Duration, failure: &Failure) {
        if failures > REPORTED_RETRIES && !failures.is_power_of_two() {
            return;
        }
        let error = format!("remote `{}` cannot be reached: {failure}", self.tasks.remote);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let mut open: Vec<(u32, String)> = self.open.iter().map(|(id, open)| (open.index, id.clone())).collect();
        open.sort_unstable();
        for (index, task_id) in open.into_iter().take(REPORTED_TASKS) {
            self.started(&task_id).await;
            self.report(index, RemoteReport::Unreached { delay_ms, error: error.clone() }).await;
        }
    }

    /// Reports about a task.
    async fn report(&self, index: u32, report: RemoteReport) {
        self.send(index, ReportBody::Remote(report)).await;
    }

    async fn send(&self, task: u32, body: ReportBody) {
        // A failure means that the engine has ended.
        let _ = self.reports.send(TaskReport { job: self.tasks.job.clone(), task, attempt: 0, body }).await;
    }
}
