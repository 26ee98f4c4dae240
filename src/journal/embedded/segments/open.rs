//! Opens a log: reads all frames, and checks that all acknowledged commits are there.
//!
//! | the last valid frame is | the machine crashed, and syncs were not `always` | else |
//! |---|---|---|
//! | the last acknowledged one, or a later one | a new epoch begins | opened |
//! | before it, and not before the last synced one | a new epoch begins | damage |
//! | before the last synced one | damage | damage |
//!
//! Bytes after the last valid frame were never acknowledged, and are ignored. The next commit overwrites them.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    Files, JournalState, Location, NEXT, Options, Point, Segments,
    disk::{Disk, DiskFile},
    frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header, Item, NoFrame},
    high_water_mark::{self, HighWaterMark, HighWaterMarkFile},
    in_segment, name_of,
};
use crate::journal::embedded::store::StoreError;

/// Receives the items of all frames in order.
pub(in crate::journal::embedded) trait Visit {
    /// `location` is that of the body; it has no meaning for an item without a body. `before` and `after` are the
    /// values before and after the frame.
    fn item(&mut self, item: &Item<'_>, location: Location, before: &JournalState, after: &JournalState);
}

/// Reads frames of a file through a buffer.
pub(super) struct Reader<'a> {
    file: &'a dyn DiskFile,
    /// Position of the buffer in the file.
    position: u64,
    buffer: Vec<u8>,
    /// Number of bytes of the buffer that were taken.
    taken: usize,
}

/// A segment with a valid header.
struct Segment {
    header: Header,
    file: Arc<dyn DiskFile>,
}

/// Bytes per read.
const WINDOW: usize = 1 << 20;

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
        let names = disk.list().map_err(failed)?;
        let Some((high_water_mark_file, high_water_mark)) =
            open_high_water_mark(&*disk, &names, options).map_err(failed)?
        else {
            return Err(StoreError::Damaged("the file `MARK` is missing or damaged".into()));
        };
        let numbers = numbers(&names);
        let last_number = numbers.last().copied().unwrap_or(0);
        let mut segments = BTreeMap::new();
        for number in numbers.into_iter().filter(|number| *number >= high_water_mark.oldest) {
            let file = disk.open(&name_of(number)).map_err(failed)?;
            let header = read_header(&*file).map_err(failed)?;
            if let Some(header) = header.filter(|header| header.number == u64::from(number)) {
                segments.insert(number, Segment { header, file });
            }
        }
        if high_water_mark.acknowledged == 0 && !segments.contains_key(&high_water_mark.oldest) {
            return Self::begin(disk, options, (high_water_mark_file, high_water_mark), last_number, new_epoch);
        }
        let end = scan(&segments, &high_water_mark, options.boot, visit)?;
        let crashed = !high_water_mark.always && high_water_mark.machine_crashed(options.boot);
        let newest = segments.values().next_back().expect("without a segment the scan fails");
        for name in names.iter().filter(|name| number_of(name).is_some_and(|number| number < high_water_mark.oldest)) {
            // It was removed before a crash.
            disk.remove(name).map_err(failed)?;
        }
        let files = Files::default();
        segments.iter().for_each(|(number, segment)| files.add(*number, segment.file.clone()));
        let mut log = Self {
            epoch: newest.header.epoch,
            generation: newest.header.generation,
            active: newest.file.clone(),
            unsynced: segments.values().map(|segment| segment.file.clone()).collect(),
            disk,
            options,
            files: Arc::new(files),
            high_water_mark_file,
            high_water_mark,
            last_number,
            end,
            synced: end,
            unsynced_names: true,
            sync_failed: false,
            removal_stopped: false,
            buffer: Vec::new(),
        };
        if crashed {
            log.epoch = new_epoch;
            let (file, segment) = log.create(&end, &[], 0, options.always)?;
            log.install(file, Point { segment, position: in_segment(HEADER_BYTES), ..end });
        }
        log.begin_use()?;
        Ok(log)
    }

    /// Begins an empty log.
    fn begin(
        disk: Arc<dyn Disk>,
        options: Options,
        (high_water_mark_file, high_water_mark): (HighWaterMarkFile, HighWaterMark),
        last_number: u32,
        epoch: u64,
    ) -> Result<Self, StoreError> {
        let number = last_number + 1;
        let header = Header {
            number: number.into(),
            generation: 0,
            epoch,
            first_commit: 1,
            chain: epoch,
            state: JournalState::default(),
        };
        let file = create(&*disk, &header, &[], options.segment_bytes.into(), options.always);
        let file = file.map_err(|error| StoreError::io(&error))?;
        let end =
            Point { segment: number, position: in_segment(HEADER_BYTES), commit: 0, chain: epoch, state: header.state };
        let files = Files::default();
        files.add(number, file.clone());
        let mut log = Self {
            disk,
            options,
            files: Arc::new(files),
            high_water_mark_file,
            high_water_mark: HighWaterMark { oldest: number, ..high_water_mark },
            generation: 0,
            epoch,
            last_number: number,
            active: file.clone(),
            end,
            synced: end,
            unsynced: vec![file],
            unsynced_names: true,
            sync_failed: false,
            removal_stopped: false,
            buffer: Vec::new(),
        };
        log.begin_use()?;
        Ok(log)
    }

    /// Makes everything that was found durable, and records that the log is in use.
    fn begin_use(&mut self) -> Result<(), StoreError> {
        self.sync_files()?;
        self.synced = self.end;
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

/// Opens or creates `MARK`; `None` if it is missing or damaged.
fn open_high_water_mark(
    disk: &dyn Disk,
    names: &[String],
    options: Options,
) -> io::Result<Option<(HighWaterMarkFile, HighWaterMark)>> {
    let new = numbers(names).is_empty();
    if names.iter().any(|name| name == high_water_mark::NAME) {
        let (file, high_water_mark) = HighWaterMarkFile::open(disk)?;
        if let Some(high_water_mark) = high_water_mark {
            return Ok(Some((file, high_water_mark)));
        }
        // The process ended before the file was written for the first time.
        if !new || disk.open(high_water_mark::NAME)?.len()? > 0 {
            return Ok(None);
        }
    }
    if !new {
        return Ok(None);
    }
    let first = HighWaterMark { oldest: 1, always: options.always, boot: options.boot, ..HighWaterMark::default() };
    Ok(Some((HighWaterMarkFile::create(disk, first)?, first)))
}

/// Reads all frames that count. Returns the end of the log.
fn scan(
    segments: &BTreeMap<u32, Segment>,
    high_water_mark: &HighWaterMark,
    boot: u128,
    visit: &mut dyn Visit,
) -> Result<Point, StoreError> {
    let crashed = !high_water_mark.always && high_water_mark.machine_crashed(boot);
    if !segments.contains_key(&high_water_mark.oldest) {
        let what = format!("the oldest segment, `{}`, is missing or damaged", name_of(high_water_mark.oldest));
        return Err(StoreError::Damaged(what));
    }
    let mut end = None;
    for (number, segment) in segments {
        let Header { first_commit, chain, state, .. } = segment.header;
        // A later segment replaces the commits of this one from its first commit on.
        let later = segments.range(number + 1..).map(|(_, later)| later.header.first_commit);
        let limit = later.min().map_or(u64::MAX, |first| first - 1);
        if first_commit > limit {
            continue;
        }
        let begin =
            Point { segment: *number, position: in_segment(HEADER_BYTES), commit: first_commit - 1, chain, state };
        let before: &mut Point = end.get_or_insert(begin);
        if (before.commit, before.chain) != (begin.commit, begin.chain) {
            break;
        }
        *before = begin;
        read_frames(segment, before, limit, visit).map_err(|error| StoreError::io(&error))?;
    }
    let end = end.expect("the newest segment is not replaced");
    let Point { segment, position, commit, .. } = end;
    let has = if crashed { high_water_mark.synced } else { high_water_mark.acknowledged };
    // The newest segment follows the last frame, so the chain was not broken before it.
    let complete = segments.last_key_value().is_some_and(|(newest, _)| *newest == segment);
    if commit < has || !complete && !crashed {
        let name = name_of(segment);
        let what = format!(
            "commit {} was acknowledged, and the log ends with commit {commit} at byte {position} of `{name}`",
            has.max(commit + 1)
        );
        return Err(StoreError::Damaged(what));
    }
    Ok(end)
}

/// Reads the frames of a segment up to a commit.
fn read_frames(segment: &Segment, end: &mut Point, limit: u64, visit: &mut dyn Visit) -> io::Result<()> {
    let mut reader = Reader::new(&*segment.file, end.position.into());
    while end.commit < limit {
        let Ok(frame) = reader.frame(end)? else { return Ok(()) };
        let after = end.after(&frame);
        let mut position = end.position + in_segment(frame.bodies_at);
        for item in &frame.items {
            visit.item(item, Location { segment: end.segment, position }, &end.state, &after.state);
            position += item.body().map_or(0, |body| body.length);
        }
        let length = frame.length;
        reader.take(length);
        *end = after;
    }
    Ok(())
}

/// Reads the header of a segment; `None` if it is not valid.
pub(super) fn read_header(file: &dyn DiskFile) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    match file.read_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        result => result.map(|()| Header::decode(&bytes)),
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
        file.write_at(&[&header.encode(), frames].concat(), 0)?;
        if sync {
            file.sync()?;
        }
        disk.rename(NEXT, &name_of(number))
    };
    make().inspect_err(|_| drop(disk.remove(NEXT)))?;
    Ok(file)
}

