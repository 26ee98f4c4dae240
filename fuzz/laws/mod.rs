//! The laws of the parsers of outside bytes, which must hold for every input. Each fuzz target has one law of the same name.
//!
//! The fuzz targets and `tests/parser_corpus.rs` share them. Both have `event`, `head` (of a response), `header` (of a JWT),
//! `signature`, `sse` and `topic` in their root. A new target needs a file here, a line in the table, a target in
//! `fuzz_targets/` and `Cargo.toml`, and seeds in `make-corpus`.

pub mod decoder;
pub mod filter;
pub mod jwt;
pub mod position;
pub mod response;
pub mod signature;
pub mod topic;

/// Checks one input. Panics with the property that does not hold.
pub type Law = fn(&[u8]);

/// The laws that need only the parsers, not the whole program.
pub const LAWS: [(&str, Law); 7] = [
    ("decoder", decoder::check),
    ("filter", filter::check),
    ("jwt", jwt::check),
    ("position", position::check),
    ("response", response::check),
    ("signature", signature::check),
    ("topic", topic::check),
];

/// Divides an input in two parts. No text contains this byte.
const CUT: u8 = 0xFE;

/// The parts of an input before and after its last [`CUT`].
pub fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().rposition(|byte| *byte == CUT) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}
