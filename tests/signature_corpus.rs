//! What must hold for signatures of deliveries, for each file of the fuzzer's corpus and for some bytes by chance.
//!
//! The same property as under the fuzzer (`fuzz/README.md`), so that what it once found stays found without it.

use std::{fs, path::Path};

use proptest::prelude::*;

#[path = "../fuzz/signature.rs"]
mod property;
#[path = "../src/intake/webhooks/signature.rs"]
#[expect(dead_code, reason = "the property uses a part of it")]
mod signature;

use property::check;
use signature::Refusal;

/// The files of the corpus, by name.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/signature");
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

/// A corpus that reaches nothing proves nothing.
#[test]
fn every_file_of_the_corpus_holds_and_every_answer_is_reached() {
    let mut seen = Vec::new();
    for (name, input) in corpus() {
        // The name is in the captured output of a failure.
        println!("{name}");
        seen.extend(check(&input).into_iter().enumerate());
    }
    for scheme in 0..3 {
        assert!(seen.contains(&(scheme, Ok(()))), "scheme {scheme} believed nothing");
        assert!(seen.contains(&(scheme, Err(Refusal::Wrong))), "scheme {scheme} found nothing wrong");
        assert!(seen.contains(&(scheme, Err(Refusal::Missing))), "scheme {scheme} missed nothing");
    }
    for refusal in [Refusal::Malformed, Refusal::Late] {
        assert!(seen.contains(&(0, Err(refusal))), "{refusal:?}");
    }
}

proptest! {
    #[test]
    fn a_file_with_another_byte_holds(file in 0_usize..1000, at in any::<u16>(), byte in any::<u8>()) {
        let files = corpus();
        let mut input = files[file % files.len()].1.clone();
        if !input.is_empty() {
            let at = usize::from(at) % input.len();
            input[at] = byte;
        }
        let _ = check(&input);
    }

    #[test]
    fn any_bytes_hold(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = check(&input);
    }
}
