//! The tasks of a job from their slot to their end, and the end of the job with the last task.

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::{Duration, Instant};

use super::{Ending, LiveJob, PLAIN_EVENT_BYTES, Phase};
use crate::{
    jobs::{
        attempt::Attempt,
        code,
        engine::{
            aggregate::aggregate,
            effects::{Effects, Timer},
        },
        event::{Complete, ErrorEntry, Fact, Progress, TaskComplete, TaskFailed, TaskProgress, TaskRetry, TaskStart},
        event_size::{EVENT_OVERHEAD, data_bytes, fit_error},
        handler::TaskError,
        record,
        state::percent,
        urls,
        work::{ReportBody, TaskDone},
    },
    journal::RecordWrite,
    upstream::Backoff,
};

/// Delays before a failed task runs again: half a second, doubled up to half a minute. That is short enough for a short
/// failure and long enough for an upstream that is down. A `Retry-After` must not delay a task for a day.
const RETRY_DELAYS: Backoff = Backoff {
    longest_hint: Duration::from_mins(5),
    ..Backoff::new(Duration::from_millis(500), Duration::from_secs(30))
};

/// Maximum number of crashes while a task runs. Then it is not run again: it may be the cause.
const MAX_RESTARTS: u32 = 3;

/// The message of a task that a stop has interrupted.
const STOPPED: &str = "the node stopped before the task had ended; it runs again when the node starts";
/// The message of a task that a crash has interrupted.
const RESTARTED: &str = "the node ended before the task did; it runs again";

// === impl LiveJob ===

impl LiveJob {
    /// Begins an attempt at a task, which has just received its slots.
    pub(crate) fn begin(&mut self, index: u32, fx: &mut Effects, now: Instant) {
        let (task, run) = (&self.plan.tasks[index as usize], &mut self.runs[index as usize]);
        let (handler, own_timeout) = fx.handler(&task.kind).expect("tasks without a handler have ended before");
        run.phase = Phase::Running;
        run.attempts += 1;
        fx.outbox.start(Attempt {
            job: self.id.clone(),
            span: self.span.clone(),
            task: index,
            number: run.attempts,
            handler,
            task_id: task.id.clone(),
            name: task.name.clone(),
            owner: self.owner.clone(),
            groups: self.plan.groups.clone(),
            record_bytes: self.record_bytes,
            inputs: fx.inputs.clone(),
            memory: fx.memory.clone(),
            via: self.plan.via.clone(),
            timeout: task.timeout.or(own_timeout).unwrap_or_else(|| fx.config.task_timeout()),
            cancel: self.cancel.clone(),
            max_data_bytes: data_bytes(fx.max_event_bytes),
        });
        let task_id = task.id.clone();
        let announce_resume = std::mem::take(&mut run.announce_resume);
        if run.began.is_none() {
            run.began = Some(now);
            let task_name = task.name.clone();
            self.push_task(index, Fact::TaskStart(TaskStart { task_id, task_name }), PLAIN_EVENT_BYTES, fx);
        } else if announce_resume {
            let message = Some(format!("attempt {} has begun", run.attempts));
            let fact = TaskProgress { task_id, progress: 0.0, message, data: None };
            self.push_task(index, Fact::TaskProgress(fact), PLAIN_EVENT_BYTES, fx);
        }
    }

    /// Takes a report of a worker.
    pub(crate) fn report(&mut self, index: u32, attempt: u32, body: ReportBody, fx: &mut Effects, now: Instant) {
        if let ReportBody::Remote(report) = body {
            return self.remote_report(index, report, fx, now);
        }
        let run = &mut self.runs[index as usize];
        if run.phase != Phase::Running || run.attempts != attempt {
            // The attempt has ended, but its handler left something running that still reports.
            return;
        }
        match body {
            // If there is little space, it is reserved for the end of each task.
            ReportBody::Progress { .. } if fx.room.tight_for(&self.owner) => {}
            ReportBody::Progress { progress, message, data } => {
                let task_id = self.plan.tasks[index as usize].id.clone();
                let bytes = PLAIN_EVENT_BYTES + data.as_ref().map_or(0, |data| data.get().len());
                let fact = TaskProgress { task_id, progress, message, data };
                self.push_task(index, Fact::TaskProgress(fact), bytes, fx);
            }
            ReportBody::Ended(result) => {
                fx.queue.release(&self.id, &self.owner, run.lane);
                match fx.room.for_result(&self.owner, result) {
                    Ok(done) => self.succeed(index, done, fx, now),
                    Err(error) => self.fail_or_retry(index, error, fx, now),
                }
            }
            ReportBody::Remote(_) | ReportBody::SessionEnded => {}
        }
    }

