//! Relays against a journal that fails as a test wants it to; what needs no such journal is in `tests/relays`.

mod death;
mod faults;
mod once;
mod rig;
mod starts;
