//! Reads the jobs of the journal back, at the start of the node, before any request is answered.
//!
//! The records name the existing jobs, and their topics contain their events. Jobs go to the engine page by page, and
//! unfinished jobs continue at once. Events and records without a spec are left over from an interrupted purge and are
//! deleted. A record that cannot be read is not changed, nor is the topic of its job: a later version may be able to
//! read it.

use std::collections::HashSet;

use futures::future::join_all;
use tokio::task::yield_now;

use super::{
    engine::{ResultBounds, StoredJob},
    error::Error,
    event::JobEvent,
    handler::Handlers,
    record::{self, RECORDS, SpecRecord},
    state::JobState,
};
use crate::{
    durable::{self, ReadFailure, Reader},
    journal::{Query, Record, Unavailable},
    spans,
    topic::{Pattern, Topic},
};

/// A part of the recovery.
pub(crate) enum Found {
    /// Jobs.
    Jobs(Vec<StoredJob>),
    /// A job that cannot be read, with the reason.
    Unreadable { id: String, reason: String },
    /// The recovery is complete.
    Done,
}

/// Reads the jobs of a journal back.
pub(crate) struct Recovery {
    reader: Reader,
    handlers: Handlers,
    bounds: ResultBounds,
    /// The offset of the last event of the previous process.
    head: u64,
    /// Jobs with a spec, readable or not.
    known: HashSet<String>,
}

/// Keys of records in one page: the number of histories that are read at once.
const RECORDS_PER_PAGE: usize = 16;
/// Events in one page of a history, and their bytes.
const EVENTS_PER_PAGE: usize = 512;
const BYTES_PER_PAGE: usize = 1 << 20;
/// Topics in one page.
const TOPICS_PER_PAGE: usize = 1024;

// === impl Recovery ===

impl Recovery {
    pub(crate) fn new(reader: Reader, handlers: Handlers, bounds: ResultBounds) -> Self {
        let head = *reader.journal.watch_head().borrow();
        Self { reader, handlers, bounds, head, known: HashSet::new() }
    }

    /// Reads everything and delivers it; `deliver` returns false if the engine accepts no more.
    pub(crate) async fn run(mut self, deliver: impl AsyncFn(Found) -> bool) {
        if self.reader.journal.durable() {
            let read = match self.jobs(&deliver).await {
                // Leftovers can be identified only when all jobs are known.
                Ok(()) => self.leftovers().await,
                Err(stop) => Err(stop),
            };
            match read {
                Ok(()) => {}
                Err(ReadFailure::Stopped) => return,
                Err(ReadFailure::Damaged(reason)) => {
                    tracing::error!(reason, "the list of jobs cannot be read to its end; later jobs are not restored");
                    let all = Found::Unreadable { id: "*".to_owned(), reason };
                    if !deliver(all).await {
                        return;
                    }
                }
            }
        }
        deliver(Found::Done).await;
    }

