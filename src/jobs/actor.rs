//! The actor around the engine, on a thread of its own: it carries out the decisions of the engine and decides nothing.
//!
//! Requests come as messages, bounded by the [`Mailbox`]. Reports of workers come over one bounded channel. While the
//! engine has no room, nothing reads that channel; it fills, and the tasks wait: so a slow journal slows them down. The
//! actor ends when `alive` fires, which the last [`Handle`](super::Handle) does when it is dropped.

use std::{sync::Arc, time::Duration};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, Arbiter, AsyncContext, Context, Handler, Message, ResponseActFuture,
    SpawnHandle, WeakAddr, WrapFuture, fut,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    config::{Config, Deps},
    engine::{Accepted, AfterAppend, Engine, Filter, Listing, QuotaGuard, Registry, ResultBounds, ResultLocation},
    error::{Error, SubmitError},
    record::{self, Deletion, Key, SpecRecord, Written},
    recovery::{Found, Recovery},
    remote::{RemoteContext, Session},
    runner::Runner,
    spec::{Plan, Spec},
    state::{Snapshot, Summary},
    stats::Figures,
    work::{REPORTS_PER_TURN, TaskReport},
};
use crate::{
    durable::{MAX_REQUESTS, Mailbox, Reader},
    journal::{AppendError, Batch, RETRY, Receipt, Shared, Unavailable},
};

/// How often ended jobs are deleted whose retention is over.
const SWEEP: Duration = Duration::from_secs(1);
/// Maximum number of jobs that are deleted in one step.
const MAX_DELETIONS: usize = 64;

/// The parts of the actor that a handle uses.
pub(crate) struct Started {
    pub mailbox: Mailbox<JobsActor>,
    pub figures: Figures,
    /// Ends the actor when it fires.
    pub alive: CancellationToken,
}

/// Starts the actor on a thread of its own.
///
/// # Panics
/// Outside of an actix system.
pub(crate) fn spawn(config: Config, deps: Deps) -> Started {
    let arbiter = Arbiter::new();
    launch(config, deps, true, |make| JobsActor::start_in_arbiter(&arbiter.handle(), make))
}

/// Starts the actor on this thread, where a test can control the clock.
#[cfg(test)]
pub(crate) fn spawn_here(config: Config, deps: Deps) -> Started {
    launch(config, deps, false, JobsActor::create)
}

type Make = Box<dyn FnOnce(&mut Context<JobsActor>) -> JobsActor + Send>;

fn launch(config: Config, deps: Deps, own_thread: bool, start: impl FnOnce(Make) -> Addr<JobsActor>) -> Started {
    let (figures, alive) = (Figures::default(), CancellationToken::new());
    let (ready, is_ready) = watch::channel(false);
    let make = {
        let (figures, alive) = (figures.clone(), alive.clone());
        Box::new(move |_: &mut _| JobsActor::new(config, deps, ready, figures, alive, own_thread))
    };
    Started { mailbox: Mailbox::new(start(make), is_ready), figures, alive }
}

/// The actor.
pub(crate) struct JobsActor {
    engine: Engine,
    journal: Shared,
    /// The context that all sessions share, which follow tasks on remotes.
    remote: Arc<RemoteContext>,
    /// Taken when the actor starts.
    recovery: Option<Recovery>,
    /// True once the recovery has finished.
    ready: watch::Sender<bool>,
    reports: mpsc::Sender<TaskReport>,
    /// The end of the channel of reports. It stays here while the engine has no room.
    arriving: Option<mpsc::Receiver<TaskReport>>,
    /// The timer of the next turn, and when it fires.
    wake: Option<(Instant, SpawnHandle)>,
    /// True while jobs are being deleted.
    sweeping: bool,
    /// Jobs that the engine has removed and that could not be deleted yet.
    unpurged: Vec<Deletion>,
    /// True while an append is in flight: readers may see its events already.
    appending: bool,
    /// Notified after each answer of the journal.
    answered: Arc<Notify>,
    figures: Figures,
    /// Ends the actor.
    alive: CancellationToken,
    /// Ends the recovery: the node stops.
    stop: CancellationToken,
    /// Thread of the attempts; `None` if they run on this thread, as in tests.
    runner: Option<Runner>,
}

// === messages ===

