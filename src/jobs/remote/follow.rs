//! The events of a job on a remote, and what becomes of them here.
//!
//! They are read from the beginning, through as many connections as it takes ([`EventSource`]). What is not of this job,
//! of a task that is not of the group, after a task's end, of an unknown kind or unreadable is passed over.

use std::sync::Arc;

use tokio::time::sleep;

use super::{Open, Retries, Session, ask, ask::Trouble};
use crate::{
    jobs::{
        code,
        engine::{Done, Told, fit, shorten},
        event::{Fact, JobEvent, TaskComplete, TaskFailed, TaskProgress, TaskRetry, TaskStart},
        handler::TaskError,
        urls,
    },
    json::Json,
    shares::Held,
    upstream::{
        Purpose, Remote, StatusCode, Url,
        events::{Cursor, EventSource, Failure, RemoteEvent, Said, Source},
    },
};

/// The name of a job's last event.
const LAST_EVENT: &str = "complete";
/// Longest message of a report in bytes, as for local tasks.
const MESSAGE_MAX: usize = 1024;

// === impl Session ===

impl Session {
    /// Reads until all tasks have ended, or none can any more; why those have no end that are still open.
    pub(super) async fn follow(&mut self, remote: &Arc<Remote>, job_id: &str) -> TaskError {
        let url = match remote.url(&urls::events(job_id)) {
            Ok(url) => url,
            Err(bad) => return self.lost(&bad.to_string()),
        };
        let (mut cursor, mut vain, mut begun) = (Cursor::default(), Vain::default(), false);
        loop {
            let mut source = self.source(remote, &url, cursor);
            let failure = loop {
                match source.next().await {
                    Some(Said::Events(events)) => {
                        for event in &events {
                            if event.control && event.event == "gap" {
                                // The place is unknown there: all that is kept comes once more.
                                self.again().await;
                            }
                            let news = self.take(remote, job_id, event).await;
                            vain.heard(news, event);
                        }
                        if self.open.is_empty() {
                            return self.lost("all tasks have ended");
                        }
                    }
                    Some(Said::Retry { failure, .. }) if forgotten(&failure) => break failure,
                    Some(Said::Open { resumed_after, .. }) => {
                        if std::mem::replace(&mut begun, true) && resumed_after.is_none() {
                            self.again().await;
                        }
                    }
                    Some(Said::Retry { failure: Failure::Busy(_), .. }) => {}
                    Some(Said::Retry { failure, .. }) if vain.retries(remote.max_retries()) => break failure,
                    Some(Said::Retry { failure, attempt, delay }) => {
                        tracing::debug!(job_id = %self.group.id, remote = remote.name(), %failure, attempt, ?delay, "the remote's events broke off");
                        // The first loss of a connection is not reported: it usually reconnects immediately.
                        if attempt > 1 || !begun {
                            self.unreached(attempt, delay, &failure).await;
                        }
                    }
                    Some(Said::GaveUp(failure)) => break failure,
                    Some(Said::End(_)) | None => return self.lost("its job is over without an end of this task"),
                }
            };
            if forgotten(&failure) {
                let reason =
                    format!("it no longer knows the job (`{job_id}` there), so nobody can tell what became of it");
                return self.lost(&reason);
            }
            if !matches!(failure, Failure::Busy(_)) {
                return self.lost(&failure.to_string());
            }
            // A place comes free when another stream ends: that is nothing that the remote could be blamed for.
            cursor = source.cursor().clone();
            sleep(self.means.pace.max).await;
        }
    }

    fn source(&self, remote: &Arc<Remote>, url: &Url, cursor: Cursor) -> EventSource {
        let source = Source {
            end_event: Some(LAST_EVENT.to_owned()),
            pace: self.means.pace,
            via: self.group.via.clone(),
            ..Source::get(remote.clone(), url.clone(), Purpose::Job)
        };
        EventSource::new(source, cursor, self.means.connections.clone())
    }

