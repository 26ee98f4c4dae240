//! Tasks that remotes run. They take no slots here: the remote has its own queue, timeouts and retries. A session
//! follows all tasks of a job on one remote, and its reports become the job's own history here.
//!
//! After a restart of this node the remote reports everything from the beginning. Reports that are already in the
//! history are dropped. Starts, attempts and ends are recognised by their content, progress by its number, since a
//! remote repeats its reports in the same order.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::{Duration, Instant};

use super::{LiveJob, PLAIN_EVENT_BYTES, Phase};
use crate::jobs::{
    code,
    engine::effects::Effects,
    event::{Fact, TaskProgress, TaskRetry, TaskStart},
    event_size::fit_error,
    handler::TaskError,
    work::{RemoteReport, RemoteTasks},
};

/// The state of a task that a remote runs.
#[derive(Debug)]
pub(crate) struct RemoteRun {
    /// The attempt that the remote reports about.
    attempt: u32,
    /// Number of progress events of the last attempt in the history.
    recorded: u32,
    /// Number of those that the remote will report again.
    to_skip: u32,
    /// Number of recorded progress events that the remote will report again.
    skipped: f64,
    /// The highest progress in the history.
    progress: f64,
    /// Bytes of reports that came faster than [`INTERVAL`].
    flood: usize,
    /// True if the history already has the message that further reports are left out.
    muted: bool,
    last: Option<Instant>,
}

/// Reports at this interval become events, as with local tasks. Faster reports count as a flood, and so do all data.
const INTERVAL: Duration = Duration::from_millis(90);
/// Minimum weight of small data, since each event has a cost.
const LEAST_WEIGHT: usize = 64;
/// The message of a task whose flood has reached its limit.
const MUTED: &str = "the task reports more than `jobs.max_response_bytes` while it runs; the rest is left out";
/// Maximum number of attempts that a remote can report.
const MAX_ATTEMPTS: u32 = 10_000;

// === impl RemoteRun ===

impl RemoteRun {
    pub(super) fn new() -> Self {
        Self { attempt: 1, recorded: 0, to_skip: 0, skipped: 0.0, progress: 0.0, flood: 0, muted: false, last: None }
    }

    /// Takes an event of the history.
    pub(crate) fn recall(&mut self, fact: &Fact) {
        match fact {
            Fact::TaskProgress(progress) => self.record(progress.progress),
            // This node made the event; the remote does not send it again.
            Fact::TaskRetry(retry) if retry.code == code::REMOTE_AWAY => {}
            Fact::TaskRetry(_) => self.next_attempt(),
            _ => {}
        }
        self.replay();
    }

    /// The remote reports from the beginning again.
    fn replay(&mut self) {
        (self.attempt, self.to_skip, self.skipped) = (1, self.recorded, 0.0);
    }

    /// True for progress that is already in the history. Progress that was dropped the first time does not count.
    fn skips(&mut self, progress: f64, data: bool) -> bool {
        if self.to_skip > 0 && (data || progress >= self.skipped) {
            self.to_skip -= 1;
            self.skipped = self.skipped.max(progress.clamp(0.0, 100.0));
            return true;
        }
        self.to_skip > 0
    }

    fn record(&mut self, progress: f64) {
        self.recorded = self.recorded.saturating_add(1);
        self.progress = self.progress.max(progress.clamp(0.0, 100.0));
    }

    fn next_attempt(&mut self) {
        (self.recorded, self.to_skip, self.skipped, self.progress) = (0, 0, 0.0, 0.0);
    }

    /// False after a task has reported more than `most` bytes too fast.
    fn permits(&mut self, bytes: usize, calm: bool, most: usize, now: Instant) -> bool {
        let slow = self.last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        self.last = Some(now);
        if !(slow && calm) {
            self.flood = self.flood.saturating_add(bytes);
        }
        (slow && calm) || self.flood <= most
    }
}

// === impl LiveJob ===

