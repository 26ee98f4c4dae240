//! When the disk does not take any more: publishers are told, reading goes on, and the store is opened again as soon as
//! there is room.

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

/// What is written in so short a time does not fill what `min_free_bytes` keeps free.
const CHECK_DISK_EVERY: Duration = Duration::from_millis(20);
/// How often a store that failed is opened again.
const HEAL_EVERY: Duration = Duration::from_millis(500);
/// Free bytes below which that is not tried: the old store is still good to read from.
const HEAL_BYTES: u64 = 4 << 20;
/// The store's own threads do not say why they failed to write a table; with less than some tables' room it was that.
const LITTLE_ROOM: u64 = 32 << 20;

// === impl Writer ===

impl Writer {
    /// Refuses when nothing can be written now.
    pub(super) fn ready(&mut self) -> Result<(), Unavailable> {
        if let Err(gone) = self.own_files.check() {
            if self.shared.refusal().is_none() {
                tracing::error!(error = gone, "the journal takes no writes");
            }
            let gone = Unavailable::Failed(gone);
            self.shared.refuse(Some(gone.clone()));
            return Err(gone);
        }
        let Some((error, tried)) = &self.broken else { return Ok(()) };
        if tried.elapsed() < HEAL_EVERY {
            return Err(unavailable(error));
        }
        if self.place.free() < HEAL_BYTES {
            return Err(unavailable(error));
        }
        match self.reopen() {
            Ok(()) => {
                tracing::info!("the journal takes writes again");
                self.broken = None;
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the journal's store cannot be opened again");
                Err(self.failed(error))
            }
        }
    }

    /// A store that has no room to merge its tables fails in worse ways than a refusal.
    pub(super) fn check_disk(&mut self) -> Result<(), Unavailable> {
        // To ask costs as much as to write a small event.
        if self.disk_checked.is_some_and(|checked| checked.elapsed() < CHECK_DISK_EVERY) {
            return Ok(());
        }
        self.disk_checked = None;
        let (free, least) = (self.place.free(), self.config.min_free_bytes);
        if free < least {
            return Err(Unavailable::Full(format!(
                "the disk of `{}` has {free} bytes left, less than `journal.min_free_bytes` = {least}",
                self.place.dir().display()
            )));
        }
        self.disk_checked = Some(Instant::now());
        Ok(())
    }

    pub(super) fn failed(&mut self, error: StoreError) -> Unavailable {
        let error = match error {
            StoreError::Io(what) if self.place.free() < LITTLE_ROOM => StoreError::Full(what),
            error => error,
        };
        tracing::error!(%error, "the journal's store failed; it will be opened again");
        let unavailable = unavailable(&error);
        self.broken = Some((error, Instant::now()));
        self.shared.refuse(Some(unavailable.clone()));
        unavailable
    }

    /// Opens the store again and goes on from what it holds, which is at least what was acknowledged.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut slot = shared.store_slot();
        if slot.as_ref().is_some_and(|store| !store.alone()) {
            return Err(StoreError::Io("it is being verified, and cannot be opened again before that is done".into()));
        }
        // One at a time: the old one must be gone first.
        *slot = None;
        // A commit that was refused may stand in the log all the same. Whoever was refused comes again.
        check::cut(&self.place.store(), self.commit)?;
        let store = Store::open(&self.place.store())?;
        let restored = restore::restore(&store, &self.config, shared.clock.moment());
        let restored = restored.map(|restored| restored.filter(|restored| restored.state.commit >= self.commit));
        let Restored { mut log, state, ragged } = match restored {
            Ok(Some(restored)) => restored,
            other => {
                // The index in memory is as good as before: reading goes on.
                *slot = Some(store);
                let lost = || StoreError::Damaged(format!("it does not reach commit {}", self.commit));
                return Err(other.err().unwrap_or_else(lost));
            }
        };
        self.commit = state.commit;
        self.pending = log.take_changes();
        self.ragged = ragged;
        let mut index = shared.log_mut();
        log.inherit(&index);
        *index = log;
        *slot = Some(store);
        shared.tell(index.head());
        shared.bells.ring_all(index.head());
        Ok(())
    }
}
