//! Opens a log for writing: a new one, or one that was read.

use std::{io, sync::Arc};

use super::{
    JournalState, NEXT, Options, Point, Segments,
    disk::{Disk, DiskFile},
    frame::{Draft, HEADER_BYTES, Header},
    high_water_mark::{self, HighWaterMark, HighWaterMarkFile},
    in_segment, name_of, number_of,
    scan::{Scan, Visit},
};
use crate::journal::embedded::StoreError;

// === impl Segments ===

impl Segments {
    /// Opens the log in a directory, which is created if the directory is empty. `visit` receives all items.
    /// `new_epoch` is used if the log is new, or if acknowledged commits may be lost.
    ///
    /// # Errors
    /// If acknowledged commits are missing or damaged, or the disk fails. The files have not changed then.
    pub(in crate::journal::embedded) fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        new_epoch: u64,
        visit: &mut dyn Visit,
    ) -> Result<Self, StoreError> {
        let failed = |error: io::Error| StoreError::io(&error);
        let mut scan = Scan::of(&*disk, options.boot).map_err(failed)?;
        let content = scan.read_intact(visit)?;
        scan.forget_replaced();
        let high_water_mark = scan.high_water_mark.clone().expect("an intact log has one");
        let names = disk.list().map_err(failed)?;
        let high_water_mark_file = if names.iter().any(|name| name == high_water_mark::NAME) {
            HighWaterMarkFile::open(&*disk).map(|(file, _)| file)
        } else {
            let first = HighWaterMark { always: options.always, boot: options.boot, ..high_water_mark };
            HighWaterMarkFile::create(&*disk, first)
        };
        let high_water_mark_file = high_water_mark_file.map_err(failed)?;
        let newest = scan.segments.last_key_value().map(|(_, newest)| newest);
        if newest.is_some() {
            let unused = |name: &&String| number_of(name).is_some_and(|number| !scan.segments.contains_key(&number));
            for name in names.iter().filter(unused) {
                // It was removed or replaced before a crash, or belongs to a copy that was not completed.
                disk.remove(name).map_err(failed)?;
            }
        }
        let (epoch, generation) =
            newest.map_or((new_epoch, 0), |newest| (newest.header.epoch, newest.header.generation));
        let nothing = Point { segment: 0, position: 0, commit: 0, chain: new_epoch, state: JournalState::default() };
        let end = content.end.filter(|_| newest.is_some()).unwrap_or(nothing);
        let mut log = Self {
            epoch,
            generation,
            reserved: newest.map_or(Ok(0), |newest| newest.file.len()).map_err(failed)?,
            unsynced: scan.segments.iter().map(|(number, segment)| (*number, segment.file.clone())).collect(),
            disk,
            options,
            files: Arc::new(scan.files()),
            high_water_mark_file,
            high_water_mark,
            last_number: scan.last_number,
            named: 0,
            end,
            synced: end,
            sync_failed: false,
            removal_stopped: false,
            buffer: Vec::new(),
        };
        if newest.is_none() || scan.crashed {
            log.epoch = new_epoch;
            let (file, segment) = log.create(&end, &[], 0, options.always)?;
            log.install(file, Point { segment, position: in_segment(HEADER_BYTES), ..end });
            if newest.is_none() {
                log.high_water_mark.oldest = segment;
            } else {
                // With a commit in the segment, damage of its header is detected and does not bring the old epoch back.
                let mut draft = Draft::default();
                draft.begin(end.state, false);
                log.commit(&draft)?;
            }
        }
        log.begin_use()?;
        Ok(log)
    }

    /// Makes everything that was found durable, and records that the log is in use.
    fn begin_use(&mut self) -> Result<(), StoreError> {
        self.sync_files()?;
        let high_water_mark = HighWaterMark {
            acknowledged: self.end.commit,
            synced: self.end.commit,
            oldest: self.high_water_mark.oldest,
            clean: false,
            always: self.options.always,
            boot: self.options.boot,
        };
        // Both slots: the older one may name a commit that was lost.
        self.write_high_water_mark(high_water_mark)?;
        self.write_high_water_mark(high_water_mark)?;
        self.high_water_mark_file.sync().map_err(|error| StoreError::io(&error))
    }
}

/// Creates a segment with this header and these frames. With `sync` they are on the disk before the file has its name.
pub(super) fn create(
    disk: &dyn Disk,
    header: &Header,
    frames: &[u8],
    length: u64,
    sync: bool,
) -> io::Result<Arc<dyn DiskFile>> {
    let number = u32::try_from(header.number).expect("segments have numbers of 32 bits");
    let file = disk.create(NEXT)?;
    let make = || {
        file.reserve(length)?;
        file.write_at(&header.encode(), 0)?;
        if !frames.is_empty() {
            file.write_at(frames, HEADER_BYTES as u64)?;
        }
        if sync {
            file.sync()?;
        }
        disk.rename(NEXT, &name_of(number))
    };
    make().inspect_err(|_| drop(disk.remove(NEXT)))?;
    Ok(file)
}
