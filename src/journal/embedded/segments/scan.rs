//! Reads a log without changing it: everything that can be read, and the damage.
//!
//! | the last valid frame is | the machine crashed, and syncs were not `always` | else |
//! |---|---|---|
//! | the last acknowledged one, or a later one | a new epoch begins | opened |
//! | before it, and not before the last synced one | a new epoch begins | damage |
//! | before the last synced one | damage | damage |
//!
//! Bytes after the last valid frame were never acknowledged, and are ignored. The next commit overwrites them. A body
//! that has changed in an acknowledged frame does not prevent the opening: its event or record cannot be read.
//!
//! A frame that cannot be read hides the values that it changes, but not the frames after it: their checks show where
//! they begin. The header of the next segment has all values again.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use super::{
    Files, JournalState, Location, Point,
    disk::{Disk, DiskFile},
    frame::{Frame, HEADER_BYTES, Header, Item},
    high_water_mark::{self, HighWaterMark, HighWaterMarkFile},
    in_segment, name_of, number_of,
    reader::{self, Reader},
};
use crate::journal::{embedded::StoreError, log::Stored};

/// Receives the items of all frames in order.
pub(in crate::journal::embedded) trait Visit {
    /// `stored` is the body; it has no meaning for an item without a body. `before` and `after` are the values before and
    /// after the frame.
    fn item(&mut self, item: &Item<'_>, stored: Stored, before: &JournalState, after: &JournalState);

    /// This body of an item has changed.
    fn damaged(&mut self, _: Stored) {}
}

/// The open files of a log.
pub(in crate::journal::embedded) struct Scan {
    /// The error is the damage of `MARK`.
    pub high_water_mark: Result<HighWaterMark, String>,
    /// The segments that are in use.
    pub(super) segments: BTreeMap<u32, Segment>,
    /// Segments without a valid header.
    headless: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// The greatest number of a file.
    pub(super) last_number: u32,
    /// True if commits may be missing because the machine crashed.
    pub(super) crashed: bool,
    /// Commits up to this number must be there.
    promised: u64,
    /// Later commits are not read.
    limit: u64,
}

/// A segment with a valid header.
pub(super) struct Segment {
    pub header: Header,
    pub file: Arc<dyn DiskFile>,
}

/// The result of reading a log.
#[derive(Debug, Default)]
pub(in crate::journal::embedded) struct Content {
    /// `None` if the log is empty.
    pub(super) end: Option<Point>,
    /// The damage, each with the affected file and commits. Damaged bodies are not in it.
    pub damage: Vec<String>,
}

// === impl Scan ===

impl Scan {
    /// Opens the log in a directory. `boot` is that of the machine.
    ///
    /// # Errors
    /// If the operating system cannot read the files.
    pub(in crate::journal::embedded) fn of(disk: &dyn Disk, boot: u128) -> io::Result<Self> {
        let names = disk.list()?;
        let high_water_mark = read_high_water_mark(disk, &names)?;
        let known = high_water_mark.as_ref().ok();
        let oldest = known.map_or(0, |known| known.oldest);
        let numbers = names.iter().filter_map(|name| number_of(name));
        let files = numbers.clone().filter(|number| *number >= oldest);
        let files = files.map(|number| disk.open(&name_of(number)).map(|file| (number, file)));
        let (mut segments, headless) = read_headers(files.collect::<io::Result<Vec<_>>>()?)?;
        if known.is_some_and(|known| known.acknowledged == 0 && !segments.contains_key(&oldest)) {
            // Nothing was committed yet.
            segments.clear();
        }
        Ok(Self {
            crashed: known.is_some_and(|known| known.may_have_lost(boot)),
            promised: known.map_or(u64::MAX, |known| known.promised(boot)),
            limit: u64::MAX,
            high_water_mark,
            segments,
            headless,
            last_number: numbers.max().unwrap_or(0),
        })
    }

    /// A log in use, with its open files. It is read up to the last commit.
    pub(super) fn of_open(high_water_mark: HighWaterMark, files: Vec<(u32, Arc<dyn DiskFile>)>) -> io::Result<Self> {
        let (segments, headless) = read_headers(files)?;
        let limit = high_water_mark.acknowledged;
        let high_water_mark = Ok(high_water_mark);
        Ok(Self { high_water_mark, segments, headless, last_number: 0, crashed: false, promised: limit, limit })
    }

