//! The law is in `laws/decoder.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_fuzz::laws::decoder::check(input));
