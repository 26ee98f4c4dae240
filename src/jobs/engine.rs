//! Decides everything about jobs and does no I/O: commands and reports come in, events and attempts come out.
//!
//! The shell calls in turns. After each it starts the attempts ([`Engine::take_attempts`]), appends the events
//! ([`Engine::take_batch`], one append at a time, answered by [`Engine::answered`]) and sleeps until
//! [`Engine::next_timer`]. A job's state is folded from its events once they are in the journal: what the API shows is
//! what a reader of the topic would find. Where a job *stands* while events are on their way is kept in [`Live`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Config, Deps,
    error::Error,
    handler::{Handlers, TaskError, TaskHandler},
    inputs::Inputs,
    memory::Memory,
    queue::Queue,
    spec::Kind,
    state::JobState,
    stats::Stats,
};
use crate::{
    clock::Clock,
    shares::{Pool, Share},
};

mod admit;
mod aggregate;
mod append;
mod attempt;
mod away;
mod books;
mod live;
mod outbox;
mod restore;
mod room;
mod sink;
mod starts;
mod suspend;
mod tasks;
mod timers;

pub use self::{
    admit::Accepted,
    append::Next,
    attempt::{Attempt, Done},
    away::{Group, Told},
    books::{Filter, Leaving, Listing, ResultPlace, Unreadable, failed_tasks},
    live::Bounds,
    restore::StoredJob,
    sink::fit,
};
use self::{
    live::{Ending, Live, Phase},
    outbox::Outbox,
    room::Room,
    starts::Starts,
    timers::Timers,
};

/// The id of a job.
pub type Id = Arc<str>;

/// Most reports in one turn of the engine.
pub const REPORTS_PER_TURN: usize = 256;
/// What an event holds beside the result, the data or the results: ids, names and numbers at their longest.
const EVENT_OVERHEAD: usize = 4096;

/// What an attempt tells the engine.
#[derive(Debug)]
pub struct Report {
    pub id: Id,
    pub task: u32,
    pub attempt: u32,
    pub said: Said,
}

/// What there is to tell.
#[derive(Debug)]
pub enum Said {
    /// How far it is.
    Progress { progress: f64, message: Option<String>, data: Option<Box<RawValue>> },
    /// It has ended; the last report.
    Ended(Result<Done, TaskError>),
    /// A remote tells this of a task that it runs.
    Told(Told),
    /// Nobody follows a group of the job any more.
    Unfollowed,
}

/// The jobs of a node.
pub struct Engine {
    config: Config,
    clock: Clock,
    max_event_bytes: usize,
    share: Share,
    room: Room,
    handlers: Handlers,
    lanes: HashMap<String, usize>,
    http: Arc<dyn TaskHandler>,
    inputs: Arc<Inputs>,
    memory: Memory,
    /// Tasks of unfinished jobs, by owner.
    tasks: Pool,
    /// Bytes of results kept for `aggregated_result`, over all jobs.
    kept_bytes: usize,
    /// Ended jobs whose tasks are in memory, oldest end first, and the number of these tasks.
    remembered: VecDeque<Id>,
    remembered_tasks: usize,
    /// Jobs that cannot be read, with the reason.
    unreadable: BTreeMap<String, String>,
    book: BTreeMap<Id, Job>,
    /// Jobs that were let in and that the journal has not taken yet.
    admitted: usize,
    /// Jobs that have ended and are kept, oldest end first.
    ended: VecDeque<(Instant, Id)>,
    queue: Queue<Id>,
    /// Jobs with doomed tasks.
    doomed: VecDeque<Id>,
    /// Jobs with interrupted tasks, or without a `complete` that they should have.
    interrupted: VecDeque<Id>,
    outbox: Outbox,
    timers: Timers<Timer>,
    starts: Starts,
    /// Tasks of remotes that nobody follows yet.
    groups: Vec<Group>,
    /// Groups that are followed, or are to be.
    followed: usize,
    /// Tells those who follow them to leave the remotes alone.
    leave: CancellationToken,
    ids: ulid::Generator,
    rng: StdRng,
    stats: Stats,
    stopping: bool,
    /// The journal outlives the process, and so do unfinished jobs.
    durable: bool,
    /// Unfinished jobs are left standing: nothing is begun any more.
    suspended: bool,
    /// How often in a row the journal did not take the same events.
    failures: u32,
}

/// A job that is kept.
struct Job {
    state: JobState,
    key_record: Option<String>,
    /// `None` once it has ended.
    live: Option<Box<Live>>,
}

/// What waits for its time.
#[derive(Debug)]
enum Timer {
    Retry(Id, u32),
    Deadline(Id),
    StopGrace,
}

// === impl Engine ===

