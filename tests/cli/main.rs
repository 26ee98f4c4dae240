//! The program as people run it: the real binary, its exit codes, and what it says where.

mod demo;
mod journal;
mod program;
mod run;
mod streams;
mod usage;
