//! The actor of a shard: its mailbox for requests from other threads.
//!
//! Events never pass this mailbox. They reach the shard through its own loop, which the actor starts; connections and this
//! actor use the same shard between the turns of that loop. The actor is a shell: each handler is one call.

use std::{rc::Rc, time::Duration};

use actix::prelude::*;
use futures::future::join_all;
use tokio::task::unconstrained;

use super::{Change, EmitterStatus, Reason, Selector, shard::Shard};
use crate::{
    sse::Encoded,
    supervise::{Supervisor, Vital},
};

/// Lives on the thread of its connections, until that thread ends or the last handle of the hub is dropped.
struct ShardActor {
    shard: Rc<Shard>,
    supervisor: Supervisor,
    _vital: Vital,
}

/// The shards of a hub, for other threads.
#[derive(Clone, Default)]
pub(super) struct Shards(Vec<Addr<ShardActor>>);

/// Returns the status of the selected emitters.
#[derive(Message)]
#[rtype(result = "Vec<EmitterStatus>")]
struct ListEmitters {
    selector: Selector,
}

/// Changes one emitter, and returns its new status; `None` if it is not of this shard.
#[derive(Message)]
#[rtype(result = "Option<EmitterStatus>")]
struct ChangeEmitter {
    id: String,
    change: Change,
}

/// Ends the selected emitters, and returns their number.
#[derive(Message)]
#[rtype(result = "u64")]
struct DisconnectEmitters {
    selector: Selector,
    reason: Reason,
}

/// Sends a frame to one emitter, past the journal; false if it is not of this shard or has no room.
#[derive(Message)]
#[rtype(result = "bool")]
struct PushFrame {
    id: String,
    frame: Encoded,
}

/// Ends all emitters, spread over this time.
#[derive(Message)]
#[rtype(result = "()")]
struct DrainEmitters {
    over: Duration,
}

// === impl Shards ===

impl Shards {
    pub(super) fn start(&mut self, shard: Rc<Shard>, supervisor: &Supervisor) {
        self.0.retain(Addr::connected);
        let vital = supervisor.vital("shard of emitters");
        self.0.push(ShardActor { shard, supervisor: supervisor.clone(), _vital: vital }.start());
    }

    /// Asks all shards. A shard whose thread has ended has no emitters, and does not answer.
    async fn ask<M>(&self, message: impl Fn() -> M) -> Vec<M::Result>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        ShardActor: Handler<M>,
    {
        let answers = join_all(self.0.iter().map(|shard| shard.send(message()))).await;
        answers.into_iter().flatten().collect()
    }

    pub(super) async fn list(&self, selector: Selector) -> Vec<EmitterStatus> {
        self.ask(|| ListEmitters { selector: selector.clone() }).await.concat()
    }

    pub(super) async fn change(&self, id: String, change: Change) -> Option<EmitterStatus> {
        let answers = self.ask(|| ChangeEmitter { id: id.clone(), change: change.clone() }).await;
        answers.into_iter().flatten().next()
    }

    pub(super) async fn disconnect(&self, selector: Selector, reason: Reason) -> u64 {
        self.ask(|| DisconnectEmitters { selector: selector.clone(), reason }).await.into_iter().sum()
    }

    pub(super) async fn push(&self, id: String, frame: Encoded) -> bool {
        self.ask(|| PushFrame { id: id.clone(), frame: frame.clone() }).await.contains(&true)
    }

    pub(super) async fn drain(&self, over: Duration) {
        self.ask(|| DrainEmitters { over }).await;
    }
}

// === impl ShardActor ===

impl Actor for ShardActor {
    type Context = Context<Self>;

    /// Starts the loop of the shard, as a task of its own: an actor polls all its futures at each of its wakes. The task is
    /// unconstrained and yields by itself. With the runtime's budget of a turn it could write to 128 connections at most, and
    /// would wake the tasks of the others.
    fn started(&mut self, _: &mut Self::Context) {
        let vital = self.supervisor.vital("delivery of events");
        actix::spawn(unconstrained(vital.run(self.shard.clone().run())));
    }
}

impl Handler<ListEmitters> for ShardActor {
    type Result = MessageResult<ListEmitters>;

    fn handle(&mut self, ListEmitters { selector }: ListEmitters, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shard.list(&selector))
    }
}

impl Handler<ChangeEmitter> for ShardActor {
    type Result = MessageResult<ChangeEmitter>;

    fn handle(&mut self, ChangeEmitter { id, change }: ChangeEmitter, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shard.change(&id, change))
    }
}

impl Handler<DisconnectEmitters> for ShardActor {
    type Result = u64;

    fn handle(&mut self, DisconnectEmitters { selector, reason }: DisconnectEmitters, _: &mut Self::Context) -> u64 {
        self.shard.disconnect(&selector, reason)
    }
}

impl Handler<PushFrame> for ShardActor {
    type Result = bool;

    fn handle(&mut self, PushFrame { id, frame }: PushFrame, _: &mut Self::Context) -> bool {
        self.shard.push(&id, frame)
    }
}

impl Handler<DrainEmitters> for ShardActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, DrainEmitters { over }: DrainEmitters, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.shard.clone().drain(over))
    }
}
