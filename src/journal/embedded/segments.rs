//! A log of segments: commits are appended to files, and only the oldest file is ever removed.
//!
//! ```text
//!  commit ──> frame ──write──> active segment ──(sync)──> MARK ──> acknowledged
//!                                   │ full
//!  0000000007.seg  0000000008.seg  0000000009.seg          MARK: acknowledged, synced, oldest
//!   oldest: its live items are     active: reserved,
//!   moved, then it is removed      appended to
//! ```
//!
//! It promises: an opening returns every acknowledged commit, or fails and changes nothing. After a crash of the
//! machine the promise covers the commits that were on the disk; then a new epoch begins. Damage of acknowledged data
//! is always detected, because the frames are chained and `MARK` has the number of the last commit.
//!
//! A commit that fails changes nothing: the next one is written to the same position. After a failed sync the file is
//! never synced again, since the operating system may have dropped its content: [`Segments::recover`] continues in a
//! new file.

use std::{io, sync::Arc};

use super::StoreError;
use crate::journal::log::Stored;

mod disk;
mod files;
mod frame;
pub(super) mod high_water_mark;
mod open;
mod reader;
mod scan;
mod state;
mod sync;

#[cfg(test)]
mod tests;

pub(super) use self::{
    disk::Directory,
    files::Files,
    frame::{Body, Draft, Extra, Item},
    scan::{Scan, Visit},
    state::{Field, JournalState},
    sync::Sync,
};
use self::{
    disk::{Disk, DiskFile},
    frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header},
    high_water_mark::{HighWaterMark, HighWaterMarkFile},
};

/// The log, and what it has written. One thread appends; readers use [`Files`].
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    options: Options,
    files: Arc<Files>,
    high_water_mark_file: HighWaterMarkFile,
    high_water_mark: HighWaterMark,
    generation: u64,
    epoch: u64,
    /// The greatest number of a segment.
    last_number: u32,
    /// The names of all segments up to this number are on the disk.
    named: u32,
    /// The end of the log.
    end: Point,
    /// Reserved bytes of the active segment.
    reserved: u64,
    /// Everything before it is on the disk.
    synced: Point,
    /// Files that may have commits after `synced`, oldest first. The last one is the active segment.
    unsynced: Vec<(u32, Arc<dyn DiskFile>)>,
    /// True after a sync failed, until [`Segments::recover`].
    sync_failed: bool,
    /// True after a sync of `MARK` failed: segments are not removed any more, since the file may name a removed one.
    removal_stopped: bool,
    /// Memory for frames.
    buffer: Vec<u8>,
}

/// Settings of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Size of a segment in bytes. A larger frame has a segment of its own.
    pub segment_bytes: u32,
    /// True if each commit is on the disk before it is acknowledged.
    pub always: bool,
    /// The boot of the machine; 0 if it is unknown.
    pub boot: u128,
}

/// A position between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    segment: u32,
    position: u32,
    commit: u64,
    chain: u64,
    state: JournalState,
}

/// The location of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Location {
    pub segment: u32,
    pub position: u32,
}

/// The name of a segment that is being created.
const NEXT: &str = "next.tmp";
/// Maximum length of a frame. Positions in a segment have 32 bits.
const MAX_FRAME_BYTES: usize = 1 << 30;
/// Space is reserved in steps: the reserved length doubles up to this step.
const RESERVE_BYTES: u64 = 4 << 20;
const FIRST_RESERVE_BYTES: u64 = 256 << 10;
const MAX_SPARE_BYTES: usize = 64 << 10;

// === impl Segments ===

impl Segments {
    /// Number of the last commit.
    pub(super) fn commit_number(&self) -> u64 {
        self.end.commit
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn state(&self) -> JournalState {
        self.end.state
    }

    pub(super) fn files(&self) -> Arc<Files> {
        self.files.clone()
    }

    /// Number of the last commit that is on the disk.
    pub(super) fn synced_commit(&self) -> u64 {
        self.synced.commit
    }

    /// The bytes that are not on the disk, about.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        let segments = u64::from(self.end.segment - self.synced.segment) * u64::from(self.options.segment_bytes);
        (segments + u64::from(self.end.position)).saturating_sub(self.synced.position.into())
    }

    /// Number of the oldest segment, and of the active one.
    pub(super) fn numbers(&self) -> (u32, u32) {
        (self.high_water_mark.oldest, self.end.segment)
    }

