//! The events of a job on a remote, and the reports that are made of them.
//!
//! They are read from the beginning, through any number of connections ([`EventSource`]). Events of other jobs or
//! other tasks, after a task's end, of an unknown kind or with damaged data are ignored.

use std::sync::Arc;

use tokio::time::sleep;

use super::{
    OpenTask, Session,
    request::{self, RequestError},
    retries::Retries,
};
use crate::{
    jobs::{
        code,
        event::{Fact, JobEvent, TaskComplete, TaskFailed, TaskProgress, TaskRetry, TaskStart},
        event_size::{fit_data, fit_message},
        handler::TaskError,
        urls,
        work::{RemoteReport, TaskDone},
    },
    json::Json,
    shares::Held,
    upstream::{
        self, Purpose, Remote, StatusCode, Url,
        events::{Cursor, EventSource, Failure, RemoteEvent, Source, StreamEvent},
    },
};

/// The name of a job's last event.
const LAST_EVENT: &str = "complete";

// === impl Session ===

impl Session {
    /// Reads until all tasks have ended, or no further end can arrive; returns the error of the tasks that are still
    /// open.
    pub(super) async fn follow(&mut self, remote: &Arc<Remote>, job_id: &str) -> TaskError {
        let url = match remote.url(&urls::events(job_id)) {
            Ok(url) => url,
            Err(bad) => return self.lost(&bad.to_string()),
        };
        let (mut cursor, mut fruitless, mut begun) = (Cursor::default(), Fruitless::default(), false);
        loop {
            let mut source = self.source(remote, &url, cursor);
            let failure = loop {
                match source.next().await {
                    Some(StreamEvent::Events(events)) => {
                        for event in &events {
                            if event.control && event.event == "gap" {
                                // The remote does not know the position: it sends all stored events again.
                                self.replay().await;
                            }
                            let progressed = self.take(remote, job_id, event).await;
                            fruitless.received(event, progressed);
                        }
                        if self.open.is_empty() {
                            return self.lost("all tasks have ended");
                        }
                    }
                    Some(StreamEvent::Retry { failure, .. }) if is_unknown(&failure) => break failure,
                    Some(StreamEvent::Open { resumed_after, .. }) => {
                        if std::mem::replace(&mut begun, true) && resumed_after.is_none() {
                            self.replay().await;
                        }
                    }
                    Some(StreamEvent::Retry { failure: Failure::Busy(_), .. }) => {}
                    Some(StreamEvent::Retry { failure, .. }) if fruitless.lost(remote.max_retries) => break failure,
                    Some(StreamEvent::Retry { failure, attempt, delay }) => {
                        tracing::debug!(job_id = %self.tasks.job, remote = remote.name(), %failure, attempt, ?delay, "the remote's events broke off");
                        // The first loss of a connection is not reported: it usually reconnects immediately.
                        if attempt > 1 || !begun {
                            self.unreached(attempt, delay, &failure).await;
                        }
                    }
                    Some(StreamEvent::GaveUp(failure)) => break failure,
                    Some(StreamEvent::End(_)) | None => {
                        return self.lost("its job has ended without an end of this task");
                    }
                }
            };
            if is_unknown(&failure) {
                let reason = format!("it no longer knows the job (`{job_id}` there), so its end is unknown");
                return self.lost(&reason);
            }
            if !matches!(failure, Failure::Busy(_)) {
                return self.lost(&failure.to_string());
            }
            // No connection was free, which is not a failure of the remote: wait until another stream ends.
            cursor = source.cursor().clone();
            sleep(self.context.pace.max).await;
        }
    }

    fn source(&self, remote: &Arc<Remote>, url: &Url, cursor: Cursor) -> EventSource {
        let source = Source {
            end_event: Some(LAST_EVENT.to_owned()),
            pace: self.context.pace,
            via: self.tasks.via.clone(),
            ..Source::get(remote.clone(), url.clone(), Purpose::Job)
        };
        EventSource::new(source, cursor, self.context.connections.clone())
    }