/// Writes and runs a job that was checked. Returns its id, and true if the idempotency key already had this job.
#[derive(Message)]
#[rtype(result = "Result<(String, bool), SubmitError>")]
pub(crate) struct Submit {
    pub spec: Spec,
    pub plan: Plan,
    pub user: Option<String>,
    pub key: Option<Key>,
    pub retry_of: Option<String>,
    pub quota_guard: Option<QuotaGuard>,
}

/// Cancels a job, and writes the cancellation.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct Cancel(pub String);

/// Ends all jobs, or leaves them to the next start, after a grace. The actor ends when it is done.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop(pub Duration);

/// Asks for a job with its tasks; `None` if they must be read back.
#[derive(Message)]
#[rtype(result = "Result<Option<Snapshot>, Error>")]
pub(crate) struct GetSnapshot(pub String);

/// Asks for a job without its tasks.
#[derive(Message)]
#[rtype(result = "Result<Summary, Error>")]
pub(crate) struct GetSummary(pub String);

/// Asks for a page of jobs.
#[derive(Message)]
#[rtype(result = "Listing")]
pub(crate) struct ListJobs(pub Filter);

/// Asks where the result of a task is stored; `None` if the tasks of the job must be read back.
#[derive(Message)]
#[rtype(result = "Result<Option<ResultLocation>, Error>")]
pub(crate) struct FindResult {
    pub job: String,
    pub task: String,
}

/// Asks for the tasks of an ended job that have no result; `None` if they must be read back.
#[derive(Message)]
#[rtype(result = "Result<Option<Vec<String>>, Error>")]
pub(crate) struct FindFailedTasks(pub String);

/// Delivers a part of the recovery; returns false if the recovery can end.
#[derive(Message)]
#[rtype(result = "bool")]
struct Restore(Found);

/// A question about jobs.
///
/// It is answered at once, or after the append in flight: a client that has read an event must not get an answer from
/// before that event.
trait Query: Message<Result: Send> + Send + 'static {
    fn answer(self, jobs: &Registry) -> Self::Result;
}

impl Query for GetSnapshot {
    fn answer(self, jobs: &Registry) -> Self::Result {
        jobs.snapshot(&self.0)
    }
}

impl Query for GetSummary {
    fn answer(self, jobs: &Registry) -> Self::Result {
        jobs.summary(&self.0)
    }
}

impl Query for ListJobs {
    fn answer(self, jobs: &Registry) -> Self::Result {
        jobs.list(&self.0)
    }
}

impl Query for FindResult {
    fn answer(self, jobs: &Registry) -> Self::Result {
        jobs.result_location(&self.job, &self.task)
    }
}

impl Query for FindFailedTasks {
    fn answer(self, jobs: &Registry) -> Self::Result {
        jobs.failed_tasks(&self.0)
    }
}

// === impl JobsActor ===

impl JobsActor {
    fn new(
        config: Config,
        deps: Deps,
        ready: watch::Sender<bool>,
        figures: Figures,
        alive: CancellationToken,
        own_thread: bool,
    ) -> Self {
        let (reports, arriving) = mpsc::channel(REPORTS_PER_TURN);
        let stop = CancellationToken::new();
        let reader = Reader { journal: deps.journal.clone(), stop: stop.clone(), purpose: "the jobs are read back" };
        let bounds = ResultBounds::new(&config, deps.max_event_bytes);
        Self {
            runner: own_thread.then(|| Runner::start(config.concurrency, reports.clone(), &deps.supervisor)),
            remote: RemoteContext::new(&config, &deps),
            recovery: Some(Recovery::new(reader, deps.handlers.clone(), bounds)),
            engine: Engine::new(config, &deps),
            journal: deps.journal,
            ready,
            reports,
            arriving: Some(arriving),
            wake: None,
            sweeping: false,
            unpurged: Vec::new(),
            appending: false,
            answered: Arc::default(),
            figures,
            alive,
            stop,
        }
    }

