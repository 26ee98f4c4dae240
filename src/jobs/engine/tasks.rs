//! The life of a task, from its slot to its end, and the end of the job with the last of them.

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Done, EVENT_OVERHEAD, Ending, Engine, Id, Phase, Report, Said, Timer,
    aggregate::aggregate,
    attempt::{self, Attempt},
    data_bytes,
    live::Bounds,
    millis,
    outbox::Entry,
    room::FOOTPRINT,
};
use crate::{
    jobs::{
        event::{
            Complete, ErrorEntry, Fact, JobEvent, LOCAL, Progress, TaskComplete, TaskFailed, TaskProgress, TaskRetry,
            TaskStart,
        },
        handler::TaskError,
        record,
        retry::retry_delay,
        spec::Kind,
        state::percent,
        urls,
    },
    journal::RecordWrite,
    shares::Held,
};

/// Records that belong to an event, and the memory that both hold of the budget.
type Extra = (Vec<RecordWrite>, Vec<Held>);

/// Results kept for `aggregated_result` may hold `jobs.max_memory_bytes` divided by this number.
pub(super) const KEPT_PART: usize = 4;
/// Rough bytes of an event beside what varies much.
pub(super) const PLAIN_EVENT_BYTES: usize = 512;

// === impl Engine ===

impl Engine {
    /// Begins an attempt at a task that has just got its slots.
    pub(super) fn begin(&mut self, id: &Id, index: u32, now: Instant) {
        let max_data_bytes = data_bytes(self.max_event_bytes);
        let default_timeout = self.config.task_timeout();
        let live =
            self.book.get_mut(id).and_then(|job| job.live.as_deref_mut()).expect("the queue holds live jobs only");
        let (task, run) = (&live.plan.tasks[index as usize], &mut live.runs[index as usize]);
        let (handler, own_timeout) = match &task.kind {
            Kind::Http => (self.http.clone(), None),
            Kind::Run(name) => {
                let registered = self.handlers.get(name).expect("tasks without a handler have ended before");
                (registered.handler.clone(), registered.timeout)
            }
        };
        run.phase = Phase::Running;
        run.attempts += 1;
        self.starts.push(Attempt {
            id: id.clone(),
            task: index,
            number: run.attempts,
            handler,
            task_id: task.id.clone(),
            name: task.name.clone(),
            owner: live.owner.clone(),
            groups: live.plan.groups.clone(),
            record_bytes: live.record_bytes,
            inputs: self.inputs.clone(),
            memory: self.memory.clone(),
            via: live.plan.via.clone(),
            timeout: task.timeout.or(own_timeout).unwrap_or(default_timeout),
            cancel: live.cancel.clone(),
            max_data_bytes,
        });
        let (task_id, task_name) = (task.id.clone(), task.name.clone());
        let resumes = std::mem::take(&mut run.resumes);
        if run.began.is_none() {
            run.began = Some(now);
            self.push(id, index, Fact::TaskStart(TaskStart { task_id, task_name }), PLAIN_EVENT_BYTES);
        } else if resumes {
            let message = Some(format!("attempt {} has begun", run.attempts));
            let fact = TaskProgress { task_id, progress: 0.0, message, data: None };
            self.push(id, index, Fact::TaskProgress(fact), PLAIN_EVENT_BYTES);
        }
    }

    /// Takes what an attempt tells.
    pub fn report(&mut self, report: Report, now: Instant) {
        let Report { id, task, attempt, said } = report;
        let said = match said {
            Said::Told(told) => return self.told(&id, task, told, now),
            Said::Unfollowed => return self.unfollowed(),
            said => said,
        };
        let Some(owner) = self.live(&id).map(|live| live.owner.clone()) else { return };
        let tight = self.room.tight_for(&owner);
        let Some(live) = self.live(&id) else { return };
        let run = &mut live.runs[task as usize];
        if run.phase != Phase::Running || run.attempts != attempt {
            // Of an attempt that has ended: its handler left something running that still reports.
            return;
        }
        match said {
            // The end of each task needs the room more.
            Said::Told(_) | Said::Unfollowed => {}
            Said::Progress { .. } if tight => {}
            Said::Progress { progress, message, data } => {
                let task_id = live.plan.tasks[task as usize].id.clone();
                let bytes = PLAIN_EVENT_BYTES + data.as_ref().map_or(0, |data| data.get().len());
                self.push(&id, task, Fact::TaskProgress(TaskProgress { task_id, progress, message, data }), bytes);
            }
            Said::Ended(result) => {
                let lane = run.lane;
                self.queue.release(&id, &owner, lane);
                match self.room.for_result(&owner, result) {
                    Ok(done) => self.succeed(&id, task, done, now),
                    Err(error) => self.fail_or_retry(&id, task, error, now),
                }
            }
        }
    }

