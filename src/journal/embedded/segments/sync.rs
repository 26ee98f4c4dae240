//! Syncs: the moment from which commits outlive a crash of the machine, and the recovery after a failed one.

use std::{io, sync::Arc};

use super::{
    Location, Point, Segments,
    disk::{Disk, DiskFile},
    frame::HEADER_BYTES,
    high_water_mark::HighWaterMark,
    in_segment, name_of,
    reader::{self, Reader},
};
use crate::journal::{embedded::StoreError, log::Stored};

/// A sync that runs without the log, so that commits continue beside it.
pub(in crate::journal::embedded) struct Sync {
    disk: Arc<dyn Disk>,
    files: Vec<Arc<dyn DiskFile>>,
    /// The names of all segments up to this number are synced too.
    names: Option<u32>,
    through: Point,
}

/// Bytes that were copied to another location, with all bodies in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal::embedded) struct Copied {
    pub from: Location,
    pub bytes: u32,
    pub to: Location,
}

// === impl Segments ===

impl Segments {
    /// Begins a sync of all commits; `None` if all are on the disk.
    pub(in crate::journal::embedded) fn begin_sync(&self) -> Option<Sync> {
        let (end, last_number) = (self.end, self.last_number);
        let names = (self.named < last_number).then_some(last_number);
        if self.sync_failed || (self.synced.commit == end.commit && names.is_none()) {
            return None;
        }
        let files = self.unsynced.iter().map(|(_, file)| file.clone()).collect();
        Some(Sync { disk: self.disk.clone(), files, names, through: end })
    }

    /// Ends a sync with its result.
    ///
    /// # Errors
    /// If it failed. Nothing can be written then before [`recover`](Self::recover).
    pub(in crate::journal::embedded) fn end_sync(
        &mut self,
        sync: &Sync,
        result: io::Result<()>,
    ) -> Result<(), StoreError> {
        if let Err(error) = result {
            self.sync_failed = true;
            return Err(StoreError::io(&error));
        }
        // After a recovery beside it, the commits are in another segment.
        if self.synced.commit < sync.through.commit && sync.through.segment >= self.synced.segment {
            self.synced = sync.through;
        }
        self.named = self.named.max(sync.names.unwrap_or(0));
        self.unsynced.retain(|(number, _)| *number >= sync.through.segment);
        self.write_high_water_mark(HighWaterMark { synced: self.synced.commit, ..self.high_water_mark })
    }

    /// Waits until all commits are on the disk.
    ///
    /// # Errors
    /// If the disk fails. Nothing can be written then before [`recover`](Self::recover).
    pub(in crate::journal::embedded) fn sync(&mut self) -> Result<(), StoreError> {
        self.check_sync()?;
        match self.begin_sync() {
            Some(sync) => self.end_sync(&sync, sync.run()),
            None => Ok(()),
        }
    }

    /// Continues after a failed sync: copies the commits that are not on the disk to a new segment. Returns the
    /// locations of the copies. Holds all these commits in memory.
    ///
    /// # Errors
    /// If the commits cannot be read any more, or the disk still fails. It may be called again.
    pub(in crate::journal::embedded) fn recover(&mut self) -> Result<Vec<Copied>, StoreError> {
        let lost = |segment: u32| {
            let what =
                format!("commits after {} in segment {segment} are lost after a failed sync", self.synced.commit);
            StoreError::Damaged(what)
        };
        let mut frames = Vec::new();
        let mut copied = Vec::new();
        let mut point = self.synced;
        for (segment, file) in self.files.from(self.synced.segment) {
            if segment != point.segment {
                let header = reader::read_header(&*file).map_err(|error| StoreError::io(&error))?;
                // A segment of an earlier attempt, or one without a commit.
                let Some(_) = header.filter(|header| header.chain == point.chain) else { continue };
                point = Point { segment, position: in_segment(HEADER_BYTES), ..point };
            }
            let from = Location { segment, position: point.position };
            let begins = frames.len();
            let mut reader = Reader::new(&*file, point.position.into());
            while point.commit < self.end.commit {
                let Some(frame) = reader.frame(&point).map_err(|error| StoreError::io(&error))? else { break };
                let (next, length) = (point.after(&frame), frame.length);
                frames.extend_from_slice(reader.take(length));
                point = next;
            }
            let bytes = in_segment(frames.len() - begins);
            if bytes > 0 {
                copied.push((from, bytes, begins));
            }
        }
        if point.commit != self.end.commit {
            return Err(lost(point.segment));
        }
        let (file, segment) = self.create(&self.synced, &frames, 0, true)?;
        let first = in_segment(HEADER_BYTES);
        let end = Point { segment, position: first + in_segment(frames.len()), ..point };
        self.unsynced.clear();
        self.install(file, end);
        self.disk.sync().map_err(|error| StoreError::io(&error))?;
        self.named = segment;
        self.sync_failed = false;
        // The new segment replaces all after the one with the last sync. `MARK` must never name one of them as the
        // oldest, since a loss of the commits before it would not be detected. If a removal fails, the next opening
        // repeats it.
        for (number, _) in self.files.from(self.synced.segment + 1).into_iter().filter(|(number, _)| *number < segment)
        {
            self.files.remove(number);
            let _ = self.disk.remove(&name_of(number));
        }
        self.synced = end;
        // The copies are in use, so the caller needs their locations. An error only leaves a mark that promises less.
        let _ = self.write_high_water_mark(HighWaterMark { synced: end.commit, ..self.high_water_mark });
        let location = |begins: usize| Location { segment, position: first + in_segment(begins) };
        Ok(copied.into_iter().map(|(from, bytes, begins)| Copied { from, bytes, to: location(begins) }).collect())
    }

    pub(super) fn check_sync(&self) -> Result<(), StoreError> {
        match self.sync_failed {
            true => Err(StoreError::Disk("an earlier sync failed".into())),
            false => Ok(()),
        }
    }

    /// Syncs all files, and the names of new ones.
    pub(super) fn sync_files(&mut self) -> Result<(), StoreError> {
        let names = (self.named < self.last_number).then_some(self.last_number);
        let files = self.unsynced.iter().map(|(_, file)| file.clone()).collect();
        let sync = Sync { disk: self.disk.clone(), files, names, through: self.end };
        sync.run().map_err(|error| {
            self.sync_failed = true;
            StoreError::io(&error)
        })?;
        self.named = self.last_number;
        // The active file is written to again.
        self.unsynced.drain(..self.unsynced.len() - 1);
        self.synced = self.end;
        Ok(())
    }
}

// === impl Sync ===

impl Sync {
    /// Waits until the files and names are on the disk.
    pub(in crate::journal::embedded) fn run(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync())?;
        if self.names.is_some() { self.disk.sync() } else { Ok(()) }
    }
}

// === impl Copied ===

impl Copied {
    /// The new location of a body; `None` if it was not copied.
    pub(in crate::journal::embedded) fn moved(&self, stored: Stored) -> Option<Stored> {
        let distance = stored.position.checked_sub(self.from.position)?;
        let copied = stored.segment == self.from.segment && distance < self.bytes;
        copied.then(|| Stored { segment: self.to.segment, position: self.to.position + distance, ..stored })
    }
}
