//! What the hub promises, seen from the reader's end of a stream: a memory journal, one thread, a clock that stands
//! still until everybody waits.

mod damage;
mod death;
mod held;
mod link;
mod manage;
mod order;
mod overflow;
mod resume;
mod stop;
mod stream;
mod support;
mod time;
