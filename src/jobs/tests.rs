//! The whole component, from the handle to the history in a memory journal.

mod away;
mod bounds;
mod death;
mod door;
mod ends;
mod full;
mod life;
mod recovery;
mod results;
mod rig;
mod runner;
mod scale;
