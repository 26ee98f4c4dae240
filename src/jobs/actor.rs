//! The shell around the engine: an actor on a thread of its own. Nothing is decided here.
//!
//! Commands come as messages, one request each, bounded by permits. Reports come over one bounded channel and are
//! handed to the actor in batches by the [`pump`], which waits at a gate while the engine has no room: so tasks feel it
//! when the journal is slow. The pump also wakes the engine when something is due. It knows the actor only weakly: when the
//! last [`Handle`] is dropped the actor ends, and with it the jobs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, Arbiter, AsyncContext, Context, Handler, Message, ResponseActFuture, WeakAddr,
    WrapFuture, fut,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Deps, Error, Handle, Hold, SubmitError,
    door::{Door, lock},
    engine::{Accepted, Bounds, Engine, Leaving, Next, REPORTS_PER_TURN, Report},
    pump::{self, Call},
    record::{self, Key, SpecRecord, Written},
    recovery::{Found, Recovery},
    remote::{Means, Session},
    runner::Runner,
    spec::{Plan, Spec},
    stats::Stats,
};
use crate::{
    durable::{MAX_REQUESTS, Mailbox, Reader},
    journal::{AppendError, Batch, RETRY, Receipt, Shared, Unavailable},
};

/// Ended jobs that leave in one go.
const LEAVE_AT_ONCE: usize = 64;

/// Starts the jobs of a node on a thread of their own.
///
/// # Panics
/// Outside of an actix system.
pub fn start(config: Config, deps: Deps) -> Handle {
    let arbiter = Arbiter::new();
    launch(config, deps, |make| Shell::start_in_arbiter(&arbiter.handle(), move |_| make(true)))
}

/// Starts the jobs on this thread, where a test can hold the clock.
#[cfg(test)]
pub fn start_here(config: Config, deps: Deps) -> Handle {
    launch(config, deps, |make| Shell::create(move |_| make(false)))
}

type Make = Box<dyn FnOnce(bool) -> Shell + Send>;

fn launch(config: Config, deps: Deps, start: impl FnOnce(Make) -> Addr<Shell>) -> Handle {
    let figures = Arc::new(Mutex::new(Stats::default()));
    let (ready, read) = watch::channel(false);
    let (handlers, remotes, journal) = (deps.handlers.clone(), deps.remotes.clone(), deps.journal.clone());
    let make = {
        let (config, figures) = (config.clone(), figures.clone());
        Box::new(move |own_thread| Shell::new(config, deps, ready, figures, own_thread))
    };
    let door = Door::new(Mailbox::new(start(make), read), figures);
    Handle::new(door, config, handlers, remotes, journal)
}

/// The actor.
pub struct Shell {
    engine: Engine,
    journal: Shared,
    /// What follows the tasks on remotes.
    means: Arc<Means>,
    /// What the recovery needs, until it takes it.
    past: Option<(Config, Deps)>,
    /// True once the recovery is done.
    ready: watch::Sender<bool>,
    reports: mpsc::Sender<Report>,
    /// Where reports arrive, until the pump takes it.
    arriving: Option<mpsc::Receiver<Report>>,
    /// Tells the pump when something is due.
    alarm: watch::Sender<Option<Instant>>,
    /// What the pump waits for.
    gate: Option<oneshot::Sender<()>>,
    sweeping: bool,
    /// Jobs that have left, and of which something is still kept.
    unpurged: Vec<Leaving>,
    /// An append is in flight: readers may see its events already.
    appending: bool,
    /// Questions that came meanwhile. Whoever has read an event must not be answered from before it.
    questions: Vec<Look>,
    stop_waiters: Vec<oneshot::Sender<()>>,
    figures: Arc<Mutex<Stats>>,
    /// Where attempts run, unless this thread is a test's.
    runner: Option<Runner>,
}

/// Keep a job that was checked, and run it.
#[derive(Message)]
#[rtype(result = "Result<(String, bool), SubmitError>")]
pub struct Submit {
    pub spec: Spec,
    pub plan: Plan,
    pub user: Option<String>,
    pub key: Option<Key>,
    pub retry_of: Option<String>,
    pub hold: Option<Hold>,
}

/// Cancel a job, and keep that.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Cancel(pub String);

/// Answer a question.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Look(pub Box<dyn FnOnce(&Engine) + Send>);

/// End all jobs and tell when it is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop(pub Duration, pub oneshot::Sender<()>);

/// Answered with false when there is no use in further calls.
impl Message for Call {
    type Result = bool;
}

// === impl Shell ===

