//! The writer: the only thread that changes the journal. It commits all waiting batches at once, and then replies.
//!
//! ```text
//!  commands ──> plan (in memory) ──> commit (store, sync) ──> mark ──> apply (readers see it) ──> head ──> replies
//! ```
//!
//! A failed commit changes nothing, because the index is changed after it. The store must then be opened again; the next
//! command tries that.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    EmbeddedState,
    data_dir::{DataDir, HighWaterMark, HighWaterMarkFile},
    own_files::OwnFiles,
    restore::FEW_ROWS,
    rows::{self, SPAN, STATE_KEY, StateRow, TopicRow},
    store::{Commit, Store, StoreError},
    values,
};
use crate::{
    journal::{
        AppendError, Batch, Config, Receipt, SyncMode, Unavailable,
        log::{Changes, CommitGroup, LogState},
    },
    topic::Topic,
};

mod flush;
mod reopen;

/// Requests to the writer.
pub(super) enum Command {
    Append(Append),
    Purge(Topic, oneshot::Sender<Result<u64, Unavailable>>),
    Sweep(u64, oneshot::Sender<Result<(), Unavailable>>),
    /// Write pending changes to the disk.
    Flush(oneshot::Sender<Result<(), Unavailable>>),
    Close(oneshot::Sender<()>),
}

/// A batch that waits for the commit.
pub(super) struct Append {
    pub batch: Batch,
    pub reply: oneshot::Sender<Result<Vec<Receipt>, AppendError>>,
    /// Its share of the queue, until the reply.
    pub permit: OwnedSemaphorePermit,
}

