//! Promise 1 under `kill -9`: every acknowledged event is delivered to all subscribers, once, in order, in one epoch.
//!
//! ```text
//!  publishers ──> node, killed at random moments, started again ──> subscribers, who reconnect with Last-Event-ID
//!      └─ ledger: what was sent, what was acknowledged as which id          └─ what they saw, compared at the end
//! ```
//!
//! 50 kills in all, over the three `journal.sync` modes; `MILLSTREAM_LONG=1` makes it 500, `MILLSTREAM_LONG=3` 150. The moments come from a seed
//! that is printed; `MILLSTREAM_SEED=…` takes it again (the moments within the node differ all the same).

mod clock;
mod first_event;
mod jobs;
mod kills;
mod ledger;
mod offline;
mod publishers;
mod rotation;
mod subscribers;
#[path = "../support/mod.rs"]
mod support;
