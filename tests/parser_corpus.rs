//! What must hold for the parser of event streams, for each file of the fuzzer's corpus and for some bytes by chance.
//!
//! The same property as under the fuzzer (`fuzz/README.md`), so that what it once found stays found without it.

use std::{fs, path::Path};

use millstream::sse;
use proptest::prelude::*;

#[path = "../fuzz/property.rs"]
mod property;

use property::{Seen, TIGHT, check, decode, parts};

/// The files of the corpus, by name.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decoder");
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_file_of_the_corpus_holds() {
    for (name, input) in corpus() {
        // The name is in the captured output of a failure.
        println!("{name}");
        check(&input);
    }
}

/// A corpus that reaches nothing proves nothing.
#[test]
fn the_corpus_reaches_every_kind_of_item_and_every_limit() {
    let files = corpus();
    assert!(files.len() >= 60, "{} files", files.len());
    let seen: Vec<Seen> =
        files.iter().flat_map(|(_, input)| decode([parts(input).0], sse::Limits::default()).seen).collect();
    let count = |kind: fn(&Seen) -> bool| seen.iter().filter(|seen| kind(seen)).count();
    assert!(count(|seen| matches!(seen, Seen::Event { own_id: true, .. })) > 10);
    assert!(count(|seen| matches!(seen, Seen::Event { own_id: false, .. })) > 10);
    assert!(count(|seen| matches!(seen, Seen::Id(_))) > 3);
    assert!(count(|seen| matches!(seen, Seen::Comment(_))) > 5);
    assert!(count(|seen| matches!(seen, Seen::Retry(_))) > 5);
    let ends: Vec<_> = files.iter().map(|(_, input)| decode([parts(input).0], TIGHT).end).collect();
    assert!(ends.contains(&Err(sse::DecodeError::LineTooLong(TIGHT.line))));
    assert!(ends.contains(&Err(sse::DecodeError::EventTooLarge(TIGHT.event))));
}

proptest! {
    #[test]
    fn two_files_one_behind_the_other_hold(
        first in 0_usize..1000, second in 0_usize..1000, at in any::<u16>(), byte in any::<u8>(),
        cuts in proptest::collection::vec(any::<u8>(), 0..6),
    ) {
        let files = corpus();
        let file = |number: usize| parts(&files[number % files.len()].1).0.to_vec();
        let mut stream = [file(first), file(second)].concat();
        if !stream.is_empty() {
            let at = usize::from(at) % stream.len();
            stream[at] = byte;
        }
        stream.push(0xFE);
        stream.extend(cuts);
        check(&stream);
    }

    #[test]
    fn any_bytes_hold(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&input);
    }
}
