//! The state of a job, folded from the facts of its topic; pure.
//!
//! There is one fold: the engine applies each fact when it is in the journal, and a reader of the topic gets the same
//! state. The fold accepts any sequence. A fact that does not fit changes nothing: one of another job, of an unknown
//! task, or after the task's end. So counts are consistent for any content of a journal.

use std::{collections::HashMap, sync::Arc};

use super::{
    code,
    event::{Fact, JobEvent},
};
use crate::{event::Position, text::shorten};

#[cfg(test)]
mod tests;
mod view;

pub use self::view::{Snapshot, Summary, TaskView};
pub use super::status::{Status, TaskStatus};

/// The state of a job before its first event, from its spec record.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The job.
    pub job_id: Arc<str>,
    /// The user that submitted it.
    pub user: Option<String>,
    /// Time of acceptance, in Unix milliseconds.
    pub created_at: u64,
    /// The job whose failed tasks this one repeats.
    pub retry_of: Option<String>,
    /// Its tasks, in the order of the spec.
    pub tasks: Vec<TaskOrigin>,
}

/// The state of a task before its first event.
#[derive(Clone, Debug)]
pub struct TaskOrigin {
    /// Its id.
    pub id: String,
    /// Name of the task for people.
    pub name: String,
    /// Origin of its events: `local`, or the name of a remote.
    pub source: Arc<str>,
}

/// The state of a job after its known events.
#[derive(Clone, Debug)]
pub struct JobState {
    pub(super) job_id: Arc<str>,
    pub(super) user: Option<String>,
    pub(super) created_at: u64,
    pub(super) retry_of: Option<String>,
    pub(super) status: Status,
    pub(super) started_at: Option<u64>,
    pub(super) ended_at: Option<u64>,
    pub(super) duration_ms: Option<u64>,
    pub(super) success_count: usize,
    pub(super) error_count: usize,
    /// Number of tasks, including those that are no longer in memory.
    pub(super) total_tasks: usize,
    pub(super) tasks: Vec<TaskState>,
    pub(super) last_event: Option<Position>,
    by_id: HashMap<Arc<str>, usize>,
}

/// The state of a task after its known events.
#[derive(Clone, Debug)]
pub(super) struct TaskState {
    pub(super) id: Arc<str>,
    pub(super) name: Box<str>,
    pub(super) source: Arc<str>,
    pub(super) status: TaskStatus,
    pub(super) attempts: u32,
    pub(super) progress: f64,
    pub(super) failure: Option<Box<Failure>>,
    pub(super) duration_ms: Option<u64>,
    pub(super) result_bytes: Option<u64>,
    pub(super) encoding: Option<Box<str>>,
    /// Position of its `task_complete`.
    pub(super) result_at: Option<Position>,
    /// Start of its first attempt.
    pub(super) began_at: Option<u64>,
    /// Number of crashes of the node while it ran.
    pub(super) restarts: u32,
    /// Number of stops of the node while it ran.
    pub(super) stops: u32,
    /// True if an end of the node interrupted its attempt, and the next attempt has not begun.
    pub(super) interrupted: bool,
}

/// Why a task failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) code: String,
}

/// Number of errors per job whose text is kept in full; the texts of further errors are shortened.
const WHOLE_ERRORS: usize = 100;
/// Maximum length of a shortened error text.
const BRIEF_ERROR_BYTES: usize = 200;

// === impl JobState ===

impl JobState {
    /// A job without events.
    pub fn new(origin: Origin) -> Self {
        let tasks: Vec<_> = origin.tasks.into_iter().map(TaskState::new).collect();
        let by_id = tasks.iter().enumerate().map(|(index, task)| (task.id.clone(), index)).collect();
        Self {
            job_id: origin.job_id,
            user: origin.user,
            created_at: origin.created_at,
            retry_of: origin.retry_of,
            status: Status::Queued,
            started_at: None,
            ended_at: None,
            duration_ms: None,
            success_count: 0,
            error_count: 0,
            total_tasks: tasks.len(),
            tasks,
            last_event: None,
            by_id,
        }
    }

