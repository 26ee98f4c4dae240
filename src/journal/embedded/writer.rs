//! The writer: the one thread that changes the journal. It takes all that waits, commits it at once, and then answers.
//!
//! ```text
//!  commands ──> plan (in memory) ──> commit (store, sync) ──> mark ──> apply (readers see it) ──> head ──> answers
//! ```
//!
//! A commit that fails leaves nothing behind: what is in memory is applied after it. The store itself must then be opened
//! again, which is tried as long as there is somebody who wants to write.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    Shared,
    own_files::OwnFiles,
    place::{Mark, MarkFile, Place},
    restore::FEW_ROWS,
    rows::{self, SPAN, STATE, State, TopicRow},
    store::{Commit, Store, StoreError},
    values,
};
use crate::{
    journal::{
        AppendError, Batch, Config, Receipt, SyncMode, Unavailable,
        log::{Changes, Group, Marks},
    },
    topic::Topic,
};

mod follow;
mod heal;

/// What the writer is asked for.
pub(super) enum Command {
    Append(Append),
    Purge(Topic, oneshot::Sender<Result<u64, Unavailable>>),
    Sweep(u64, oneshot::Sender<Result<(), Unavailable>>),
    /// Do on disk what was decided in memory.
    Flush(oneshot::Sender<Result<(), Unavailable>>),
    Close(oneshot::Sender<()>),
}

/// A batch that waits.
pub(super) struct Append {
    pub batch: Batch,
    pub answer: oneshot::Sender<Result<Vec<Receipt>, AppendError>>,
    /// Its share of the queue.
    pub room: OwnedSemaphorePermit,
}