/// Maximum number of commands in one turn. The queue limits their bytes.
const COMMANDS_AT_ONCE: usize = 4096;
/// Number of changes above which they are written to the store at once; fewer ones with the next sweep.
const CHANGES_AT_ONCE: usize = 4096;
/// Interval of syncs with `sync = "interval"`.
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// The writer and its state.
pub(super) struct Writer {
    shared: Arc<EmbeddedState>,
    data_dir: DataDir,
    high_water_mark: HighWaterMarkFile,
    config: Config,
    boot: u128,
    /// Number of the last commit.
    commit: u64,
    /// Changes that are not yet in the store.
    pending: Changes,
    /// Spans whose index rows are rewritten with the next flush.
    fragmented: BTreeSet<u64>,
    /// The span of the last index row, and its number of rows so far.
    filling: (u64, u32),
    /// Time of the next sync, if there is something to sync.
    sync_due: Option<Instant>,
    /// Last time at which the disk had enough free bytes.
    disk_checked: Option<Instant>,
    /// Identity of the journal's files, to detect that the data directory was removed or moved.
    own_files: OwnFiles,
    /// Why the store cannot write, and when it was last opened again.
    broken: Option<(StoreError, Instant)>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        shared: Arc<EmbeddedState>,
        data_dir: DataDir,
        high_water_mark: HighWaterMarkFile,
        config: Config,
        boot: u128,
        restored: InitialState,
    ) -> Self {
        Self {
            own_files: OwnFiles::of(&data_dir),
            shared,
            data_dir,
            high_water_mark,
            config,
            boot,
            commit: restored.commit,
            pending: restored.changes,
            fragmented: restored.fragmented,
            filling: (0, 0),
            sync_due: None,
            disk_checked: None,
            broken: None,
        }
    }

    /// Serves commands until the journal is closed or all senders are dropped.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let clock = clock.expect("a runtime without I/O needs no resources");
        let mut taken = Vec::new();
        let reply = loop {
            let due = self.sync_due.map(tokio::time::Instant::from_std);
            let next = async {
                let take = commands.recv_many(&mut taken, COMMANDS_AT_ONCE);
                match due {
                    Some(due) => tokio::time::timeout_at(due, take).await.ok(),
                    None => Some(take.await),
                }
            };
            if clock.block_on(next) == Some(0) {
                break None;
            }
            if self.sync_due.is_some_and(|due| due <= Instant::now()) {
                // An error is not lost: the next commit reports it.
                let _ = self.sync();
            }
            if let Some(reply) = self.serve(taken.drain(..)) {
                break Some(reply);
            }
        };
        self.shared.closed.store(true, Ordering::Relaxed);
        // Close the store and unlock the directory before the reply: the caller may open it again.
        self.shared.set_store(None);
        drop(self);
        if let Some(reply) = reply {
            respond(reply, ());
        }
    }

    /// Serves commands in order. Returns the reply channel of [`Command::Close`].
    fn serve(&mut self, commands: impl Iterator<Item = Command>) -> Option<oneshot::Sender<()>> {
        let mut appends = Vec::new();
        for command in commands {
            if let Command::Append(append) = command {
                appends.push(append);
                continue;
            }
            self.append_all(&mut appends);
            match command {
                Command::Append(_) => {}
                Command::Purge(topic, reply) => respond(reply, self.purge(&topic)),
                Command::Sweep(now, reply) => respond(reply, self.sweep(now)),
                Command::Flush(reply) => respond(reply, self.flush_now()),
                Command::Close(reply) => {
                    self.close();
                    return Some(reply);
                }
            }
        }
        self.append_all(&mut appends);
        None
    }

    fn append_all(&mut self, appends: &mut Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        if let Err(unavailable) = self.ready() {
            appends.drain(..).for_each(|append| respond(append.reply, Err(unavailable.clone().into())));
            return;
        }
        let full = self.check_disk().err();
        self.shared.set_refusal(full.clone());
        let mut group = self.shared.log_mut().begin(self.shared.clock.moment());
        let mut accepted = Vec::with_capacity(appends.len());
        {
            let log = self.shared.log();
            for Append { batch, reply, permit } in appends.drain(..) {
                // A batch that only deletes frees space, so it is accepted.
                if let Some(full) = full.as_ref().filter(|_| batch.adds_data()) {
                    respond(reply, Err(full.clone().into()));
                    continue;
                }
                match group.add(&log, batch) {
                    Ok(receipts) => accepted.push((receipts, reply, permit)),
                    Err(refused) => respond(reply, Err(refused)),
                }
            }
        }
        let written = self.write_group(&group);
        let unavailable = written.err().map(|error| self.failed(error));
        for (receipts, reply, _) in accepted {
            respond(reply, unavailable.clone().map_or(Ok(receipts), |error| Err(error.into())));
        }
        if self.pending.len() > CHANGES_AT_ONCE
            && let Err(error) = self.flush()
        {
            // The changes are determined again when the store is opened again.
            self.failed(error);
        }
    }

    fn write_group(&mut self, group: &CommitGroup) -> Result<(), StoreError> {
        if group.is_empty() {
            // Only duplicates, which were committed before.
            self.shared.log_mut().apply(group);
            return Ok(());
        }
        let log_state = group.log_state(&self.shared.log());
        let records: Vec<_> = {
            let log = self.shared.log();
            group.last_records().map(|write| (write, log.record(&write.key))).collect()
        };
        let mut index = Vec::new();
        self.write(&log_state, self.config.sync == SyncMode::Always, |commit| {
            for (topic, id) in &group.topics {
                let row = TopicRow { name: topic.clone(), trimmed_through: log_state.topic_begins_after(topic) };
                commit.put(rows::topic_key(*id), rows::encode(&row));
            }
            for planned in &group.events {
                let offset = planned.event.position.offset;
                commit.put(rows::event_key(planned.topics[0], offset), rows::encode_event(&planned.event));
            }
            for (first, row) in rows::encode_event_metas(group.event_metas()) {
                index.push(first / SPAN);
                commit.put(rows::index_key(first), row);
            }
            for (write, before) in records {
                values::write(commit, write, before);
            }
        })?;
        index.into_iter().for_each(|span| self.count_row(span));
        for planned in &group.events {
            self.shared.events.insert(planned.event.position.offset, planned.event.clone());
        }
        let mut log = self.shared.log_mut();
        log.apply(group);
        self.pending.merge(log.take_changes());
        let head = log.head();
        drop(log);
        self.shared.publish_head(head);
        self.shared.notifiers.committed(&group.events, head).wake();
        Ok(())
    }

    /// Writes one commit with the rows that `fill` adds.
    fn write(&mut self, log_state: &LogState, sync: bool, fill: impl FnOnce(&mut Commit)) -> Result<(), StoreError> {
        let number = self.commit + 1;
        self.shared.with_store(|store| {
            let mut commit = store.commit()?;
            commit.put(STATE_KEY, rows::encode(&StateRow::new(self.shared.epoch, number, log_state)));
            fill(&mut commit);
            commit.write(sync)
        })?;
        self.commit = number;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        if sync || self.config.sync != SyncMode::Always {
            // If the mark promises data on the disk, it is written after the sync.
            self.write_high_water_mark(false);
        }
        if !sync && self.config.sync != SyncMode::Os {
            self.sync_due.get_or_insert_with(|| Instant::now() + SYNC_EVERY);
        }
        Ok(())
    }

    fn write_high_water_mark(&self, clean: bool) {
        let high_water_mark =
            HighWaterMark { commit: self.commit, clean, synced: self.config.sync == SyncMode::Always, boot: self.boot };
        if let Err(error) = self.high_water_mark.write(high_water_mark) {
            tracing::warn!(%error, "the journal's high-water mark cannot be written: a loss of this commit could not be detected");
        }
    }

    fn count_row(&mut self, span: u64) {
        let (filling, rows) = &mut self.filling;
        if *filling == span {
            *rows += 1;
            return;
        }
        if *rows > FEW_ROWS {
            self.fragmented.insert(*filling);
        }
        self.filling = (span, 1);
    }

    fn purge(&mut self, topic: &Topic) -> Result<u64, Unavailable> {
        self.ready()?;
        let count = {
            let mut log = self.shared.log_mut();
            let count = log.purge(topic, self.shared.clock.steady_ms());
            self.pending.merge(log.take_changes());
            count
        };
        self.flush().map_err(|error| self.failed(error))?;
        if self.config.sync == SyncMode::Always {
            self.sync()?;
        }
        Ok(count)
    }

    fn sweep(&mut self, now: u64) -> Result<(), Unavailable> {
        self.ready()?;
        loop {
            // In slices, so that readers run between them.
            let mut log = self.shared.log_mut();
            log.update_clock_offset(self.shared.clock.moment());
            let more = log.sweep(now);
            self.pending.merge(log.take_changes());
            drop(log);
            if !more {
                break;
            }
        }
        self.flush().map_err(|error| self.failed(error))?;
        self.shared.refresh_disk_usage();
        let full = self.check_disk().err();
        self.shared.set_refusal(full);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Unavailable> {
        self.sync_due = None;
        if self.broken.is_none() {
            self.shared.with_store(Store::sync).map_err(|error| self.failed(error))?;
            self.write_high_water_mark(false);
        }
        Ok(())
    }

    fn flush_now(&mut self) -> Result<(), Unavailable> {
        self.ready()?;
        self.flush().map_err(|error| self.failed(error))
    }

    fn close(&mut self) {
        if self.broken.is_none() {
            let written = self.flush().and_then(|()| self.shared.with_store(Store::sync));
            if let Err(error) = written.and_then(|()| {
                self.write_high_water_mark(true);
                self.high_water_mark.sync().map_err(|error| StoreError::Io(error.to_string()))
            }) {
                tracing::error!(%error, "the journal was not closed cleanly");
            }
        }
    }
}

/// State after the journal was opened.
pub(super) struct InitialState {
    pub commit: u64,
    pub changes: Changes,
    pub fragmented: BTreeSet<u64>,
}

/// Sends a reply. The receiver may be gone.
fn respond<T>(to: oneshot::Sender<T>, reply: T) {
    let _ = to.send(reply);
}

pub(super) fn unavailable(error: &StoreError) -> Unavailable {
    match error {
        StoreError::Full(_) => Unavailable::Full(error.to_string()),
        StoreError::Closed => Unavailable::Closed,
        StoreError::Unreadable { through, what } => Unavailable::Unreadable { through: *through, reason: what.clone() },
        StoreError::Damaged(what) => Unavailable::Damaged(what.clone()),
        _ => Unavailable::Failed(error.to_string()),
    }
}