impl LiveJob {
    /// Hands the remote tasks that have not ended to a session for each remote.
    pub(crate) fn hand_over(&mut self, fx: &mut Effects) {
        let mut by_remote: BTreeMap<&Arc<str>, Vec<(String, u32)>> = BTreeMap::new();
        for (index, (run, task)) in (0..).zip(self.runs.iter().zip(&self.plan.tasks)) {
            if let (Phase::Remote, Some(remote)) = (run.phase, &task.remote) {
                by_remote.entry(remote).or_default().push((task.id.clone(), index));
            }
        }
        fx.sessions += by_remote.len();
        fx.remote_tasks.extend(by_remote.into_iter().map(|(remote, tasks)| RemoteTasks {
            job: self.id.clone(),
            span: self.span.clone(),
            owner: self.owner.clone(),
            remote: remote.clone(),
            tasks,
            deadline: self.deadline.map(|(at, _)| at),
            via: self.plan.via.clone(),
            cancel: self.cancel_remote.clone(),
            leave: fx.leave.clone(),
        }));
    }

    /// Takes a report about a task that a remote runs; reports that are in the history already are dropped.
    pub(super) fn remote_report(&mut self, index: u32, mut report: RemoteReport, fx: &mut Effects, now: Instant) {
        let most = fx.config.max_response_bytes;
        if let RemoteReport::Retry { error, .. } | RemoteReport::Ended { result: Err(error), .. } = &mut report {
            fit_error(error, fx.max_event_bytes);
        }
        let (task, run) = (&self.plan.tasks[index as usize], &mut self.runs[index as usize]);
        let Some(remote) = run.remote.as_deref_mut().filter(|_| run.phase == Phase::Remote) else { return };
        let task_id = task.id.clone();
        match report {
            RemoteReport::Started if run.began.is_some() => {}
            RemoteReport::Started => {
                run.began = Some(now);
                run.attempts = run.attempts.max(1);
                let task_name = task.name.clone();
                self.push_task(index, Fact::TaskStart(TaskStart { task_id, task_name }), PLAIN_EVENT_BYTES, fx);
            }
            RemoteReport::Progress { .. } if remote.attempt < run.attempts => {}
            RemoteReport::Replay => remote.replay(),
            RemoteReport::Progress { progress, ref data, .. } if remote.skips(progress, data.is_some()) => {}
            RemoteReport::Progress { progress, data: None, .. } if progress < remote.progress => {}
            RemoteReport::Progress { progress, message, data } => {
                let bytes = PLAIN_EVENT_BYTES + data.as_ref().map_or(0, |data| data.get().len());
                if fx.room.tight_for(&self.owner) {
                    return;
                }
                let weight = data.as_ref().map_or(PLAIN_EVENT_BYTES, |data| data.get().len().max(LEAST_WEIGHT));
                if !remote.permits(weight, data.is_none(), most, now) {
                    if !std::mem::replace(&mut remote.muted, true) {
                        let message = Some(MUTED.into());
                        let fact = TaskProgress { task_id, progress: remote.progress, message, data: None };
                        self.push_task(index, Fact::TaskProgress(fact), PLAIN_EVENT_BYTES, fx);
                    }
                    return;
                }
                remote.record(progress);
                let fact = TaskProgress { task_id, progress: remote.progress, message, data };
                self.push_task(index, Fact::TaskProgress(fact), bytes, fx);
            }
            RemoteReport::Retry { attempt, delay_ms, error } => {
                let attempt = attempt.min(MAX_ATTEMPTS);
                remote.attempt = remote.attempt.max(attempt);
                if attempt <= run.attempts || !remote.permits(PLAIN_EVENT_BYTES, true, most, now) {
                    return;
                }
                run.attempts = attempt;
                remote.next_attempt();
                let TaskError { message: error, code, .. } = error;
                let fact = TaskRetry { task_id, attempt, delay_ms, error, code };
                fx.stats.task_retries += 1;
                self.push_task(index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES, fx);
            }
            RemoteReport::Unreached { delay_ms, error } => {
                if fx.room.tight_for(&self.owner) || !remote.permits(PLAIN_EVENT_BYTES, true, most, now) {
                    return;
                }
                let (attempt, code) = (run.attempts.max(1), code::REMOTE_AWAY.to_owned());
                let fact = TaskRetry { task_id, attempt, delay_ms, error, code };
                self.push_task(index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES, fx);
            }
            RemoteReport::Ended { result, attempts } => {
                run.attempts = run.attempts.max(attempts.min(MAX_ATTEMPTS));
                match (fx.room.for_result(&self.owner, result), self.ending) {
                    (Ok(done), _) => self.succeed(index, done, fx, now),
                    // The reason is the ending, for any response of the remote.
                    (Err(error), Some(ending)) => self.fail(index, ending.error(error.http_status), fx, now),
                    (Err(error), None) => self.fail(index, error, fx, now),
                }
            }
        }
    }
}