    /// Takes an event; true if a task made progress.
    async fn take(&mut self, remote: &Remote, job_id: &str, event: &RemoteEvent) -> bool {
        if event.control {
            return false;
        }
        let fact = match JobEvent::decode(&event.event, &event.data) {
            Ok(event) if *event.job_id == *job_id => event.fact,
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(job_id = %self.tasks.job, remote = remote.name(), %error, "an event of the remote is ignored");
                return false;
            }
        };
        match fact {
            Fact::TaskStart(TaskStart { task_id, .. }) => {
                let known = self.open.get(&task_id).is_none_or(|open| open.started);
                self.started(&task_id).await;
                !known
            }
            Fact::TaskProgress(TaskProgress { task_id, progress, message, data }) => {
                let Some(index) = self.started(&task_id).await else { return false };
                let (message, most) = (fit_message(message), self.context.max_data_bytes);
                let data = data.map(|data| {
                    Json::result(data.get()).map_or_else(|_| fit_data(data, 0), |data| fit_data(data.into_raw(), most))
                });
                self.report(index, RemoteReport::Progress { progress, message, data }).await;
                self.raise(&task_id, progress)
            }
            Fact::TaskRetry(TaskRetry { task_id, attempt, delay_ms, error, code }) => {
                let Some(index) = self.started(&task_id).await else { return false };
                self.report(index, RemoteReport::Retry { attempt, delay_ms, error: TaskError::transient(code, error) })
                    .await;
                false
            }
            Fact::TaskComplete(done) => {
                let Some(index) = self.started(&done.task_id).await else { return false };
                let (task_id, attempts) = (done.task_id.clone(), done.attempts);
                let result = self.done(remote, done).await;
                self.report(index, RemoteReport::Ended { result, attempts }).await;
                // Removed only now: if this future is dropped before, the task still needs an end.
                self.open.remove(&task_id);
                true
            }
            Fact::TaskError(TaskFailed { task_id, error, code, retryable, attempts, http_status, .. }) => {
                // The first event of the task, if it ended before it began.
                let Some(OpenTask { index, .. }) = self.open.get(&task_id).copied() else { return false };
                let error = TaskError { message: error, code, retryable, retry_after: None, http_status };
                self.report(index, RemoteReport::Ended { result: Err(error), attempts }).await;
                self.open.remove(&task_id);
                true
            }
            Fact::Progress(_) | Fact::AggregatedResult(_) | Fact::Complete(_) => false,
        }
    }

    /// Reports that the following events may have been reported already.
    async fn replay(&self) {
        for open in self.open.values().filter(|open| open.started) {
            self.report(open.index, RemoteReport::Replay).await;
        }
    }

    /// Records the progress of a task; true if it is a new maximum.
    fn raise(&mut self, task_id: &str, progress: f64) -> bool {
        let open = self.open.get_mut(task_id).filter(|open| progress > open.progress);
        open.map(|open| open.progress = progress.min(100.0)).is_some()
    }

    /// The index of an open task, after its start was reported.
    pub(super) async fn started(&mut self, task_id: &str) -> Option<u32> {
        let open = self.open.get_mut(task_id)?;
        let index = open.index;
        if !std::mem::replace(&mut open.started, true) {
            self.report(index, RemoteReport::Started).await;
        }
        Some(index)
    }

    /// The result; if the event has only its URL, the result is fetched.
    async fn done(&self, remote: &Remote, done: TaskComplete) -> Result<TaskDone, TaskError> {
        let TaskComplete { result, result_url, encoding, http_status, .. } = done;
        let (result, held) = match result_url.filter(|_| result.get() == "null") {
            Some(path) => self.fetch(remote, &path).await?,
            None => (result, None),
        };
        let result = Json::result(result.get()).map_err(|invalid| {
            TaskError::fatal(code::BAD_RESULT, format!("the result cannot be passed on: {invalid}"))
        })?;
        let encoding = (encoding.as_deref() == Some("base64")).then_some("base64");
        Ok(TaskDone { result: result.into_raw(), encoding, http_status, held: held.into_iter().collect() })
    }

    /// Fetches a result that was too large for an event of the remote.
    async fn fetch(&self, remote: &Remote, path: &str) -> Result<Fetched, TaskError> {
        let mut retries = Retries::new(remote, self.context.pace);
        let why = loop {
            // The size is unknown before the read, so the maximum is reserved.
            let held = self.context.memory.answer(&self.tasks.owner, self.context.max_result_bytes).await;
            match request::result(remote, path, self.context.max_result_bytes).await {
                Ok(result) => return Ok((result, held)),
                Err(RequestError::Failed(Failure::Transport(upstream::Error::TooLarge { limit }))) => {
                    let message = format!("the result has more than {limit} bytes (`jobs.max_response_bytes`)");
                    return Err(TaskError::fatal(code::RESPONSE_TOO_LARGE, message));
                }
                Err(RequestError::Refused { detail, .. }) => break detail,
                Err(RequestError::Failed(failure)) => match retries.delay(&failure).inspect(|_| drop(held)) {
                    Some(delay) => sleep(delay).await,
                    None => break failure.to_string(),
                },
            }
        };
        let message =
            format!("the task succeeded on remote `{}`, but its result could not be read: {why}", remote.name());
        Err(TaskError::transient(code::REMOTE_LOST, message))
    }
}

/// A result, and its part of the memory budget.
type Fetched = (Box<serde_json::value::RawValue>, Option<Held>);

/// Counts connections that brought no progress. The source of events counts failures too, but it does not know the
/// tasks: a remote that begins from the start each time, without event ids, would be followed forever.
#[derive(Debug, Default)]
struct Fruitless {
    /// Connections in a row whose last event had no id.
    without_id: u32,
    /// The last event of this connection has no id.
    no_id: bool,
    /// Connections since the last event with which a task made progress.
    idle: u32,
}

/// Maximum number of connections in a row without progress. It is high: a task can be silent for hours behind a proxy that
/// cuts each connection after a minute.
const IDLE_MAX: u32 = 1000;

// === impl Fruitless ===

impl Fruitless {
    fn received(&mut self, event: &RemoteEvent, progressed: bool) {
        if !event.control {
            self.no_id = event.id.is_empty();
            if !self.no_id {
                self.without_id = 0;
            }
        }
        if progressed {
            self.idle = 0;
        }
    }

    /// Counts a lost connection; true if no other one should be opened.
    fn lost(&mut self, max: u32) -> bool {
        // Connections without events are counted by the source of events, which knows how long they lasted.
        self.without_id += u32::from(std::mem::take(&mut self.no_id));
        self.idle += 1;
        self.without_id > max || self.idle > IDLE_MAX
    }
}

/// True if the remote does not know the job.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure.status(), Some(StatusCode::NOT_FOUND | StatusCode::GONE))
}
