//! The law is in `laws/signature.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_fuzz::laws::signature::check(input));
