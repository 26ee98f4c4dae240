//! Flips bits in all parts of a store, one offset per case, and checks the result.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use millstream::journal::{self, OpenError};

use crate::store::{Found, Sound, config, contents};

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

/// A tag, a count and a sequence number.
const HEAD: u64 = 13;

/// Files of one kind do the same work.
fn class(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path.parent().map(|parent| parent.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".jnl") { "write-ahead log".into() } else { format!("{parent}/{name}") }
}

/// Where the head of a batch stands that no checksum covers: behind the end of the one before.
pub(crate) fn heads(bytes: &[u8]) -> Vec<usize> {
    const END: &[u8] = b"FJL\x03";
    let ends = bytes.windows(END.len()).enumerate().filter(|(_, window)| *window == END);
    ends.map(|(at, _)| at + END.len()).filter(|at| bytes.get(*at) == Some(&1)).collect()
}

/// Places to damage: evenly over the file, and closer together at both ends, where the structure is.
fn offsets(length: u64, even: u64, ends: u64, step: u64) -> Vec<u64> {
    let mut offsets: Vec<u64> = (0..even).map(|index| index * length / even.max(1)).collect();
    offsets.extend((0..ends).map(|index| index * step));
    offsets.extend((0..ends).map(|index| length.saturating_sub(1 + index * step)));
    offsets.retain(|offset| *offset < length);
    offsets.sort_unstable();
    offsets.dedup();
    offsets
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

/// Each case: the file, the place in it, and the bits there. Every third one, from a random one on, unless
/// `MILLSTREAM_LONG` is set (`scripts/long`).
fn sweep(sound: &Sound, cases: &[(PathBuf, u64, u8)]) {
    let step = if std::env::var_os("MILLSTREAM_LONG").is_some() { 1 } else { 3 };
    let first = rand::random_range(0..step);
    println!("every case of number {first} modulo {step}");
    let cases: Vec<_> = cases.iter().skip(first).step_by(step).collect();
    let mut tally: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let mut bad = Vec::new();
    for (file, offset, bits) in &cases {
        let copy = sound.copy();
        let path = copy.path().join(file);
        let mut bytes = fs::read(&path).expect("a file");
        bytes[usize::try_from(*offset).expect("small")] ^= bits;
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
        if matches!(outcome, Outcome::Bad(_) | Outcome::Opened(Found::Silent(_))) {
            bad.push(format!("{} at {offset} of {}: {outcome:?}", file.display(), bytes.len()));
        }
        *tally.entry(class(file)).or_default().entry(word).or_default() += 1;
    }
    println!("{} cases: {tally:#?}", cases.len());
    assert!(bad.is_empty(), "{} of {} cases are bad:\n{}", bad.len(), cases.len(), bad.join("\n"));
}

/// All bits of the heads of batches in the middle and at the end of a log.
fn head_cases(sound: &Sound, log: &Path) -> Vec<(PathBuf, u64, u8)> {
    let heads = heads(&fs::read(sound.dir().join(log)).expect("a file"));
    let chosen = [heads[heads.len() / 2], heads[heads.len() - 3]];
    let offsets = chosen.iter().flat_map(|head| *head as u64..*head as u64 + HEAD);
    offsets.flat_map(|offset| (0..8).map(move |bit| (log.to_owned(), offset, 1 << bit))).collect()
}

fn bit(offset: u64) -> u8 {
    1 << (offset % 8)
}

fn length(sound: &Sound, file: &Path) -> u64 {
    fs::metadata(sound.dir().join(file)).expect("a file").len()
}

#[test]
fn a_flipped_bit_in_a_log_is_never_passed_over_in_silence() {
    let sound = Sound::small();
    let mut cases = Vec::new();
    for file in sound.files().into_iter().filter(|file| !file.ends_with("LOCK") && !file.ends_with("lock")) {
        let log = file.extension().is_some_and(|extension| extension == "jnl");
        let (even, ends) = if log { (120, 60) } else { (12, 0) };
        let step = if log { 1 } else { 7 };
        cases.extend(
            offsets(length(&sound, &file), even, ends, step)
                .into_iter()
                .map(|offset| (file.clone(), offset, bit(offset))),
        );
        if log {
            cases.extend(head_cases(&sound, &file));
        }
    }
    sweep(&sound, &cases);
}

#[test]
fn a_flipped_bit_in_a_table_is_never_passed_over_in_silence() {
    let sound = Sound::with_tables();
    let mut cases = Vec::new();
    for file in sound.files() {
        let own = file.strip_prefix("journal/store/keyspaces/1").is_ok();
        let table = file.parent().is_some_and(|parent| parent.ends_with("tables"));
        let (even, ends, step) = match (own, table) {
            (true, true) => (16, 24, 61),
            (true, false) => (40, 0, 1),
            (false, _) => continue,
        };
        cases.extend(
            offsets(length(&sound, &file), even, ends, step)
                .into_iter()
                .map(|offset| (file.clone(), offset, bit(offset))),
        );
    }
    sweep(&sound, &cases);
}
