//! Jobs: sets of tasks that run in parallel. The history of a job is a topic.
//!
//! ```text
//!  http ──submit──> Handle ──> actor ──append(spec record)──> journal     accepted: only now the client gets its answer
//!                                │
//!                                v
//!                             Engine ──turn──> attempts (TaskHandler: http, command, sample, …)
//!                                ^  │          sessions (remote: the tasks of the job there)
//!                                │  │             │
//!                                └──┼── reports ──┘   one bounded channel
//!                                   v
//!                         append(many events at once)──> journal ──> hub ──> watchers
//!                                                └─ committed ─> JobState (the same fold as for a reader)
//! ```
//!
//! [`Handle`] is the interface. `engine` decides and does no I/O, `queue` orders the tasks, `state` folds the history;
//! `actor` carries out the decisions of the engine; attempts run on a thread of their own (`runner`). If the journal
//! outlives the process, so do jobs: at the start `recovery` reads them back, and unfinished jobs continue.
//!
//! Promises: an accepted job reaches `complete`; a task has one end; a task that fails, panics or hangs harms no other;
//! reports, events and tasks wait in bounded places, and a full place slows the tasks down.

mod actor;
mod attempt;
pub mod code;
mod config;
mod engine;
mod error;
pub mod event;
mod event_size;
mod handle;
pub mod handler;
pub mod handlers;
mod inputs;
pub mod memory;
mod metrics;
mod queue;
mod record;
mod recovery;
mod remote;
mod runner;
pub mod spec;
pub mod state;
mod stats;
mod status;
#[cfg(test)]
mod tests;
mod urls;
mod watch;
mod work;

pub use self::{
    config::{Config, Deps},
    engine::{Filter, Listing, QuotaGuard, Unreadable},
    error::{Error, SubmitError},
    handle::{Handle, Submission, Submitted, TaskResult, start},
    handler::{Handlers, TaskHandler},
    memory::Memory,
    spec::{Limits, OnDisconnect, Plan, Spec},
    state::{JobState, Snapshot, Status, Summary},
    stats::Stats,
};
