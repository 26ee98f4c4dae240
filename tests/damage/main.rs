//! Damaged data directories: they are refused with exit code 65 and a message that helps, or what is damaged is refused
//! by whoever reads it. Never is anything silently wrong or missing, and never does a node panic or hang.

mod reads;
mod refusals;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod sweep;
mod torn;
