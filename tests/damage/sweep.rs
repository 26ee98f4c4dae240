//! Damages all parts of a journal, one location per case, and checks the result.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use millstream::journal::{self, OfflineJournal, OpenError};
use rand::RngExt;

use crate::{
    segments::{Frame, HEADER, HIGH_WATER_MARK, SLOTS, frames, segment},
    store::{Found, Sound, config, contents},
};

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Changes these bits of a byte.
    Flip(u8),
    /// Fills a page with zeros.
    Zero,
    /// Cuts the file off.
    Cut,
}

/// A file, a location in it, and the damage there.
type Case = (PathBuf, usize, Damage);

/// The result of one case.
#[derive(Debug)]
enum Outcome {
    /// Exit code 65.
    Refused {
        what: String,
        changed: Vec<PathBuf>,
    },
    Opened(Found),
    /// None of the permitted results.
    Bad(String),
}

/// The result that a case must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The log cannot be followed to the last acknowledged commit.
    Refused,
    /// A payload has changed. It may be the value of a record that was replaced later.
    Opened,
    /// Nothing that counts has changed.
    Intact,
}

const PAGE: usize = 4096;

// === impl Damage ===

impl Damage {
    fn apply(self, bytes: &mut Vec<u8>, at: usize) {
        match self {
            Self::Flip(bits) => bytes[at] ^= bits,
            Self::Zero => {
                let end = bytes.len().min(at + PAGE);
                bytes[at..end].fill(0);
            }
            Self::Cut => bytes.truncate(at),
        }
    }
}

// === impl Expected ===

impl Expected {
    /// The result for a file with this content before and after the damage.
    fn of(file: &Path, before: &[u8], after: &[u8]) -> Self {
        let differs = |range: Range<usize>| before.get(range.clone()) != after.get(range);
        if file == Path::new(HIGH_WATER_MARK) {
            let (distance, length) = SLOTS;
            let both = differs(0..length) && differs(distance..distance + length);
            return if both { Self::Refused } else { Self::Intact };
        }
        let frames = frames(before);
        let cut = |end: usize| after.len() < end;
        if differs(0..HEADER) || frames.iter().any(|frame| differs(frame.head.clone()) || cut(frame.end)) {
            Self::Refused
        } else if frames.iter().any(|frame| differs(frame.bodies.clone())) {
            Self::Opened
        } else {
            Self::Intact
        }
    }

    fn permits(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Refused, Outcome::Refused { changed, .. }) => changed.is_empty(),
            (Self::Opened, Outcome::Opened(Found::Intact | Found::Loud(_)))
            | (Self::Intact, Outcome::Opened(Found::Intact)) => true,
            _ => false,
        }
    }
}

/// Locations to damage: evenly over the range, and closer together at both ends, where the structure is.
fn offsets(range: Range<usize>, even: usize, ends: usize, step: usize) -> Vec<usize> {
    let length = range.len();
    let mut offsets: Vec<usize> = (0..even).map(|index| index * length / even.max(1)).collect();
    offsets.extend((0..ends).map(|index| index * step));
    offsets.extend((0..ends).map(|index| length.saturating_sub(1 + index * step)));
    offsets.retain(|offset| *offset < length);
    offsets.sort_unstable();
    offsets.dedup();
    offsets.into_iter().map(|offset| range.start + offset).collect()
}

fn outcome(sound: &Sound, dir: &Path) -> Outcome {
    let before = contents(dir);
    match catch_unwind(AssertUnwindSafe(|| journal::open(&config(), dir))) {
        Err(_) => Outcome::Bad("the opening panicked".into()),
        Ok(Err(OpenError::Damaged { what, .. })) => {
            let after = contents(dir);
            let names = before.keys().chain(after.keys());
            let mut changed: Vec<_> = names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect();
            changed.dedup();
            Outcome::Refused { what, changed }
        }
        Ok(Err(error)) => Outcome::Bad(format!("another error than damage: {error}")),
        Ok(Ok(journal)) => match catch_unwind(AssertUnwindSafe(|| sound.check(&journal))) {
            Err(_) => Outcome::Bad("reading panicked or hung".into()),
            Ok(found) => {
                let closing = async { tokio::time::timeout(Duration::from_secs(10), journal.close()).await };
                match crate::store::wait(closing) {
                    Ok(()) => Outcome::Opened(found),
                    Err(_) => Outcome::Bad("closing hung".into()),
                }
            }
        },
    }
}

