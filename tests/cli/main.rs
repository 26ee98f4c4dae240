//! The real binary: its exit codes, and its output on stdout and stderr.

mod demo;
mod journal;
mod program;
mod run;
mod streams;
mod usage;
