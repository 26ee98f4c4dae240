//! Reads back the jobs that the journal has kept, at the start of the node, before any request is answered.
//!
//! The records say which jobs exist, their topics what happened to them. Jobs go to the engine page by page, and
//! unfinished ones continue at once. Events and records without a spec are what an interrupted purge has left; they are
//! deleted. A record that cannot be read is left alone, and so is the topic of its job: a later version may know it.

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
    durable::{self, Halt, Reader},
    journal::{Query, Record, Unavailable},
    spans,
    topic::{Pattern, Topic},
};

/// What was found.
pub(crate) enum Found {
    /// Jobs.
    Jobs(Vec<StoredJob>),
    /// A job that cannot be read, with the reason.
    Unreadable { id: String, reason: String },
    /// Everything is read.
    Done,
}

/// Reads back the jobs of a journal.
pub(crate) struct Recovery {
    reader: Reader,
    handlers: Handlers,
    bounds: ResultBounds,
    /// The offset of the last event of the previous life.
    head: u64,
    /// Jobs that have a spec, readable or not.
    known: HashSet<String>,
}

/// Keys of records in one page: as many histories are read at once.
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

    /// Reads everything and delivers it; `deliver` returns false when the engine takes no more.
    pub(crate) async fn run(mut self, deliver: impl AsyncFn(Found) -> bool) {
        if self.reader.journal.durable() {
            let read = match self.jobs(&deliver).await {
                // Leftovers can be identified only when all jobs are known.
                Ok(()) => self.leftovers().await,
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

    /// Reads the records, page by page, and the histories of their jobs.
    async fn jobs(&mut self, deliver: &impl AsyncFn(Found) -> bool) -> Result<(), Halt> {
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
                    Err(Halt::Gone) => return Err(Halt::Gone),
                    Err(Halt::Damaged(reason)) => {
                        spans::job(&id).in_scope(|| {
                            tracing::error!(job_id = id, reason, "a job cannot be read; it is left alone");
                        });
                        taken(deliver(Found::Unreadable { id: id.clone(), reason }).await)?;
                    }
                }
                self.known.insert(id);
            }
            taken(jobs.is_empty() || deliver(Found::Jobs(jobs)).await)?;
            match next {
                Some(key) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Reads a job back; `None` if it has no spec.
    async fn job(&self, id: &str) -> Result<Option<StoredJob>, Halt> {
        let spec = RECORDS.spec(id);
        let record = self.reader.read(Reader::TRIES, async |journal| journal.get(spec.clone()).await).await?;
        let Some(record) = record else { return Ok(None) };
        let job = self.decode(id, &record).map_err(Halt::Damaged)?;
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
    async fn history(&self, mut job: StoredJob) -> Result<StoredJob, Halt> {
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
            // A long history shares the thread with the jobs that run already.
            yield_now().await;
        }
        if !job.ended() {
            let cancelled = record::ending_key(job.id());
            let record = self.reader.read(Reader::TRIES, async |journal| journal.get(cancelled.clone()).await);
            job.cancelled = record.await?.is_some();
        }
        Ok(job)
    }

    /// Purges topics of jobs that have no record any more.
    async fn leftovers(&self) -> Result<(), Halt> {
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

    /// Deletes what an interrupted purge has left. What cannot be deleted now is deleted at the next start.
    async fn tidy(&self, id: &str) {
        let tidied = record::tidy(&self.reader.journal, id).await;
        let _span = spans::job(id).entered();
        match tidied {
            Ok(()) => tracing::info!(job_id = id, "what a purge had left of a job was deleted"),
            Err(error) => tracing::warn!(job_id = id, %error, "what a purge has left of a job cannot be deleted"),
        }
    }

    /// Rebuilds the state of one job from its history.
    ///
    /// # Errors
    /// When there is no such job, or it cannot be read.
    pub(crate) async fn recall(self, id: &str) -> Result<JobState, Error> {
        let record = self.reader.journal.get(RECORDS.spec(id)).await?;
        let record = record.ok_or_else(|| Error::UnknownJob(id.to_owned()))?;
        let stored = match self.decode(id, &record) {
            Ok(stored) => self.history(stored).await,
            Err(reason) => Err(Halt::Damaged(reason)),
        };
        stored.map(|job| job.state).map_err(|halt| match halt {
            Halt::Gone => Error::Journal(Unavailable::Closed),
            Halt::Damaged(reason) => Error::Unreadable { job: id.to_owned(), reason },
        })
    }
}

/// A delivery that the engine did not take ends the recovery.
fn taken(taken: bool) -> Result<(), Halt> {
    if taken { Ok(()) } else { Err(Halt::Gone) }
}