impl Engine {
    pub fn new(config: Config, deps: &Deps) -> Self {
        let mut slots = vec![None];
        let mut lanes = HashMap::new();
        for name in deps.handlers.names() {
            let bound = deps.handlers.get(name).and_then(|registered| registered.concurrency);
            if bound.is_some() {
                lanes.insert(name.to_owned(), slots.len());
                // A handler that may never run would hold its tasks for ever.
                slots.push(bound.map(|bound| bound.max(1)));
            }
        }
        Self {
            clock: deps.clock.clone(),
            max_event_bytes: deps.max_event_bytes,
            share: deps.share,
            room: Room::new(deps.journal_max_bytes, deps.share),
            handlers: deps.handlers.clone(),
            lanes,
            http: deps.http.clone(),
            inputs: Arc::new(Inputs::new(deps.journal.clone(), deps.memory.clone())),
            memory: deps.memory.clone(),
            tasks: Pool::new(config.max_running_tasks as u64),
            kept_bytes: 0,
            remembered: VecDeque::new(),
            remembered_tasks: 0,
            unreadable: BTreeMap::new(),
            book: BTreeMap::new(),
            admitted: 0,
            ended: VecDeque::new(),
            queue: Queue::new(deps.share, config.concurrency, &slots),
            doomed: VecDeque::new(),
            interrupted: VecDeque::new(),
            outbox: Outbox::default(),
            timers: Timers::new(),
            starts: Starts::new(deps.journal.durable()),
            groups: Vec::new(),
            followed: 0,
            leave: CancellationToken::new(),
            ids: ulid::Generator::new(),
            rng: StdRng::seed_from_u64(rand::random()),
            stats: Stats::default(),
            stopping: false,
            durable: deps.journal.durable(),
            suspended: false,
            failures: 0,
            config,
        }
    }

    /// The time of day by the node's clock.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Ends a job before its tasks have ended. Cancelling twice is once.
    pub fn cancel(&mut self, id: &str) -> Result<(), Error> {
        let (id, job) = self.book.get_key_value(id).ok_or_else(|| Error::UnknownJob(id.to_owned()))?;
        let id = id.clone();
        match &job.live {
            Some(live) if live.closed() => Err(Error::Ended(live.verdict())),
            None if job.state.status() != super::Status::Cancelled => Err(Error::Ended(job.state.status())),
            None => Ok(()),
            Some(_) => {
                self.end(&id, Ending::Cancelled);
                Ok(())
            }
        }
    }

    /// True when a cancel of this job is to be kept before it is acknowledged.
    pub fn keeps_cancel(&self, id: &str) -> bool {
        self.durable && self.book.get(id).is_some_and(|job| job.live.as_deref().is_some_and(|live| !live.closed()))
    }

    /// Takes no more jobs. Those that have not ended after `grace` are left standing where the journal outlives the
    /// process, and are ended elsewhere.
    pub fn stop(&mut self, grace: Duration, now: Instant) {
        self.stopping = true;
        self.timers.set(now + grace, Timer::StopGrace);
    }

    /// True when the engine was told to stop.
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    /// True when the engine was told to stop and all is done and kept.
    pub fn stopped(&self) -> bool {
        let idle = if self.suspended { self.at_rest() } else { self.unfinished() == 0 && self.followed == 0 };
        self.stopping && idle && self.outbox.len() == 0
    }

    /// One turn: what is due is done, and as much is begun as there is room for.
    pub fn turn(&mut self, now: Instant) {
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Retry(id, task) => self.retry_now(&id, task),
                Timer::Deadline(id) => self.end(&id, Ending::TimedOut),
                Timer::StopGrace if self.durable => self.suspend(),
                Timer::StopGrace => {
                    let unfinished = self.book.iter().filter(|(_, job)| job.live.is_some());
                    for id in unfinished.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                        self.end(&id, Ending::Shutdown);
                    }
                }
            }
        }
        while self.outbox.has_room() && (self.bury_one(now) || self.resume_one(now)) {}
        while self.outbox.has_room() {
            let Some((id, task)) = self.queue.next() else { break };
            self.begin(&id, task, now);
        }
    }

    /// True while reports are welcome.
    pub fn has_room(&self) -> bool {
        self.outbox.has_room()
    }

    /// Attempts to start.
    pub fn take_attempts(&mut self) -> Vec<Attempt> {
        self.starts.take(self.outbox.len() == 0)
    }

    /// When the next turn is due of itself.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Figures for metrics and status.
    pub fn stats(&self) -> Stats {
        Stats {
            jobs_running: self.unfinished() as u64,
            jobs_kept: self.ended.len() as u64,
            tasks_running: self.queue.running() as u64,
            tasks_queued: self.queue.waiting() as u64,
            events_pending: self.outbox.len() as u64,
            remote_jobs: self.followed as u64,
            shares_refused: self.stats.shares_refused + self.queue.passed_over() + self.tasks.figures().refused,
            unfinished_tasks: self.tasks.figures().held,
            ..self.stats
        }
    }

    fn unfinished(&self) -> usize {
        self.book.len() - self.ended.len() + self.admitted
    }

    fn live(&mut self, id: &str) -> Option<&mut Live> {
        self.book.get_mut(id)?.live.as_deref_mut()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Attempts run on tasks of their own: they must not outlive what they report to.
        self.book.values().filter_map(|job| job.live.as_ref()).for_each(|live| live.cancel.cancel());
        if self.durable {
            self.leave.cancel();
        } else {
            self.book.values().filter_map(|job| job.live.as_ref()).for_each(|live| live.far.cancel());
        }
    }
}

/// Most bytes of data that one report can bring into an event.
pub fn data_bytes(max_event_bytes: usize) -> usize {
    max_event_bytes.saturating_sub(EVENT_OVERHEAD)
}

/// Shortens a text to about `max` bytes, at a character's end.
pub fn shorten(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The lane in which tasks of a handler wait.
fn lane(lanes: &HashMap<String, usize>, kind: &Kind) -> usize {
    match kind {
        Kind::Http => 0,
        Kind::Run(name) => lanes.get(name).copied().unwrap_or(0),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
