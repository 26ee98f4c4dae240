//! Failures of the disk: publishers are rejected and reading continues, until the disk accepts writes again.

use std::time::{Duration, Instant};

use super::Committer;
use crate::journal::{Unavailable, embedded::StoreError};

/// Interval of the check. In this time the free bytes of `min_free_bytes` cannot be filled.
const CHECK_DISK_EVERY: Duration = Duration::from_millis(20);
/// Interval of attempts to continue after a failed sync.
const RECOVER_EVERY: Duration = Duration::from_millis(500);

// === impl Committer ===

impl Committer {
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
        if !self.segments.needs_recovery() {
            return Ok(());
        }
        if let Some((error, tried)) = &self.failed
            && tried.elapsed() < RECOVER_EVERY
        {
            return Err(error.into());
        }
        let copied = self.segments.recover().map_err(|error| self.failed(error))?;
        self.shared.log_mut().move_all(|stored| copied.iter().find_map(|copied| copied.moved(stored)));
        let (_, active) = self.segments.numbers();
        // The segments whose commits were all copied are gone. The one with the last sync stays, and with it its topics:
        // some of them are only there.
        let gone = self.topic_segments.values_mut().filter(|segment| self.shared.files.get(**segment).is_none());
        gone.for_each(|segment| *segment = active);
        self.own_files.follow(active);
        tracing::info!("the journal accepts writes again");
        self.failed = None;
        Ok(())
    }

    /// Fails if the disk has too few free bytes, so that deletions can still be written.
    pub(super) fn check_disk(&mut self) -> Result<(), Unavailable> {
        // A check costs as much as writing a small event.
        if self.disk_checked.is_some_and(|checked| checked.elapsed() < CHECK_DISK_EVERY) {
            return Ok(());
        }
        self.disk_checked = None;
        let (free, least) = (self.data_dir.free_bytes(), self.config.min_free_bytes);
        if free < least {
            // Cleaning may free space.
            self.cleaning_due = true;
            return Err(Unavailable::Full(format!(
                "the disk of `{}` has {free} bytes left, less than `journal.min_free_bytes` = {least}",
                self.data_dir.dir().display()
            )));
        }
        self.disk_checked = Some(Instant::now());
        Ok(())
    }

    pub(super) fn failed(&mut self, error: StoreError) -> Unavailable {
        tracing::error!(%error, "the journal could not write");
        let unavailable = Unavailable::from(&error);
        self.failed = Some((error, Instant::now()));
        self.shared.set_refusal(Some(unavailable.clone()));
        unavailable
    }
}
