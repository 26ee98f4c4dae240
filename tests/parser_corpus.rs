//! What must hold for each parser of outside bytes, for each file of the fuzzers' corpora and for mutations of them.
//!
//! The same laws as under the fuzzer (`fuzz/README.md`), so that what it once found stays found without it.

#![allow(
    unreachable_pub,
    reason = "includes files of the program and of the fuzz crate, where these items are reachable"
)]

use std::{fs, path::Path};

use millstream::{config, event, sse, topic};
use proptest::prelude::*;

#[path = "../fuzz/laws/config.rs"]
mod config_law;
#[path = "support/dice.rs"]
mod dice;
#[path = "../src/upstream/head.rs"]
mod head;
#[path = "../src/access/jwt/header.rs"]
mod header;
#[path = "../fuzz/laws/mod.rs"]
mod laws;
#[path = "../src/intake/webhooks/signature.rs"]
#[expect(dead_code, reason = "the law uses a part of it")]
mod signature;

use dice::Dice;
use laws::{
    LAWS, Law,
    decoder::{Seen, TIGHT, check, decode, parts},
};

/// Mutations of the files of each corpus: a second or two, all together.
const MUTATIONS: u64 = 3000;

/// All laws, and that which needs the whole program.
fn all() -> impl Iterator<Item = (&'static str, Law)> {
    LAWS.into_iter().chain([("config", config_law::check as Law)])
}

fn corpora() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The files of a corpus, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = corpora().join(target);
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
fn every_file_of_every_corpus_holds() {
    for (target, law) in all() {
        for (name, input) in corpus(target) {
            // The name is in the captured output of a failure.
            println!("{target}/{name}");
            law(&input);
        }
    }
}

#[test]
fn every_corpus_has_a_law_and_is_small() {
    for entry in fs::read_dir(corpora()).expect("the folder of the corpora") {
        let target = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(all().any(|(name, _)| name == target), "`{target}` is not replayed by a test");
        let files = corpus(&target);
        assert!(files.len() >= 10, "{target}: {} files", files.len());
        assert!(files.iter().map(|(_, input)| input.len()).sum::<usize>() <= 100_000, "{target} is too large");
    }
}

/// Equal mutations in each run: pieces of one file inserted into another, changed bytes.
#[test]
fn mutations_of_every_corpus_hold() {
    for (target, law) in all() {
        let files = corpus(target);
        for round in 0..MUTATIONS {
            let mut dice = Dice(round);
            let mut input = files[dice.roll(files.len())].1.clone();
            for _ in 0..=dice.roll(3) {
                let other = &files[dice.roll(files.len())].1;
                let (from, at) = (dice.roll(other.len() + 1), dice.roll(input.len() + 1));
                let piece = &other[from..(from + dice.roll(16)).min(other.len())];
                let gone = (at + dice.roll(8)).min(input.len());
                input.splice(at..gone, piece.iter().copied());
                if !input.is_empty() && dice.roll(2) == 0 {
                    let at = dice.roll(input.len());
                    input[at] ^= 1 << dice.roll(8);
                }
            }
            println!("{target}, round {round}: {:?}", String::from_utf8_lossy(&input));
            law(&input);
        }
    }
}

/// A corpus that reaches nothing proves nothing.
#[test]
fn the_corpus_reaches_every_kind_of_item_and_every_limit() {
    let files = corpus("decoder");
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

#[test]
fn the_corpus_of_signatures_reaches_every_answer_of_every_scheme() {
    use signature::Refusal;
    let judged =
        corpus("signature").into_iter().flat_map(|(_, input)| laws::signature::judge(&input).into_iter().enumerate());
    let seen: Vec<_> = judged.collect();
    for scheme in 0..3 {
        for answer in [Ok(()), Err(Refusal::Wrong), Err(Refusal::Missing)] {
            assert!(seen.contains(&(scheme, answer)), "scheme {scheme}: {answer:?}");
        }
    }
    for refusal in [Refusal::Malformed, Refusal::Late] {
        assert!(seen.contains(&(0, Err(refusal))), "{refusal:?}");
    }
}

proptest! {
    #[test]
    fn two_files_one_behind_the_other_hold(
        first in 0_usize..1000, second in 0_usize..1000, at in any::<u16>(), byte in any::<u8>(),
        cuts in proptest::collection::vec(any::<u8>(), 0..6),
    ) {
        let files = corpus("decoder");
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
