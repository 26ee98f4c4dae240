//! The actor shell of a shard: what other threads ask of it.

use std::{rc::Rc, time::Duration};

use actix::prelude::*;
use futures::future::join_all;
use tokio::task::unconstrained;

use super::{Change, EmitterStatus, Reason, Selector, shard::Shard};
use crate::{
    sse::Encoded,
    supervise::{Supervisor, Vital},
};

/// Lives on the thread of its connections, for as long as that thread, or until nobody holds the hub.
struct ShardActor {
    shard: Rc<Shard>,
    _vital: Vital,
}

/// The shards of a hub, as other threads reach them.
#[derive(Clone, Default)]
pub(super) struct Addrs(Vec<Addr<ShardActor>>);

#[derive(Message)]
#[rtype(result = "Vec<EmitterStatus>")]
struct List(Selector);

#[derive(Message)]
#[rtype(result = "Option<EmitterStatus>")]
struct ChangeEmitter(String, Change);

#[derive(Message)]
#[rtype(result = "u64")]
struct Disconnect(Selector, Reason);

#[derive(Message)]
#[rtype(result = "bool")]
struct Push(String, Encoded);

#[derive(Message)]
#[rtype(result = "()")]
struct Drain(Duration);

// === impl Addrs ===

impl Addrs {
    pub(super) fn start(&mut self, shard: Rc<Shard>, supervisor: &Supervisor) {
        self.0.retain(Addr::connected);
        // A task of its own: an actor polls all its futures at each of its wakes. It gives others their turns itself: with
        // the runtime's budget of a turn it could write to no more than 128 connections, and would wake the tasks of others.
        actix::spawn(unconstrained(supervisor.vital("delivery of events").run(shard.clone().run())));
        self.0.push(ShardActor { shard, _vital: supervisor.vital("shard of emitters") }.start());
    }

    /// A shard whose thread is gone has no emitters: its answer is empty.
    async fn ask<M>(&self, message: impl Fn() -> M) -> Vec<M::Result>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        ShardActor: Handler<M>,
    {
        let answers = join_all(self.0.iter().map(|shard| shard.send(message()))).await;
        answers.into_iter().flatten().collect()
    }

    pub(super) async fn emitters(&self, selector: Selector) -> Vec<EmitterStatus> {
        self.ask(|| List(selector.clone())).await.concat()
    }

    pub(super) async fn change(&self, id: String, change: Change) -> Option<EmitterStatus> {
        self.ask(|| ChangeEmitter(id.clone(), change.clone())).await.into_iter().flatten().next()
    }

    pub(super) async fn disconnect(&self, selector: Selector, reason: Reason) -> u64 {
        self.ask(|| Disconnect(selector.clone(), reason)).await.into_iter().sum()
    }

    pub(super) async fn push(&self, id: String, frame: Encoded) -> bool {
        self.ask(|| Push(id.clone(), frame.clone())).await.contains(&true)
    }

    pub(super) async fn drain(&self, over: Duration) {
        self.ask(|| Drain(over)).await;
    }
}

// === impl ShardActor ===

impl Actor for ShardActor {
    type Context = Context<Self>;
}

impl Handler<List> for ShardActor {
    type Result = MessageResult<List>;

    fn handle(&mut self, List(selector): List, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shard.list(&selector))
    }
}

impl Handler<ChangeEmitter> for ShardActor {
    type Result = MessageResult<ChangeEmitter>;

    fn handle(&mut self, ChangeEmitter(id, change): ChangeEmitter, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shard.change(&id, change))
    }
}

impl Handler<Disconnect> for ShardActor {
    type Result = u64;

    fn handle(&mut self, Disconnect(selector, reason): Disconnect, _: &mut Self::Context) -> u64 {
        self.shard.disconnect(&selector, reason)
    }
}

impl Handler<Push> for ShardActor {
    type Result = bool;

    fn handle(&mut self, Push(id, frame): Push, _: &mut Self::Context) -> bool {
        self.shard.push(&id, frame)
    }
}

impl Handler<Drain> for ShardActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Drain(over): Drain, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.shard.clone().drain(over))
    }
}
