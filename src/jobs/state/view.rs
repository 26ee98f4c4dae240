//! A job in the form of the API.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::{JobState, TaskState};
use crate::{
    event::Position,
    jobs::{
        status::{Status, TaskStatus},
        urls,
    },
};

/// A job in a list.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobSummary)]
pub struct Summary {
    /// The job.
    #[schema(value_type = String)]
    pub job_id: Arc<str>,
    /// Status of the job.
    pub status: Status,
    /// The user that submitted it.
    pub user: Option<String>,
    /// Time of acceptance in Unix milliseconds.
    pub created_at: u64,
    /// Start of its first task.
    pub started_at: Option<u64>,
    /// End of the job.
    pub ended_at: Option<u64>,
    /// Milliseconds from acceptance to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Number of tasks.
    pub total_tasks: usize,
    /// Number of tasks with a result.
    pub success_count: usize,
    /// Number of failed tasks.
    pub error_count: usize,
    /// Finished tasks in percent.
    pub progress: f64,
    /// Position of its last event; `null` before the first one.
    #[schema(value_type = Option<String>)]
    pub last_event_id: Option<Position>,
    /// URL of its event stream.
    pub events_url: String,
    /// The job whose failed tasks this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
}

/// A job with its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job, examples(json!({
    "jobId": "01JB0000000000000000000000", "status": "running", "user": "42", "createdAt": 1_790_000_000_000_u64,
    "startedAt": 1_790_000_000_010_u64, "endedAt": null, "totalTasks": 1, "successCount": 0, "errorCount": 0, "progress": 40.0,
    "lastEventId": "9c1f00aa0b77-12", "eventsUrl": "/api/jobs/01JB0000000000000000000000/events",
    "tasks": [{
        "taskId": "image", "taskName": "Process Image", "source": "local", "status": "running", "attempts": 1, "progress": 40.0,
    }],
})))]
pub struct Snapshot {
    /// The job.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its tasks, in the order of the spec.
    pub tasks: Vec<TaskView>,
}

/// A task of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    /// Its id.
    #[schema(value_type = String)]
    pub task_id: Arc<str>,
    /// Name of the task for people.
    #[schema(value_type = String)]
    pub task_name: Box<str>,
    /// Origin of its events: `local`, or the name of a remote.
    #[schema(value_type = String)]
    pub source: Arc<str>,
    /// Status of the task.
    pub status: TaskStatus,
    /// Number of attempts; while the task waits for a retry, that retry is included.
    pub attempts: u32,
    /// 0 to 100.
    pub progress: f64,
    /// The reason of a failure, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The reason of a failure, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Milliseconds from the start of its first attempt to the end of its last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Size of a result that was too large for an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// URL of its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_url: Option<String>,
}

// === impl JobState ===

impl JobState {
    /// The job in the form of a list.
    pub fn summary(&self) -> Summary {
        Summary {
            job_id: self.job_id.clone(),
            status: self.status,
            user: self.user.clone(),
            created_at: self.created_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            duration_ms: self.duration_ms,
            total_tasks: self.total_tasks,
            success_count: self.success_count,
            error_count: self.error_count,
            progress: self.progress(),
            last_event_id: self.last_event,
            events_url: urls::events(&self.job_id),
            retry_of: self.retry_of.clone(),
        }
    }

    /// The job with its tasks.
    pub fn snapshot(&self) -> Snapshot {
        let tasks = self.tasks.iter().map(|task| task.view(&self.job_id)).collect();
        Snapshot { summary: self.summary(), tasks }
    }
}

// === impl TaskState ===

impl TaskState {
    fn view(&self, job_id: &str) -> TaskView {
        let failure = self.failure.as_deref();
        TaskView {
            task_id: self.id.clone(),
            task_name: self.name.clone(),
            source: self.source.clone(),
            status: self.status,
            attempts: self.attempts,
            progress: self.progress,
            error: failure.map(|f| f.error.clone()),
            code: failure.map(|f| f.code.clone()),
            duration_ms: self.duration_ms,
            result_bytes: self.result_bytes,
            result_url: (self.status == TaskStatus::Completed).then(|| urls::result(job_id, &self.id)),
        }
    }
}