    /// The delay of a retry is over.
    pub(super) fn retry_now(&mut self, id: &Id, task: u32) {
        let Some(live) = self.live(id) else { return };
        let run = &mut live.runs[task as usize];
        if run.phase == Phase::Delayed {
            run.phase = Phase::Waiting;
            let lane = run.lane;
            self.queue.push(id, task, lane);
        }
    }

    /// Ends a job before its tasks have ended: none is begun any more, those that run are told to stop.
    pub(super) fn end(&mut self, id: &Id, ending: Ending) {
        let Some(live) = self.live(id).filter(|live| live.ending.is_none() && !live.closed()) else { return };
        live.ending = Some(ending);
        live.cancel.cancel();
        live.far.cancel();
        for (index, run) in (0..).zip(&mut live.runs) {
            if matches!(run.phase, Phase::Waiting | Phase::Delayed | Phase::Interrupted) {
                run.phase = Phase::Doomed;
                live.doomed.push_back(index);
            }
        }
        self.queue.clear(id);
        self.doomed.push_back(id.clone());
    }

    /// Gives one doomed task its `error`; false when there is none. One by one, since there may be thousands.
    pub(super) fn bury_one(&mut self, now: Instant) -> bool {
        let Some(id) = self.doomed.front().cloned() else { return false };
        let next = self.live(&id).and_then(|live| Some((live.doomed.pop_front()?, live.ending?)));
        match next {
            Some((task, ending)) => self.fail(&id, task, ending.error(None), now),
            None => {
                self.doomed.pop_front();
            }
        }
        true
    }

