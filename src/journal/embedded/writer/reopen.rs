//! Failures of the disk: publishers are rejected and reading continues, until the store can be opened again.

use std::time::{Duration, Instant};

use super::{Writer, unavailable};
use crate::journal::{
    Unavailable,
    embedded::{
        check,
        restore::{self, Restored},
        store::{Store, StoreError},
    },
};

/// Interval of the check. In this time the free bytes of `min_free_bytes` cannot be filled.
const CHECK_DISK_EVERY: Duration = Duration::from_millis(20);
/// Interval of attempts to open a failed store again.
const REOPEN_EVERY: Duration = Duration::from_millis(500);
/// With fewer free bytes there is no attempt, because the old store can still be read.
const REOPEN_BYTES: u64 = 4 << 20;
/// The threads of the store do not report why they cannot write a table. With fewer free bytes the disk is full.
const LITTLE_ROOM: u64 = 32 << 20;

// === impl Writer ===

impl Writer {
    /// Fails if nothing can be written now.
    pub(super) fn ready(&mut self) -> Result<(), Unavailable> {
        if let Err(missing) = self.own_files.check() {
            if self.shared.refusal().is_none() {
                tracing::error!(error = missing, "the journal rejects writes");
            }
            let missing = Unavailable::Failed(missing);
            self.shared.set_refusal(Some(missing.clone()));
            return Err(missing);
        }
        let Some((error, tried)) = &self.broken else { return Ok(()) };
        if tried.elapsed() < REOPEN_EVERY {
            return Err(unavailable(error));
        }
        if self.data_dir.free_bytes() < REOPEN_BYTES {
            return Err(unavailable(error));
        }
        match self.reopen() {
            Ok(()) => {
                tracing::info!("the journal accepts writes again");
                self.broken = None;
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the journal's store cannot be reopened");
                Err(self.failed(error))
            }
        }
    }

    /// Fails if the disk has too few free bytes. A store that cannot merge its tables would fail in worse ways.
    pub(super) fn check_disk(&mut self) -> Result<(), Unavailable> {
        // A check costs as much as writing a small event.
        if self.disk_checked.is_some_and(|checked| checked.elapsed() < CHECK_DISK_EVERY) {
            return Ok(());
        }
        self.disk_checked = None;
        let (free, least) = (self.data_dir.free_bytes(), self.config.min_free_bytes);
        if free < least {
            return Err(Unavailable::Full(format!(
                "the disk of `{}` has {free} bytes left, less than `journal.min_free_bytes` = {least}",
                self.data_dir.dir().display()
            )));
        }
        self.disk_checked = Some(Instant::now());
        Ok(())
    }

    pub(super) fn failed(&mut self, error: StoreError) -> Unavailable {
        let error = match error {
            StoreError::Io(what) if self.data_dir.free_bytes() < LITTLE_ROOM => StoreError::Full(what),
            error => error,
        };
        tracing::error!(%error, "the journal's store failed; it will be reopened");
        let unavailable = unavailable(&error);
        self.broken = Some((error, Instant::now()));
        self.shared.set_refusal(Some(unavailable.clone()));
        unavailable
    }

    /// Opens the store again and restores the index. The store has at least all acknowledged commits.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut slot = shared.store_slot();
        if slot.as_ref().is_some_and(|store| !store.alone()) {
            return Err(StoreError::Io("the journal is being verified; the store can be reopened after that".into()));
        }
        // Two cannot be open at once.
        *slot = None;
        // A rejected commit may be in the log. Its publishers send it again.
        check::cut(&self.data_dir.store(), self.commit)?;
        let store = Store::open(&self.data_dir.store())?;
        let restored = restore::restore(&store, &self.config, shared.clock.moment());
        let restored = restored.map(|restored| restored.filter(|restored| restored.state.commit >= self.commit));
        let Restored { mut log, state, fragmented } = match restored {
            Ok(Some(restored)) => restored,
            other => {
                // The index in memory is still valid, so reading continues.
                *slot = Some(store);
                let lost = || StoreError::Damaged(format!("it does not reach commit {}", self.commit));
                return Err(other.err().unwrap_or_else(lost));
            }
        };
        self.commit = state.commit;
        self.pending = log.take_changes();
        self.fragmented = fragmented;
        let mut index = shared.log_mut();
        log.inherit_stats(&index);
        *index = log;
        *slot = Some(store);
        shared.publish_head(index.head());
        shared.notifiers.notify_all(index.head());
        Ok(())
    }
}
