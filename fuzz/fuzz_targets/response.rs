//! The law is in `laws/response.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_fuzz::laws::response::check(input));
