//! Follows the tasks of a job that one remote runs: one job there stands for all of them.
//!
//! ```text
//! Group ─> Kept (is there a job already?) ─> ask: POST /api/jobs ─> Kept (its id) ─> follow: its events ─> reports
//!              cancelled meanwhile: ask: DELETE, then an error for each task that has not ended
//!              this node stops:     not a word; the next start goes on here
//! ```
//!
//! A [`Session`] lives as long as its group is followed and reports to the engine over the channel that attempts use. It
//! promises an end of each task of the group, and that it ends by itself: at once when it is told to leave, and within
//! [`GRACE`] when it is told to cancel. The POST carries an idempotency key, so it may be repeated, in this life of the
//! node and in the next; and nothing that the remote sends is trusted to be what it should be.

use std::{any::Any, collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Config, Deps, code,
    engine::{Group, Report, Said, Told, data_bytes},
    handler::TaskError,
    memory::Memory,
};
use crate::{
    journal::{AppendError, Shared, Unavailable},
    upstream::{Backoff, Connections, Remote, Remotes, events::Failure, events::Pace},
};

mod ask;
mod bounded;
mod follow;
mod kept;

use self::{ask::Trouble, kept::Kept};

/// How long a remote may take to hear that it is to stop: as long as a handler.
const GRACE: Duration = Duration::from_secs(2);
/// How long to wait before a cancel that did not arrive is sent again; there is little time.
const AGAIN: Duration = Duration::from_millis(100);
/// How long to wait before a journal that failed is asked again.
const PATIENCE: Duration = Duration::from_secs(1);
/// So often; then the remote's job is followed though its id is not kept: the key finds it again.
const MAX_KEEPS: usize = 60;
/// By how much a remote's deadline is later than this node's, which is the one that counts.
const LATER: Duration = Duration::from_secs(1);
/// The longest timeout that a job may have.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);
/// The first consecutive failures are reported in band, then the 16th, the 32nd and so on.
const REPORTED_RETRIES: u32 = 8;
/// Maximum number of waiting tasks that report an unreachable remote; in a job of thousands more reports would not
/// help.
const REPORTED_TASKS: usize = 32;
/// The longest wait that a remote may ask for.
const LONGEST_HINT: Duration = Duration::from_mins(5);

/// What all sessions of a node work with.
pub struct Means {
    journal: Shared,
    remotes: Remotes,
    connections: Connections,
    pace: Pace,
    max_result_bytes: usize,
    max_data_bytes: usize,
    memory: Memory,
}

/// Follows one group.
pub struct Session {
    group: Group,
    /// The tasks that have not ended, by id.
    open: HashMap<String, Open>,
    place: Place,
    means: Arc<Means>,
    reports: mpsc::Sender<Report>,
}

/// A task that has not ended.
#[derive(Clone, Copy)]
struct Open {
    index: u32,
    started: bool,
    /// The highest that was told.
    progress: f64,
}

/// How far the group is.
enum Place {
    /// Nothing was read yet.
    Unknown,
    /// There is no job that is known of. `sent` once the remote may have got this body.
    Asking { body: Bytes, kept: Box<Kept>, sent: bool },
    /// The job on the remote.
    At(String),
}

/// How often a failure is met with patience.
struct Retries {
    left: u32,
    growth: u32,
    pace: Pace,
}

// === impl Means ===