    /// Carries out the decisions of the engine; called after each message.
    fn run_turn(&mut self, ctx: &mut Context<Self>) {
        let turn = self.engine.turn(Instant::now());
        match &self.runner {
            Some(runner) if !turn.attempts.is_empty() => runner.begin(turn.attempts),
            _ => turn.attempts.into_iter().for_each(|one| drop(actix::spawn(one.run(self.reports.clone())))),
        }
        for tasks in turn.remote_tasks {
            let span = tasks.span.clone();
            actix::spawn(Session::new(tasks, self.remote.clone(), self.reports.clone()).run().instrument(span));
        }
        if let Some(batch) = turn.batch {
            self.append(batch, ctx);
        }
        if turn.has_room {
            self.receive(ctx);
        }
        self.wake_at(turn.wake_at, ctx);
        self.figures.set(self.engine.stats());
        if turn.stopped {
            ctx.stop();
        }
    }

    /// Waits for reports, and takes all that have arrived.
    fn receive(&mut self, ctx: &mut Context<Self>) {
        let Some(mut arriving) = self.arriving.take() else { return };
        let receive = async move {
            let mut reports = Vec::new();
            arriving.recv_many(&mut reports, REPORTS_PER_TURN).await;
            (reports, arriving)
        };
        ctx.spawn(receive.into_actor(self).map(|(reports, arriving), actor, ctx| {
            let now = Instant::now();
            reports.into_iter().for_each(|report| actor.engine.report(report, now));
            actor.arriving = Some(arriving);
            actor.run_turn(ctx);
        }));
    }

    /// Sets the timer of the next turn.
    fn wake_at(&mut self, at: Option<Instant>, ctx: &mut Context<Self>) {
        if self.wake.map(|(at, _)| at) == at {
            return;
        }
        if let Some((_, timer)) = self.wake.take() {
            ctx.cancel_future(timer);
        }
        self.wake = at.map(|at| {
            let timer = ctx.run_later(at.saturating_duration_since(Instant::now()), |actor, ctx| {
                actor.wake = None;
                actor.run_turn(ctx);
            });
            (at, timer)
        });
    }

    fn append(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        self.appending = true;
        let journal = self.journal.clone();
        let append = async move { journal.append(batch).await };
        ctx.spawn(append.into_actor(self).map(|answer, actor, ctx| actor.appended(answer, ctx)));
    }

    fn appended(&mut self, answer: Result<Vec<Receipt>, AppendError>, ctx: &mut Context<Self>) {
        let next = self.engine.answered(answer, Instant::now());
        self.appending = false;
        self.answered.notify_waiters();
        self.refresh_usage();
        match next {
            AfterAppend::Continue => self.run_turn(ctx),
            AfterAppend::RetryNow => self.append(self.engine.batch_again(), ctx),
            AfterAppend::RetryLater => {
                // A journal that is full may need ended jobs to be deleted.
                self.sweep(ctx);
                ctx.run_later(RETRY, |actor, ctx| actor.append(actor.engine.batch_again(), ctx));
            }
        }
    }

    fn refresh_usage(&mut self) {
        let stats = self.journal.stats();
        self.engine.set_usage(stats.pinned_bytes + stats.record_bytes);
    }

    /// Deletes jobs whose retention is over, and continues as long as there are any.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        if self.sweeping || !*self.ready.borrow() {
            return;
        }
        // Jobs that could not be deleted come first, and while they cannot no others follow.
        let mut deletions = std::mem::take(&mut self.unpurged);
        if deletions.is_empty() {
            deletions = self.engine.expired(Instant::now(), MAX_DELETIONS);
        }
        if deletions.is_empty() {
            self.refresh_usage();
            deletions.extend(self.engine.evict());
        }
        if deletions.is_empty() {
            return;
        }
        self.sweeping = true;
        let journal = self.journal.clone();
        let purge = async move { record::purge_all(&journal, deletions).await };
        ctx.spawn(purge.into_actor(self).map(|left, actor, ctx| {
            actor.sweeping = false;
            actor.unpurged = left;
            if actor.unpurged.is_empty() {
                actor.sweep(ctx);
            }
        }));
    }
}

impl Actor for JobsActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAX_REQUESTS);
        ctx.spawn(self.alive.clone().cancelled_owned().into_actor(self).map(|(), _, ctx| ctx.stop()));
        ctx.run_interval(SWEEP, |actor, ctx| {
            actor.sweep(ctx);
            actor.run_turn(ctx);
        });
        let recovery = self.recovery.take().expect("an actor starts once");
        let this = ctx.address().downgrade();
        ctx.spawn(recovery.run(async move |found| deliver(&this, found).await).into_actor(self));
        self.run_turn(ctx);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        if self.runner.is_some() {
            Arbiter::current().stop();
        }
    }
}

