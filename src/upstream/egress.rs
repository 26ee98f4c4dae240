//! The threads that send requests: a client of awc cannot leave its thread, while [`Client`](super::Client) can.
//!
//! A task on the caller's thread sends a request if that thread runs local tasks, as the arbiters of actix do. Otherwise
//! one thread of the client sends it. The caller receives the head through a oneshot channel, and the body through a
//! channel of one piece. So a slow reader slows the server down.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, OnceLock},
    thread,
};

use futures::FutureExt as _;
use tokio::{
    runtime::Builder,
    select,
    sync::{mpsc, oneshot},
    task::{LocalSet, spawn_local},
};
use tokio_util::task::TaskTracker;

use super::{
    Error,
    body::{Body, Piece},
    connect::Connector,
    exchange::{BodyEnd, IncomingBody, exchange},
    head::Head,
    pool::Pool,
    redirect::Hop,
};

/// Passes requests to the sending tasks. Cheap to clone; its thread, if any, ends with the last clone.
#[derive(Clone, Default)]
pub(super) struct Egress(Arc<OnceLock<mpsc::Sender<Submission>>>);

thread_local! {
    /// The sending task of this thread.
    static LOCAL: RefCell<Option<mpsc::Sender<Submission>>> = const { RefCell::new(None) };
}

/// A request, and the channel for its response.
struct Submission {
    connector: Arc<Connector>,
    hop: Hop,
    reply: oneshot::Sender<Result<(Head, Body), Error>>,
}

/// Maximum number of requests that wait for a sending task. Further callers wait for room.
const QUEUE: usize = 1024;

// === impl Egress ===

impl Egress {
    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn send(&self, connector: Arc<Connector>, hop: Hop) -> Result<(Head, Body), Error> {
        let (reply, response) = oneshot::channel();
        let sender = local_sender().unwrap_or_else(|| self.0.get_or_init(start_thread).clone());
        sender.send(Submission { connector, hop, reply }).await.map_err(|_| Error::Closed)?;
        drop(sender);
        response.await.unwrap_or(Err(Error::Closed))
    }
}

/// The channel to the sending task of this thread, which starts with the first request of an arbiter.
fn local_sender() -> Option<mpsc::Sender<Submission>> {
    LOCAL.with_borrow_mut(|local| {
        if let Some(sender) = local.as_ref().filter(|sender| !sender.is_closed()) {
            return Some(sender.clone());
        }
        let arbiter = actix_rt::Arbiter::try_current()?;
        let (sender, submissions) = mpsc::channel(QUEUE);
        // The arbiter starts the task, since the caller may be a task that is not local, where `spawn_local` panics.
        if !arbiter.spawn_fn(|| drop(spawn_local(run(submissions)))) {
            return None;
        }
        *local = Some(sender.clone());
        Some(sender)
    })
}

/// Sends the requests of this thread, which runs local tasks and is not an arbiter. Never ends.
pub(crate) async fn serve_thread() {
    let (sender, submissions) = mpsc::channel(QUEUE);
    LOCAL.set(Some(sender));
    run(submissions).await;
}

/// Sends requests until no sender is left and the last response has ended.
async fn run(mut submissions: mpsc::Receiver<Submission>) {
    let (pool, exchanges) = (Rc::<Pool>::default(), TaskTracker::new());
    while let Some(submission) = submissions.recv().await {
        exchanges.spawn_local(serve(pool.clone(), submission));
    }
    exchanges.close();
    exchanges.wait().await;
}

/// Starts the thread for callers without local tasks.
///
/// # Panics
/// If the system has no descriptors or no thread left.
fn start_thread() -> mpsc::Sender<Submission> {
    let (sender, submissions) = mpsc::channel(QUEUE);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime needs a few descriptors");
    let work = move || {
        LocalSet::new().block_on(&runtime, run(submissions));
        // A cancelled name lookup may still run; the thread does not wait for it.
        runtime.shutdown_background();
    };
    thread::Builder::new().name("egress".into()).spawn(work).expect("the system has one more thread");
    sender
}

/// Sends one request and forwards its response. Ends early when the caller cancels.
async fn serve(pool: Rc<Pool>, submission: Submission) {
    let Submission { connector, hop, mut reply } = submission;
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
    let (first, end) = incoming.read().now_or_never().unwrap_or_default();
    if end == Some(Ok(())) {
        // Most small bodies are complete here, and need no channel.
        incoming.release();
        let body = Body::new(head.framing, first, None);
        return drop(reply.send(Ok((head, body))));
    }
    let (sender, pieces) = mpsc::channel(1);
    let body = Body::new(head.framing, first, Some(pieces));
    if reply.send(Ok((head, body))).is_ok() {
        forward(incoming, sender, end).await;
    }
}

/// Forwards a body as fast as the caller reads it. `end` is its end, if it was already reached.
async fn forward(mut incoming: IncomingBody, sender: mpsc::Sender<Piece>, mut end: Option<BodyEnd>) {
    while end.is_none() {
        let (bytes, reached) = select! {
            biased;
            () = sender.closed() => return,
            read = incoming.read() => read,
        };
        end = reached;
        if !bytes.is_empty() && sender.send(Some(Ok(bytes))).await.is_err() {
            return;
        }
    }
    let last = match end {
        Some(Err(error)) => Some(Err(error)),
        _ => {
            incoming.release();
            None
        }
    };
    drop(sender.send(last).await);
}