    /// Reads the records, page by page, and the histories of their jobs.
    async fn jobs(&mut self, deliver: &impl AsyncFn(Found) -> bool) -> Result<(), ReadFailure> {
        let mut after = None;
        loop {
            let page = async |journal: &_| RECORDS.page(journal, after.clone(), RECORDS_PER_PAGE).await;
            let (ids, next) = self.reader.read(Reader::LIST_TRIES, page).await?;
            let this = &*self;
            let read = ids.into_iter().map(|id| async move { (this.job(&id).await, id) });
            let mut jobs = Vec::new();
            for (job, id) in join_all(read).await {
                match job {
                    Ok(None) => {
                        self.tidy(&id).await;
                        continue;
                    }
                    Ok(Some(job)) => jobs.push(job),
                    Err(ReadFailure::Stopped) => return Err(ReadFailure::Stopped),
                    Err(ReadFailure::Damaged(reason)) => {
                        spans::job(&id).in_scope(|| {
                            tracing::error!(job_id = id, reason, "a job cannot be read; it is not changed");
                        });
                        accepted(deliver(Found::Unreadable { id: id.clone(), reason }).await)?;
                    }
                }
                self.known.insert(id);
            }
            accepted(jobs.is_empty() || deliver(Found::Jobs(jobs)).await)?;
            match next {
                Some(key) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Reads a job back; `None` if it has no spec.
    async fn job(&self, id: &str) -> Result<Option<StoredJob>, ReadFailure> {
        let spec = RECORDS.spec(id);
        let record = self.reader.read(Reader::TRIES, async |journal| journal.get(spec.clone()).await).await?;
        let Some(record) = record else { return Ok(None) };
        let job = self.decode(id, &record).map_err(ReadFailure::Damaged)?;
        self.history(job).await.map(Some)
    }

    fn decode(&self, id: &str, record: &Record) -> Result<StoredJob, String> {
        let spec = SpecRecord::decode(&record.value).map_err(|error| error.to_string())?;
        durable::check_version(spec.version, record::VERSION)?;
        if *spec.job_id != *id || spec.spec.tasks.is_empty() {
            return Err("it is not the record of a job".into());
        }
        StoredJob::new(spec, record.value.len(), &self.handlers, self.bounds).map_err(|error| error.to_string())
    }

    /// Folds the history of a job.
    async fn history(&self, mut job: StoredJob) -> Result<StoredJob, ReadFailure> {
        let mut after = 0;
        while after < self.head && !job.ended() {
            let query = Query {
                patterns: [job.topic().clone().into()].into(),
                after,
                floor: after,
                limit: EVENTS_PER_PAGE,
                max_bytes: BYTES_PER_PAGE,
            };
            let page = self.reader.read(Reader::TRIES, async |journal| journal.read(query.clone()).await).await?;
            for event in &page.events {
                match JobEvent::decode(event.name(), &event.data) {
                    Ok(fact) => job.take(&fact, event.data.len(), event.position),
                    Err(error) => {
                        let (id, position) = (job.id(), event.position);
                        spans::job(id).in_scope(|| {
                            tracing::warn!(job_id = %id, id = %position, %error, "an event of a job is ignored");
                        });
                    }
                }
            }
            if page.through <= after {
                break;
            }
            after = page.through;
            // A long history shares the thread with the jobs that already run.
            yield_now().await;
        }
        if !job.ended() {
            let cancelled = record::ending_key(job.id());
            let record = self.reader.read(Reader::TRIES, async |journal| journal.get(cancelled.clone()).await);
            job.cancelled = record.await?.is_some();
        }
        Ok(job)
    }

    /// Purges topics of jobs that have no record.
    async fn leftovers(&self) -> Result<(), ReadFailure> {
        let Ok(pattern) = Pattern::new("job:*") else { return Ok(()) };
        let mut after: Option<Topic> = None;
        loop {
            let page = async |journal: &crate::journal::Shared| {
                journal.topics(pattern.clone(), after.clone(), TOPICS_PER_PAGE).await
            };
            let page = self.reader.read(Reader::LIST_TRIES, page).await?;
            let Some(last) = page.last() else { return Ok(()) };
            for info in &page {
                let id = info.topic.as_str().strip_prefix("job:").unwrap_or_default();
                if !self.known.contains(id) {
                    self.tidy(id).await;
                }
            }
            after = Some(last.topic.clone());
        }
    }

    /// Deletes the rest of an interrupted purge. If that fails now, the next start repeats it.
    async fn tidy(&self, id: &str) {
        let tidied = record::tidy(&self.reader.journal, id).await;
        let _span = spans::job(id).entered();
        match tidied {
            Ok(()) => tracing::info!(job_id = id, "the rest of an interrupted purge was deleted"),
            Err(error) => tracing::warn!(job_id = id, %error, "the rest of an interrupted purge cannot be deleted"),
        }
    }

    /// Rebuilds the state of one job from its history.
    ///
    /// # Errors
    /// If no job has this id, or it cannot be read.
    pub(crate) async fn recall(self, id: &str) -> Result<JobState, Error> {
        let record = self.reader.journal.get(RECORDS.spec(id)).await?;
        let record = record.ok_or_else(|| Error::UnknownJob(id.to_owned()))?;
        let stored = match self.decode(id, &record) {
            Ok(stored) => self.history(stored).await,
            Err(reason) => Err(ReadFailure::Damaged(reason)),
        };
        stored.map(|job| job.state).map_err(|stop| match stop {
            ReadFailure::Stopped => Error::Journal(Unavailable::Closed),
            ReadFailure::Damaged(reason) => Error::Unreadable { job: id.to_owned(), reason },
        })
    }
}

/// A delivery that the engine rejected ends the recovery.
fn accepted(accepted: bool) -> Result<(), ReadFailure> {
    if accepted { Ok(()) } else { Err(ReadFailure::Stopped) }
}
