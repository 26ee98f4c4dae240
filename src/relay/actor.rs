//! The actor of the relays, on a thread of its own. It owns the engine, and decides nothing itself.
//!
//! Each request, report and result is one call of the engine; [`RelaysActor::carry_out`] then carries out the effects. The
//! upstreams are actors on the same thread.

use std::collections::HashMap;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, Arbiter, AsyncContext, Context, Handler, Message, ResponseFuture,
    WrapFuture,
};
use tokio::{
    sync::{oneshot, watch},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Created, Deps, Error, Filter, Listing, Spec, Stats, Summary, View,
    engine::{
        Engine, Question,
        effect::{Caller, Effect},
    },
    recovery,
    spec::PlannedSource,
    upstream::{
        Report, Start, UpstreamId,
        actor::{self as upstream, Reconnect, UpstreamActor},
    },
    work,
};
use crate::{
    durable::{MAX_REQUESTS, Mailbox, Reader},
    journal::RETRY,
    supervise::Vital,
};

/// How often expired relays are removed.
const SWEEP: Duration = Duration::from_secs(1);

/// Starts the relays of a node, on a thread of their own, until `stop` fires.
///
/// # Panics
/// Outside of an actix system.
pub(super) fn launch(
    config: Config,
    deps: Deps,
    stop: CancellationToken,
) -> (Mailbox<RelaysActor>, watch::Receiver<Stats>) {
    let (ready, is_ready) = watch::channel(false);
    let (figures, stats) = watch::channel(Stats::default());
    let addr = RelaysActor::start_in_arbiter(&Arbiter::new().handle(), move |_| RelaysActor {
        engine: Engine::new(config, &deps),
        upstreams: HashMap::new(),
        ready,
        figures,
        stop,
        _vital: deps.supervisor.vital("relays"),
        deps,
    });
    (Mailbox::new(addr, is_ready), stats)
}

/// The actor.
pub(super) struct RelaysActor {
    engine: Engine,
    upstreams: HashMap<UpstreamId, Upstream>,
    /// Set to true when the recovery has finished.
    ready: watch::Sender<bool>,
    figures: watch::Sender<Stats>,
    /// Fires when the relays are to stop.
    stop: CancellationToken,
    deps: Deps,
    /// A panic of the actor ends the node. Dropped last, so that it also notices a panic while the other fields are dropped.
    _vital: Vital,
}

/// A running upstream.
struct Upstream {
    addr: Addr<UpstreamActor>,
    /// Answers its report.
    taken: Option<oneshot::Sender<()>>,
}

/// Create a relay of this user.
#[derive(Message)]
#[rtype(result = "Result<Created, Error>")]
pub(super) struct Create(pub(super) Spec, pub(super) Vec<PlannedSource>, pub(super) Option<String>);

/// Delete a relay.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub(super) struct Delete(pub(super) String);

/// Make all connections of a relay anew, and begin ended sources again.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub(super) struct Restart(pub(super) String);

/// Show a relay with its sources.
#[derive(Message)]
#[rtype(result = "Result<View, Error>")]
pub(super) struct GetView(pub(super) String);

/// Show a relay without its sources.
#[derive(Message)]
#[rtype(result = "Result<Summary, Error>")]
pub(super) struct GetSummary(pub(super) String);

/// Show a page of relays.
#[derive(Message)]
#[rtype(result = "Result<Listing, Error>")]
pub(super) struct List(pub(super) Filter);

/// The actor of this upstream has panicked.
#[derive(Message)]
#[rtype(result = "()")]
struct UpstreamDied(UpstreamId);

// === impl RelaysActor ===

impl RelaysActor {
    /// Carries out what the engine wants to be done; follows each call of the engine.
    fn carry_out(&mut self, ctx: &mut Context<Self>) {
        // Before any answer: a client that has it may look at the figures.
        let stats = self.engine.stats();
        self.figures.send_if_modified(|figures| std::mem::replace(figures, stats) != stats);
        for effect in self.engine.take_effects() {
            match effect {
                Effect::Work(work) => {
                    let done = work::perform(self.deps.journal.clone(), self.deps.supervisor.clone(), work);
                    ctx.spawn(done.into_actor(self).map(|done, relays, ctx| {
                        relays.engine.done(done);
                        relays.carry_out(ctx);
                    }));
                }
                Effect::Start(start) => self.start_upstream(*start, ctx),
                Effect::Taken(id) => {
                    if let Some(taken) = self.upstreams.get_mut(&id).and_then(|upstream| upstream.taken.take()) {
                        // An upstream that has panicked does not wait.
                        let _ = taken.send(());
                    }
                }
                Effect::Reconnect(id, owner) => {
                    if let Some(upstream) = self.upstreams.get(&id) {
                        send(upstream.addr.clone(), Reconnect(self.deps.connections.of(&owner)));
                    }
                }
                Effect::Stop(id) => {
                    if let Some(upstream) = self.upstreams.remove(&id) {
                        send(upstream.addr, upstream::Stop);
                    }
                }
                Effect::RetryLater => {
                    ctx.run_later(RETRY, |relays, ctx| {
                        relays.engine.retry();
                        relays.carry_out(ctx);
                    });
                }
                Effect::Answer(answer) => answer(),
            }
        }
        if self.engine.stopped() {
            ctx.stop();
        }
    }