impl Shell {
    fn new(
        config: Config,
        deps: Deps,
        ready: watch::Sender<bool>,
        figures: Arc<Mutex<Stats>>,
        own_thread: bool,
    ) -> Self {
        let (reports, arriving) = mpsc::channel(REPORTS_PER_TURN);
        let runner = own_thread.then(|| Runner::start(config.concurrency, reports.clone(), &deps.supervisor));
        Self {
            engine: Engine::new(config.clone(), &deps),
            journal: deps.journal.clone(),
            means: Means::new(&config, &deps),
            past: Some((config, deps)),
            ready,
            reports,
            arriving: Some(arriving),
            alarm: watch::Sender::new(None),
            gate: None,
            sweeping: false,
            unpurged: Vec::new(),
            appending: false,
            questions: Vec::new(),
            stop_waiters: Vec::new(),
            figures,
            runner,
        }
    }

    /// Carries out what the engine has decided; follows each message.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        self.engine.turn(Instant::now());
        match (self.engine.take_attempts(), &self.runner) {
            (attempts, Some(runner)) if !attempts.is_empty() => runner.begin(attempts),
            (attempts, _) => attempts.into_iter().for_each(|one| drop(actix::spawn(one.run(self.reports.clone())))),
        }
        for group in self.engine.take_groups() {
            actix::spawn(Session::new(group, self.means.clone(), self.reports.clone()).run());
        }
        if let Some(batch) = self.engine.take_batch() {
            self.append(batch, ctx);
        }
        if self.engine.has_room()
            && let Some(gate) = self.gate.take()
        {
            // The pump is gone only when the actor is.
            let _ = gate.send(());
        }
        let next = self.engine.next_timer();
        self.alarm.send_if_modified(|alarm| std::mem::replace(alarm, next) != next);
        *lock(&self.figures) = self.engine.stats();
        if !self.stop_waiters.is_empty() && self.engine.stopped() {
            for waiter in self.stop_waiters.drain(..) {
                // Whoever waited may have given up.
                let _ = waiter.send(());
            }
            actix::ActorContext::stop(ctx);
        }
    }

    fn append(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        self.appending = true;
        let journal = self.journal.clone();
        let append = async move { journal.append(batch).await };
        ctx.spawn(append.into_actor(self).map(|result, shell, ctx| shell.appended(result, ctx)));
    }

    fn appended(&mut self, result: Result<Vec<Receipt>, AppendError>, ctx: &mut Context<Self>) {
        let next = self.engine.answered(result, Instant::now());
        self.appending = false;
        for Look(question) in self.questions.drain(..) {
            question(&self.engine);
        }
        self.weigh();
        match next {
            Next::Settle => self.settle(ctx),
            Next::Again => self.append(self.engine.batch_again(), ctx),
            Next::Later => {
                self.sweep(ctx);
                ctx.run_later(RETRY, |shell, ctx| {
                    let batch = shell.engine.batch_again();
                    shell.append(batch, ctx);
                });
            }
        }
    }

    fn weigh(&mut self) {
        let stats = self.journal.stats();
        self.engine.load(stats.pinned_bytes + stats.record_bytes);
    }

    /// Lets go of jobs whose time is over; goes on as long as there are any.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        if self.sweeping || !*self.ready.borrow() {
            return;
        }
        // Those that could not leave come first, and while they cannot no others follow.
        let mut leaving = std::mem::take(&mut self.unpurged);
        if leaving.is_empty() {
            leaving = self.engine.expired(Instant::now(), LEAVE_AT_ONCE);
        }
        if leaving.is_empty() {
            self.weigh();
            leaving.extend(self.engine.squeezed());
        }
        if leaving.is_empty() {
            return;
        }
        self.sweeping = true;
        let journal = self.journal.clone();
        let purge = async move { record::purge_all(&journal, leaving).await };
        ctx.spawn(purge.into_actor(self).map(|kept, shell, ctx| {
            shell.sweeping = false;
            shell.unpurged = kept;
            if shell.unpurged.is_empty() {
                shell.sweep(ctx);
            }
        }));
    }
}

impl Actor for Shell {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAX_REQUESTS);
        let arriving = self.arriving.take().expect("an actor starts once");
        let shell = ctx.address().downgrade();
        let (config, deps) = self.past.take().expect("an actor starts once");
        let (finder, vital) = (shell.clone(), deps.supervisor.vital("reports of jobs"));
        let found = async move |found| deliver(&finder, Call::Found(found)).await;
        let reader = Reader { journal: deps.journal, stop: CancellationToken::new(), purpose: "jobs are read back" };
        let bounds = Bounds::new(&config, deps.max_event_bytes);
        ctx.spawn(Recovery::new(reader, deps.handlers, bounds).run(found).into_actor(self));
        let deliver = async move |call| deliver(&shell, call).await;
        actix::spawn(vital.run(pump::run(deliver, arriving, self.alarm.subscribe())));
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        if self.runner.is_some() {
            Arbiter::current().stop();
        }
    }
}

