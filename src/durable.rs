//! The shared kit of durable entities whose history is a topic: jobs and relays.
//!
//! ```text
//!  Handle ──Mailbox──> actor ──owns──> engine (pure: messages in, effects out)
//!           waits for    │
//!           recovery,    ├── records   {kind}/{id}/spec is written before the client gets its answer
//!           bounded      ├── journal::insist   repeats a request until the journal serves it
//!                        ├── Reader, Records::page   recovery, page by page; one damaged record harms one entity
//!                        └── Retention    which ended entities leave, oldest end first
//!  http   ──> list, seen_all             pages of entities; 204 for a reader that has the whole history
//! ```
//!
//! These are functions and small types, not a framework: a component keeps its own engine, actor, records and errors.

mod actor;
mod history;
mod listing;
mod record;
mod recovery;
mod retention;

pub use self::{
    actor::{MAX_REQUESTS, Mailbox, Refused},
    history::seen_all,
    listing::{Filter, list},
    record::{ReadError, Records, check_version, delete, encode, new_id, put, read},
    recovery::{ReadFailure, Reader},
    retention::Retention,
};
