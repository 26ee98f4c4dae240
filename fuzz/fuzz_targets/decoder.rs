//! Any bytes into the parser of event streams; what must hold is in `property.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// The parser alone, so that nothing else of the program has to be built with instruments.
#[path = "../parser.rs"]
mod sse;

#[path = "../property.rs"]
#[allow(dead_code, reason = "the test uses more of it")]
mod property;

fuzz_target!(|input: &[u8]| property::check(input));
