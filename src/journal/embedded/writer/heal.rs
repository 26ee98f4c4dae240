//! When the disk does not take any more: publishers are told, reading goes on, and the store is opened again as soon as
//! there is room.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{Writer, unavailable};
use crate::{
    event::now_ms,
    journal::{
        Unavailable,
        embedded::{
            restore::{self, Restored},
            store::{Store, StoreError},
        },
    },
};

/// How often a store that failed is opened again.
const HEAL_EVERY: Duration = Duration::from_millis(500);
/// Free bytes below which that is not tried: the old store is still good to read from.
const HEAL_BYTES: u64 = 4 << 20;
/// The store's own threads do not say why they failed to write a table; with less than some tables' room it was that.
const LITTLE_ROOM: u64 = 32 << 20;

// === impl Writer ===

impl Writer {
    /// Refuses when nothing can be written now; `more` means that it will take room.
    pub(super) fn ready(&mut self, more: bool) -> Result<(), Unavailable> {
        let ready = self.prepare(more);
        self.shared.refusing.store(ready.is_err(), Ordering::Relaxed);
        ready
    }

    fn prepare(&mut self, more: bool) -> Result<(), Unavailable> {
        if more {
            self.check_disk()?;
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
    fn check_disk(&self) -> Result<(), Unavailable> {
        let (free, least) = (self.place.free(), self.config.min_free_bytes);
        if free < least {
            return Err(Unavailable::Full(format!(
                "the disk of `{}` has {free} bytes left, less than `journal.min_free_bytes` = {least}",
                self.place.dir().display()
            )));
        }
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
        unavailable
    }

    /// Opens the store again and goes on from what it holds, which is at least what was acknowledged.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut slot = shared.store_slot();
        // One at a time: the old one must be gone first.
        *slot = None;
        let store = Store::open(&self.place.store())?;
        let restored = restore::restore(&store, &self.config, now_ms())?;
        let Some(Restored { mut log, state, ragged }) =
            restored.filter(|restored| restored.state.commit >= self.commit)
        else {
            return Err(StoreError::Damaged(format!("it does not reach commit {}", self.commit)));
        };
        self.commit = state.commit;
        self.pending = log.take_changes();
        self.ragged = ragged;
        let mut index = shared.log_mut();
        log.inherit(&index);
        *index = log;
        *slot = Some(store);
        shared.tell(index.head());
        Ok(())
    }
}