    /// The files, for readers.
    pub(in crate::journal::embedded) fn files(&self) -> Files {
        let files = Files::default();
        self.segments.iter().for_each(|(number, segment)| files.add(*number, segment.file.clone()));
        self.headless.iter().for_each(|(number, file)| files.add(*number, file.clone()));
        files
    }

    /// Forgets the segments of which no commit counts: all were copied after a failed sync.
    pub(super) fn forget_replaced(&mut self) {
        let replaced = |(number, segment): (&u32, &Segment)| {
            (segment.header.first_commit > last_commit(&self.segments, *number)).then_some(*number)
        };
        let replaced: Vec<u32> = self.segments.iter().filter_map(replaced).collect();
        self.segments.retain(|number, _| !replaced.contains(number));
    }

    /// The epoch of the newest segment; `None` in an empty log.
    pub(in crate::journal::embedded) fn epoch(&self) -> Option<u64> {
        self.segments.last_key_value().map(|(_, newest)| newest.header.epoch)
    }

    /// Reads a log that must not be damaged. `visit` receives all items.
    ///
    /// # Errors
    /// If acknowledged commits are missing or damaged, or the disk fails.
    pub(in crate::journal::embedded) fn read_intact(&self, visit: &mut dyn Visit) -> Result<Content, StoreError> {
        let high_water_mark = self.high_water_mark.as_ref().map_err(|what| StoreError::Damaged(what.clone()))?;
        let content = self.read(visit).map_err(|error| StoreError::io(&error))?;
        if let Some(what) = content.damage.first() {
            let acknowledged = high_water_mark.acknowledged;
            return Err(StoreError::Damaged(format!("commit {acknowledged} was acknowledged, and {what}")));
        }
        match self.lost(&content) {
            Some((what, true)) => Err(StoreError::Damaged(what)),
            _ => Ok(content),
        }
    }

    /// Reads everything that can be read. `visit` receives all items.
    ///
    /// # Errors
    /// If the disk fails.
    pub(in crate::journal::embedded) fn read(&self, visit: &mut dyn Visit) -> io::Result<Content> {
        let mut content = Content::default();
        let numbers: BTreeSet<u32> = self.segments.keys().chain(self.headless.keys()).copied().collect();
        if let Ok(HighWaterMark { acknowledged: 1.., oldest, .. }) = &self.high_water_mark
            && !numbers.contains(oldest)
        {
            content.damage.push(format!("the oldest segment, `journal/{}`, is missing", name_of(*oldest)));
        }
        for number in numbers {
            let end = content.end;
            let complete = end.is_some_and(|end| end.commit >= self.promised);
            let limit = last_commit(&self.segments, number).min(self.limit);
            let begin = |commit, chain, state| Point {
                segment: number,
                position: in_segment(HEADER_BYTES),
                commit,
                chain,
                state,
            };
            let (file, begin) = match self.segments.get(&number) {
                Some(Segment { header, .. }) if header.first_commit > limit => continue,
                Some(Segment { header, file }) => {
                    let begin = begin(header.first_commit - 1, header.chain, header.state);
                    if let Some(end) = end.filter(|end| (end.commit, end.chain) != (begin.commit, begin.chain)) {
                        if complete {
                            break;
                        }
                        content.damage.push(missing(&end, begin.commit));
                    }
                    (file, begin)
                }
                // The process ended before the header was written.
                None if complete => continue,
                None => {
                    content.damage.push(format!("the header of `journal/{}` is damaged", name_of(number)));
                    let (commit, state) = end.map_or((0, JournalState::default()), |end| (end.commit, end.state));
                    // The chain of its first frame is unknown.
                    (&self.headless[&number], begin(commit, 0, state))
                }
            };
            content.end = Some(self.read_frames(&**file, begin, limit, visit, &mut content.damage)?);
        }
        Ok(content)
    }

    /// The missing commits at the end of the log, if there are any, and whether that is damage.
    pub(in crate::journal::embedded) fn lost(&self, content: &Content) -> Option<(String, bool)> {
        let acknowledged = self.high_water_mark.as_ref().ok()?.acknowledged;
        let (commit, location) =
            content.end.map_or((0, String::new()), |Point { commit, position, segment, .. }| {
                (commit, format!(" at byte {position} of `journal/{}`", name_of(segment)))
            });
        let what = format!("commit {acknowledged} was acknowledged, and the log ends with commit {commit}{location}");
        (commit < acknowledged).then_some((what, commit < self.promised))
    }

