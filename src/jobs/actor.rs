//! The shell around the engine: an actor on a thread of its own. Nothing is decided here.
//!
//! Commands come as messages, one request each, bounded by permits. Reports come over one bounded channel and are
//! handed to the actor in batches by the [`pump`], which waits at a gate while the engine has no room: so tasks feel it
//! when the journal is slow. The pump also wakes the engine when something is due. It knows the actor only weakly: when the
//! last [`Handle`] is dropped the actor ends, and with it the jobs.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, Addr, Arbiter, AsyncContext, Context, Handler, Message, ResponseActFuture, WeakAddr,
    WrapFuture, fut,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    Config, Deps, Error, Handle, SubmitError,
    engine::{Accepted, Engine, Next, REPORTS_PER_TURN, Report},
    pump::{self, Call},
    record::{self, Key, SpecRecord, Written},
    spec::{Plan, Spec},
    state::Origin,
    stats::Stats,
};
use crate::{
    event::now_ms,
    journal::{AppendError, Batch, Receipt, Shared},
};

/// Requests that the actor may have in hand; more wait for a permit. An actix mailbox is no bound of its own.
const MAX_REQUESTS: usize = 256;
/// How long to wait before an append is tried again.
const APPEND_RETRY: Duration = Duration::from_millis(250);
/// How long a stop may take beyond its grace: tasks have two seconds, the rest is the journal's.
const STOP_MARGIN: Duration = Duration::from_secs(10);
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
    let (handlers, journal) = (deps.handlers.clone(), deps.journal.clone());
    let make = {
        let (config, figures) = (config.clone(), figures.clone());
        Box::new(move |own_thread| Shell::new(config, &deps, figures, own_thread))
    };
    let door = Door { addr: start(make), permits: Arc::new(Semaphore::new(MAX_REQUESTS)), figures };
    Handle::new(door, config, handlers, journal)
}

/// The way to the actor.
#[derive(Clone)]
pub struct Door {
    addr: Addr<Shell>,
    permits: Arc<Semaphore>,
    figures: Arc<Mutex<Stats>>,
}

/// The actor.
struct Shell {
    engine: Engine,
    journal: Shared,
    reports: mpsc::Sender<Report>,
    /// Where reports arrive, until the pump takes it.
    arriving: Option<mpsc::Receiver<Report>>,
    /// Tells the pump when something is due.
    alarm: watch::Sender<Option<Instant>>,
    /// What the pump waits for.
    gate: Option<oneshot::Sender<()>>,
    sweeping: bool,
    stop_waiters: Vec<oneshot::Sender<()>>,
    figures: Arc<Mutex<Stats>>,
    own_thread: bool,
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
}

/// Cancel a job.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
struct Cancel(String);

/// Answer a question.
#[derive(Message)]
#[rtype(result = "()")]
struct Look(Box<dyn FnOnce(&Engine) + Send>);

/// End all jobs and tell when it is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop(Duration, oneshot::Sender<()>);

/// Take reports, do what is due, open the gate when there is room.
#[derive(Message)]
#[rtype(result = "()")]
struct Wake(Vec<Report>, oneshot::Sender<()>);

/// Let go of jobs whose time is over.
#[derive(Message)]
#[rtype(result = "()")]
struct Sweep;

// === impl Door ===

impl Door {
    /// Answers the job's id and whether the key was known.
    pub async fn submit(&self, submit: Submit) -> Result<(String, bool), SubmitError> {
        let _permit = self.permits.acquire().await;
        self.addr.send(submit).await.unwrap_or(Err(SubmitError::Stopping))
    }

    pub async fn cancel(&self, id: String) -> Result<(), Error> {
        let _permit = self.permits.acquire().await;
        self.addr.send(Cancel(id)).await.unwrap_or(Err(Error::Stopping))
    }

    pub async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.permits.acquire().await;
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have gone meanwhile.
        let look = Look(Box::new(move |engine| drop(answer.send(question(engine)))));
        self.addr.send(look).await.map_err(|_| Error::Stopping)?;
        answered.await.map_err(|_| Error::Stopping)
    }

    pub async fn stop(&self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.addr.send(Stop(grace, done)).await.is_ok() {
            // An error means that the actor is gone: stopped all the same.
            if timeout(grace + STOP_MARGIN, stopped).await.is_err() {
                tracing::error!("jobs did not come to their end in time");
            }
        }
    }

    pub fn stats(&self) -> Stats {
        *lock(&self.figures)
    }
}

// === impl Shell ===

impl Shell {
    fn new(config: Config, deps: &Deps, figures: Arc<Mutex<Stats>>, own_thread: bool) -> Self {
        let (reports, arriving) = mpsc::channel(REPORTS_PER_TURN);
        Self {
            engine: Engine::new(config, deps),
            journal: deps.journal.clone(),
            reports,
            arriving: Some(arriving),
            alarm: watch::Sender::new(None),
            gate: None,
            sweeping: false,
            stop_waiters: Vec::new(),
            figures,
            own_thread,
        }
    }

