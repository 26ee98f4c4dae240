//! Tasks that remotes run. They take no slots here: the remote has its own queue, timeouts and retries. All tasks of a job
//! on one remote are a [`Group`]; whoever follows it there reports what the remote tells of each, and here that becomes
//! the job's own history.
//!
//! After a restart of this node the remote tells everything from the beginning. What the history has already is passed
//! over: attempts and ends by what they are, progress by its count, since a remote tells the same in the same order.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::value::RawValue;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{Done, Engine, Id, Phase, tasks::PLAIN_EVENT_BYTES};
use crate::{
    jobs::{
        code,
        event::{Fact, TaskProgress, TaskRetry, TaskStart},
        handler::TaskError,
    },
    shares::Owner,
    upstream::Via,
};

/// The tasks of a job that one remote is to run, or runs already.
#[derive(Debug)]
pub struct Group {
    pub id: Id,
    /// The owner of the job.
    pub owner: Owner,
    pub remote: Arc<str>,
    /// Id and number of each that has not ended.
    pub tasks: Vec<(String, u32)>,
    /// When the job is to have ended.
    pub deadline: Option<Instant>,
    /// The `Via` of the request that submitted the job.
    pub via: Via,
    /// The job ends before its tasks do: the remote is to stop.
    pub cancel: CancellationToken,
    /// This node stops and the job outlives it: the remote is to go on.
    pub leave: CancellationToken,
}

/// What a remote tells of a task. `Started` comes before anything else of it but an error.
#[derive(Debug)]
pub enum Told {
    /// Its first attempt has begun.
    Started,
    /// What follows is its story from the beginning once more.
    Again,
    /// How far it is.
    Progress { progress: f64, message: Option<String>, data: Option<Box<RawValue>> },
    /// An attempt failed there, and another will follow.
    Retry { attempt: u32, delay_ms: u64, error: TaskError },
    /// The remote cannot be reached now; the request is retried after the delay.
    Unreached { delay_ms: u64, error: String },
    /// It has ended there, or nobody will ever know.
    Ended { result: Result<Done, TaskError>, attempts: u32 },
}

/// What the engine keeps of a task while a remote runs it.
#[derive(Debug)]
pub struct Away {
    /// The attempt that the remote tells of.
    at: u32,
    /// Progress of the last attempt that is in the history.
    told: u32,
    /// How much of it the remote tells once more.
    known: u32,
    /// How far that has come.
    replayed: f64,
    progress: f64,
    /// Bytes that came faster than they need to.
    flood: usize,
    /// It was told that the rest is left out.
    muted: bool,
    last: Option<Instant>,
}

/// As many reports a second become events as local tasks have; what comes faster counts as a flood, and so do all data.
const INTERVAL: Duration = Duration::from_millis(90);
/// What data of a few bytes weigh: an event is never free.
const LEAST_WEIGHT: usize = 64;
/// What a watcher reads where the flood of a task has reached its bound.
const MUTED: &str = "the task tells more than `jobs.max_response_bytes` on its way; the rest is left out";
/// No task comes to so many attempts.
const MAX_ATTEMPTS: u32 = 10_000;

// === impl Away ===

impl Away {
    pub fn new() -> Self {
        Self { at: 1, told: 0, known: 0, replayed: 0.0, progress: 0.0, flood: 0, muted: false, last: None }
    }

    /// Takes an event of the history.
    pub fn recall(&mut self, fact: &Fact) {
        match fact {
            Fact::TaskProgress(progress) => self.note(progress.progress),
            // This node made the event; the remote does not send it again.
            Fact::TaskRetry(retry) if retry.code == code::REMOTE_AWAY => {}
            Fact::TaskRetry(_) => self.renew(),
            _ => {}
        }
        self.again();
    }

    fn again(&mut self) {
        (self.at, self.known, self.replayed) = (1, self.told, 0.0);
    }

    /// True for progress that is in the history: what was passed over then does not count.
    fn knows(&mut self, progress: f64, data: bool) -> bool {
        if self.known > 0 && (data || progress >= self.replayed) {
            self.known -= 1;
            self.replayed = self.replayed.max(progress.clamp(0.0, 100.0));
            return true;
        }
        self.known > 0
    }

    fn note(&mut self, progress: f64) {
        self.told = self.told.saturating_add(1);
        self.progress = self.progress.max(progress.clamp(0.0, 100.0));
    }

    fn renew(&mut self) {
        (self.told, self.known, self.replayed, self.progress) = (0, 0, 0.0, 0.0);
    }

    /// False once a task has told more than `most` bytes in too short a time.
    fn permits(&mut self, bytes: usize, calm: bool, most: usize, now: Instant) -> bool {
        let slow = self.last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        self.last = Some(now);
        if !(slow && calm) {
            self.flood = self.flood.saturating_add(bytes);
        }
        (slow && calm) || self.flood <= most
    }
}

// === impl Engine ===

