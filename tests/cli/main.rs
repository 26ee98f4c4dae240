//! The real binary: its exit codes, and its output on stdout and stderr.

mod demo;
mod import;
mod journal;
mod program;
mod run;
mod streams;
mod usage;
