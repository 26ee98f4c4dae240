//! Reads back what the journal kept of jobs, at the start and before anybody is answered.
//!
//! Page by page: the records say which jobs there are, their topics what became of them. Jobs go to the engine in small
//! batches, and unfinished ones go on at once. What belongs to no job is what a purge has left behind, and leaves now. A
//! record that cannot be read is left alone, and so is the topic of its job: a later version may know better.
//!
//! Reads are retried while the journal fails; until then the jobs are not ready. A record or history that repeatedly
//! fails while other reads succeed makes only its own job unreadable.

use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use tokio::{task::yield_now, time::sleep};

use super::{
    Config, Deps, Error,
    engine::{Bounds, Past},
    event::JobEvent,
    handler::Handlers,
    record::{self, SpecRecord},
    state::JobState,
};
use crate::{
    journal::{Query, Record, Shared, Unavailable},
    topic::{Pattern, Topic},
};

/// What was found.
pub enum Found {
    /// Jobs.
    Jobs(Vec<Past>),
    /// A job that cannot be read, with the reason.
    Unreadable { id: String, reason: String },
    /// All is read.
    Done,
}

/// Reads back the jobs of a journal.
pub struct Recovery {
    journal: Shared,
    handlers: Handlers,
    bounds: Bounds,
    /// The last event of the time before.
    head: u64,
    /// Jobs that have a record.
    known: HashSet<String>,
}

/// A job and its spec record.
type Spec = (String, Result<Record, Halt>);

/// Why a read has failed.
enum Halt {
    /// Recovery must stop: the journal is closed, or the engine has ended.
    Gone,
    /// The journal can be read, except for this record or page.
    Damaged(String),
}

/// Records in one page: as many histories are read at once.
const RECORDS: usize = 16;
/// Key of a record that never exists; reading it tests whether the journal works at all.
const PROBE: &str = "probe/jobs";
/// Events in one page of a history.
const EVENTS: usize = 512;
/// Bytes of such a page.
const PAGE_BYTES: usize = 1 << 20;
/// Topics in one page.
const TOPICS: usize = 1024;
/// Attempts for one read before the probe is read.
const TRIES: u32 = 5;
/// Attempts for a page of the list: without it all jobs after the damage are unknown.
const LIST_TRIES: u32 = 30;
/// How long to wait before a journal that failed is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads all and hands it over; `deliver` answers false when there is nobody left to take it.
pub async fn run(config: &Config, deps: &Deps, deliver: impl AsyncFn(Found) -> bool) {
    if deps.journal.durable() {
        let head = *deps.journal.watch_head().borrow();
        let bounds = Bounds::new(config, deps.max_event_bytes);
        let (journal, handlers) = (deps.journal.clone(), deps.handlers.clone());
        let mut recovery = Recovery { journal, handlers, bounds, head, known: HashSet::new() };
        let read = match recovery.jobs(&deliver).await {
            // Leftovers can be identified only when all jobs are known.
            Ok(()) => recovery.leftovers().await,
            Err(halt) => Err(halt),
        };
        match read {
            Ok(()) => {}
            Err(Halt::Gone) => return,
            Err(Halt::Damaged(reason)) => {
                tracing::error!(
                    reason,
                    "the list of jobs cannot be read to its end; jobs behind this place are left alone"
                );
                let all = Found::Unreadable { id: "*".to_owned(), reason };
                if !deliver(all).await {
                    return;
                }
            }
        }
    }
    deliver(Found::Done).await;
}

// === impl Recovery ===