impl Handler<Submit> for JobsActor {
    type Result = ResponseActFuture<Self, Result<(String, bool), SubmitError>>;

    fn handle(&mut self, submit: Submit, _: &mut Context<Self>) -> Self::Result {
        let (job_id, task_quota) = match self.engine.admit(submit.user.as_deref(), submit.plan.tasks.len()) {
            Ok(admitted) => admitted,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        let Submit { spec, plan, user, key, retry_of, quota_guard } = submit;
        let (journal, created_at) = (self.journal.clone(), self.engine.now_ms());
        let (version, via, groups) = (record::VERSION, plan.via.clone(), plan.groups.clone());
        let key_record = key.as_ref().map(|key| key.record.clone());
        let record = SpecRecord { version, job_id, created_at, user, groups, retry_of, key_record, via, spec };
        let write = async move { (record::write(&journal, &record, key.as_ref()).await, record) };
        Box::pin(write.into_actor(self).map(|(written, record), actor, ctx| {
            let id = record.job_id.to_string();
            let answer = match written {
                Ok(Written::New(value)) => {
                    let (origin, key_record) = (record.origin(&plan), record.key_record);
                    let accepted = Accepted { origin, plan, key_record, quota_guard, record: value, task_quota };
                    actor.engine.accept(accepted, Instant::now());
                    Ok((id, false))
                }
                Ok(Written::Existing(job)) => {
                    actor.engine.cancel_admission();
                    Ok((job, true))
                }
                Err(error) => {
                    actor.engine.cancel_admission();
                    Err(error)
                }
            };
            actor.run_turn(ctx);
            answer
        }))
    }
}

impl Handler<Cancel> for JobsActor {
    type Result = ResponseActFuture<Self, Result<(), Error>>;

    fn handle(&mut self, Cancel(id): Cancel, _: &mut Context<Self>) -> Self::Result {
        let (journal, write) = (self.journal.clone(), self.engine.records_cancel(&id));
        let write = async move {
            let written = if write { record::write_cancelled(&journal, &id).await } else { Ok(()) };
            (id, written)
        };
        Box::pin(write.into_actor(self).map(|(id, written), actor, ctx| {
            // Even if it was not written: a journal that is full needs jobs to end.
            let answer = actor.engine.cancel(&id);
            actor.run_turn(ctx);
            answer.and_then(|()| written.map_err(|error| Unavailable::Failed(error.to_string()).into()))
        }))
    }
}

impl Handler<Stop> for JobsActor {
    type Result = ();

    fn handle(&mut self, Stop(grace): Stop, ctx: &mut Context<Self>) {
        self.stop.cancel();
        self.engine.stop(grace, Instant::now());
        self.run_turn(ctx);
    }
}

impl Handler<Restore> for JobsActor {
    type Result = bool;

    fn handle(&mut self, Restore(found): Restore, ctx: &mut Context<Self>) -> bool {
        if self.engine.stopping() {
            // The next start reads the rest.
            return false;
        }
        let now = Instant::now();
        match found {
            Found::Jobs(jobs) => jobs.into_iter().for_each(|job| self.engine.restore(job, now)),
            Found::Unreadable { id, reason } => self.engine.unreadable(id, reason),
            Found::Done => {
                self.engine.restored();
                self.refresh_usage();
                self.ready.send_replace(true);
            }
        }
        self.run_turn(ctx);
        true
    }
}

impl<Q: Query> Handler<Q> for JobsActor {
    type Result = ResponseActFuture<Self, Q::Result>;

    fn handle(&mut self, query: Q, _: &mut Context<Self>) -> Self::Result {
        if !self.appending {
            return Box::pin(fut::ready(query.answer(self.engine.registry())));
        }
        let answered = self.answered.clone().notified_owned();
        Box::pin(answered.into_actor(self).map(|(), actor, _| query.answer(actor.engine.registry())))
    }
}

/// Sends a part of the recovery to the actor; false if the actor has ended.
async fn deliver(actor: &WeakAddr<JobsActor>, found: Found) -> bool {
    match actor.upgrade() {
        Some(actor) => actor.send(Restore(found)).await.unwrap_or(false),
        None => false,
    }
}
