//! Damaged data directories: they are rejected with exit code 65 and a helpful message, or a read of the damaged part
//! fails. Data is never silently wrong or missing, and a node never panics or hangs.

mod reads;
mod refusals;
mod segments;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
mod torn;
