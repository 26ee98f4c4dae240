//! The effects of the engine, and their results.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::join::{History, HistoryPage};
use crate::{
    journal::{AppendError, Batch, Unavailable},
    relay::{
        Error,
        member::Member,
        record::{Progress, Reason},
        stats::Stats,
        upstream::{Start, UpstreamId},
    },
    shares::Owner,
};

/// Where the answer to a request goes.
pub(crate) type Caller<T> = oneshot::Sender<Result<T, Error>>;

/// Collects effects.
#[derive(Default)]
pub(super) struct Effects {
    list: Vec<Effect>,
    /// Work whose result has not come back.
    pub(super) in_flight: usize,
    /// Lanes whose write is repeated after the pause.
    pub(super) delayed: Vec<Lane>,
    /// Members that have left their group, and must read the remote themselves.
    pub(super) detached: Vec<Arc<Member>>,
    pub(super) stats: Stats,
}

/// A task for the actor. It carries them out in order.
pub(crate) enum Effect {
    /// Ask the journal. The result comes back as [`Done`].
    Work(Work),
    /// Start an upstream.
    Start(Box<Start>),
    /// The journal has taken the report of this upstream.
    Taken(UpstreamId),
    /// Make the connection of this upstream anew, on behalf of this owner.
    Reconnect(UpstreamId, Owner),
    /// Stop this upstream.
    Stop(UpstreamId),
    /// Call the engine's `retry` after a pause.
    RetryLater,
    /// Send an answer.
    Answer(Box<dyn FnOnce()>),
}

/// One request to the journal, or a short sequence of them.
pub(crate) enum Work {
    /// Append this.
    Append(Lane, Attempt),
    /// Read the next page of a history, for a newcomer of this upstream.
    Read(UpstreamId, History),
    /// Write these sources of a relay as running, and the relay too.
    Reopen(String, Vec<usize>),
    /// Write that these equal sources, whose upstream has this number, are given up.
    GiveUp(UpstreamId, Vec<Arc<Member>>, Reason),
    /// Delete the events of this relay.
    Purge(String),
}

/// The result of [`Work`].
pub(crate) enum Done {
    Append(Lane, Result<(), AppendFailure>),
    /// `None` at the end of the history, and if it cannot be read.
    Read(UpstreamId, Option<HistoryPage>),
    Reopen(String, Result<Vec<(usize, Progress)>, Unavailable>),
    /// The progress of the sources now; `None` if they have no records any more.
    GiveUp(UpstreamId, Result<Option<Progress>, Unavailable>),
    Purge,
}

/// Writes that follow one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The writes of an upstream.
    Upstream(UpstreamId),
    /// The creation and the changes of a relay.
    Relay(String),
}

/// One attempt to append.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) batch: Batch,
    /// An earlier attempt may have been written. If a record of the batch has this `seq` or a later one, it was.
    pub(crate) unclear: Option<u64>,
}

/// Why nothing was appended.
#[derive(Debug)]
pub(crate) enum AppendFailure {
    /// The journal has refused it.
    Journal(AppendError),
    /// This program has a fault: a panic.
    Fault,
}

/// What clients see of a panic: they cannot read the log.
pub(crate) const FAULT: &str = "a fault of this program; its log has the details";

// === impl Effects ===

impl Effects {
    /// The effects since the last call.
    pub(super) fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.list)
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    pub(super) fn work(&mut self, work: Work) {
        self.in_flight += 1;
        self.push(Effect::Work(work));
    }

    pub(super) fn append(&mut self, lane: Lane, batch: Batch) {
        self.work(Work::Append(lane, Attempt { batch, unclear: None }));
    }

    /// Repeats a write after a pause.
    pub(super) fn delay(&mut self, lane: Lane) {
        if self.delayed.is_empty() {
            self.push(Effect::RetryLater);
        }
        self.delayed.push(lane);
    }

    pub(super) fn answer<T: 'static>(&mut self, caller: Caller<T>, answer: Result<T, Error>) {
        // The caller may have left.
        self.push(Effect::Answer(Box::new(move || drop(caller.send(answer)))));
    }
}

// === impl AppendFailure ===

impl From<AppendFailure> for Unavailable {
    fn from(failure: AppendFailure) -> Self {
        match failure {
            AppendFailure::Journal(error) => error.into(),
            AppendFailure::Fault => Self::Failed(FAULT.into()),
        }
    }
}