    /// Bytes of the frames in the active segment.
    pub(super) fn active_bytes(&self) -> u32 {
        self.end.position
    }

    /// Size of a segment in bytes.
    pub(super) fn segment_bytes(&self) -> u32 {
        self.options.segment_bytes
    }

    /// True if a sync failed. Nothing can be written then before [`recover`](Self::recover).
    pub(super) fn needs_recovery(&self) -> bool {
        self.sync_failed
    }

    /// Writes a commit. When it returns, the commit is as durable as the settings promise. Returns the location of its
    /// first body; the others follow it.
    ///
    /// # Errors
    /// If the disk fails. Nothing has changed then. If the disk also rejects the removal of the frame, the commit may be
    /// in the log again after the process was killed.
    pub(super) fn commit(&mut self, draft: &Draft) -> Result<Location, StoreError> {
        self.check_sync()?;
        if draft.max_length() > MAX_FRAME_BYTES {
            return Err(StoreError::Io(format!("a commit has more than {MAX_FRAME_BYTES} bytes")));
        }
        self.make_room(draft.max_length(), if draft.adds_data() { self.spare_bytes() } else { 0 })?;
        let mut end = self.end;
        end.commit += 1;
        end.state = draft.state();
        let mut buffer = std::mem::take(&mut self.buffer);
        let (chain, bodies_at) = draft.encode(&self.end.state, end.commit, self.end.chain, &mut buffer);
        let written = self.active().write_at(&buffer, self.end.position.into());
        end.chain = chain;
        end.position += in_segment(buffer.len());
        self.buffer = buffer;
        self.buffer.shrink_to(frame::KEPT_BYTES);
        let done = written.map_err(|error| StoreError::io(&error)).and_then(|()| self.acknowledge(end));
        if let Err(error) = done {
            // The frame may be complete. A rejected commit must not be there after a restart.
            let _ = self.active().write_at(&[0; FRAME_BYTES], self.end.position.into());
            return Err(error);
        }
        let position = self.end.position + in_segment(bodies_at);
        self.end = end;
        if self.options.always {
            self.synced = end;
        }
        Ok(Location { segment: end.segment, position })
    }

    /// Makes a written commit as durable as the settings promise, and records it in `MARK`.
    fn acknowledge(&mut self, end: Point) -> Result<(), StoreError> {
        if self.options.always {
            self.sync_files()?;
        }
        let synced = if self.options.always { end.commit } else { self.high_water_mark.synced };
        let high_water_mark = HighWaterMark { acknowledged: end.commit, synced, clean: false, ..self.high_water_mark };
        self.write_high_water_mark(high_water_mark)
    }

    /// Removes the oldest segment, of which nothing may be live any more: its live items were moved by later commits. These
    /// commits, and those that deleted the others, must be on the disk. Does nothing if it is the active one.
    ///
    /// # Errors
    /// If the disk fails. The segment is kept then, or is removed by the next opening.
    pub(super) fn remove_oldest(&mut self) -> Result<(), StoreError> {
        let oldest = self.high_water_mark.oldest;
        if oldest == self.end.segment {
            return Ok(());
        }
        if self.removal_stopped {
            return Err(StoreError::Disk("`MARK` could not be written to the disk; restart the node".into()));
        }
        self.check_sync()?;
        let next = self.files.from(oldest + 1).first().map_or(self.end.segment, |(number, _)| *number);
        self.write_high_water_mark(HighWaterMark { oldest: next, ..self.high_water_mark })?;
        if let Err(error) = self.high_water_mark_file.sync() {
            self.removal_stopped = true;
            return Err(StoreError::io(&error));
        }
        self.files.remove(oldest);
        // If this fails, the next opening removes the file.
        self.disk.remove(&name_of(oldest)).map_err(|error| StoreError::io(&error))
    }

    /// Waits until everything is on the disk, and records a clean stop.
    ///
    /// # Errors
    /// If the disk fails. The next opening then treats the stop as a crash.
    pub(super) fn close(mut self) -> Result<(), StoreError> {
        self.sync()?;
        let clean = HighWaterMark { clean: true, ..self.high_water_mark };
        // Both slots, so that damage of one does not hide the clean stop.
        self.write_high_water_mark(clean)?;
        self.write_high_water_mark(clean)?;
        self.high_water_mark_file.sync().map_err(|error| StoreError::io(&error))
    }

    /// The files for a verification, which runs without the log. It reads them up to the last commit.
    pub(super) fn scan(&self) -> io::Result<Scan> {
        Scan::of_open(self.high_water_mark, self.files.from(self.high_water_mark.oldest))
    }

