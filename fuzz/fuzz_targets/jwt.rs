//! The law is in `laws/jwt.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_fuzz::laws::jwt::check(input));