/// Commands taken at once; how much they may weigh, the queue says.
const COMMANDS_AT_ONCE: usize = 4096;
/// Dropped events are deleted from the store when there are so many, else with the next sweep.
const CHANGES_AT_ONCE: usize = 4096;
/// With `sync = "interval"`.
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    place: Place,
    mark: MarkFile,
    config: Config,
    boot: u128,
    /// Commits so far.
    commit: u64,
    /// What is not yet done on disk.
    pending: Changes,
    /// Spans whose index rows should be written anew.
    ragged: BTreeSet<u64>,
    /// The span that is being filled, and its rows so far.
    filling: (u64, u32),
    /// When what was written must be synced.
    sync_due: Option<Instant>,
    /// When the disk was last seen to have room.
    disk_checked: Option<Instant>,
    /// Identity of the journal's files, to detect that the data directory was removed or moved.
    own_files: OwnFiles,
    /// Why the store does not take anything, and when that was tried last.
    broken: Option<(StoreError, Instant)>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        place: Place,
        mark: MarkFile,
        config: Config,
        boot: u128,
        restored: After,
    ) -> Self {
        Self {
            own_files: OwnFiles::of(&place),
            shared,
            place,
            mark,
            config,
            boot,
            commit: restored.commit,
            pending: restored.changes,
            ragged: restored.ragged,
            filling: (0, 0),
            sync_due: None,
            disk_checked: None,
            broken: None,
        }
    }

    /// Serves until it is closed, or until nobody is left who could ask.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let clock = clock.expect("a runtime without I/O needs nothing that could be missing");
        let mut taken = Vec::new();
        let asker = loop {
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
                // Failed or not, the next commit finds out.
                let _ = self.sync();
            }
            if let Some(asker) = self.serve(taken.drain(..)) {
                break Some(asker);
            }
        };
        self.shared.closed.store(true, Ordering::Relaxed);
        // First the store, then the lock: whoever is told may open the directory again.
        self.shared.set_store(None);
        drop(self);
        if let Some(asker) = asker {
            answer(asker, ());
        }
    }

    /// Answers whom to tell when it was closed.
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
                Command::Purge(topic, asker) => answer(asker, self.purge(&topic)),
                Command::Sweep(now, asker) => answer(asker, self.sweep(now)),
                Command::Flush(asker) => answer(asker, self.flush_now()),
                Command::Close(asker) => {
                    self.close();
                    return Some(asker);
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
            appends.drain(..).for_each(|append| answer(append.answer, Err(unavailable.clone().into())));
            return;
        }
        let full = self.check_disk().err();
        self.shared.refuse(full.clone());
        let mut group = self.shared.log_mut().begin(self.shared.clock.moment());
        let mut accepted = Vec::with_capacity(appends.len());
        {
            let log = self.shared.log();
            for Append { batch, answer: asker, room } in appends.drain(..) {
                // What only deletes makes room.
                if let Some(full) = full.as_ref().filter(|_| batch.grows()) {
                    answer(asker, Err(full.clone().into()));
                    continue;
                }
                match group.add(&log, batch) {
                    Ok(receipts) => accepted.push((receipts, asker, room)),
                    Err(refused) => answer(asker, Err(refused)),
                }
            }
        }
        let written = self.write_group(&group);
        let unavailable = written.err().map(|error| self.failed(error));
        for (receipts, asker, _) in accepted {
            answer(asker, unavailable.clone().map_or(Ok(receipts), |error| Err(error.into())));
        }
        if self.pending.len() > CHANGES_AT_ONCE
            && let Err(error) = self.flush()
        {
            // What could not be done is decided again when the store is opened again.
            self.failed(error);
        }
    }

    fn write_group(&mut self, group: &Group) -> Result<(), StoreError> {
        if group.is_empty() {
            // Repeats alone: they were committed before.
            self.shared.log_mut().apply(group);
            return Ok(());
        }
        let marks = group.marks(&self.shared.log());
        let records: Vec<_> = {
            let log = self.shared.log();
            group.last_records().map(|write| (write, log.record(&write.key))).collect()
        };
        let mut index = Vec::new();
        self.write(&marks, self.config.sync == SyncMode::Always, |commit| {
            for (topic, id) in &group.topics {
                let row = TopicRow { name: topic.clone(), trimmed_through: marks.topic_begins_after(topic) };
                commit.put(rows::topic_key(*id), rows::encode(&row));
            }
            for planned in &group.events {
                let offset = planned.event.position.offset;
                commit.put(rows::event_key(planned.topics[0], offset), rows::encode_event(&planned.event));
            }
            for (first, row) in rows::encode_metas(group.metas()) {
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
        self.shared.tell(head);
        self.shared.bells.committed(&group.events, head).ring();
        Ok(())
    }

    /// One commit with what `fill` puts into it.
    fn write(&mut self, marks: &Marks, sync: bool, fill: impl FnOnce(&mut Commit)) -> Result<(), StoreError> {
        let number = self.commit + 1;
        self.shared.with_store(|store| {
            let mut commit = store.commit()?;
            commit.put(STATE, rows::encode(&State::new(self.shared.epoch, number, marks)));
            fill(&mut commit);
            commit.write(sync)
        })?;
        self.commit = number;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        if sync || self.config.sync != SyncMode::Always {
            // Where the mark stands for what is on the disk, it waits for the sync.
            self.write_mark(false);
        }
        if !sync && self.config.sync != SyncMode::Os {
            self.sync_due.get_or_insert_with(|| Instant::now() + SYNC_EVERY);
        }
        Ok(())
    }

    fn write_mark(&self, clean: bool) {
        let mark = Mark { commit: self.commit, clean, synced: self.config.sync == SyncMode::Always, boot: self.boot };
        if let Err(error) = self.mark.write(mark) {
            tracing::warn!(%error, "the journal's mark cannot be written: a loss of this commit would not be noticed");
        }
    }

    fn count_row(&mut self, span: u64) {
        let (filling, rows) = &mut self.filling;
        if *filling == span {
            *rows += 1;
            return;
        }
        if *rows > FEW_ROWS {
            self.ragged.insert(*filling);
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
            // In slices, so that readers get their turns between them.
            let mut log = self.shared.log_mut();
            log.follow(self.shared.clock.moment());
            let more = log.sweep(now);
            self.pending.merge(log.take_changes());
            drop(log);
            if !more {
                break;
            }
        }
        self.flush().map_err(|error| self.failed(error))?;
        self.shared.weigh();
        let full = self.check_disk().err();
        self.shared.refuse(full);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Unavailable> {
        self.sync_due = None;
        if self.broken.is_none() {
            self.shared.with_store(Store::sync).map_err(|error| self.failed(error))?;
            self.write_mark(false);
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
                self.write_mark(true);
                self.mark.sync().map_err(|error| StoreError::Io(error.to_string()))
            }) {
                tracing::error!(%error, "the journal was not closed in order");
            }
        }
    }
}

/// What an opening leaves to be done.
pub(super) struct After {
    pub commit: u64,
    pub changes: Changes,
    pub ragged: BTreeSet<u64>,
}

/// Whoever asked may have gone meanwhile.
fn answer<T>(asker: oneshot::Sender<T>, answer: T) {
    let _ = asker.send(answer);
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