    /// Begins a new segment, unless the active one is empty.
    ///
    /// # Errors
    /// If the disk fails. The active segment stays in use then.
    pub(super) fn rotate(&mut self) -> Result<(), StoreError> {
        self.check_sync()?;
        if self.end.position as usize == HEADER_BYTES { Ok(()) } else { self.begin_segment(0) }
    }

    /// Bytes that only deletions may use, so that they are possible on a full disk.
    fn spare_bytes(&self) -> usize {
        (self.options.segment_bytes as usize / 64).min(MAX_SPARE_BYTES)
    }

    /// Begins a new segment if the active one has no room for a frame, and reserves space for it and the spare bytes.
    fn make_room(&mut self, bytes: usize, spare: usize) -> Result<(), StoreError> {
        let room = (self.options.segment_bytes as usize).saturating_sub(self.end.position as usize);
        if bytes + spare > room && self.end.position as usize > HEADER_BYTES {
            return self.begin_segment(bytes + spare);
        }
        let needed = u64::from(self.end.position) + (bytes + spare) as u64;
        if needed > self.reserved {
            let length = self.length_for(needed);
            self.active().reserve(length).map_err(|error| StoreError::io(&error))?;
            self.reserved = length;
        }
        Ok(())
    }

    fn begin_segment(&mut self, room: usize) -> Result<(), StoreError> {
        let (file, segment) = self.create(&self.end, &[], room, self.options.always)?;
        self.install(file, Point { segment, position: in_segment(HEADER_BYTES), ..self.end });
        Ok(())
    }

    /// The length to reserve for this number of bytes.
    fn length_for(&self, bytes: u64) -> u64 {
        let step = bytes.next_power_of_two().clamp(FIRST_RESERVE_BYTES, RESERVE_BYTES);
        bytes.next_multiple_of(step).min(self.options.segment_bytes.into()).max(bytes)
    }

    /// Creates a segment after a point with these frames, and with room for a frame of `room` bytes. With `sync` the
    /// content is on the disk when this returns, but not the name.
    fn create(
        &self,
        after: &Point,
        frames: &[u8],
        room: usize,
        sync: bool,
    ) -> Result<(Arc<dyn DiskFile>, u32), StoreError> {
        let number = self.last_number + 1;
        let header = Header {
            number: number.into(),
            generation: self.generation,
            epoch: self.epoch,
            first_commit: after.commit + 1,
            chain: after.chain,
            state: after.state,
        };
        let length = self.length_for((HEADER_BYTES + frames.len() + room) as u64);
        open::create(&*self.disk, &header, frames, length, sync)
            .map(|file| (file, number))
            .map_err(|error| StoreError::io(&error))
    }

    /// Appends to this segment from now on.
    fn install(&mut self, file: Arc<dyn DiskFile>, end: Point) {
        self.files.add(end.segment, file.clone());
        // If it is unknown, the next commit reserves space again.
        self.reserved = file.len().unwrap_or(0);
        self.unsynced.push((end.segment, file));
        self.last_number = end.segment;
        self.end = end;
    }

    fn active(&self) -> &dyn DiskFile {
        let (_, active) = self.unsynced.last().expect("the active segment is always in it");
        &**active
    }

    fn write_high_water_mark(&mut self, high_water_mark: HighWaterMark) -> Result<(), StoreError> {
        self.high_water_mark_file.write(high_water_mark).map_err(|error| StoreError::io(&error))?;
        self.high_water_mark = high_water_mark;
        Ok(())
    }
}

// === impl Location ===

impl Location {
    /// The body at this location.
    pub(super) fn of(self, body: Option<Body>) -> Stored {
        let Body { length, checksum } = body.unwrap_or_default();
        Stored { segment: self.segment, position: self.position, length, checksum }
    }
}

// === impl Point ===

impl Point {
    fn after(&self, frame: &Frame<'_>) -> Self {
        Self {
            segment: self.segment,
            position: self.position + in_segment(frame.length),
            commit: frame.commit,
            chain: frame.chain,
            state: frame.state,
        }
    }
}

/// The name of a segment's file.
pub(super) fn name_of(number: u32) -> String {
    format!("{number:010}.seg")
}

/// The number of a segment's file; `None` for other files.
fn number_of(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (name_of(number) == name).then_some(number)
}

/// A length or a position within a segment.
fn in_segment(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a segment is shorter than 4 GiB")
}