impl Handler<Submit> for Shell {
    type Result = ResponseActFuture<Self, Result<(String, bool), SubmitError>>;

    fn handle(&mut self, submit: Submit, _: &mut Context<Self>) -> Self::Result {
        let (job_id, tasks) = match self.engine.admit(submit.user.as_deref(), submit.plan.tasks.len()) {
            Ok(admitted) => admitted,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        let Submit { spec, plan, user, key, retry_of, hold } = submit;
        let (journal, created_at) = (self.journal.clone(), self.engine.now_ms());
        let (version, via, groups) = (record::VERSION, plan.via.clone(), plan.groups.clone());
        let key_record = key.as_ref().map(|key| key.record.clone());
        let record = SpecRecord { version, job_id, created_at, user, groups, retry_of, key_record, via, spec };
        let write = async move { (record::write(&journal, &record, key.as_ref()).await, record) };
        Box::pin(write.into_actor(self).map(|(written, record), shell, ctx| {
            let id = record.job_id.to_string();
            let answer = match written {
                Ok(Written::New(value)) => {
                    let (origin, key_record) = (record.origin(&plan), record.key_record);
                    let accepted = Accepted { origin, plan, key_record, hold, record: value, tasks };
                    shell.engine.accept(accepted, Instant::now());
                    Ok((id, false))
                }
                Ok(Written::Existing(job)) => {
                    shell.engine.turn_away();
                    Ok((job, true))
                }
                Err(error) => {
                    shell.engine.turn_away();
                    Err(error)
                }
            };
            shell.settle(ctx);
            answer
        }))
    }
}

impl Handler<Cancel> for Shell {
    type Result = ResponseActFuture<Self, Result<(), Error>>;

    fn handle(&mut self, Cancel(id): Cancel, _: &mut Context<Self>) -> Self::Result {
        let (journal, keep) = (self.journal.clone(), self.engine.keeps_cancel(&id));
        let write = async move {
            let kept = if keep { record::write_cancelled(&journal, &id).await } else { Ok(()) };
            (id, kept)
        };
        Box::pin(write.into_actor(self).map(|(id, kept), shell, ctx| {
            // In any case: a journal that is full needs jobs to end.
            let answer = shell.engine.cancel(&id);
            shell.settle(ctx);
            answer.and_then(|()| kept.map_err(|error| Unavailable::Failed(error.to_string()).into()))
        }))
    }
}

impl Handler<Look> for Shell {
    type Result = ();

    fn handle(&mut self, look: Look, _: &mut Context<Self>) {
        if self.appending {
            // No more of them than there are permits.
            self.questions.push(look);
        } else {
            look.0(&self.engine);
        }
    }
}

impl Handler<Stop> for Shell {
    type Result = ();

    fn handle(&mut self, Stop(grace, done): Stop, ctx: &mut Context<Self>) {
        self.engine.stop(grace, Instant::now());
        self.stop_waiters.push(done);
        self.settle(ctx);
    }
}

impl Handler<Call> for Shell {
    type Result = bool;

    fn handle(&mut self, call: Call, ctx: &mut Context<Self>) -> bool {
        let now = Instant::now();
        match call {
            Call::Wake(reports, gate) => {
                reports.into_iter().for_each(|report| self.engine.report(report, now));
                self.gate = Some(gate);
            }
            Call::Sweep => self.sweep(ctx),
            // A node that stops already leaves the rest for the next start.
            Call::Found(_) if self.engine.stopping() => return false,
            Call::Found(Found::Jobs(jobs)) => jobs.into_iter().for_each(|past| self.engine.restore(past, now)),
            Call::Found(Found::Unreadable { id, reason }) => self.engine.unreadable(id, reason),
            Call::Found(Found::Done) => {
                self.engine.restored();
                self.weigh();
                self.ready.send_replace(true);
            }
        }
        self.settle(ctx);
        true
    }
}

/// Hands a call of the pump to the actor; false when there is no actor any more.
async fn deliver(shell: &WeakAddr<Shell>, call: Call) -> bool {
    match shell.upgrade() {
        Some(shell) => shell.send(call).await.unwrap_or(false),
        None => false,
    }
}
