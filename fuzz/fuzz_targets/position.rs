//! The law is in `laws/position.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_fuzz::laws::position::check(input));
