//! Any bytes as header fields and body of a delivery. `fuzz/signature.rs` says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../signature.rs"]
mod property;
#[path = "../../src/intake/webhooks/signature.rs"]
#[allow(dead_code, reason = "the target uses a part of it")]
mod signature;

fuzz_target!(|input: &[u8]| {
    let _ = property::check(input);
});
