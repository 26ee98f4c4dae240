//! One attempt at a task: the handler's future under its timeout, its cancellation and a guard against panics.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use serde_json::value::RawValue;
use tokio::{
    pin, select,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Id, Report, Said, shorten, sink::AttemptSink};
use crate::{
    jobs::{
        code,
        handler::{Output, Progress, Reserve, Submitter, Task, TaskError, TaskHandler},
        inputs::Inputs,
        memory::Memory,
    },
    shares::{Held, Owner},
    upstream::Via,
};

/// Maximum length of an error text in bytes, unless events must be small.
const MAX_ERROR_BYTES: usize = 2048;
/// How long a handler may take to tidy up after its token has fired.
const GRACE: Duration = Duration::from_secs(2);

/// An attempt that is ready to run.
pub struct Attempt {
    pub id: Id,
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
    /// The job's.
    pub cancel: CancellationToken,
    pub max_data_bytes: usize,
}

/// A result, ready for an event.
#[derive(Debug)]
pub struct Done {
    pub result: Box<RawValue>,
    pub encoding: Option<&'static str>,
    pub http_status: Option<u16>,
    /// Its part of the memory budget, held until the result is in the journal.
    pub held: Vec<Held>,
}

// === impl Attempt ===

impl Attempt {
    /// Runs to the end and reports it, whatever happens.
    pub async fn run(self, reports: mpsc::Sender<Report>) {
        let (id, task, attempt) = (self.id.clone(), self.task, self.number);
        // The attempt's own token fires whenever the attempt ends: work that the handler left on other threads stops.
        let token = self.cancel.child_token();
        let guard = token.clone().drop_guard();
        let reserve = Reserve::new(self.memory.clone(), self.owner.clone());
        let max_error_bytes = max_error_bytes(self.max_data_bytes);
        let outcome = AssertUnwindSafe(self.outcome(token, reserve.clone(), reports.clone())).catch_unwind().await;
        drop(guard);
        let outcome = outcome.unwrap_or_else(|panic| Err(TaskError::fatal(code::PANIC, panic_message(&*panic))));
        // Errors in the channel do not count against the memory budget, so cut them first.
        let ended = match outcome {
            Ok(output) => Ok(Done::new(output, reserve.take())),
            Err(mut error) => {
                trim(&mut error, max_error_bytes);
                Err(error)
            }
        };
        // The engine is gone: nobody is left who could care.
        let _ = reports.send(Report { id, task, attempt, said: Said::Ended(ended) }).await;
    }

    async fn outcome(
        self,
        token: CancellationToken,
        reserve: Reserve,
        reports: mpsc::Sender<Report>,
    ) -> Result<Output, TaskError> {
        let stopped = || TaskError::fatal(code::CANCELLED, "the task was stopped before the attempt had begun");
        if self.cancel.is_cancelled() {
            // Cancelled while its start was being written.
            return Err(stopped());
        }
        let loaded = self.inputs.load(&self.owner, &self.id, self.task, self.record_bytes);
        // `_held` must live as long as the handler uses the input.
        let (input, _held) = self.cancel.run_until_cancelled(loaded).await.unwrap_or_else(|| Err(stopped()))?;
        let sink = AttemptSink::new(self.id.clone(), self.task, self.number, self.max_data_bytes, reports);
        let task = Task {
            job_id: self.id.to_string(),
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

// === impl Done ===

impl Done {
    fn new(output: Output, held: Vec<Held>) -> Self {
        let Output { result, encoding, http_status } = output;
        Self { result: result.into_raw(), encoding, http_status, held }
    }
}

/// Maximum length of an error text, which is stored in events, in snapshots and in memory.
pub fn max_error_bytes(max_event_bytes: usize) -> usize {
    MAX_ERROR_BYTES.min(max_event_bytes / 16)
}

/// Shortens the message and the code of an error.
pub fn trim(error: &mut TaskError, max_bytes: usize) {
    error.message = shorten(std::mem::take(&mut error.message), max_bytes);
    error.code = shorten(std::mem::take(&mut error.code), 64);
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("without a message"))
}
