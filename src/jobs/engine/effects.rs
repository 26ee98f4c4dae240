//! The shared state of all jobs of a node: the resources that they use, and the decisions that the actor carries out.
//!
//! A method of a job gets this in addition to the job itself. So a job never looks up another job, and no job is looked
//! up twice.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use super::{outbox::Outbox, room::Room, timers::Timers};
use crate::{
    clock::Clock,
    jobs::{
        config::{Config, Deps},
        event_size::EVENT_OVERHEAD,
        handler::{Handlers, TaskHandler},
        inputs::Inputs,
        memory::Memory,
        queue::Queue,
        spec::Kind,
        stats::Stats,
        work::{JobId, RemoteTasks},
    },
};

pub(crate) struct Effects {
    pub config: Config,
    pub max_event_bytes: usize,
    pub clock: Clock,
    pub rng: StdRng,
    /// Tasks that wait for slots, and the slots.
    pub queue: Queue<JobId>,
    pub timers: Timers<Timer>,
    /// Events on their way into the journal, and attempts that wait for them.
    pub outbox: Outbox,
    /// Tasks of remotes that are not followed by a session yet.
    pub remote_tasks: Vec<RemoteTasks>,
    /// Number of sessions that run or will run.
    pub sessions: usize,
    /// The space that jobs have in the journal.
    pub room: Room,
    /// Bytes of results that are held for `aggregated_result`, over all jobs.
    pub held_bytes: usize,
    /// Jobs with tasks that still need their `error`.
    pub failing: VecDeque<JobId>,
    /// Jobs with interrupted tasks, or without the `complete` that they should have.
    pub interrupted: VecDeque<JobId>,
    pub inputs: Arc<Inputs>,
    pub memory: Memory,
    /// Ends the sessions without cancelling the jobs on the remotes.
    pub leave: CancellationToken,
    /// True if the node stops and unfinished jobs outlive it: no further task is begun.
    pub suspended: bool,
    pub stats: Stats,
    handlers: Handlers,
    http: Arc<dyn TaskHandler>,
    /// The queue's lane of each handler with a bound of its own.
    lanes: HashMap<String, usize>,
}

/// Limits of the results that a job holds for `aggregated_result`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResultBounds {
    /// Larger results have a record of their own.
    pub inline: usize,
    /// Maximum bytes of all results in the event.
    pub total: usize,
    /// Remaining bytes of all jobs together; further results are referenced by URL.
    pub room: usize,
}

/// An entry that is due at a time.
#[derive(Debug)]
pub(crate) enum Timer {
    /// The next attempt at a task.
    Retry(JobId, u32),
    /// The deadline of a job.
    Deadline(JobId),
    /// The end of the grace of a stop.
    StopGrace,
}

/// Results that are held for `aggregated_result` may use `jobs.max_memory_bytes` divided by this number.
const HELD_PART: usize = 4;

// === impl Effects ===

impl Effects {
    pub(crate) fn new(config: Config, deps: &Deps) -> Self {
        let mut slots = vec![None];
        let mut lanes = HashMap::new();
        for name in deps.handlers.names() {
            let bound = deps.handlers.get(name).and_then(|registered| registered.concurrency);
            if bound.is_some() {
                lanes.insert(name.to_owned(), slots.len());
                // A handler without a slot would block its tasks forever.
                slots.push(bound.map(|bound| bound.max(1)));
            }
        }
        Self {
            max_event_bytes: deps.max_event_bytes,
            clock: deps.clock.clone(),
            rng: StdRng::seed_from_u64(rand::random()),
            queue: Queue::new(deps.share, config.concurrency, &slots),
            timers: Timers::new(),
            outbox: Outbox::new(deps.journal.durable()),
            remote_tasks: Vec::new(),
            sessions: 0,
            room: Room::new(deps.journal_max_bytes, deps.share),
            held_bytes: 0,
            failing: VecDeque::new(),
            interrupted: VecDeque::new(),
            inputs: Arc::new(Inputs::new(deps.journal.clone(), deps.memory.clone())),
            memory: deps.memory.clone(),
            leave: CancellationToken::new(),
            suspended: false,
            stats: Stats::default(),
            handlers: deps.handlers.clone(),
            http: deps.http.clone(),
            lanes,
            config,
        }
    }

    /// The handler of a task, and the handler's own timeout. `None` if the node no longer has the handler.
    pub(crate) fn handler(&self, kind: &Kind) -> Option<(Arc<dyn TaskHandler>, Option<Duration>)> {
        match kind {
            Kind::Http => Some((self.http.clone(), None)),
            Kind::Run(name) => self.handlers.get(name).map(|own| (own.handler.clone(), own.timeout)),
        }
    }

    /// The name of the handler that a task needs and the node does not have.
    pub(crate) fn missing<'k>(&self, kind: &'k Kind) -> Option<&'k str> {
        match kind {
            Kind::Http => None,
            Kind::Run(name) => self.handlers.get(name).is_none().then_some(name),
        }
    }

    /// The queue's lane in which tasks of this kind wait.
    pub(crate) fn lane(&self, kind: &Kind) -> usize {
        match kind {
            Kind::Http => 0,
            Kind::Run(name) => self.lanes.get(name).copied().unwrap_or(0),
        }
    }

    /// Limits of the results that a job may hold now.
    pub(crate) fn result_bounds(&self) -> ResultBounds {
        let room = self.max_held_bytes().saturating_sub(self.held_bytes);
        ResultBounds { room, ..ResultBounds::new(&self.config, self.max_event_bytes) }
    }

    /// Maximum bytes of results that are held for `aggregated_result`, over all jobs.
    pub(crate) fn max_held_bytes(&self) -> usize {
        self.config.max_memory_bytes / HELD_PART
    }
}

// === impl ResultBounds ===

impl ResultBounds {
    pub(crate) fn new(config: &Config, max_event_bytes: usize) -> Self {
        let inline = config.max_result_bytes.min(max_event_bytes.saturating_sub(EVENT_OVERHEAD));
        Self { inline, total: max_event_bytes, room: usize::MAX }
    }

    /// Holds no results.
    pub(crate) const NONE: Self = Self { inline: 0, total: 0, room: 0 };
}
