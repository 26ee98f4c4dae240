//! The promises of the hub, checked at the reader's end of a stream: with a memory journal, one thread, and a clock
//! that stands still until all tasks wait.

mod damage;
mod death;
mod held;
mod manage;
mod order;
mod overflow;
mod resume;
mod stop;
mod stream;
mod stream_task;
mod support;
mod time;