    /// Queues a task again: the delay before its next attempt is over.
    pub(crate) fn retry_now(&mut self, index: u32, fx: &mut Effects) {
        let run = &mut self.runs[index as usize];
        if run.phase == Phase::Delayed {
            run.phase = Phase::Waiting;
            fx.queue.push(&self.id, index, run.lane);
        }
    }

    /// Gives its `error` to one task that the ending has stopped; false if no such task is left.
    pub(crate) fn fail_next(&mut self, fx: &mut Effects, now: Instant) -> bool {
        let Some(ending) = self.ending else { return false };
        let Some(index) = self.failing.pop_front() else { return false };
        self.fail(index, ending.error(None), fx, now);
        true
    }

    /// Reports one interrupted task and queues it again; false if no such task is left. A job whose tasks have all ended
    /// gets the `complete` that it still needs.
    pub(crate) fn resume_next(&mut self, fx: &mut Effects, now: Instant) -> bool {
        if let Some(index) = self.interrupted.pop_front() {
            self.resume(index, fx, now);
            return true;
        }
        if self.all_finished() && !self.complete_made {
            self.complete(fx, now);
        }
        false
    }

    fn resume(&mut self, index: u32, fx: &mut Effects, now: Instant) {
        let (task, run) = (&self.plan.tasks[index as usize], &self.runs[index as usize]);
        if run.phase != Phase::Interrupted {
            // An ending came first.
            return;
        }
        if fx.suspended {
            return self.interrupt(index, fx);
        }
        if let Some(name) = fx.missing(&task.kind) {
            let message = format!("no handler is called `{name}`, though there was one when the job was accepted");
            return self.fail(index, TaskError::fatal(code::UNKNOWN_HANDLER, message), fx, now);
        }
        if run.restarts + 1 >= MAX_RESTARTS {
            let message = format!("the node ended {MAX_RESTARTS} times while this task ran; it is not run again");
            return self.fail(index, TaskError::fatal(code::CRASHED, message), fx, now);
        }
        let lane = run.lane;
        self.interrupt(index, fx);
        fx.queue.push(&self.id, index, lane);
    }

    /// Reports that an end of the node has interrupted an attempt, and that another attempt follows.
    fn interrupt(&mut self, index: u32, fx: &mut Effects) {
        let (task, run) = (&self.plan.tasks[index as usize], &mut self.runs[index as usize]);
        run.phase = Phase::Waiting;
        run.uncounted += 1;
        run.announce_resume = true;
        let (code, error) =
            if fx.suspended { (code::NODE_STOPPED, STOPPED) } else { (code::NODE_RESTARTED, RESTARTED) };
        let fact = TaskRetry {
            task_id: task.id.clone(),
            attempt: run.attempts + 1,
            delay_ms: 0,
            error: error.into(),
            code: code.into(),
        };
        fx.stats.task_retries += 1;
        self.push_task(index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES, fx);
    }

    pub(super) fn succeed(&mut self, index: u32, done: TaskDone, fx: &mut Effects, now: Instant) {
        let bytes = done.result.get().len();
        let bounds = fx.result_bounds();
        fx.held_bytes -= self.held_bytes;
        self.keep_result(index as usize, &done.result, bounds);
        fx.held_bytes += self.held_bytes;
        let (task, run) = (&self.plan.tasks[index as usize], &self.runs[index as usize]);
        let duration_ms = run.began.map_or(0, |began| millis(now - began));
        let mut fact = TaskComplete {
            task_id: task.id.clone(),
            task_name: task.name.clone(),
            result: done.result,
            result_bytes: None,
            result_url: None,
            encoding: done.encoding.map(str::to_owned),
            http_status: done.http_status,
            attempts: run.attempts,
            duration_ms,
        };
        let mut records = Vec::new();
        if bytes > bounds.inline {
            fact.result_bytes = Some(bytes as u64);
            fact.result_url = Some(urls::result(&self.id, &task.id));
            let result: Box<str> = std::mem::replace(&mut fact.result, RawValue::NULL.to_owned()).into();
            let value = Bytes::from(result.into_boxed_bytes());
            records.push(RecordWrite { key: record::result_key(&self.id, &task.id), value: Some(value) });
        }
        self.span.in_scope(|| {
            tracing::info!(
                job_id = %self.id, task_id = task.id, task_name = task.name, attempts = run.attempts, duration_ms,
                result_bytes = bytes, status = "completed", "task ended"
            );
        });
        fx.stats.tasks_succeeded += 1;
        self.push(Some(index), Fact::TaskComplete(fact), (records, done.held), PLAIN_EVENT_BYTES + bytes, fx);
        self.finish(index, Some(duration_ms), fx, now);
    }