    /// Reads the frames of a segment up to a commit, over damaged ones.
    fn read_frames(
        &self,
        file: &dyn DiskFile,
        begin: Point,
        limit: u64,
        visit: &mut dyn Visit,
        damage: &mut Vec<String>,
    ) -> io::Result<Point> {
        let mut end = begin;
        let mut reader = Reader::new(file, end.position.into());
        while end.commit < limit {
            if let Some(frame) = reader.frame(&end)? {
                if frame.commit > self.promised && !frame.is_intact() {
                    // The process ended before it was written completely.
                    break;
                }
                end = accept(&frame, &end, visit);
                let length = frame.length;
                reader.take(length);
                continue;
            }
            if end.commit >= self.promised {
                break;
            }
            let next = reader.next_alone(&end)?.filter(|(frame, _)| frame.commit <= limit);
            let Some((frame, skipped)) = next else { break };
            if skipped > 0 || end.chain != 0 {
                damage.push(missing(&end, frame.commit - 1));
            }
            end.position += in_segment(skipped);
            end = accept(&frame, &end, visit);
            let length = frame.length;
            reader.take(length);
        }
        Ok(end)
    }
}

// === impl Content ===

impl Content {
    /// The values after the last frame.
    pub(in crate::journal::embedded) fn state(&self) -> JournalState {
        self.end.map_or(JournalState::default(), |end| end.state)
    }
}

/// The last commit of a segment that counts. A later segment replaces the commits from its first one on.
fn last_commit(segments: &BTreeMap<u32, Segment>, number: u32) -> u64 {
    let later = segments.range(number + 1..).map(|(_, later)| later.header.first_commit);
    later.min().map_or(u64::MAX, |first| first - 1)
}

/// Visits the items of a frame at a point. Returns the point after it.
fn accept(frame: &Frame<'_>, at: &Point, visit: &mut dyn Visit) -> Point {
    let after = at.after(frame);
    let location = |begins| Location { segment: at.segment, position: at.position + in_segment(begins) };
    for (item, begins) in frame.items_at() {
        visit.item(item, location(begins).of(item.body()), &at.state, &after.state);
    }
    frame.damaged_bodies().for_each(|(body, begins)| visit.damaged(location(begins).of(Some(body))));
    after
}

/// The commits after a point and up to `last` cannot be read.
fn missing(after: &Point, last: u64) -> String {
    let (first, position, name) = (after.commit + 1, after.position, name_of(after.segment));
    match first.cmp(&last) {
        Ordering::Less => {
            format!("commits {first} to {last} cannot be read, from byte {position} of `journal/{name}` on")
        }
        Ordering::Equal => format!("commit {first} cannot be read, at byte {position} of `journal/{name}`"),
        Ordering::Greater => {
            format!("commit {first} does not follow the one before, at byte {position} of `journal/{name}`")
        }
    }
}

/// Reads `MARK`. The inner error is its damage. In an empty directory the log is new.
fn read_high_water_mark(disk: &dyn Disk, names: &[String]) -> io::Result<Result<HighWaterMark, String>> {
    let new = names.iter().all(|name| number_of(name).is_none());
    let first = HighWaterMark { oldest: 1, ..HighWaterMark::default() };
    let damaged = |what: &str| Err(format!("its file `journal/{}` {what}", high_water_mark::NAME));
    if !names.iter().any(|name| name == high_water_mark::NAME) {
        return Ok(if new { Ok(first) } else { damaged("is missing") });
    }
    Ok(match HighWaterMarkFile::open(disk)? {
        (_, Some(high_water_mark)) => Ok(high_water_mark),
        // The process ended before the file was written for the first time.
        (file, None) if new && file.is_empty()? => Ok(first),
        _ => damaged("is not as it was written"),
    })
}

/// Segments with a valid header, and files without one.
type Headers = (BTreeMap<u32, Segment>, BTreeMap<u32, Arc<dyn DiskFile>>);

/// Reads the headers of segments. Only the generation of the oldest one counts: another one is a copy of the data that
/// was not completed.
fn read_headers(files: Vec<(u32, Arc<dyn DiskFile>)>) -> io::Result<Headers> {
    let (mut segments, mut headless) = (BTreeMap::new(), BTreeMap::new());
    for (number, file) in files {
        match reader::read_header(&*file)?.filter(|header| header.number == u64::from(number)) {
            Some(header) => drop(segments.insert(number, Segment { header, file })),
            None => drop(headless.insert(number, file)),
        }
    }
    let oldest = segments.first_key_value().map(|(_, oldest): (_, &Segment)| oldest.header.generation);
    segments.retain(|_, segment| Some(segment.header.generation) == oldest);
    Ok((segments, headless))
}
