//! Tests of the whole component, from the handle to the history in a memory journal.

mod bounds;
mod death;
mod ends;
mod full;
mod life;
mod recovery;
mod remote_tasks;
mod results;
mod rig;
mod runner;
mod scale;
mod submissions;