    fn fail_or_retry(&mut self, index: u32, mut error: TaskError, fx: &mut Effects, now: Instant) {
        fit_error(&mut error, fx.max_event_bytes);
        if let Some(ending) = self.ending {
            // The reason is the ending, for any result of the handler.
            return self.fail(index, ending.error(error.http_status), fx, now);
        }
        if fx.suspended {
            // The reason is the stop, for any result of the handler.
            return self.interrupt(index, fx);
        }
        let (task, run) = (&self.plan.tasks[index as usize], &mut self.runs[index as usize]);
        let counted = run.counted();
        if !error.retryable || counted > task.retries {
            return self.fail(index, error, fx, now);
        }
        let delay = RETRY_DELAYS.delay(counted.saturating_sub(1), error.retry_after, &mut fx.rng);
        run.phase = Phase::Delayed;
        let fact = TaskRetry {
            task_id: task.id.clone(),
            attempt: run.attempts + 1,
            delay_ms: millis(delay),
            error: error.message,
            code: error.code,
        };
        fx.stats.task_retries += 1;
        fx.timers.set(now + delay, Timer::Retry(self.id.clone(), index));
        self.push_task(index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES, fx);
    }

    pub(super) fn fail(&mut self, index: u32, error: TaskError, fx: &mut Effects, now: Instant) {
        self.keep_error(index as usize, &error.message);
        let (task, run) = (&self.plan.tasks[index as usize], &self.runs[index as usize]);
        let duration = run.began.map(|began| millis(now - began));
        self.span.in_scope(|| {
            tracing::info!(
                job_id = %self.id, task_id = task.id, task_name = task.name, attempts = run.attempts, duration_ms = duration,
                code = error.code, error = error.message, status = "failed", "task ended"
            );
        });
        let fact = TaskFailed {
            task_id: task.id.clone(),
            task_name: task.name.clone(),
            error: error.message,
            code: error.code,
            retryable: error.retryable,
            attempts: run.attempts,
            http_status: error.http_status,
            duration_ms: duration.unwrap_or(0),
        };
        fx.stats.tasks_failed += 1;
        self.push_task(index, Fact::TaskError(fact), PLAIN_EVENT_BYTES, fx);
        self.finish(index, duration, fx, now);
        if self.plan.fail_fast {
            self.end(Ending::FailedFast, fx);
        }
    }

    /// Makes the events after the end of a task, and with the last task those of the end of the job.
    fn finish(&mut self, index: u32, duration_ms: Option<u64>, fx: &mut Effects, now: Instant) {
        if let Some(ms) = duration_ms {
            fx.stats.task_duration_ms_sum += ms;
            fx.stats.task_duration_count += 1;
        }
        self.runs[index as usize].phase = Phase::Finished;
        let (step, total_steps) = (self.finished(), self.runs.len());
        let progress = percent(step, total_steps);
        self.push_job(Fact::Progress(Progress { step, total_steps, progress }), PLAIN_EVENT_BYTES, fx);
        if self.all_finished() {
            self.complete(fx, now);
        }
    }

    /// Makes the last two events. They are pushed in one turn, so they are in one commit.
    fn complete(&mut self, fx: &mut Effects, now: Instant) {
        let budget = fx.room.for_all_results(&self.owner, fx.max_event_bytes.saturating_sub(EVENT_OVERHEAD));
        self.complete_made = true;
        let tasks = self.plan.tasks.iter().zip(&self.runs);
        let tasks = tasks.filter_map(|(task, run)| Some((task.id.as_str(), run.outcome.as_ref()?)));
        let results = aggregate(&self.id, tasks, budget);
        let errors = fitting(std::mem::take(&mut self.errors), budget);
        let omitted = self.failed - errors.len();
        let complete = Complete {
            status: self.final_status(),
            total_tasks: self.runs.len(),
            success_count: self.succeeded,
            error_count: self.failed,
            errors,
            errors_omitted: (omitted > 0).then_some(omitted),
            duration_ms: millis(now - self.accepted),
        };
        self.runs.iter_mut().for_each(|run| run.outcome = None);
        self.span.in_scope(|| {
            tracing::info!(
                job_id = %self.id, status = complete.status.as_str(), tasks = complete.total_tasks,
                succeeded = complete.success_count, failed = complete.error_count, duration_ms = complete.duration_ms, "job ended"
            );
        });
        if !self.aggregated_made {
            let bytes = results.results.get().len();
            self.push_job(Fact::AggregatedResult(results), PLAIN_EVENT_BYTES + bytes, fx);
        }
        self.push_job(Fact::Complete(complete), PLAIN_EVENT_BYTES, fx);
    }
}

/// The first entries that fit into an event.
fn fitting(mut errors: Vec<ErrorEntry>, budget: usize) -> Vec<ErrorEntry> {
    let mut size = 0;
    let mut fits = |entry: &ErrorEntry| {
        size += serde_json::to_string(entry).map_or(0, |text| text.len() + 1);
        size <= budget
    };
    let count = errors.iter().map_while(|entry| fits(entry).then_some(())).count();
    errors.truncate(count);
    errors
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
