//! A journal on disk that no node uses: inspect, verify, repair, export, compact.

use std::{path::Path, sync::Arc};

use super::{
    Embedded, OpenError,
    data_dir::DataDir,
    repair::{self, Repaired},
    scan::unbounded,
    snapshot::{self, JournalSnapshot},
    store::StoreError,
    verify,
};
use crate::journal::{Compacted, Inspection, Journal, Maintenance, Shared, Unavailable, Verified};

/// A stopped journal. It is read through a copy, so that reading changes nothing. No node can open it meanwhile.
pub struct OfflineJournal {
    snapshot: JournalSnapshot,
}

// === impl OfflineJournal ===

impl OfflineJournal {
    /// Locks a data directory and copies its journal.
    ///
    /// # Errors
    /// If there is no journal in it, or a node uses it.
    pub fn at(dir: &Path) -> Result<Self, OpenError> {
        Ok(Self { snapshot: JournalSnapshot::at(dir)? })
    }

    /// Opens the copy. Nothing is deleted by retention.
    ///
    /// # Errors
    /// If the journal is damaged.
    pub fn open(&self) -> Result<Shared, OpenError> {
        let damaged = |what: String| self.damaged(what);
        if let Err(why) = &self.snapshot.high_water_mark {
            return Err(damaged(format!("its file `journal/MARK`: {why}")));
        }
        if self.snapshot.logs.damaged > 0 {
            return Err(damaged("its log has damaged parts".to_owned()));
        }
        match Embedded::open(&unbounded(), self.snapshot.dir()) {
            Ok(journal) => Ok(Arc::new(journal)),
            Err(OpenError::Damaged { what, .. }) => Err(damaged(what)),
            // Report the original directory, not the copy.
            Err(OpenError::Io { reason, .. }) => {
                Err(OpenError::Io { dir: self.snapshot.data_dir.dir().to_owned(), reason })
            }
            Err(error) => Err(error),
        }
    }

    /// Summary of the journal.
    ///
    /// # Errors
    /// If the journal is damaged.
    pub async fn inspect(&self) -> Result<Inspection, OpenError> {
        let journal = self.open()?;
        let inspection = Inspection::of(&*journal).await;
        journal.close().await;
        let mut inspection = inspection.map_err(|error| match error {
            Unavailable::Damaged(what) | Unavailable::Unreadable { reason: what, .. } => self.damaged(what),
            error => OpenError::Io { dir: self.snapshot.data_dir.dir().to_owned(), reason: error.to_string() },
        })?;
        inspection.last_stop = Some(self.snapshot.last_stop().as_str());
        // The size of the original, not of the copy.
        inspection.stats.disk_bytes = snapshot::disk_bytes(&self.snapshot.data_dir.store()).unwrap_or(0);
        Ok(inspection)
    }

    /// Reads everything and reports damage.
    ///
    /// # Errors
    /// If the operating system cannot read the files.
    pub fn verify(&self) -> Result<Verified, OpenError> {
        match verify::scan(&self.snapshot) {
            Ok(scan) => Ok(scan.findings),
            Err(StoreError::Damaged(what)) => {
                let mut findings = Verified::default();
                findings.damage("unreadable", format!("the store cannot be opened: {what}"));
                Ok(findings)
            }
            Err(refused) => Err(OpenError::store(self.snapshot.data_dir.dir(), &refused)),
        }
    }

    /// Creates a new store from everything that can be read; `None` if there is no damage. A `dry_run` writes nothing.
    ///
    /// # Errors
    /// If the store cannot be opened, or the new one cannot be written. Then nothing has changed.
    pub fn repair(&self, dry_run: bool) -> Result<Option<Repaired>, OpenError> {
        let dir = self.snapshot.data_dir.dir();
        let scan = verify::scan(&self.snapshot).map_err(|error| OpenError::store(dir, &error))?;
        if !scan.findings.damaged {
            return Ok(None);
        }
        repair::repair(&self.snapshot, scan, dry_run).map(Some).map_err(|error| OpenError::store(dir, &error))
    }

    fn damaged(&self, what: String) -> OpenError {
        OpenError::Damaged { dir: self.snapshot.data_dir.dir().to_owned(), what }
    }
}

/// Frees the disk space of deleted data in a stopped journal.
///
/// # Errors
/// If there is no journal, a node uses it, or it is damaged.
pub async fn compact(dir: &Path) -> Result<Compacted, OpenError> {
    let data_dir = DataDir::take_existing(dir)?;
    let store = data_dir.store();
    let refresh_disk_usage = || snapshot::disk_bytes(&store).map_err(|error| OpenError::io(dir, &error));
    let bytes_before = refresh_disk_usage()?;
    drop(data_dir);
    let journal = Embedded::open(&unbounded(), dir)?;
    let report = journal.maintain(Maintenance::Compact).await;
    journal.close().await;
    report.map_err(|error| OpenError::Io { dir: dir.to_owned(), reason: error.to_string() })?;
    Ok(Compacted { bytes_before, bytes_after: refresh_disk_usage()? })
}
