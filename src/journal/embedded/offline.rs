//! A journal on disk that no node uses: inspect, verify, repair, export, compact.

use std::{path::Path, sync::Arc};

use super::{
    Embedded, OpenError,
    data_dir::{self, DataDir},
    open,
    repair::{self, Repaired},
    segments::{Directory, Scan},
    verify,
};
use crate::journal::{Compacted, Config, Inspection, Journal, Maintenance, Shared, Unavailable, Verified};

/// A stopped journal. Reading changes nothing, and no node can open it meanwhile.
pub struct OfflineJournal {
    data_dir: DataDir,
}

// === impl OfflineJournal ===

impl OfflineJournal {
    /// Locks a data directory.
    ///
    /// # Errors
    /// If there is no journal in it, or a node uses it.
    pub fn at(dir: &Path) -> Result<Self, OpenError> {
        Ok(Self { data_dir: DataDir::take_existing(dir)? })
    }

    /// Opens it for reading. Nothing is deleted by retention.
    ///
    /// # Errors
    /// If the journal is damaged.
    pub fn open(&self) -> Result<Shared, OpenError> {
        Ok(Arc::new(open::open_to_read(&Config::unlimited(), &self.data_dir)?))
    }

    /// Summary of the journal.
    ///
    /// # Errors
    /// If the journal is damaged.
    pub async fn inspect(&self) -> Result<Inspection, OpenError> {
        let dir = self.data_dir.dir();
        let inspection = Inspection::of(&*self.open()?).await;
        let mut inspection = inspection.map_err(|error| match error {
            Unavailable::Damaged(what) | Unavailable::Unreadable { reason: what, .. } => {
                OpenError::Damaged { dir: dir.to_owned(), what }
            }
            error => OpenError::Io { dir: dir.to_owned(), reason: error.to_string() },
        })?;
        inspection.last_stop = Some(self.last_stop()?);
        Ok(inspection)
    }

    /// Reads everything and reports damage.
    ///
    /// # Errors
    /// If the operating system cannot read the files.
    pub fn verify(&self) -> Result<Verified, OpenError> {
        let found = verify::verify(&self.scan()?);
        found.map(|found| found.verified).map_err(|error| OpenError::store(self.data_dir.dir(), &error))
    }

    /// Creates a new journal from everything that can be read; `None` if there is no damage. A `dry_run` writes nothing.
    ///
    /// # Errors
    /// If the files cannot be read, contain nothing that can be kept, or the new ones cannot be written. Then nothing has
    /// changed.
    pub fn repair(&self, dry_run: bool) -> Result<Option<Repaired>, OpenError> {
        let failed = |error| OpenError::store(self.data_dir.dir(), &error);
        let scan = self.scan()?;
        let found = verify::verify(&scan).map_err(failed)?;
        if !found.verified.damaged {
            return Ok(None);
        }
        if (found.verified.events, found.verified.topics, found.verified.records) == (0, 0, 0) {
            let what = found.verified.findings.first().map_or_else(String::new, |finding| finding.detail.clone());
            return Err(OpenError::Damaged { dir: self.data_dir.dir().to_owned(), what });
        }
        repair::repair(&self.data_dir, &scan, &found, dry_run).map(Some).map_err(failed)
    }

    fn scan(&self) -> Result<Scan, OpenError> {
        let scan = Scan::of(&Directory::at(&self.data_dir.journal()), data_dir::boot_id());
        scan.map_err(|error| OpenError::unreadable(self.data_dir.dir(), &error))
    }

    /// How the node that wrote it has stopped, for messages and the field `lastStop`.
    fn last_stop(&self) -> Result<&'static str, OpenError> {
        let boot = data_dir::boot_id();
        Ok(match self.scan()?.high_water_mark {
            Ok(high_water_mark) if high_water_mark.clean => "in order",
            Ok(high_water_mark) if high_water_mark.machine_crashed(boot) => "the machine stopped",
            Ok(_) => "killed",
            Err(_) => "unknown",
        })
    }
}

/// Frees the disk space of deleted data in a stopped journal.
///
/// # Errors
/// If there is no journal, a node uses it, or it is damaged.
pub async fn compact(dir: &Path) -> Result<Compacted, OpenError> {
    drop(DataDir::take_existing(dir)?);
    let journal = Embedded::open(&Config { min_free_bytes: 0, ..Config::unlimited() }, dir)?;
    let report = journal.maintain(Maintenance::Compact).await;
    journal.close().await;
    match report.map_err(|error| OpenError::Io { dir: dir.to_owned(), reason: error.to_string() })? {
        crate::journal::MaintenanceReport::Compacted(compacted) => Ok(compacted),
        crate::journal::MaintenanceReport::Verified(_) => unreachable!("a compaction was requested"),
    }
}