    fn start_upstream(&mut self, start: Start, ctx: &Context<Self>) {
        let (id, relays, context) = (start.id, ctx.address().downgrade(), Context::new());
        self.upstreams.insert(id, Upstream { addr: context.address(), taken: None });
        let actor = UpstreamActor::new(start, &self.deps, relays.clone().recipient());
        let running = actix::spawn(context.into_future(actor));
        actix::spawn(async move {
            if running.await.is_err_and(|error| error.is_panic())
                && let Some(relays) = relays.upgrade()
            {
                send(relays, UpstreamDied(id));
            }
        });
    }

    /// Hands a request to the engine; the answer follows when the engine has it.
    fn serve<T: 'static>(
        &mut self,
        ctx: &mut Context<Self>,
        begin: impl FnOnce(&mut Engine, Caller<T>),
    ) -> ResponseFuture<Result<T, Error>> {
        let (caller, answer) = oneshot::channel();
        begin(&mut self.engine, caller);
        self.carry_out(ctx);
        Box::pin(async { answer.await.unwrap_or(Err(Error::Stopping)) })
    }
}

/// Sends a message that has no answer. It waits for a place in the mailbox, so it is not lost.
fn send<A, M>(to: Addr<A>, message: M)
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    actix::spawn(async move {
        // An actor that has ended needs no message.
        let _ = to.send(message).await;
    });
}

impl Actor for RelaysActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAX_REQUESTS);
        let stop = self.stop.clone().cancelled_owned();
        ctx.spawn(stop.into_actor(self).map(|(), relays, ctx| {
            relays.engine.stop();
            relays.carry_out(ctx);
        }));
        ctx.run_interval(SWEEP, |relays, ctx| {
            relays.engine.sweep();
            relays.carry_out(ctx);
        });
        let journal = self.deps.journal.clone();
        if !journal.durable() {
            self.ready.send_replace(true);
            return;
        }
        let recovery = self.deps.supervisor.vital("recovery of relays");
        let reader = Reader { journal, stop: self.stop.clone(), purpose: "relays are read back" };
        let recovery = recovery.run(async move { recovery::read(&reader).await });
        ctx.spawn(recovery.into_actor(self).map(|found, relays, ctx| {
            let Some((found, unreadable)) = found else { return };
            relays.engine.restore(found, unreadable);
            relays.ready.send_replace(true);
            relays.carry_out(ctx);
        }));
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        for (_, upstream) in self.upstreams.drain() {
            send(upstream.addr, upstream::Stop);
        }
        // The thread ends with the actor.
        Arbiter::current().stop();
    }
}

impl Handler<Create> for RelaysActor {
    type Result = ResponseFuture<Result<Created, Error>>;

    fn handle(&mut self, Create(spec, sources, user): Create, ctx: &mut Context<Self>) -> Self::Result {
        self.serve(ctx, |engine, caller| engine.create(spec, sources, user, caller))
    }
}

impl Handler<Delete> for RelaysActor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Delete(id): Delete, ctx: &mut Context<Self>) -> Self::Result {
        self.serve(ctx, |engine, caller| engine.delete(&id, caller))
    }
}

impl Handler<Restart> for RelaysActor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Restart(id): Restart, ctx: &mut Context<Self>) -> Self::Result {
        self.serve(ctx, |engine, caller| engine.restart(&id, caller))
    }
}

impl Handler<GetView> for RelaysActor {
    type Result = ResponseFuture<Result<View, Error>>;

    fn handle(&mut self, GetView(id): GetView, ctx: &mut Context<Self>) -> Self::Result {
        self.serve(ctx, |engine, caller| engine.ask(Question::View(id, caller)))
    }
}

impl Handler<GetSummary> for RelaysActor {
    type Result = ResponseFuture<Result<Summary, Error>>;

    fn handle(&mut self, GetSummary(id): GetSummary, ctx: &mut Context<Self>) -> Self::Result {
        self.serve(ctx, |engine, caller| engine.ask(Question::Summary(id, caller)))
    }
}

impl Handler<List> for RelaysActor {
    type Result = ResponseFuture<Result<Listing, Error>>;

    fn handle(&mut self, List(filter): List, ctx: &mut Context<Self>) -> Self::Result {
        self.serve(ctx, |engine, caller| engine.ask(Question::List(filter, caller)))
    }
}

impl Handler<Report> for RelaysActor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, report: Report, ctx: &mut Context<Self>) -> Self::Result {
        let (taken, wait) = oneshot::channel();
        if let Some(upstream) = self.upstreams.get_mut(&report.upstream) {
            upstream.taken = Some(taken);
            self.engine.reported(report);
            self.carry_out(ctx);
        }
        Box::pin(async { wait.await.is_ok() })
    }
}

impl Handler<UpstreamDied> for RelaysActor {
    type Result = ();

    fn handle(&mut self, UpstreamDied(id): UpstreamDied, ctx: &mut Context<Self>) {
        self.upstreams.remove(&id);
        self.engine.upstream_died(id);
        self.carry_out(ctx);
    }
}