    /// Applies the next fact of the topic; `position` is its position, if it is in the journal.
    pub fn apply(&mut self, event: &JobEvent, position: Option<Position>) {
        if event.job_id != self.job_id || self.status.ended() {
            return;
        }
        self.last_event = position.or(self.last_event);
        match &event.fact {
            Fact::TaskStart(start) => {
                let Some(task) = self.open(&start.task_id) else { return };
                task.begin(1);
                task.began_at = task.began_at.or(Some(event.timestamp));
                if self.status == Status::Queued {
                    self.status = Status::Running;
                    self.started_at = Some(event.timestamp);
                }
            }
            Fact::TaskProgress(progress) => {
                if let Some(task) = self.open(&progress.task_id) {
                    // The report itself shows that a repeated attempt has begun.
                    task.status = TaskStatus::Running;
                    task.interrupted = false;
                    // `max` also turns NaN, which `clamp` returns unchanged, into a number.
                    task.progress = progress.progress.clamp(0.0, 100.0).max(0.0);
                }
            }
            Fact::TaskRetry(retry) => {
                if let Some(task) = self.open(&retry.task_id) {
                    if retry.code == code::REMOTE_AWAY {
                        // The remote may continue the task meanwhile, so its state does not change.
                        return;
                    }
                    task.begin(retry.attempt);
                    task.status = TaskStatus::Retrying;
                    let (restarted, stopped) = (retry.code == code::NODE_RESTARTED, retry.code == code::NODE_STOPPED);
                    task.restarts += u32::from(restarted);
                    task.stops += u32::from(stopped);
                    task.interrupted = restarted || stopped;
                }
            }
            Fact::TaskComplete(done) => {
                let Some(task) = self.open(&done.task_id) else { return };
                task.status = TaskStatus::Completed;
                task.attempts = done.attempts;
                task.progress = 100.0;
                task.duration_ms = Some(done.duration_ms);
                task.result_bytes = done.result_bytes;
                task.encoding = done.encoding.as_deref().map(Into::into);
                task.result_at = position;
                self.success_count += 1;
            }
            Fact::TaskError(failed) => {
                // The event in the journal has the full text; memory keeps shortened texts if there are many.
                let max = if self.error_count < WHOLE_ERRORS { usize::MAX } else { BRIEF_ERROR_BYTES };
                let Some(task) = self.open(&failed.task_id) else { return };
                let cancelled = matches!(failed.code.as_str(), code::CANCELLED | code::SHUTDOWN);
                task.status = if cancelled { TaskStatus::Cancelled } else { TaskStatus::Failed };
                task.attempts = failed.attempts;
                task.duration_ms = Some(failed.duration_ms);
                let error = shorten(failed.error.clone(), max);
                task.failure = Some(Box::new(Failure { error, code: failed.code.clone() }));
                self.error_count += 1;
            }
            Fact::Complete(complete) => {
                // A status that is not an end would keep the job open forever.
                self.status = if complete.status.ended() { complete.status } else { Status::Failed };
                self.ended_at = Some(event.timestamp);
                self.duration_ms = Some(complete.duration_ms);
            }
            Fact::Progress(_) | Fact::AggregatedResult(_) => {}
        }
    }

    /// The status of the job.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Position of the job's last event.
    pub fn last_event(&self) -> Option<Position> {
        self.last_event
    }

    /// Finished tasks in percent.
    pub fn progress(&self) -> f64 {
        percent(self.success_count + self.error_count, self.total_tasks)
    }

    /// Drops the tasks of an ended job from memory and returns their number. The counts stay.
    pub(super) fn forget_tasks(&mut self) -> usize {
        self.by_id = HashMap::new();
        std::mem::take(&mut self.tasks).len()
    }

    /// False after the tasks were dropped from memory.
    pub(super) fn remembers_tasks(&self) -> bool {
        self.tasks.len() == self.total_tasks
    }

    pub(super) fn task(&self, id: &str) -> Option<&TaskState> {
        self.index(id).map(|index| &self.tasks[index])
    }

    /// Index of the task with this id.
    pub(super) fn index(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// A task that has not finished.
    fn open(&mut self, id: &str) -> Option<&mut TaskState> {
        let task = &mut self.tasks[*self.by_id.get(id)?];
        (!task.status.finished()).then_some(task)
    }
}

// === impl TaskState ===

impl TaskState {
    fn new(TaskOrigin { id, name, source }: TaskOrigin) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            source,
            status: TaskStatus::Queued,
            attempts: 0,
            progress: 0.0,
            failure: None,
            duration_ms: None,
            result_bytes: None,
            encoding: None,
            result_at: None,
            began_at: None,
            restarts: 0,
            stops: 0,
            interrupted: false,
        }
    }

    fn begin(&mut self, attempt: u32) {
        self.status = TaskStatus::Running;
        self.attempts = attempt;
        self.progress = 0.0;
        self.interrupted = false;
    }
}

/// Part of a whole in percent, with two places.
pub(super) fn percent(part: usize, whole: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of tasks are far below 2^52")]
    let percent = part as f64 * 100.0 / (whole.max(1)) as f64;
    (percent * 100.0).round() / 100.0
}
