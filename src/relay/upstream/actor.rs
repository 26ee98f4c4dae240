//! The actor that reads one upstream: it connects, streams, backs off, and ends when the stream is done or has failed.
//!
//! It reports to the actor of the relays, and waits with the next report until the journal has taken the one before.
//! Meanwhile it reads on until the next report is full. It decides nothing about relays: the engine stops it after its
//! last report.

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, WeakRecipient,
    WrapFuture,
};
use rand::RngExt;
use tokio::{
    task::yield_now,
    time::{Duration, Instant},
};

use super::{Pending, Report, Start};
use crate::{
    journal::Shared,
    relay::{Deps, loops},
    upstream::{
        Connections,
        events::{EventSource, Source, StreamEvent},
    },
};

/// Reads one upstream.
pub(crate) struct UpstreamActor {
    /// The actor of the relays.
    relays: WeakRecipient<Report>,
    /// Searched for events that return.
    journal: Shared,
    request: Source,
    /// The reader; taken while a read is in flight.
    source: Option<EventSource>,
    reading: Option<SpawnHandle>,
    pending: Pending,
    /// A report is on its way to the journal.
    reporting: bool,
}

/// Answered with true when the journal has taken the report.
impl Message for Report {
    type Result = bool;
}

/// Close the connection and make a new one, after the position that was read.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Reconnect(pub(crate) Connections);

/// Close the connection and end.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

// === impl UpstreamActor ===

impl UpstreamActor {
    /// A reader that connects when it is started, and reports to `relays`.
    pub(crate) fn new(start: Start, deps: &Deps, relays: WeakRecipient<Report>) -> Self {
        let Start { id, source: request, cursor, resumed, owner } = start;
        let mut source = EventSource::new(request.clone(), cursor.clone(), deps.connections.of(&owner));
        if resumed {
            source = source.delayed(rand::rng().random_range(Duration::ZERO..=request.pace.initial));
        }
        Self {
            relays,
            journal: deps.journal.clone(),
            request,
            source: Some(source),
            reading: None,
            pending: Pending::new(id, cursor, deps.max_event_bytes),
            reporting: false,
        }
    }

    /// Begins the next read, unless the next report is full.
    fn read(&mut self, ctx: &mut Context<Self>) {
        if self.pending.is_full() {
            return;
        }
        let Some(mut source) = self.source.take() else { return };
        let connection = self.pending.reconnects();
        let reading = async move {
            let next = source.next().await;
            (source, next)
        };
        let reading = reading.into_actor(self).map(move |(source, next), upstream, ctx| {
            // A future may be polled once more after it was cancelled.
            if connection == upstream.pending.reconnects() {
                upstream.took(source, next, ctx);
            }
        });
        self.reading = Some(ctx.spawn(reading));
    }

    fn took(&mut self, mut source: EventSource, next: Option<StreamEvent>, ctx: &mut Context<Self>) {
        self.reading = None;
        // Nothing follows the end. The engine stops this actor when it has the last report.
        let Some(next) = next else { return };
        for next in [next].into_iter().chain(source.take_end().map(StreamEvent::End)) {
            self.pending.add(next, source.cursor(), Instant::now());
        }
        self.pending.duplicates(source.take_duplicates());
        self.source = Some(source);
        self.report(ctx);
        self.read(ctx);
    }

    /// Sends the next report, unless the one before is still on its way.
    fn report(&mut self, ctx: &mut Context<Self>) {
        if self.reporting || self.pending.is_empty() {
            return;
        }
        self.reporting = true;
        // Reads that are ready come first, so that all that the connection has at once goes into one report.
        let report = yield_now().into_actor(self).then(|(), upstream, ctx| {
            let report = upstream.next_report();
            // The reading has stopped if the report was full. The next one is collected while this one is written.
            upstream.read(ctx);
            report.into_actor(upstream)
        });
        ctx.spawn(report.map(|taken, upstream, ctx| {
            upstream.reporting = false;
            if taken {
                upstream.report(ctx);
            } else {
                // The relays end, or have closed this upstream.
                ctx.stop();
            }
        }));
    }

    /// Sends the next report. Answers false if nothing is to be read any more.
    fn next_report(&mut self) -> impl Future<Output = bool> + use<> {
        let mut report = self.pending.take();
        let (relays, journal) = (self.relays.clone(), self.journal.clone());
        async move {
            loops::find(&journal, &mut report.outputs).await;
            let Some(relays) = relays.upgrade() else { return false };
            relays.send(report).await.unwrap_or(false)
        }
    }
}

impl Actor for UpstreamActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.read(ctx);
    }
}

impl Handler<Reconnect> for UpstreamActor {
    type Result = ();

    fn handle(&mut self, Reconnect(connections): Reconnect, ctx: &mut Context<Self>) {
        if let Some(reading) = self.reading.take() {
            ctx.cancel_future(reading);
        }
        let cursor = self.pending.reconnect();
        self.source = Some(EventSource::new(self.request.clone(), cursor, connections));
        self.read(ctx);
    }
}

impl Handler<Stop> for UpstreamActor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}
