//! What must hold for each parser of outside bytes, whatever it gets: one law for each fuzz target, of the same name.
//!
//! Shared by the fuzz targets and `tests/parser_corpus.rs`, which have `event`, `head` (of a response), `header` (of a JWT), `signature`, `sse` and `topic` in their root. A new
//! target is a file here, a line in the table, a target in `fuzz_targets/` and `Cargo.toml`, seeds in `make-corpus`.

pub mod decoder;
pub mod filter;
pub mod jwt;
pub mod position;
pub mod response;
pub mod signature;
pub mod topic;

/// Checks one input; panics with what does not hold.
pub type Law = fn(&[u8]);

/// The laws that need no more of the program than its words.
pub const LAWS: [(&str, Law); 7] = [
    ("decoder", decoder::check),
    ("filter", filter::check),
    ("jwt", jwt::check),
    ("position", position::check),
    ("response", response::check),
    ("signature", signature::check),
    ("topic", topic::check),
];

/// Divides an input in two parts; no text has this byte.
const CUT: u8 = 0xFE;

/// What stands before and behind the last [`CUT`] of an input.
pub fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().rposition(|byte| *byte == CUT) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}