impl Recovery {
    /// Reads the records and what belongs to them.
    async fn jobs(&mut self, deliver: &impl AsyncFn(Found) -> bool) -> Result<(), Halt> {
        let mut after = None;
        loop {
            let (records, next) = self.records(after).await?;
            self.known.extend(records.iter().map(|(id, _)| id.clone()));
            let this = &*self;
            let read = records.into_iter().map(|(id, record)| async move {
                let past = record.and_then(|record| this.decode(&id, &record).map_err(Halt::Damaged));
                let past = match past {
                    Ok(past) => this.history(past).await,
                    Err(halt) => Err(halt),
                };
                (id, past)
            });
            let mut jobs = Vec::new();
            for (id, past) in join_all(read).await {
                match past {
                    Ok(past) => jobs.push(past),
                    Err(Halt::Gone) => return Err(Halt::Gone),
                    Err(Halt::Damaged(reason)) => {
                        tracing::error!(job_id = id, reason, "a job cannot be read; it is left alone");
                        take(deliver(Found::Unreadable { id, reason }).await)?;
                    }
                }
            }
            take(jobs.is_empty() || deliver(Found::Jobs(jobs)).await)?;
            match next {
                Some(key) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// The specs of the next few jobs, and the key to go on after. Records of jobs without a spec leave.
    async fn records(&self, after: Option<String>) -> Result<(Vec<Spec>, Option<String>), Halt> {
        let page = self
            .insist(LIST_TRIES, async || self.journal.keys(record::RECORDS.into(), after.clone(), RECORDS).await)
            .await?;
        let mut next = None;
        let mut specs = Vec::new();
        for key in page {
            let Some(id) = record::owner(&key).map(str::to_owned) else {
                next = Some(key);
                continue;
            };
            let spec = self.insist(TRIES, async || self.journal.get(record::spec_key(&id)).await).await;
            // The others of this job need not be looked at.
            let passed_over = key != record::spec_key(&id);
            next = Some(if passed_over { record::past(&id) } else { key });
            match spec {
                Ok(Some(spec)) => specs.push((id, Ok(spec))),
                Ok(None) => self.tidy(&id).await,
                Err(Halt::Gone) => return Err(Halt::Gone),
                Err(damaged) => specs.push((id, Err(damaged))),
            }
            if passed_over {
                break;
            }
        }
        Ok((specs, next))
    }

    fn decode(&self, id: &str, record: &Record) -> Result<Past, String> {
        let spec = SpecRecord::decode(&record.value).map_err(|error| error.to_string())?;
        if spec.version != record::VERSION {
            return Err(format!("it has version {}, this node knows {}", spec.version, record::VERSION));
        }
        if *spec.job_id != *id || spec.spec.tasks.is_empty() {
            return Err("it is not the record of a job".into());
        }
        Past::new(spec, record.value.len(), &self.handlers, self.bounds).map_err(|error| error.to_string())
    }

    /// Folds the history of a job.
    async fn history(&self, mut past: Past) -> Result<Past, Halt> {
        let mut after = 0;
        while after < self.head && !past.ended() {
            let query = Query {
                patterns: [past.topic().clone().into()].into(),
                after,
                floor: after,
                limit: EVENTS,
                max_bytes: PAGE_BYTES,
            };
            let page = self.insist(TRIES, async || self.journal.read(query.clone()).await).await?;
            for event in &page.events {
                match JobEvent::decode(event.name(), &event.data) {
                    Ok(fact) => past.take(&fact, event.data.len(), event.position),
                    Err(error) => {
                        tracing::warn!(job_id = %past.id(), id = %event.position, %error, "an event of a job is passed over");
                    }
                }
            }
            if page.through <= after {
                break;
            }
            after = page.through;
            // Long histories share the thread with all that is live already.
            yield_now().await;
        }
        if !past.ended() {
            let cancelled = record::ending_key(past.id());
            past.cancelled = self.insist(TRIES, async || self.journal.get(cancelled.clone()).await).await?.is_some();
        }
        Ok(past)
    }

    /// Purges topics of jobs that have no record any more.
    async fn leftovers(&self) -> Result<(), Halt> {
        let Ok(pattern) = Pattern::new("job:*") else { return Ok(()) };
        let mut after: Option<Topic> = None;
        loop {
            let page = self
                .insist(LIST_TRIES, async || self.journal.topics(pattern.clone(), after.clone(), TOPICS).await)
                .await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.topic.clone());
            for info in &page {
                let id = info.topic.as_str().strip_prefix("job:").unwrap_or_default();
                if !self.known.contains(id) {
                    self.tidy(id).await;
                }
            }
        }
    }

    /// Retries a read until it succeeds, or until the probe shows that only this read fails.
    async fn insist<T>(&self, most: u32, ask: impl AsyncFn() -> Result<T, Unavailable>) -> Result<T, Halt> {
        let mut tries = 0;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(Unavailable::Closed) => return Err(Halt::Gone),
                Err(error) => error,
            };
            tries += 1;
            if tries >= most && self.journal.get(PROBE.to_owned()).await.is_ok() {
                return Err(Halt::Damaged(error.to_string()));
            }
            tracing::error!(%error, "jobs cannot be read from the journal; trying again");
            sleep(PATIENCE).await;
        }
    }

    /// What does not leave now does at the next start.
    async fn tidy(&self, id: &str) {
        match record::tidy(&self.journal, id).await {
            Ok(()) => tracing::info!(job_id = id, "what a purge had left of a job has left"),
            Err(error) => tracing::warn!(job_id = id, %error, "what a purge has left of a job could not be purged"),
        }
    }
}

fn take(taken: bool) -> Result<(), Halt> {
    if taken { Ok(()) } else { Err(Halt::Gone) }
}

/// Rebuilds the state of one job from its history.
///
/// # Errors
/// When there is no such job, or it cannot be read.
pub async fn recall(journal: &Shared, handlers: &Handlers, id: &str) -> Result<JobState, Error> {
    let record = journal.get(record::spec_key(id)).await?.ok_or_else(|| Error::UnknownJob(id.to_owned()))?;
    // Results are not needed, so none are kept.
    let bounds = Bounds { inline: 0, total: 0, room: 0 };
    let head = *journal.watch_head().borrow();
    let (journal, handlers) = (journal.clone(), handlers.clone());
    let recovery = Recovery { journal, handlers, bounds, head, known: HashSet::new() };
    let past = match recovery.decode(id, &record) {
        Ok(past) => recovery.history(past).await,
        Err(reason) => Err(Halt::Damaged(reason)),
    };
    past.map(Past::into_state).map_err(|halt| match halt {
        Halt::Gone => Error::Journal(Unavailable::Closed),
        Halt::Damaged(reason) => Error::Unreadable { job: id.to_owned(), reason },
    })
}
