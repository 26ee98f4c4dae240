//! The messages between the engine and its workers. Workers are the attempts that run on this node, and the sessions
//! that follow tasks on remotes.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::handler::TaskError;
use crate::{
    shares::{Held, Owner},
    upstream::Via,
};

/// The id of a job.
pub(crate) type JobId = Arc<str>;

/// Maximum number of reports that the engine takes in one turn.
pub(crate) const REPORTS_PER_TURN: usize = 256;

/// A report of a worker.
#[derive(Debug)]
pub(crate) struct TaskReport {
    pub job: JobId,
    /// The index of the task in its job.
    pub task: u32,
    /// The number of the attempt; 0 from a remote.
    pub attempt: u32,
    pub body: ReportBody,
}

/// The content of a report.
#[derive(Debug)]
pub(crate) enum ReportBody {
    /// The progress of an attempt.
    Progress { progress: f64, message: Option<String>, data: Option<Box<RawValue>> },
    /// The end of an attempt; its last report.
    Ended(Result<TaskDone, TaskError>),
    /// A report about a task that a remote runs.
    Remote(RemoteReport),
    /// The session that followed the job's tasks on one remote has ended; its last report.
    SessionEnded,
}

/// What a remote reports about a task. `Started` comes first, unless the task ends before it begins.
#[derive(Debug)]
pub(crate) enum RemoteReport {
    /// The first attempt has begun.
    Started,
    /// Start of a replay: the following reports begin again with the task's first report.
    Replay,
    /// The progress of an attempt.
    Progress { progress: f64, message: Option<String>, data: Option<Box<RawValue>> },
    /// An attempt failed on the remote, and another will follow there.
    Retry { attempt: u32, delay_ms: u64, error: TaskError },
    /// The remote cannot be reached now; the request is repeated after the delay.
    Unreached { delay_ms: u64, error: String },
    /// The task has ended on the remote, or its end will never be known.
    Ended { result: Result<TaskDone, TaskError>, attempts: u32 },
}

/// The result of a task, ready for an event.
#[derive(Debug)]
pub(crate) struct TaskDone {
    pub result: Box<RawValue>,
    pub encoding: Option<&'static str>,
    pub http_status: Option<u16>,
    /// Its part of the memory budget, held until the result is in the journal.
    pub held: Vec<Held>,
}

/// The tasks of a job for one remote.
#[derive(Debug)]
pub(crate) struct RemoteTasks {
    pub job: JobId,
    /// The span of the job.
    pub span: Span,
    /// The owner of the job.
    pub owner: Owner,
    pub remote: Arc<str>,
    /// Id and index of each task that has not ended.
    pub tasks: Vec<(String, u32)>,
    /// Deadline of the job.
    pub deadline: Option<Instant>,
    /// The `Via` of the request that submitted the job.
    pub via: Via,
    /// Fires if the job ends before its tasks do: the remote must stop.
    pub cancel: CancellationToken,
    /// Fires if this node stops and the job outlives it: the remote continues.
    pub leave: CancellationToken,
}
