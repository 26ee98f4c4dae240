//! A job's events as a stream of values, from its beginning to its end.

use std::collections::VecDeque;

use futures::{Stream, stream::try_unfold};
use tokio::sync::watch::Receiver;

use super::{
    error::Error,
    event::{Fact, JobEvent},
    handle::Handle,
};
use crate::{
    event::SharedEvent,
    journal::{Query, Shared},
    topic::Topic,
};

/// Maximum number of events per read.
const PAGE: usize = 256;
/// Maximum bytes per read; a single event may be larger.
const PAGE_BYTES: usize = 1 << 20;

/// The state of a watcher.
struct Watch {
    journal: Shared,
    head: Receiver<u64>,
    id: String,
    after: u64,
    events: VecDeque<SharedEvent>,
    ended: bool,
}

// === impl Handle ===

impl Handle {
    /// The events of a job: first the stored ones, then live events, until `complete`. Each event is delivered once, in
    /// order. The stream buffers at most 256 events or one mebibyte; a slow reader delays nothing else.
    ///
    /// ```
    /// # use millstream::{app::App, config::Config, jobs::{Submission, event::Fact, state::Status}, journal::Kind};
    /// # use futures::TryStreamExt;
    /// # actix_rt::System::new().block_on(async {
    /// # let mut config = Config::default();
    /// # config.journal.kind = Kind::Memory;
    /// # let app = App::build(config)?;
    /// # let node = app.node();
    /// let spec = serde_json::from_str(r#"{"tasks": [{"id": "orders", "run": "Calculate Stats"}]}"#)?;
    /// let job = node.jobs.submit(Submission { spec, ..Submission::default() }).await?;
    /// let mut events = std::pin::pin!(node.jobs.watch(&job.job_id));
    /// let mut status = None;
    /// while let Some(event) = events.try_next().await? {
    ///     match event.fact {
    ///         Fact::TaskProgress(progress) => println!("{}: {} %", progress.task_id, progress.progress),
    ///         Fact::Complete(complete) => status = Some(complete.status),
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(status, Some(Status::Completed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// The stream yields [`Error::UnknownJob`] if there is no such job or its history was deleted, or
    /// [`Error::Journal`] if the journal cannot be read. Then it ends.
    pub fn watch(&self, id: &str) -> impl Stream<Item = Result<JobEvent, Error>> + Send + use<> {
        let journal = self.journal().clone();
        let head = journal.watch_head();
        let watch = Watch { journal, head, id: id.to_owned(), after: 0, events: VecDeque::new(), ended: false };
        let handle = self.clone();
        try_unfold(watch, move |mut watch| {
            let handle = handle.clone();
            async move { Ok(watch.next(&handle).await?.map(|event| (event, watch))) }
        })
    }
}

// === impl Watch ===

impl Watch {
    async fn next(&mut self, jobs: &Handle) -> Result<Option<JobEvent>, Error> {
        while !self.ended {
            let Some(event) = self.events.pop_front() else {
                self.read(jobs).await?;
                continue;
            };
            // Skip events whose name this version does not know.
            if let Ok(event) = JobEvent::decode(event.name(), &event.data) {
                self.ended = matches!(event.fact, Fact::Complete(_));
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Reads the next events; waits for new events if there are none.
    async fn read(&mut self, jobs: &Handle) -> Result<(), Error> {
        let topic = Topic::job(&self.id).map_err(|_| Error::UnknownJob(self.id.clone()))?;
        self.head.mark_unchanged();
        let query = Query {
            patterns: [topic.into()].into(),
            after: self.after,
            floor: self.after,
            limit: PAGE,
            max_bytes: PAGE_BYTES,
        };
        let page = self.journal.read(query).await?;
        self.after = page.through;
        self.events.extend(page.events);
        if self.events.is_empty() {
            // Fail if the job was deleted: its end would never arrive.
            jobs.summary(&self.id).await?;
            self.head.changed().await.map_err(|_| Error::Stopping)?;
        }
        Ok(())
    }
}
