//! A journal on disk that no node uses: to be looked at, checked, repaired.

use std::{path::Path, sync::Arc};

use super::{
    Embedded, OpenError,
    look::{self, Look},
    place::Place,
    repair::{self, Repaired},
    store::StoreError,
    survey::unbounded,
    verify,
};
use crate::journal::{Compacted, Inspection, Journal, Maintenance, Shared, Unavailable, Verified};

/// A look at a stopped journal: at a copy of it, so that looking changes nothing. Nobody can open the journal meanwhile.
pub struct Stopped {
    look: Look,
}

// === impl Stopped ===

impl Stopped {
    /// Takes a data directory.
    ///
    /// # Errors
    /// When there is no journal in it, or a node uses it.
    pub fn at(dir: &Path) -> Result<Self, OpenError> {
        Ok(Self { look: Look::at(dir)? })
    }

    /// The journal as it was left, with everything that it keeps.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn open(&self) -> Result<Shared, OpenError> {
        let damaged = |what: String| self.damaged(what);
        if let Err(why) = &self.look.mark {
            return Err(damaged(format!("its file `journal/MARK`: {why}")));
        }
        if self.look.logs.damaged > 0 {
            return Err(damaged("its log has damaged stretches".to_owned()));
        }
        match Embedded::open(&unbounded(), self.look.dir()) {
            Ok(journal) => Ok(Arc::new(journal)),
            Err(OpenError::Damaged { what, .. }) => Err(damaged(what)),
            // Report the original directory, not the copy.
            Err(OpenError::Io { reason, .. }) => Err(OpenError::Io { dir: self.look.place.dir().to_owned(), reason }),
            Err(error) => Err(error),
        }
    }

    /// What there is in it.
    ///
    /// # Errors
    /// When it is damaged.
    pub async fn inspect(&self) -> Result<Inspection, OpenError> {
        let journal = self.open()?;
        let inspection = Inspection::of(&*journal).await;
        journal.close().await;
        let mut inspection = inspection.map_err(|error| match error {
            Unavailable::Damaged(what) | Unavailable::Unreadable { reason: what, .. } => self.damaged(what),
            error => OpenError::Io { dir: self.look.place.dir().to_owned(), reason: error.to_string() },
        })?;
        inspection.last_stop = Some(self.look.last_stop().as_str());
        // Not what the copy takes.
        inspection.stats.disk_bytes = look::disk_bytes(&self.look.place.store()).unwrap_or(0);
        Ok(inspection)
    }

    /// Reads everything and says what is wrong.
    ///
    /// # Errors
    /// When the operating system refuses to read.
    pub fn verify(&self) -> Result<Verified, OpenError> {
        match verify::survey(&self.look) {
            Ok(survey) => Ok(survey.findings),
            Err(StoreError::Damaged(what)) => {
                let mut findings = Verified::default();
                findings.damage("unreadable", format!("the store cannot be opened: {what}"));
                Ok(findings)
            }
            Err(refused) => Err(OpenError::store(self.look.place.dir(), &refused)),
        }
    }

    /// Makes a new store of what can be read; `None` when nothing is wrong. With `dry_run` nothing is written.
    ///
    /// # Errors
    /// When the store cannot be opened at all, or the new one cannot be written. Nothing was changed then.
    pub fn repair(&self, dry_run: bool) -> Result<Option<Repaired>, OpenError> {
        let dir = self.look.place.dir();
        let survey = verify::survey(&self.look).map_err(|error| OpenError::store(dir, &error))?;
        if !survey.findings.damaged {
            return Ok(None);
        }
        repair::repair(&self.look, survey, dry_run).map(Some).map_err(|error| OpenError::store(dir, &error))
    }

    fn damaged(&self, what: String) -> OpenError {
        OpenError::Damaged { dir: self.look.place.dir().to_owned(), what }
    }
}

/// Clears away what was deleted from a stopped journal.
///
/// # Errors
/// When there is none, a node uses it, or it is damaged.
pub async fn compact(dir: &Path) -> Result<Compacted, OpenError> {
    let place = Place::take_existing(dir)?;
    let store = place.store();
    let weigh = || look::disk_bytes(&store).map_err(|error| OpenError::io(dir, &error));
    let bytes_before = weigh()?;
    drop(place);
    let journal = Embedded::open(&unbounded(), dir)?;
    let report = journal.maintain(Maintenance::Compact).await;
    journal.close().await;
    report.map_err(|error| OpenError::Io { dir: dir.to_owned(), reason: error.to_string() })?;
    Ok(Compacted { bytes_before, bytes_after: weigh()? })
}