    pub(super) fn succeed(&mut self, id: &Id, index: u32, done: Done, now: Instant) {
        let bytes = done.result.get().len();
        let room = (self.config.max_memory_bytes / KEPT_PART).saturating_sub(self.kept_bytes);
        let bounds = Bounds { room, ..Bounds::new(&self.config, self.max_event_bytes) };
        let live = self.book.get_mut(id).and_then(|job| job.live.as_deref_mut()).expect("the caller has found it");
        self.kept_bytes -= live.kept_bytes;
        live.keep_result(index as usize, &done.result, bounds);
        self.kept_bytes += live.kept_bytes;
        let (task, run) = (&live.plan.tasks[index as usize], &live.runs[index as usize]);
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
            fact.result_url = Some(urls::result(id, &task.id));
            let result: Box<str> = std::mem::replace(&mut fact.result, RawValue::NULL.to_owned()).into();
            let value = Bytes::from(result.into_boxed_bytes());
            records.push(RecordWrite { key: record::result_key(id, &task.id), value: Some(value) });
        }
        tracing::info!(
            job_id = %id, task_id = task.id, task_name = task.name, attempts = run.attempts, duration_ms,
            result_bytes = bytes, status = "completed", "task ended"
        );
        self.stats.tasks_succeeded += 1;
        self.push_with(id, Some(index), Fact::TaskComplete(fact), (records, done.held), PLAIN_EVENT_BYTES + bytes);
        self.finished(id, index, Some(duration_ms), now);
    }

    fn fail_or_retry(&mut self, id: &Id, index: u32, mut error: TaskError, now: Instant) {
        self.trim(&mut error);
        let live = self.book.get_mut(id).and_then(|job| job.live.as_deref_mut()).expect("the caller has found it");
        if let Some(ending) = live.ending {
            // Whatever the handler says now, the ending is why.
            return self.fail(id, index, ending.error(error.http_status), now);
        }
        if self.suspended {
            // Whatever the handler says now, the stop is why.
            return self.interrupt(id, index);
        }
        let (task, run) = (&live.plan.tasks[index as usize], &mut live.runs[index as usize]);
        if !error.retryable || run.spent() > task.retries {
            return self.fail(id, index, error, now);
        }
        let delay = retry_delay(run.spent(), error.retry_after, &mut self.rng);
        run.phase = Phase::Delayed;
        let fact = TaskRetry {
            task_id: task.id.clone(),
            attempt: run.attempts + 1,
            delay_ms: millis(delay),
            error: error.message,
            code: error.code,
        };
        self.stats.task_retries += 1;
        self.timers.set(now + delay, Timer::Retry(id.clone(), index));
        self.push(id, index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES);
    }

    pub(super) fn fail(&mut self, id: &Id, index: u32, error: TaskError, now: Instant) {
        let live = self.live(id).expect("the caller has found it");
        live.keep_error(index as usize, &error.message);
        let (task, run) = (&live.plan.tasks[index as usize], &live.runs[index as usize]);
        let duration = run.began.map(|began| millis(now - began));
        tracing::info!(
            job_id = %id, task_id = task.id, task_name = task.name, attempts = run.attempts, duration_ms = duration,
            code = error.code, error = error.message, status = "failed", "task ended"
        );
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
        let fail_fast = live.plan.fail_fast;
        self.stats.tasks_failed += 1;
        self.push(id, index, Fact::TaskError(fact), PLAIN_EVENT_BYTES);
        self.finished(id, index, duration, now);
        if fail_fast {
            self.end(id, Ending::FailedFast);
        }
    }

    /// What follows the end of each task, and with the last one the end of the job.
    fn finished(&mut self, id: &Id, index: u32, duration_ms: Option<u64>, now: Instant) {
        if let Some(ms) = duration_ms {
            self.stats.task_duration_ms_sum += ms;
            self.stats.task_duration_count += 1;
        }
        let live = self.live(id).expect("the caller has found it");
        live.runs[index as usize].phase = Phase::Finished;
        let (step, total_steps) = (live.finished(), live.runs.len());
        let progress = percent(step, total_steps);
        let closed = live.closed();
        self.tell(id, Fact::Progress(Progress { step, total_steps, progress }), PLAIN_EVENT_BYTES);
        if closed {
            self.close(id, now);
        }
    }

    /// Makes the last two events. They are pushed in one turn, hence appended at once.
    pub(super) fn close(&mut self, id: &Id, now: Instant) {
        let owner = self.live(id).expect("the caller has found it").owner.clone();
        let budget = self.room.for_all_results(&owner, self.max_event_bytes.saturating_sub(EVENT_OVERHEAD));
        let live = self.live(id).expect("the caller has found it");
        live.told = true;
        let aggregated = live.aggregated;
        let tasks = live.plan.tasks.iter().zip(&live.runs);
        let tasks = tasks.filter_map(|(task, run)| Some((task.id.as_str(), run.outcome.as_ref()?)));
        let results = aggregate(id, tasks, budget);
        let errors = fitting(std::mem::take(&mut live.errors), budget);
        let omitted = live.failed - errors.len();
        let complete = Complete {
            status: live.verdict(),
            total_tasks: live.runs.len(),
            success_count: live.succeeded,
            error_count: live.failed,
            errors,
            errors_omitted: (omitted > 0).then_some(omitted),
            duration_ms: millis(now - live.accepted),
        };
        live.runs.iter_mut().for_each(|run| run.outcome = None);
        tracing::info!(
            job_id = %id, status = complete.status.as_str(), tasks = complete.total_tasks,
            succeeded = complete.success_count, failed = complete.error_count, duration_ms = complete.duration_ms, "job ended"
        );
        let bytes = results.results.get().len();
        if !aggregated {
            self.tell(id, Fact::AggregatedResult(results), PLAIN_EVENT_BYTES + bytes);
        }
        self.tell(id, Fact::Complete(complete), PLAIN_EVENT_BYTES);
    }

    /// Bounds what stands in events, in snapshots and in memory.
    pub(super) fn trim(&self, error: &mut TaskError) {
        attempt::trim(error, attempt::max_error_bytes(self.max_event_bytes));
    }

    /// A fact of a task.
    pub(super) fn push(&mut self, id: &Id, index: u32, fact: Fact, bytes: usize) {
        self.push_with(id, Some(index), fact, Extra::default(), bytes);
    }

    /// A fact of the job itself.
    fn tell(&mut self, id: &Id, fact: Fact, bytes: usize) {
        self.push_with(id, None, fact, Extra::default(), bytes);
    }

    /// Counts journal bytes against the owner's share until the job ends.
    fn charge(&mut self, id: &Id, bytes: u64) {
        if let Some(live) = self.book.get_mut(id).and_then(|job| job.live.as_deref_mut()) {
            live.held += self.room.charge(&live.owner, bytes);
        }
    }

    fn push_with(&mut self, id: &Id, index: Option<u32>, fact: Fact, (records, held): Extra, bytes: usize) {
        let live = self.live(id).expect("only live jobs make events");
        let remote = index.and_then(|index| live.plan.tasks[index as usize].remote.clone());
        let source = remote.unwrap_or_else(|| LOCAL.clone());
        let mut topics = vec![live.topic.clone()];
        if fact.notifies() {
            topics.extend(live.plan.notify.iter().cloned());
        }
        let event = JobEvent { job_id: id.clone(), source, timestamp: self.clock.now_ms(), fact };
        self.room.take(bytes);
        self.charge(id, FOOTPRINT * bytes as u64);
        self.outbox.push(Entry { event, topics, records, held, bytes });
    }
}

/// As many of the first entries as go into an event.
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