/// The numbers of all segments, in order.
fn numbers(names: &[String]) -> Vec<u32> {
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    numbers
}

fn number_of(name: &str) -> Option<u32> {
    name.strip_suffix(".seg")?.parse().ok()
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, position: u64) -> Self {
        Self { file, position, buffer: Vec::new(), taken: 0 }
    }

    /// The frame after a point, where the reader is.
    pub(super) fn frame(&mut self, after: &Point) -> io::Result<Result<Frame<'_>, NoFrame>> {
        self.fill(FRAME_BYTES)?;
        if let Some(length) = Frame::announced_length(&self.buffer[self.taken..]) {
            self.fill(length)?;
        }
        Ok(Frame::decode(&self.buffer[self.taken..], after.commit, after.chain, &after.state))
    }

    /// Moves the reader behind this many bytes, which [`frame`](Self::frame) has read. Returns them.
    pub(super) fn take(&mut self, bytes: usize) -> &[u8] {
        self.taken += bytes;
        &self.buffer[self.taken - bytes..self.taken]
    }

    /// Fills the buffer with at least this many bytes, if the file has them.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        let buffered = self.buffer.len() - self.taken;
        if buffered >= bytes {
            return Ok(());
        }
        self.buffer.drain(..self.taken);
        self.position += self.taken as u64;
        self.taken = 0;
        let rest = self.file.len()?.saturating_sub(self.position + buffered as u64);
        let wanted = (bytes - buffered).max(WINDOW);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(wanted);
        self.buffer.resize(buffered + length, 0);
        self.file.read_at(&mut self.buffer[buffered..], self.position + buffered as u64)
    }
}