/// True in `scripts/long`.
fn is_long() -> bool {
    std::env::var_os("MILLSTREAM_LONG").is_some()
}

/// Every third case, from a random one on, unless `MILLSTREAM_LONG` is set.
fn some(cases: Vec<Case>) -> Vec<Case> {
    let step = if is_long() { 1 } else { 3 };
    let first = rand::random_range(0..step);
    println!("every case of number {first} modulo {step}");
    cases.into_iter().skip(first).step_by(step).collect()
}

/// Runs the cases.
fn sweep(sound: &Sound, cases: &[Case]) {
    let mut tally: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let mut bad = Vec::new();
    for (file, offset, damage) in cases {
        let copy = sound.copy();
        let path = copy.path().join(file);
        let whole = fs::read(&path).expect("a file");
        let mut bytes = whole.clone();
        damage.apply(&mut bytes, *offset);
        let expected = Expected::of(file, &whole, &bytes);
        fs::write(&path, &bytes).expect("a file");
        // On a thread of its own: a hang is an outcome too.
        let (done, reported) = mpsc::channel();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| done.send(outcome(sound, copy.path())));
            reported.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| Outcome::Bad("it hangs".into()))
        });
        let word = match &outcome {
            Outcome::Refused { changed, .. } if changed.is_empty() => "refused, nothing changed".to_owned(),
            Outcome::Refused { what, changed } => format!("refused, CHANGED {changed:?} ({what:.40})"),
            Outcome::Opened(Found::Intact) => "intact".to_owned(),
            Outcome::Opened(Found::Loud(_)) => "read errors".to_owned(),
            Outcome::Opened(Found::Silent(_)) => "SILENT".to_owned(),
            Outcome::Bad(what) => format!("BAD: {what:.60}"),
        };
        let changed = changed_commits(file, &whole, &bytes);
        if (is_long() || rand::random_bool(0.3))
            && let Err(what) = check_repair(sound, copy.path(), expected, &changed)
        {
            bad.push(format!("{damage:?} at {offset} in {}, then a repair: {what}", file.display()));
        }
        if !expected.permits(&outcome) {
            let (file, length) = (file.display(), whole.len());
            bad.push(format!("{damage:?} at {offset} of {length} in {file}: {outcome:?}, not {expected:?}"));
        }
        *tally.entry(format!("{} {expected:?}", file.display())).or_default().entry(word).or_default() += 1;
    }
    println!("{} cases: {tally:#?}", cases.len());
    assert!(bad.is_empty(), "{} of {} cases are bad:\n{}", bad.len(), cases.len(), bad.join("\n"));
}

/// The commits with a changed byte.
fn changed_commits(file: &Path, before: &[u8], after: &[u8]) -> Vec<u64> {
    if file == Path::new(HIGH_WATER_MARK) {
        return Vec::new();
    }
    let differs = |frame: &Frame| before.get(frame.head.start..frame.end) != after.get(frame.head.start..frame.end);
    frames(before).iter().filter(|frame| differs(frame)).map(|frame| frame.commit).collect()
}

/// Verifies and repairs the journal: the damage is found, and all events of unchanged commits are kept.
fn check_repair(sound: &Sound, dir: &Path, expected: Expected, changed: &[u64]) -> Result<(), String> {
    let open = || OfflineJournal::at(dir).map_err(|error| error.to_string());
    let verify = |offline: &OfflineJournal| offline.verify().map_err(|error| error.to_string());
    let offline = open()?;
    let verified = verify(&offline)?;
    match expected {
        Expected::Refused if !verified.damaged => return Err("a verification finds no damage".into()),
        Expected::Intact if verified.damaged => return Err(format!("a verification finds {verified:?}")),
        _ => {}
    }
    let repaired = match offline.repair(false) {
        // Nothing can be kept.
        Err(OpenError::Damaged { .. }) if sound.offsets().all(|offset| changed.contains(&offset)) => return Ok(()),
        repaired => repaired.map_err(|error| error.to_string())?,
    };
    drop(offline);
    if repaired.is_some() != verified.damaged {
        return Err(format!("{verified:?}, but {repaired:?}"));
    }
    let offline = open()?;
    let verified = verify(&offline)?;
    if verified.damaged {
        return Err(format!("{verified:?}, {repaired:?}"));
    }
    let kept = sound.kept(&offline.open().map_err(|error| error.to_string())?)?;
    let lost: Vec<u64> = sound.offsets().filter(|offset| !kept.contains(offset) && !changed.contains(offset)).collect();
    match lost.is_empty() {
        true => Ok(()),
        false => Err(format!("events {lost:?} are lost, and the damage is in {changed:?}: {repaired:?}")),
    }
}

