//! One attempt at a task: the handler's future under its timeout, its cancellation and a guard against panics.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    pin, select,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::{
    code,
    event_size::fit_error,
    handler::{Output, Progress, Reserve, Submitter, Task, TaskError, TaskHandler},
    inputs::Inputs,
    memory::Memory,
    work::{JobId, ReportBody, TaskDone, TaskReport},
};
use crate::{
    shares::{Held, Owner},
    spans, supervise,
    upstream::Via,
};

mod progress;

use self::progress::AttemptSink;

/// Time that a handler has to clean up after its token has fired.
const GRACE: Duration = Duration::from_secs(2);

/// An attempt that is ready to run.
pub(crate) struct Attempt {
    pub job: JobId,
    /// The span of the job.
    pub span: Span,
    /// The index of the task in its job.
    pub task: u32,
    pub number: u32,
    pub handler: Arc<dyn TaskHandler>,
    pub task_id: String,
    pub name: String,
    /// The owner of the job and the size of its record, for the memory budget.
    pub owner: Owner,
    pub groups: Arc<[String]>,
    pub record_bytes: usize,
    pub inputs: Arc<Inputs>,
    pub memory: Memory,
    /// The `Via` of the request that submitted the job.
    pub via: Via,
    pub timeout: Duration,
    /// The token of the job.
    pub cancel: CancellationToken,
    pub max_data_bytes: usize,
}

// === impl Attempt ===

impl Attempt {
    /// Runs to the end and reports the outcome in every case.
    pub(crate) async fn run(self, reports: mpsc::Sender<TaskReport>) {
        let (job, task, attempt) = (self.job.clone(), self.task, self.number);
        // The attempt's own token fires whenever the attempt ends: work that the handler left on other threads stops.
        let token = self.cancel.child_token();
        let guard = token.clone().drop_guard();
        let reserve = Reserve::new(self.memory.clone(), self.owner.clone());
        let max_data_bytes = self.max_data_bytes;
        let span = spans::attempt(&self.span, &self.task_id, attempt);
        let outcome = AssertUnwindSafe(self.outcome(token, reserve.clone(), reports.clone()));
        let outcome = outcome.catch_unwind().instrument(span).await;
        drop(guard);
        let outcome = outcome.unwrap_or_else(|panic| {
            let message = format!("the handler panicked: {}", supervise::text(&*panic));
            Err(TaskError::fatal(code::PANIC, message))
        });
        // Errors in the channel do not count against the memory budget, so cut them first.
        let ended = match outcome {
            Ok(output) => Ok(done(output, reserve.take())),
            Err(mut error) => {
                fit_error(&mut error, max_data_bytes);
                Err(error)
            }
        };
        // A failure means that the engine has ended.
        let _ = reports.send(TaskReport { job, task, attempt, body: ReportBody::Ended(ended) }).await;
    }

    async fn outcome(
        self,
        token: CancellationToken,
        reserve: Reserve,
        reports: mpsc::Sender<TaskReport>,
    ) -> Result<Output, TaskError> {
        let stopped = || TaskError::fatal(code::CANCELLED, "the task was stopped before the attempt had begun");
        if self.cancel.is_cancelled() {
            // Cancelled while its start was being written.
            return Err(stopped());
        }
        let loaded = self.inputs.load(&self.owner, &self.job, self.task, self.record_bytes);
        // `_held` must live as long as the handler uses the input.
        let (input, _held) = self.cancel.run_until_cancelled(loaded).await.unwrap_or_else(|| Err(stopped()))?;
        let sink = AttemptSink::new(self.job.clone(), self.task, self.number, self.max_data_bytes, reports);
        let task = Task {
            job_id: self.job.to_string(),
            task_id: self.task_id,
            name: self.name,
            input,
            submitter: Submitter { user: self.owner, groups: self.groups },
            via: self.via,
            attempt: self.number,
            progress: Progress::new(sink.clone()),
            reserve,
            cancel: token,
        };
        let work = self.handler.run(task);
        pin!(work);
        select! {
            biased;
            result = &mut work => result,
            () = self.cancel.cancelled() => match timeout(GRACE, work).await {
                Ok(result) => result,
                Err(_) => Err(TaskError::fatal(code::CANCELLED, "the task did not stop in time and was dropped")),
            },
            () = sleep(self.timeout) => {
                let message = format!("no result within `{}` ms", self.timeout.as_millis());
                Err(TaskError::transient(code::TIMEOUT, message))
            }
            never = sink.flush() => match never {},
        }
    }
}

fn done(output: Output, held: Vec<Held>) -> TaskDone {
    let Output { result, encoding, http_status } = output;
    TaskDone { result: result.into_raw(), encoding, http_status, held }
}