    /// Carries out what the engine has decided; follows each message.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        self.engine.turn(Instant::now());
        for attempt in self.engine.take_attempts() {
            actix::spawn(attempt.run(self.reports.clone()));
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

    fn append(&self, batch: Batch, ctx: &mut Context<Self>) {
        let journal = self.journal.clone();
        let append = async move { journal.append(batch).await };
        ctx.spawn(append.into_actor(self).map(|result, shell, ctx| shell.appended(result, ctx)));
    }

    fn appended(&mut self, result: Result<Vec<Receipt>, AppendError>, ctx: &mut Context<Self>) {
        let next = self.engine.answered(result, Instant::now());
        self.weigh();
        match next {
            Next::Settle => self.settle(ctx),
            Next::Again => self.append(self.engine.batch_again(), ctx),
            Next::Later => {
                self.sweep(ctx);
                ctx.run_later(APPEND_RETRY, |shell, ctx| shell.append(shell.engine.batch_again(), ctx));
            }
        }
    }

    fn weigh(&mut self) {
        let stats = self.journal.stats();
        self.engine.load(stats.pinned_bytes + stats.record_bytes);
    }

    /// Lets go of jobs whose time is over; goes on as long as there are any.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        if self.sweeping {
            return;
        }
        let mut leaving = self.engine.expired(Instant::now(), LEAVE_AT_ONCE);
        if leaving.is_empty() {
            self.weigh();
            leaving.extend(self.engine.squeezed());
        }
        if leaving.is_empty() {
            return;
        }
        self.sweeping = true;
        let journal = self.journal.clone();
        let purge = async move {
            for (id, key_record) in leaving {
                if let Err(error) = record::purge(&journal, &id, key_record).await {
                    tracing::warn!(job_id = %id, %error, "what is kept of an ended job could not be purged");
                }
            }
        };
        ctx.spawn(purge.into_actor(self).map(|(), shell, ctx| {
            shell.sweeping = false;
            shell.sweep(ctx);
        }));
    }
}

impl Actor for Shell {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAX_REQUESTS);
        let arriving = self.arriving.take().expect("an actor starts once");
        let shell = ctx.address().downgrade();
        let deliver = async move |call| deliver(&shell, call).await;
        actix::spawn(pump::run(deliver, arriving, self.alarm.subscribe()));
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        if self.own_thread {
            Arbiter::current().stop();
        }
    }
}

impl Handler<Submit> for Shell {
    type Result = ResponseActFuture<Self, Result<(String, bool), SubmitError>>;

    fn handle(&mut self, submit: Submit, _: &mut Context<Self>) -> Self::Result {
        let job_id = match self.engine.admit() {
            Ok(id) => id,
            Err(error) => return Box::pin(fut::ready(Err(error))),
        };
        let Submit { spec, plan, user, key, retry_of } = submit;
        let key_record = key.as_ref().map(|key| key.record.clone());
        let (version, created_at) = (record::VERSION, now_ms());
        let record = SpecRecord { version, job_id, created_at, user, retry_of, key_record, spec };
        let journal = self.journal.clone();
        let write = async move { (record::write(&journal, &record, key.as_ref()).await, record) };
        Box::pin(write.into_actor(self).map(|(written, record), shell, ctx| {
            let id = record.job_id.to_string();
            let answer = match written {
                Ok(Written::New) => {
                    let tasks = plan.tasks.iter().map(|task| (task.id.clone(), task.name.clone())).collect();
                    let SpecRecord { job_id, user, created_at, retry_of, key_record, .. } = record;
                    let origin = Origin { job_id, user, created_at, retry_of, tasks };
                    shell.engine.accept(Accepted { origin, plan, key_record }, Instant::now());
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
    type Result = Result<(), Error>;

    fn handle(&mut self, Cancel(id): Cancel, ctx: &mut Context<Self>) -> Self::Result {
        let answer = self.engine.cancel(&id);
        self.settle(ctx);
        answer
    }
}

impl Handler<Look> for Shell {
    type Result = ();

    fn handle(&mut self, Look(question): Look, _: &mut Context<Self>) {
        question(&self.engine);
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

impl Handler<Wake> for Shell {
    type Result = ();

    fn handle(&mut self, Wake(reports, gate): Wake, ctx: &mut Context<Self>) {
        let now = Instant::now();
        reports.into_iter().for_each(|report| self.engine.report(report, now));
        self.gate = Some(gate);
        self.settle(ctx);
    }
}

impl Handler<Sweep> for Shell {
    type Result = ();

    fn handle(&mut self, _: Sweep, ctx: &mut Context<Self>) {
        self.sweep(ctx);
        self.settle(ctx);
    }
}

/// Hands a call of the pump to the actor; false when there is no actor any more.
async fn deliver(shell: &WeakAddr<Shell>, call: Call) -> bool {
    let Some(shell) = shell.upgrade() else { return false };
    let sent = match call {
        Call::Wake(reports, gate) => shell.send(Wake(reports, gate)).await,
        Call::Sweep => shell.send(Sweep).await,
    };
    sent.is_ok()
}

fn lock(figures: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    figures.lock().expect("no code that holds the lock panics")
}