    /// True when it brought a task further.
    async fn take(&mut self, remote: &Remote, job_id: &str, event: &RemoteEvent) -> bool {
        if event.control {
            return false;
        }
        let fact = match JobEvent::decode(&event.event, &event.data) {
            Ok(event) if *event.job_id == *job_id => event.fact,
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(job_id = %self.group.id, remote = remote.name(), %error, "an event of the remote is passed over");
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
                let message = message.map(|message| shorten(message, MESSAGE_MAX));
                let most = self.means.max_data_bytes;
                let data = data.map(|data| {
                    Json::result(data.get()).map_or_else(|_| fit(data, 0), |data| fit(data.into_raw(), most))
                });
                self.tell(index, Told::Progress { progress, message, data }).await;
                self.further(&task_id, progress)
            }
            Fact::TaskRetry(TaskRetry { task_id, attempt, delay_ms, error, code }) => {
                let Some(index) = self.started(&task_id).await else { return false };
                self.tell(index, Told::Retry { attempt, delay_ms, error: TaskError::transient(code, error) }).await;
                false
            }
            Fact::TaskComplete(done) => {
                let Some(index) = self.started(&done.task_id).await else { return false };
                let (task_id, attempts) = (done.task_id.clone(), done.attempts);
                let result = self.done(remote, done).await;
                self.tell(index, Told::Ended { result, attempts }).await;
                // Only now: whoever is interrupted before has still to give it an end.
                self.open.remove(&task_id);
                true
            }
            Fact::TaskError(TaskFailed { task_id, error, code, retryable, attempts, http_status, .. }) => {
                // Its first event where it was ended before it began.
                let Some(Open { index, .. }) = self.open.get(&task_id).copied() else { return false };
                let error = TaskError { message: error, code, retryable, retry_after: None, http_status };
                self.tell(index, Told::Ended { result: Err(error), attempts }).await;
                self.open.remove(&task_id);
                true
            }
            Fact::Progress(_) | Fact::AggregatedResult(_) | Fact::Complete(_) => false,
        }
    }

    /// What follows may be known already.
    async fn again(&self) {
        for open in self.open.values().filter(|open| open.started) {
            self.tell(open.index, Told::Again).await;
        }
    }

    /// True when the task was never so far.
    fn further(&mut self, task_id: &str, progress: f64) -> bool {
        let open = self.open.get_mut(task_id).filter(|open| progress > open.progress);
        open.map(|open| open.progress = progress.min(100.0)).is_some()
    }

    /// The number of a task that is open, and of which is told that it has begun.
    pub(super) async fn started(&mut self, task_id: &str) -> Option<u32> {
        let open = self.open.get_mut(task_id)?;
        let index = open.index;
        if !std::mem::replace(&mut open.started, true) {
            self.tell(index, Told::Started).await;
        }
        Some(index)
    }

    /// The result, and if need be the one that the event only names.
    async fn done(&self, remote: &Remote, done: TaskComplete) -> Result<Done, TaskError> {
        let TaskComplete { result, result_url, encoding, http_status, .. } = done;
        let (result, held) = match result_url.filter(|_| result.get() == "null") {
            Some(path) => self.fetch(remote, &path).await?,
            None => (result, None),
        };
        let result = Json::result(result.get()).map_err(|invalid| {
            TaskError::fatal(code::BAD_RESULT, format!("the result cannot be passed on: {invalid}"))
        })?;
        let encoding = (encoding.as_deref() == Some("base64")).then_some("base64");
        Ok(Done { result: result.into_raw(), encoding, http_status, held: held.into_iter().collect() })
    }

    /// Fetches a result that was too large for an event of the remote.
    async fn fetch(&self, remote: &Remote, path: &str) -> Result<Fetched, TaskError> {
        let mut retries = Retries::new(remote, self.means.pace);
        let why = loop {
            // The size is unknown before the read, so reserve the maximum.
            let held = self.means.memory.answer(&self.group.owner, self.means.max_result_bytes).await;
            match ask::result(remote, path, self.means.max_result_bytes).await {
                Ok(result) => return Ok((result, held)),
                Err(Trouble::Failed(Failure::Transport(crate::upstream::Error::TooLarge { limit }))) => {
                    let message = format!("the result has more than {limit} bytes (`jobs.max_response_bytes`)");
                    return Err(TaskError::fatal(code::RESPONSE_TOO_LARGE, message));
                }
                Err(Trouble::Refused { detail, .. }) => break detail,
                Err(Trouble::Failed(failure)) => match retries.delay(&failure).inspect(|_| drop(held)) {
                    Some(delay) => sleep(delay).await,
                    None => break failure.to_string(),
                },
            }
        };
        let message =
            format!("the task succeeded on remote `{}`, but its result could not be had: {why}", remote.name());
        Err(TaskError::transient(code::REMOTE_LOST, message))
    }
}

/// A result, and the memory that it holds of the budget.
type Fetched = (Box<serde_json::value::RawValue>, Option<Held>);

/// Counts connections that came to nothing. The source of events counts them too, but cannot know what is news: a remote
/// that begins anew each time, without ids, would be followed for ever.
#[derive(Debug, Default)]
struct Vain {
    /// That brought events without an id, and none with one.
    nameless: u32,
    /// This one does so far.
    unnamed: bool,
    /// Since the last event that brought a task further.
    idle: u32,
}

/// Connections in a row that bring no task further. There may be many: a task can be silent for hours behind a proxy that
/// cuts each connection after a minute.
const IDLE_MAX: u32 = 1000;

// === impl Vain ===

impl Vain {
    fn heard(&mut self, news: bool, event: &RemoteEvent) {
        if !event.control {
            self.unnamed = event.id.is_empty();
            if !self.unnamed {
                self.nameless = 0;
            }
        }
        if news {
            self.idle = 0;
        }
    }

    /// Takes one more that broke off; true when that is enough.
    fn retries(&mut self, max: u32) -> bool {
        // Silence is the business of the source of events, which knows how long a connection held.
        self.nameless += u32::from(std::mem::take(&mut self.unnamed));
        self.idle += 1;
        self.nameless > max || self.idle > IDLE_MAX
    }
}

/// True when the remote says that there is no such job.
fn forgotten(failure: &Failure) -> bool {
    matches!(failure.status(), Some(StatusCode::NOT_FOUND | StatusCode::GONE))
}
