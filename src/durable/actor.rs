//! The mailbox of a component's actor. Requests wait here until the recovery has finished, and then for a permit.

use std::{sync::Arc, time::Duration};

use actix::{Actor, Addr, Context, Handler, Message};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

/// The address of an actor, with the bound that an actix mailbox alone does not give. Cheap to clone.
pub struct Mailbox<A: Actor> {
    addr: Addr<A>,
    ready: watch::Receiver<bool>,
    permits: Arc<Semaphore>,
}

/// Why a request did not reach the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The recovery has not finished in time; try again soon.
    #[error("the node has just started and still reads its stored data; try again soon")]
    Starting,
    /// The actor has ended.
    #[error("the node is stopping")]
    Stopping,
}

/// Maximum number of requests that an actor processes at the same time; further requests wait for a permit.
pub const MAX_REQUESTS: usize = 256;
/// Maximum time that a request waits for the recovery: longer than most recoveries take, shorter than most clients
/// wait.
const START_TIMEOUT: Duration = Duration::from_secs(10);

// === impl Mailbox ===

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    /// A mailbox for this actor. The actor holds the sender of `ready`, and sets it to true when its recovery has
    /// finished.
    pub fn new(addr: Addr<A>, ready: watch::Receiver<bool>) -> Self {
        Self { addr, ready, permits: Arc::new(Semaphore::new(MAX_REQUESTS)) }
    }

    /// Sends a request and waits for its answer. It is sent after the recovery: before that it is unknown which entities
    /// exist. The actor carries out a request that it has received, even if this future is dropped.
    ///
    /// # Errors
    /// If the recovery takes longer than ten seconds, or the actor has ended.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, Refused>
    where
        M: Message<Result: Send> + Send + 'static,
        A: Handler<M>,
    {
        match timeout(START_TIMEOUT, self.ready.clone().wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(Refused::Stopping),
            Err(_) => return Err(Refused::Starting),
        }
        let _permit = self.permits.acquire().await;
        self.ask_now(message).await
    }

    /// Sends a request that waits neither for the recovery nor for a permit, such as a stop.
    ///
    /// # Errors
    /// If the actor has ended.
    pub async fn ask_now<M>(&self, message: M) -> Result<M::Result, Refused>
    where
        M: Message<Result: Send> + Send + 'static,
        A: Handler<M>,
    {
        self.addr.send(message).await.map_err(|_| Refused::Stopping)
    }

    /// Waits until the actor has ended.
    pub async fn ended(&self) {
        // The actor holds the sender, and the condition is never true: this waits for the end of the sender.
        drop(self.ready.clone().wait_for(|_| false).await);
    }

    /// True after the recovery has finished.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { addr: self.addr.clone(), ready: self.ready.clone(), permits: self.permits.clone() }
    }
}