impl Means {
    pub fn new(config: &Config, deps: &Deps) -> Arc<Self> {
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
    pub fn new(group: Group, means: Arc<Means>, reports: mpsc::Sender<Report>) -> Self {
        let open =
            group.tasks.iter().map(|(id, index)| (id.clone(), Open { index: *index, started: false, progress: 0.0 }));
        Self { open: open.collect(), group, place: Place::Unknown, means, reports }
    }

    /// Runs to the end and reports it, whatever happens.
    pub async fn run(mut self) {
        tracing::debug!(job_id = %self.group.id, remote = %self.group.remote, tasks = self.open.len(), "following");
        let ended = AssertUnwindSafe(self.live()).catch_unwind().await;
        let reason = ended.unwrap_or_else(|panic| Some(TaskError::fatal(code::PANIC, panic_message(&*panic))));
        if let Some(reason) = reason {
            self.lose(&reason).await;
        }
        self.report(0, Said::Unfollowed).await;
    }

    /// Why those tasks that are still open have no end of their own; `None` when nothing is to be said of them.
    async fn live(&mut self) -> Option<TaskError> {
        let (cancel, leave) = (self.group.cancel.clone(), self.group.leave.clone());
        select! {
            biased;
            () = cancel.cancelled() => {}
            () = leave.cancelled() => return None,
            reason = self.work() => {
                // What nobody listens to any more is not to run on for nobody.
                if !self.open.is_empty() && matches!(self.place, Place::At(_)) {
                    select! {
                        () = leave.cancelled() => return None,
                        _ = timeout(GRACE, self.withdraw()) => {}
                    }
                }
                return Some(reason);
            }
        }
        if timeout(GRACE, self.withdraw()).await.is_err() {
            let (job_id, remote) = (&self.group.id, &self.group.remote);
            tracing::warn!(%job_id, %remote, "the remote could not be told in time that the job is cancelled");
        }
        Some(TaskError::fatal(code::CANCELLED, "the task was stopped"))
    }

    /// Finds or makes the job on the remote and follows it.
    async fn work(&mut self) -> TaskError {
        let remote = match self.means.remotes.get(&self.group.remote) {
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
        self.place = Place::At(job_id.clone());
        self.follow(&remote, &job_id).await
    }

    /// Reads what is kept, and keeps what is about to be sent: a repeat must be the same.
    async fn prepare(&mut self) -> Result<(), TaskError> {
        let kept = self.insist(|| Kept::load(&self.means.journal, &self.group.id, &self.group.remote)).await;
        let kept = kept.map_err(|unreadable| self.lost(&unreadable))?;
        let mut kept = kept.ok_or_else(|| self.lost("the job is no longer kept"))?;
        if let Some(job_id) = kept.job_id() {
            self.place = Place::At(job_id.to_owned());
            return Ok(());
        }
        if !kept.begun() {
            kept.begin(self.timeout());
            self.keep(&mut kept).await;
        }
        self.place = Place::Asking { body: kept.body(), kept: Box::new(kept), sent: false };
        Ok(())
    }

    /// Hands the tasks to the remote, again and again while it fails in ways that pass.
    async fn submit(&mut self, remote: &Remote) -> Result<String, TaskError> {
        let (key, connections) = (self.key(), self.means.connections.of(&self.group.owner));
        let mut retries = Retries::new(remote, self.means.pace);
        let mut failures = 0;
        while let Place::Asking { body, sent, kept } = &mut self.place {
            let before = std::mem::replace(sent, true);
            let failure = match ask::submit(remote, &connections, &self.group.via, &key, body.clone()).await {
                Ok(job_id) => {
                    kept.found(job_id.clone());
                    let mut kept = kept.clone();
                    self.keep(&mut kept).await;
                    return Ok(job_id);
                }
                Err(Trouble::Refused { http_status, detail }) => {
                    let detail = bounded::by_id(&detail, &kept.ids());
                    let message = format!("remote `{}` refused the job: {detail}", remote.name());
                    return Err(TaskError { http_status, ..TaskError::fatal(code::REMOTE_REFUSED, message) });
                }
                Err(Trouble::Failed(failure)) => {
                    // Without a place nothing went out.
                    *sent = before || !matches!(failure, Failure::Busy(_));
                    failure
                }
            };
            let Some(delay) = retries.delay(&failure) else {
                let message = format!("the job could not be handed to remote `{}`: {failure}", remote.name());
                return Err(TaskError::transient(code::REMOTE_LOST, message));
            };
            tracing::debug!(job_id = %self.group.id, remote = remote.name(), %failure, ?delay, "submitting again");
            failures += 1;
            let next = Instant::now() + delay;
            self.unreached(failures, delay, &failure).await;
            sleep_until(next).await;
        }
        match &self.place {
            Place::At(job_id) => Ok(job_id.clone()),
            _ => Err(self.lost("nothing is known of the job")),
        }
    }

    /// Tells the remote to stop, if it can have got the job at all.
    async fn withdraw(&mut self) {
        let Ok(remote) = self.means.remotes.get(&self.group.remote).cloned() else { return };
        if matches!(self.place, Place::Unknown) {
            let kept = self.insist(|| Kept::load(&self.means.journal, &self.group.id, &self.group.remote)).await;
            let Some(kept) = kept.ok().flatten().filter(Kept::begun) else { return };
            self.place = match kept.job_id() {
                Some(job_id) => Place::At(job_id.to_owned()),
                None => Place::Asking { body: kept.body(), kept: Box::new(kept), sent: true },
            };
        }
        let job_id = match &self.place {
            Place::At(job_id) => job_id.clone(),
            Place::Asking { body, sent: true, .. } => {
                // Once more, to be told its id.
                loop {
                    let connections = self.means.connections.of(&self.group.owner);
                    match ask::submit(&remote, &connections, &self.group.via, &self.key(), body.clone()).await {
                        Ok(job_id) => break job_id,
                        Err(Trouble::Failed(failure)) if failure.passing() => sleep(AGAIN).await,
                        Err(_) => return,
                    }
                }
            }
            _ => return,
        };
        ask::cancel(&remote, &job_id).await;
    }

    /// Gives each task that is still open its end.
    async fn lose(&mut self, reason: &TaskError) {
        for Open { index, .. } in std::mem::take(&mut self.open).into_values() {
            self.tell(index, Told::Ended { result: Err(reason.clone()), attempts: 0 }).await;
        }
    }

    /// What is left of the job's time.
    fn timeout(&self) -> Option<Duration> {
        let left = self.group.deadline?.saturating_duration_since(Instant::now());
        Some((left + LATER).min(MAX_TIMEOUT))
    }

    fn key(&self) -> String {
        format!("{}:{}", self.group.id, self.group.remote)
    }

    fn lost(&self, reason: &str) -> TaskError {
        let message = format!("remote `{}` was lost before the task had ended: {reason}", self.group.remote);
        TaskError::transient(code::REMOTE_LOST, message)
    }

    /// Writes what is known. A journal that is full or fails may be well later; a job that has left needs no record.
    async fn keep(&self, kept: &mut Kept) {
        for _ in 0..MAX_KEEPS {
            match kept.keep(&self.means.journal).await {
                Ok(()) | Err(AppendError::Conflict(_)) => return,
                Err(error) => {
                    tracing::warn!(job_id = %self.group.id, remote = %self.group.remote, %error, "the job on the remote could not be kept; trying again");
                    sleep(PATIENCE).await;
                }
            }
        }
    }

    /// Asks the journal until there is an answer. Whoever waits here can be told to cancel or to leave.
    async fn insist<T>(&self, ask: impl AsyncFn() -> Result<T, Unavailable>) -> T {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::warn!(job_id = %self.group.id, %error, "what is kept of a remote job cannot be read; trying again");
                    sleep(PATIENCE).await;
                }
            }
        }
    }

    /// Reports that the remote cannot be reached, and the delay of the retry. `failures` counts consecutive failures.
    async fn unreached(&mut self, failures: u32, delay: Duration, failure: &Failure) {
        if failures > REPORTED_RETRIES && !failures.is_power_of_two() {
            return;
        }
        let error = format!("remote `{}` cannot be reached: {failure}", self.group.remote);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let mut open: Vec<(u32, String)> = self.open.iter().map(|(id, open)| (open.index, id.clone())).collect();
        open.sort_unstable();
        for (index, task_id) in open.into_iter().take(REPORTED_TASKS) {
            self.started(&task_id).await;
            self.tell(index, Told::Unreached { delay_ms, error: error.clone() }).await;
        }
    }

    async fn tell(&self, index: u32, told: Told) {
        self.report(index, Said::Told(told)).await;
    }

    async fn report(&self, task: u32, said: Said) {
        // The engine is gone: nobody is left who could care.
        let _ = self.reports.send(Report { id: self.group.id.clone(), task, attempt: 0, said }).await;
    }
}

// === impl Retries ===

impl Retries {
    fn new(remote: &Remote, pace: Pace) -> Self {
        Self { left: remote.max_retries(), growth: 0, pace }
    }

    /// How long to wait; `None` when patience is at its end. Who only waits for a place waits as long as it takes.
    fn delay(&mut self, failure: &Failure) -> Option<Duration> {
        if !failure.passing() {
            return None;
        }
        if !matches!(failure, Failure::Busy(_)) {
            self.left = self.left.checked_sub(1)?;
        }
        let asked = failure.retry_after().map(|asked| asked.min(LONGEST_HINT));
        let delay = Backoff::new(self.pace.initial, self.pace.max, 2).delay(self.growth, asked, &mut rand::rng());
        self.growth = (self.growth + 1).min(16);
        Some(delay)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("following the remote panicked: {}", text.unwrap_or("without a message"))
}
