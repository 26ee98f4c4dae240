//! Where requests are sent: a client of awc cannot leave its thread, while [`Client`](super::Client) can.
//!
//! A request is sent by a task on the caller's thread if that thread runs local tasks, as the arbiters of actix do. Else
//! one thread for all of them sends it. The caller gets the head by a oneshot channel and the body by a channel of one
//! piece, so that a slow reader slows the server down.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, OnceLock},
    thread,
};

use bytes::Bytes;
use tokio::{
    runtime::Builder,
    select,
    sync::{mpsc, oneshot},
    task::{LocalSet, spawn_local},
};
use tokio_util::task::TaskTracker;

use super::{
    Error,
    connect::Connector,
    exchange::{Incoming, exchange},
    head::Head,
    pool::Pool,
    redirect::Hop,
};

/// The way to the sending tasks. Cheap to clone; its thread, if there is one, ends with the last clone.
#[derive(Clone, Default)]
pub struct Egress(Arc<OnceLock<mpsc::Sender<Order>>>);

thread_local! {
    /// The task of this thread.
    static LOCAL: RefCell<Option<mpsc::Sender<Order>>> = const { RefCell::new(None) };
}

/// A request, and where its response is awaited.
struct Order {
    connector: Arc<Connector>,
    hop: Hop,
    reply: oneshot::Sender<Result<Answer, Error>>,
}

/// The head of a response, and its body.
pub struct Answer {
    pub head: Head,
    pub body: Pieces,
}

/// A body in pieces.
pub struct Pieces {
    /// Bytes that arrived together with the head.
    pub first: Bytes,
    pub rest: Rest,
}

/// The part of a body after the first piece.
pub enum Rest {
    /// There is none.
    Ended,
    Failed(Error),
    Coming(mpsc::Receiver<Piece>),
}

/// A piece of a body, never empty; `None` at a good end. A channel that closes without it lost its connection.
pub type Piece = Option<Result<Bytes, Box<Error>>>;

/// Requests that wait for a sending task. Further callers wait for room.
const WAITING: usize = 1024;

// === impl Egress ===

impl Egress {
    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(&self, connector: Arc<Connector>, hop: Hop) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let sender = local().unwrap_or_else(|| self.0.get_or_init(start).clone());
        sender.send(Order { connector, hop, reply }).await.map_err(|_| Error::Closed)?;
        drop(sender);
        answer.await.unwrap_or(Err(Error::Closed))
    }
}

/// The sending task of this thread; it starts with the first request of an arbiter.
fn local() -> Option<mpsc::Sender<Order>> {
    LOCAL.with_borrow_mut(|local| {
        if let Some(sender) = local.as_ref().filter(|sender| !sender.is_closed()) {
            return Some(sender.clone());
        }
        let arbiter = actix_rt::Arbiter::try_current()?;
        let (sender, orders) = mpsc::channel(WAITING);
        // The task cannot be started here: the caller may be a task that is not local, in which `spawn_local` panics.
        if !arbiter.spawn_fn(|| drop(spawn_local(run(orders)))) {
            return None;
        }
        *local = Some(sender.clone());
        Some(sender)
    })
}

/// Sends the requests of this thread, which runs local tasks and is no arbiter. Never ends.
pub(crate) async fn serve_thread() {
    let (sender, orders) = mpsc::channel(WAITING);
    LOCAL.set(Some(sender));
    run(orders).await;
}

/// Sends requests until no sender is left and the last response has ended.
async fn run(mut orders: mpsc::Receiver<Order>) {
    let (pool, exchanges) = (Rc::<Pool>::default(), TaskTracker::new());
    while let Some(order) = orders.recv().await {
        exchanges.spawn_local(serve(pool.clone(), order));
    }
    exchanges.close();
    exchanges.wait().await;
}

/// Starts the thread for callers without local tasks.
///
/// # Panics
/// If the system has no descriptors or no thread left.
fn start() -> mpsc::Sender<Order> {
    let (sender, orders) = mpsc::channel(WAITING);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime needs a few descriptors");
    let work = move || {
        LocalSet::new().block_on(&runtime, run(orders));
        // A name lookup that is no longer awaited may take its time.
        runtime.shutdown_background();
    };
    thread::Builder::new().name("egress".into()).spawn(work).expect("the system has one more thread");
    sender
}

/// Sends one request and passes its response on. Ends early when the caller no longer waits.
async fn serve(pool: Rc<Pool>, order: Order) {
    let Order { connector, hop, mut reply } = order;
    let result = select! {
        biased;
        () = reply.closed() => return,
        // Boxed, so that a body that lasts for hours does not occupy the memory of connecting and sending.
        result = Box::pin(exchange(&pool, &connector, &hop)) => result,
    };
    drop((pool, connector, hop));
    let (head, mut incoming) = match result {
        Ok(response) => response,
        Err(error) => return drop(reply.send(Err(error))),
    };
    let (first, end) = incoming.gather(Bytes::new());
    let (rest, sender) = match end {
        Some(Ok(())) => {
            incoming.release();
            return drop(reply.send(Ok(Answer { head, body: Pieces { first, rest: Rest::Ended } })));
        }
        Some(Err(error)) => (Rest::Failed(error), None),
        None => {
            let (sender, pieces) = mpsc::channel(1);
            (Rest::Coming(pieces), Some(sender))
        }
    };
    let sent = reply.send(Ok(Answer { head, body: Pieces { first, rest } })).is_ok();
    if let Some(sender) = sender.filter(|_| sent) {
        pass_on(incoming, sender).await;
    }
}

/// Passes a body on as fast as the caller takes it.
async fn pass_on(mut incoming: Incoming, sender: mpsc::Sender<Piece>) {
    loop {
        let next = select! {
            biased;
            () = sender.closed() => return,
            next = incoming.next() => next,
        };
        let (piece, end) = match next {
            Some(Ok(first)) => {
                let (bytes, end) = incoming.gather(first);
                (Some(bytes), end)
            }
            Some(Err(error)) => (None, Some(Err(error))),
            None => (None, Some(Ok(()))),
        };
        if let Some(bytes) = piece
            && sender.send(Some(Ok(bytes))).await.is_err()
        {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => {
                incoming.release();
                return drop(sender.send(None).await);
            }
            Some(Err(error)) => return drop(sender.send(Some(Err(error.into()))).await),
        }
    }
}