impl Engine {
    /// Hands the remote tasks of a job over that have not ended, by remote.
    pub(super) fn begin_away(&mut self, id: &Id) {
        let leave = self.leave.clone();
        let Some(live) = self.live(id) else { return };
        let owner = live.owner.clone();
        let (deadline, cancel, via) = (live.deadline.map(|(at, _)| at), live.far.clone(), live.plan.via.clone());
        let mut groups: BTreeMap<&Arc<str>, Vec<(String, u32)>> = BTreeMap::new();
        for (index, (run, task)) in (0..).zip(live.runs.iter().zip(&live.plan.tasks)) {
            if let (Phase::Away, Some(remote)) = (run.phase, &task.remote) {
                groups.entry(remote).or_default().push((task.id.clone(), index));
            }
        }
        let group = |(remote, tasks): (&Arc<str>, _)| {
            let (remote, via, cancel, leave) = (remote.clone(), via.clone(), cancel.clone(), leave.clone());
            Group { id: id.clone(), owner: owner.clone(), remote, tasks, deadline, via, cancel, leave }
        };
        let groups: Vec<Group> = groups.into_iter().map(group).collect();
        self.followed += groups.len();
        self.groups.extend(groups);
    }

    /// Groups to follow from now on.
    pub fn take_groups(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups)
    }

    /// Nobody follows a group any more.
    pub(super) fn unfollowed(&mut self) {
        self.followed -= 1;
    }

    /// Takes what a remote tells of a task, and what it has told before for what it is.
    pub(super) fn told(&mut self, id: &Id, index: u32, mut told: Told, now: Instant) {
        let Some(owner) = self.live(id).map(|live| live.owner.clone()) else { return };
        let (tight, most) = (self.room.tight_for(&owner), self.config.max_response_bytes);
        if let Told::Retry { error, .. } | Told::Ended { result: Err(error), .. } = &mut told {
            self.trim(error);
        }
        let Some(live) = self.live(id) else { return };
        let (task, run) = (&live.plan.tasks[index as usize], &mut live.runs[index as usize]);
        let Some(away) = run.away.as_deref_mut().filter(|_| run.phase == Phase::Away) else { return };
        let task_id = task.id.clone();
        match told {
            Told::Started if run.began.is_some() => {}
            Told::Started => {
                run.began = Some(now);
                run.attempts = run.attempts.max(1);
                let task_name = task.name.clone();
                self.push(id, index, Fact::TaskStart(TaskStart { task_id, task_name }), PLAIN_EVENT_BYTES);
            }
            Told::Progress { .. } if away.at < run.attempts => {}
            Told::Again => away.again(),
            Told::Progress { progress, ref data, .. } if away.knows(progress, data.is_some()) => {}
            Told::Progress { progress, data: None, .. } if progress < away.progress => {}
            Told::Progress { progress, message, data } => {
                let bytes = PLAIN_EVENT_BYTES + data.as_ref().map_or(0, |data| data.get().len());
                if tight {
                    return;
                }
                let weight = data.as_ref().map_or(PLAIN_EVENT_BYTES, |data| data.get().len().max(LEAST_WEIGHT));
                if !away.permits(weight, data.is_none(), most, now) {
                    if !std::mem::replace(&mut away.muted, true) {
                        let message = Some(MUTED.into());
                        let fact = TaskProgress { task_id, progress: away.progress, message, data: None };
                        self.push(id, index, Fact::TaskProgress(fact), PLAIN_EVENT_BYTES);
                    }
                    return;
                }
                away.note(progress);
                let fact = TaskProgress { task_id, progress: away.progress, message, data };
                self.push(id, index, Fact::TaskProgress(fact), bytes);
            }
            Told::Retry { attempt, delay_ms, error } => {
                let attempt = attempt.min(MAX_ATTEMPTS);
                away.at = away.at.max(attempt);
                if attempt <= run.attempts || !away.permits(PLAIN_EVENT_BYTES, true, most, now) {
                    return;
                }
                run.attempts = attempt;
                away.renew();
                let TaskError { message: error, code, .. } = error;
                let fact = TaskRetry { task_id, attempt, delay_ms, error, code };
                self.stats.task_retries += 1;
                self.push(id, index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES);
            }
            Told::Unreached { delay_ms, error } => {
                if tight || !away.permits(PLAIN_EVENT_BYTES, true, most, now) {
                    return;
                }
                let (attempt, code) = (run.attempts.max(1), code::REMOTE_AWAY.to_owned());
                let fact = TaskRetry { task_id, attempt, delay_ms, error, code };
                self.push(id, index, Fact::TaskRetry(fact), PLAIN_EVENT_BYTES);
            }
            Told::Ended { result, attempts } => {
                run.attempts = run.attempts.max(attempts.min(MAX_ATTEMPTS));
                match self.room.for_result(&owner, result) {
                    Ok(done) => self.succeed(id, index, done, now),
                    Err(error) => self.fail_away(id, index, error, now),
                }
            }
        }
    }

    fn fail_away(&mut self, id: &Id, index: u32, error: TaskError, now: Instant) {
        let ending = self.live(id).and_then(|live| live.ending);
        let error = match ending {
            // Whatever the remote says now, the ending is why.
            Some(ending) => ending.error(error.http_status),
            None => error,
        };
        self.fail(id, index, error, now);
    }
}
