//! The writer thread: it commits what callers leave to it, and does what no caller should wait for: syncs, sweeps,
//! cleaning.
//!
//! Callers commit small batches themselves if nothing waits and the disk is fast; see `Embedded::write`. With
//! `sync = "always"` the thread commits everything that waits with one sync.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    EmbeddedState,
    committer::{Append, Committer, SharedCommitter},
    segments::Scan,
};
use crate::{journal::Unavailable, topic::Topic};

/// Requests to the writer.
pub(super) enum Command {
    Append(Append),
    Purge(Topic, oneshot::Sender<Result<u64, Unavailable>>),
    Sweep(u64, oneshot::Sender<Result<(), Unavailable>>),
    Compact(oneshot::Sender<Result<(), Unavailable>>),
    /// Open the files for a verification, all at one commit.
    Scan(oneshot::Sender<Result<Scan, Unavailable>>),
    Close(oneshot::Sender<()>),
}

/// Maximum number of commands in one turn. The queue limits their bytes.
const COMMANDS_AT_ONCE: usize = 4096;
/// Maximum time for which a turn waits for more commands. A sync takes longer.
const GATHER: Duration = Duration::from_micros(50);

/// The writer thread.
pub(super) struct Writer {
    shared: Arc<EmbeddedState>,
    committer: SharedCommitter,
    /// True if each commit is synced, so that larger commits are worth a wait.
    gathers: bool,
    /// Number of commands in the last turn.
    last_turn: usize,
    /// The segment before which everything is compacted, and the reply.
    compaction: Option<(u32, oneshot::Sender<Result<(), Unavailable>>)>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(shared: Arc<EmbeddedState>, committer: SharedCommitter, gathers: bool) -> Self {
        Self { shared, committer, gathers, last_turn: 0, compaction: None }
    }

    /// Serves commands until the journal is closed or all senders are dropped.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let clock = clock.expect("a runtime without I/O needs no resources");
        let mut taken = Vec::new();
        let reply = loop {
            let (sync_due, cleaning) =
                self.with(|committer| (committer.sync_due(), committer.is_cleaning_due())).unwrap_or_default();
            let due = if cleaning || self.compaction.is_some() { Some(Instant::now()) } else { sync_due };
            let next = async {
                let timeout = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    taken = commands.recv_many(&mut taken, COMMANDS_AT_ONCE) => Some(taken),
                    () = self.shared.wake.notified() => None,
                    () = timeout => None,
                }
            };
            if clock.block_on(next) == Some(0) {
                break None;
            }
            if self.gathers {
                self.gather(&mut commands, &mut taken);
            }
            if sync_due.is_some_and(|due| due <= Instant::now()) {
                self.sync();
            }
            if let Some(reply) = self.serve(taken.drain(..)) {
                break Some(reply);
            }
            self.clean();
        };
        // Unlock the directory before the reply: the caller may open it again.
        let committer = self.committer.lock().ok().and_then(|mut committer| committer.take());
        self.shared.closed.store(true, Ordering::Relaxed);
        match (committer, reply) {
            (Some(committer), Some(reply)) => {
                committer.close();
                respond(reply, ());
            }
            (_, Some(reply)) => respond(reply, ()),
            // As after a crash.
            (_, None) => {}
        }
    }

    /// Waits shortly until as many commands are there as in the turn before: publishers that got their replies send again
    /// at once, and share the next sync.
    fn gather(&mut self, commands: &mut mpsc::Receiver<Command>, taken: &mut Vec<Command>) {
        let until = Instant::now() + GATHER;
        while taken.len() < self.last_turn && Instant::now() < until {
            match commands.try_recv() {
                Ok(command) => taken.push(command),
                Err(_) => thread::yield_now(),
            }
        }
        self.last_turn = taken.len();
    }

    /// `None` after a panic of a commit: nothing is written any more.
    fn with<T>(&self, work: impl FnOnce(&mut Committer) -> T) -> Option<T> {
        self.committer.lock().ok()?.as_mut().map(work)
    }

    fn try_with<T>(&self, work: impl FnOnce(&mut Committer) -> Result<T, Unavailable>) -> Result<T, Unavailable> {
        self.with(work).unwrap_or(Err(Unavailable::Closed))
    }

    /// Serves commands in order. Returns the reply channel of [`Command::Close`].
    fn serve(&mut self, commands: impl Iterator<Item = Command>) -> Option<oneshot::Sender<()>> {
        let mut appends = Vec::new();
        for command in commands {
            if let Command::Append(append) = command {
                appends.push(append);
                continue;
            }
            self.with(|committer| committer.append_all(&mut appends));
            match command {
                Command::Append(_) => {}
                Command::Purge(topic, reply) => {
                    respond(reply, self.try_with(|committer| committer.purge(&topic)));
                }
                Command::Sweep(now, reply) => respond(reply, self.sweep(now)),
                Command::Compact(reply) => match self.try_with(Committer::begin_compaction) {
                    Ok(end) => self.compaction = Some((end, reply)),
                    Err(error) => respond(reply, Err(error)),
                },
                Command::Scan(reply) => respond(reply, self.try_with(|committer| committer.scan())),
                Command::Close(reply) => return Some(reply),
            }
        }
        self.with(|committer| committer.append_all(&mut appends));
        None
    }

    /// Syncs without the committer, so that callers commit meanwhile. An error is not lost: the next commit reports it.
    fn sync(&self) {
        if let Some(sync) = self.with(Committer::begin_sync).flatten() {
            let result = sync.run();
            self.with(|committer| committer.end_sync(&sync, result).err());
        }
    }

    /// Sweeps in slices, so that readers and callers run between them.
    fn sweep(&self, now: u64) -> Result<(), Unavailable> {
        while self.try_with(|committer| committer.sweep(now))? {}
        Ok(())
    }

    /// Runs one slice of the cleaning or of the compaction.
    fn clean(&mut self) {
        match self.compaction.take() {
            Some((end, reply)) => match self.try_with(|committer| committer.compact(end)) {
                Ok(true) => self.compaction = Some((end, reply)),
                done => respond(reply, done.map(drop)),
            },
            // An error is not lost: the next commit reports it.
            None => drop(self.with(|committer| committer.is_cleaning_due().then(|| committer.clean()))),
        }
    }
}

/// Sends a reply. The receiver may be gone.
fn respond<T>(to: oneshot::Sender<T>, reply: T) {
    let _ = to.send(reply);
}
