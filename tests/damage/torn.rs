//! Logs after a crash of the machine or a change of files: unacknowledged data may be torn, everything else must be
//! complete.

use std::{fs, path::Path};

use millstream::journal::{self, OpenError};

use crate::{
    segments::{Frame, HIGH_WATER_MARK, frames, segment},
    store::{Found, Sound, config, wait},
};

const PAGE: usize = 4096;

fn damage(dir: &Path) -> String {
    match journal::open(&config(), dir) {
        Err(OpenError::Damaged { what, .. }) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was opened"),
    }
}

/// A segment with these bytes in a copy of a journal.
fn with_log(sound: &Sound, number: u32, bytes: &[u8]) -> tempfile::TempDir {
    let dir = sound.copy();
    fs::write(dir.path().join(segment(number)), bytes).expect("a segment");
    dir
}

fn read(sound: &Sound, number: u32) -> (Vec<u8>, Vec<Frame>) {
    let bytes = fs::read(sound.dir().join(segment(number))).expect("a segment");
    let frames = frames(&bytes);
    (bytes, frames)
}

/// Each page with a part of the last frame: its beginning, without what is before the frame.
fn pages(last: &Frame) -> impl Iterator<Item = usize> {
    let first = last.head.start;
    (first / PAGE..last.end.div_ceil(PAGE)).map(move |page| first.max(page * PAGE))
}

/// A page of the last batch was not written before the power went; its end was. Or nothing from a page on was written.
#[test]
fn a_batch_that_was_torn_before_its_acknowledgement_is_dropped() {
    let sound = Sound::small();
    let earlier = fs::read(sound.dir().join(HIGH_WATER_MARK)).expect("a mark");
    let longer = sound.with_one_more(100_000);
    let (whole, frames) = read(&longer, 1);
    let last = frames.last().expect("a frame");
    for page in pages(last) {
        let end = last.end.min((page / PAGE + 1) * PAGE);
        let mut torn = whole.clone();
        torn[page..end].fill(0);
        for bytes in [&torn, &whole[..page].to_vec()] {
            let dir = with_log(&longer, 1, bytes);
            // With the mark of before it, the last batch was never acknowledged.
            fs::write(dir.path().join(HIGH_WATER_MARK), &earlier).expect("a mark");
            let journal = journal::open(&config(), dir.path()).expect("nothing is missing");
            assert_eq!(sound.check(&journal), Found::Intact, "page {page}");
            wait(journal.close());
        }
    }
    // What is written next begins there, and remains of the torn batch stay behind it.
    let mut torn = whole;
    torn[last.head.start + PAGE..last.head.start + 2 * PAGE].fill(0);
    fs::write(longer.dir().join(segment(1)), torn).expect("a segment");
    fs::write(longer.dir().join(HIGH_WATER_MARK), &earlier).expect("a mark");
    let again = sound.at(longer.copy()).with_one_more(40);
    let journal = journal::open(&config(), again.dir()).expect("nothing is missing");
    assert_eq!(again.check(&journal), Found::Intact);
}

#[test]
fn a_batch_that_was_acknowledged_must_not_be_torn() {
    let longer = Sound::small().with_one_more(100_000);
    let (whole, frames) = read(&longer, 1);
    let last = frames.last().expect("a frame");
    for page in pages(last) {
        let cut = with_log(&longer, 1, &whole[..page]);
        assert!(damage(cut.path()).contains("commit 101 was acknowledged"));
        assert_eq!(fs::read(cut.path().join(segment(1))).expect("a log"), &whole[..page], "it was changed");
        let mut torn = whole.clone();
        torn[page..last.end.min((page / PAGE + 1) * PAGE)].fill(0);
        let dir = with_log(&longer, 1, &torn);
        if page < last.head.end {
            assert!(damage(dir.path()).contains("commit 101 was acknowledged"));
            assert_eq!(fs::read(dir.path().join(segment(1))).expect("a log"), torn, "it was changed");
        } else {
            // The log is complete. A part of the event is missing, of the record behind it, or of both.
            let journal = journal::open(&config(), dir.path()).expect("no commit is missing");
            let Found::Loud(what) = longer.check(&journal) else { panic!("page {page} is not missed") };
            assert!(what.iter().all(|what| ["a", "records"].contains(&what.as_str())), "page {page}: {what:?}");
        }
    }
}

/// The log itself could continue with the next segment if it cannot read this one further.
#[test]
fn an_earlier_segment_must_be_whole() {
    let sound = Sound::with_segments();
    for number in [1, 2] {
        let (bytes, frames) = read(&sound, number);
        let end = frames.last().expect("a frame").end;
        let changed = |damage: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            damage(&mut bytes);
            with_log(&sound, number, &bytes)
        };
        let opened = |dir: &Path| sound.check(&journal::open(&config(), dir).expect("nothing is missing"));
        assert_eq!(opened(changed(&|bytes| bytes.extend([0; PAGE])).path()), Found::Intact);
        assert_eq!(opened(changed(&|bytes| bytes.truncate(end)).path()), Found::Intact);
        let middle = frames[frames.len() / 2].clone();
        for offset in [middle.head.start, middle.head.start + 20, middle.head.end - 1] {
            damage_names(changed(&|bytes| bytes[offset] ^= 1).path(), number, &middle);
        }
        for length in [middle.head.start, middle.head.end, middle.end - 8] {
            damage_names(changed(&|bytes| bytes.truncate(length)).path(), number, &middle);
        }
        let what = damage(changed(&|bytes| bytes[0] ^= 1).path());
        assert!(what.contains(&segment(number)), "{what}");
    }
}

/// The message names the segment, and where the frame begins that cannot be read.
fn damage_names(dir: &Path, number: u32, first: &Frame) {
    let what = damage(dir);
    let location = format!("byte {} of `{}`", first.head.start, segment(number));
    assert!(what.contains("was acknowledged") && what.contains(&location), "`{location}` is not in: {what}");
}