/// All bits of the heads of frames in the middle and at the end of a segment.
fn head_cases(sound: &Sound, file: &Path) -> Vec<Case> {
    let frames = frames(&fs::read(sound.dir().join(file)).expect("a file"));
    let chosen = [&frames[frames.len() / 2], &frames[frames.len() - 1]];
    let offsets = chosen.into_iter().flat_map(|frame| frame.head.clone());
    offsets.flat_map(|offset| (0..8).map(move |bit| (file.to_owned(), offset, Damage::Flip(1 << bit)))).collect()
}

/// One flipped bit at each of these locations.
fn flips(file: &Path, offsets: Vec<usize>) -> impl Iterator<Item = Case> {
    offsets.into_iter().map(|offset| (file.to_owned(), offset, Damage::Flip(1 << (offset % 8))))
}

/// The length of a file, and the end of its frames.
fn lengths(sound: &Sound, file: &Path) -> (usize, usize) {
    let bytes = fs::read(sound.dir().join(file)).expect("a file");
    (bytes.len(), frames(&bytes).last().map_or(bytes.len(), |last| last.end))
}

/// Pages that are zeroed, and cuts at the beginning of pages, in this part of a file.
fn page_cases(file: &Path, range: Range<usize>) -> impl Iterator<Item = Case> {
    let pages = range.step_by(PAGE);
    pages.flat_map(|page| [Damage::Zero, Damage::Cut].map(|damage| (file.to_owned(), page, damage)))
}

#[test]
fn a_flipped_bit_in_a_log_is_never_passed_over_in_silence() {
    let sound = Sound::small();
    let mut cases = Vec::new();
    for file in sound.files().into_iter().filter(|file| !file.ends_with("LOCK")) {
        let (length, end) = lengths(&sound, &file);
        if file == Path::new(HIGH_WATER_MARK) {
            cases.extend(flips(&file, offsets(0..length, 24, 8, 7)));
        } else {
            cases.extend(flips(&file, offsets(0..end, 120, 60, 1)));
            cases.extend(flips(&file, offsets(0..HEADER, 24, 0, 1)));
            cases.extend(head_cases(&sound, &file));
            // Reserved space.
            cases.extend(flips(&file, offsets(end..length, 12, 4, 1)));
        }
    }
    sweep(&sound, &some(cases));
}

#[test]
fn a_flipped_bit_in_one_of_several_segments_is_never_passed_over_in_silence() {
    let sound = Sound::with_segments();
    let mut cases = Vec::new();
    for number in sound.segments() {
        let file = PathBuf::from(segment(number));
        let (length, end) = lengths(&sound, &file);
        cases.extend(flips(&file, offsets(0..end, 12, 10, 61)));
        cases.extend(flips(&file, offsets(end..length, 2, 0, 1)));
    }
    sweep(&sound, &some(cases));
}

#[test]
fn a_lost_page_of_a_log_is_never_passed_over_in_silence() {
    let sound = Sound::small();
    let mut cases = Vec::new();
    for file in sound.files().into_iter().filter(|file| !file.ends_with("LOCK")) {
        let (length, end) = lengths(&sound, &file);
        cases.extend(page_cases(&file, 0..length.min(end + 4 * PAGE)));
    }
    sweep(&sound, &cases);
}

#[test]
fn a_lost_page_of_one_of_several_segments_is_never_passed_over_in_silence() {
    let sound = Sound::with_segments();
    let mut cases = Vec::new();
    for number in sound.segments() {
        let file = PathBuf::from(segment(number));
        let (length, end) = lengths(&sound, &file);
        cases.extend(page_cases(&file, 0..1));
        for _ in 0..8 {
            let page = rand::rng().random_range(0..length / PAGE) * PAGE;
            cases.extend(page_cases(&file, page..page + 1));
        }
        // The page with the end of the frames, and the one behind it.
        let last = end / PAGE * PAGE;
        cases.extend(page_cases(&file, last..length.min(last + 2 * PAGE)));
    }
    sweep(&sound, &some(cases));
}
