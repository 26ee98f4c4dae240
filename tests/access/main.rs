//! Who may come in, and what each may do: token mode from outside, against the program.

mod jwt;
mod matrix;
#[path = "../support/mock.rs"]
mod mock;
mod rig;
mod rights;
mod shares;
mod tickets;
mod tokens;

#[path = "../support/mod.rs"]
mod support;
