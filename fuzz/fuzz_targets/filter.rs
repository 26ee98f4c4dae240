//! The law is in `laws/filter.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_fuzz::laws::filter::check(input));
