//! Commits: the only code that changes the journal. One thread at a time has the committer: the caller of an append, or
//! the writer thread.
//!
//! ```text
//!  batches ──plan (in memory)──> frame ──> segment ──(sync)──> MARK ──> apply (readers see it) ──> head ──> replies
//! ```
//!
//! A commit that fails changes nothing, because the index is changed after it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    EmbeddedState, StoreError,
    data_dir::DataDir,
    items,
    own_files::OwnFiles,
    segments::{Body, Draft, Location, Scan, Segments, Sync},
};
use crate::{
    journal::{
        AppendError, Batch, Config, Receipt, SyncMode, Unavailable,
        log::{Changes, CommitGroup, Stored, TopicId},
    },
    topic::Topic,
};

mod clean;
mod disk;
mod flush;

use self::clean::Cleaning;

/// A batch that waits for the commit.
pub(super) struct Append {
    pub batch: Batch,
    pub reply: oneshot::Sender<Result<Vec<Receipt>, AppendError>>,
    /// Its share of the queue, until the reply.
    pub _permit: OwnedSemaphorePermit,
}

/// The committer, for callers and the writer thread. `None` after the journal was closed.
pub(super) type SharedCommitter = Arc<Mutex<Option<Committer>>>;

/// Interval of syncs with `sync = "interval"`.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// Bytes after which there is a sync with `sync = "os"`.
const SYNC_BYTES: u64 = 64 << 20;
/// Maximum number of bytes that are not on the disk, about. A recovery after a failed sync holds them in memory.
const MAX_UNSYNCED_BYTES: u64 = 256 << 20;
/// After a commit that took longer, the next one is left to the writer thread, so that callers do not wait for the disk.
const SLOW_COMMIT: Duration = Duration::from_millis(1);

/// The state of commits.
pub(super) struct Committer {
    shared: Arc<EmbeddedState>,
    data_dir: DataDir,
    config: Config,
    segments: Segments,
    /// Memory for frames.
    draft: Draft,
    /// Topics that are not in the log as they are in the index.
    changed_topics: BTreeSet<TopicId>,
    /// True if values of the journal have changed that are not in the log.
    changed_state: bool,
    /// Restored events whose time was corrected. They are written again.
    corrected: Vec<u64>,
    /// The segment that has each topic.
    topic_segments: HashMap<TopicId, u32>,
    /// The segment that is being cleaned.
    cleaning: Option<Cleaning>,
    /// Time of the next sync, if there is something to sync.
    sync_due: Option<Instant>,
    /// Last time at which the disk had enough free bytes.
    disk_checked: Option<Instant>,
    /// Identity of the journal's files, to detect that the data directory was removed or moved.
    own_files: OwnFiles,
    /// Why the last write failed, and when.
    failed: Option<(StoreError, Instant)>,
    /// True if the last commit took long.
    slow: bool,
    /// True if there may be something to clean.
    cleaning_due: bool,
    /// The oldest segment, if nothing in it is live, and the commit after which that is so.
    empty_after: Option<(u32, u64)>,
    /// The oldest segment, if its live data cannot be read and therefore not be moved.
    unreadable: Option<u32>,
}

// === impl Committer ===

impl Committer {
    pub(super) fn new(
        shared: Arc<EmbeddedState>,
        data_dir: DataDir,
        config: Config,
        segments: Segments,
        topic_segments: HashMap<TopicId, u32>,
    ) -> Self {
        let changes = shared.log_mut().take_changes();
        Self {
            own_files: OwnFiles::of(&data_dir, segments.numbers().1),
            shared,
            data_dir,
            config,
            segments,
            draft: Draft::default(),
            changed_topics: changes.topics,
            changed_state: !changes.dropped.is_empty(),
            corrected: changes.corrected,
            topic_segments,
            cleaning: None,
            sync_due: None,
            disk_checked: None,
            failed: None,
            slow: false,
            cleaning_due: true,
            empty_after: None,
            unreadable: None,
        }
    }

    /// True if a caller should not wait for the next commit: the last one took long, or the sync falls behind. The writer
    /// thread commits after the sync, and its queue is bounded.
    pub(super) fn is_slow(&self) -> bool {
        self.slow || self.segments.unsynced_bytes() > MAX_UNSYNCED_BYTES
    }

    /// Time of the next sync, if there is something to sync.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        self.sync_due
    }

    /// Commits one batch.
    pub(super) fn append(&mut self, batch: Batch) -> Result<Vec<Receipt>, AppendError> {
        self.ready()?;
        let full = self.check_disk().err();
        let mut group = self.shared.log_mut().begin(self.shared.clock.moment());
        let receipts = self.plan(&mut group, batch, full.as_ref());
        let written = if receipts.is_ok() { self.write_group(&group) } else { Ok(()) };
        written.map_err(|error| self.failed(error))?;
        self.report(full);
        if self.slow {
            self.shared.stalls.fetch_add(1, Ordering::Relaxed);
        }
        receipts
    }

    /// Records whether data are accepted now.
    fn report(&self, full: Option<Unavailable>) {
        let failed = || self.failed.as_ref().map(|(error, _)| error.into());
        self.shared.set_refusal(full.or_else(failed));
    }

    /// Commits batches together, and replies.
    pub(super) fn append_all(&mut self, appends: &mut Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        if let Err(unavailable) = self.ready() {
            appends.drain(..).for_each(|append| append.respond(Err(unavailable.clone().into())));
            return;
        }
        let full = self.check_disk().err();
        let mut group = self.shared.log_mut().begin(self.shared.clock.moment());
        let mut accepted = Vec::with_capacity(appends.len());
        for mut append in appends.drain(..) {
            match self.plan(&mut group, std::mem::take(&mut append.batch), full.as_ref()) {
                Ok(receipts) => accepted.push((receipts, append)),
                Err(refused) => append.respond(Err(refused)),
            }
        }
        let unavailable = self.write_group(&group).err().map(|error| self.failed(error));
        if unavailable.is_none() {
            self.report(full);
        }
        for (receipts, append) in accepted {
            append.respond(unavailable.clone().map_or(Ok(receipts), |error| Err(error.into())));
        }
    }

    /// Adds a batch to a group. On a full disk only a batch that deletes is accepted, because it frees space.
    fn plan(
        &self,
        group: &mut CommitGroup,
        batch: Batch,
        full: Option<&Unavailable>,
    ) -> Result<Vec<Receipt>, AppendError> {
        match full.filter(|_| batch.adds_data()) {
            Some(full) => Err(full.clone().into()),
            None => group.add(&self.shared.log(), batch),
        }
    }

    fn write_group(&mut self, group: &CommitGroup) -> Result<(), StoreError> {
        if group.is_empty() {
            // Only duplicates, which were committed before.
            self.shared.log_mut().apply(group, &[]);
            return Ok(());
        }
        let log_state = group.log_state(&self.shared.log());
        let adds_data = !group.events.is_empty() || group.records.iter().any(|record| record.value.is_some());
        self.draft.begin(self.segments.state().with(&log_state), adds_data);
        let bodies = items::add_group(&mut self.draft, group, &log_state);
        let location = self.commit()?;
        for id in group.topics.values() {
            self.topic_segments.insert(*id, location.segment);
        }
        for planned in &group.events {
            self.shared.events.insert(planned.event.position.offset, planned.event.clone());
        }
        let mut log = self.shared.log_mut();
        log.apply(group, &located(location, &bodies));
        let (head, changes) = (log.head(), log.take_changes());
        drop(log);
        self.keep_changes(changes);
        self.shared.publish_head(head);
        self.shared.notifiers.committed(&group.events, head).wake();
        Ok(())
    }

    /// Writes the draft.
    fn commit(&mut self) -> Result<Location, StoreError> {
        let begins = Instant::now();
        let (_, active) = self.segments.numbers();
        let written = self.segments.commit(&self.draft);
        self.slow = begins.elapsed() > SLOW_COMMIT;
        let location = written?;
        self.failed = None;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        let rotated = location.segment != active;
        if rotated {
            self.own_files.follow(location.segment);
            self.cleaning_due = true;
        }
        match self.config.sync {
            SyncMode::Interval => self.sync_within(SYNC_EVERY),
            // So that little has to be copied if a sync fails.
            SyncMode::Os if self.segments.unsynced_bytes() > SYNC_BYTES => self.sync_within(Duration::ZERO),
            SyncMode::Always | SyncMode::Os => {}
        }
        Ok(location)
    }

    /// Makes the writer thread sync within this time.
    fn sync_within(&mut self, time: Duration) {
        if self.sync_due.is_none() {
            self.sync_due = Some(Instant::now() + time);
            self.shared.wake_writer();
        }
    }

    /// Takes over changes of the index: the cache forgets deleted events, the log gets the rest with the next flush.
    fn keep_changes(&mut self, changes: Changes) {
        changes.dropped.iter().for_each(|offset| drop(self.shared.events.remove(offset)));
        self.changed_state |= !changes.dropped.is_empty();
        self.changed_topics.extend(changes.topics);
    }

    pub(super) fn purge(&mut self, topic: &Topic) -> Result<u64, Unavailable> {
        self.ready()?;
        let mut log = self.shared.log_mut();
        let count = log.purge(topic, self.shared.clock.steady_ms());
        let changes = log.take_changes();
        drop(log);
        self.keep_changes(changes);
        self.flush().map_err(|error| self.failed(error))?;
        self.cleaning_due = true;
        Ok(count)
    }

    /// Runs one slice of the sweep. Returns true if there is more to do.
    pub(super) fn sweep(&mut self, now: u64) -> Result<bool, Unavailable> {
        self.ready()?;
        let mut log = self.shared.log_mut();
        log.update_clock_offset(self.shared.clock.moment());
        let (more, changes) = (log.sweep(now), log.take_changes());
        drop(log);
        self.keep_changes(changes);
        if !more {
            // After a failure an empty commit shows whether the disk accepts writes again.
            self.changed_state |= self.failed.is_some();
            self.flush().map_err(|error| self.failed(error))?;
            self.shared.refresh_disk_usage();
            self.cleaning_due = true;
            let full = self.check_disk().err();
            self.report(full);
        }
        Ok(more)
    }

    /// The files for a verification, which runs without the committer.
    pub(super) fn scan(&self) -> Result<Scan, Unavailable> {
        self.segments.scan().map_err(|error| (&StoreError::io(&error)).into())
    }

    /// Begins a sync, which runs while other commits are made; see [`end_sync`](Self::end_sync).
    pub(super) fn begin_sync(&mut self) -> Option<Sync> {
        self.sync_due = None;
        self.segments.begin_sync()
    }

    /// Ends a sync. Commits that were made beside it are synced later.
    pub(super) fn end_sync(&mut self, sync: &Sync, result: std::io::Result<()>) -> Result<(), Unavailable> {
        self.segments.end_sync(sync, result).map_err(|error| self.failed(error))
    }

    /// Writes everything to the disk, and records a clean stop.
    pub(super) fn close(mut self) {
        let closed = self.flush().and_then(|()| self.segments.close());
        if let Err(error) = closed {
            tracing::error!(%error, "the journal was not closed cleanly");
        }
    }
}

// === impl Append ===

impl Append {
    fn respond(self, reply: Result<Vec<Receipt>, AppendError>) {
        // The receiver may be gone.
        let _ = self.reply.send(reply);
    }
}

/// The bodies of a frame, of which the first one is at a location.
fn located(first: Location, bodies: &[Body]) -> Vec<Stored> {
    let mut location = first;
    let stored = bodies.iter().map(|body| {
        let stored = location.of(Some(*body));
        location.position += body.length;
        stored
    });
    stored.collect()
}
