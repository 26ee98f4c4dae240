//! HTTP/2: many requests on one connection.
//!
//! The framework's HTTP/2 has no limit on streams, permits request heads of 16 MiB, and notices a reset only when it
//! writes. Here a request is a task that ends when its client resets the stream or the connection ends. Requests go to
//! the same service as those of HTTP/1.1 and have their [`Connection`] among their extensions.
//!
//! Limits against a hostile client, with the limits of the crate `h2` 0.4:
//!
//! | it sends | bound | then |
//! |---|---|---|
//! | nothing, or half a preface | `head_timeout_ms` | cut, counted |
//! | many requests | `http2_max_streams`, announced in SETTINGS | `REFUSED_STREAM`; no further request is accepted while this number of tasks runs |
//! | many requests on many connections | `http2_max_answering` in the node, then one per connection is answered at a time: the memory of a handler, tens of kilobytes, is not counted otherwise | they wait |
//! | requests whose responses it does not read | [`MOST_BLOCKED`] | they wait |
//! | requests and resets at once (rapid reset) | 20 that were not accepted yet; the tasks, see above | `ENHANCE_YOUR_CALM` |
//! | frames that are errors of one stream ("made you reset") | 1024 | `ENHANCE_YOUR_CALM` |
//! | a large head | 64 KiB | 431; 414 for a large target |
//! | a head without end (CONTINUATION) | [`message::MOST_READ`], and the number of frames that this size needs | 431, then `ENHANCE_YOUR_CALM` |
//! | PING, SETTINGS | each needs its answer written first | not read while it does not read |
//! | small or empty DATA frames | a budget that the window gives | `ENHANCE_YOUR_CALM` |
//! | a body that its handler does not read | the windows | it must wait |
//! | no request for [`IDLE`] | | GOAWAY |
//! | no answer to a PING | `write_deadline_ms` | cut |
//!
//! Slow readers (`unsent.rs`): a stream whose windows stay closed is reset, and the other streams of the connection
//! continue. The connection ends with the last stream, after many resets within a write deadline, or when its client
//! reads too little of all streams ([`Room::one_stuck`](crate::transport::Room)). Streams queue only a limited number of
//! bytes for the socket of the connection.

use std::{cell::RefCell, future::poll_fn, net::SocketAddr, pin::pin, rc::Rc, time::Duration};

use actix_http::{Request, Response};
use actix_service::Service;
use actix_web::{HttpResponse, body::MessageBody, dev::ServiceResponse};
use bytes::Bytes;
use h2::{
    PingPong, Reason, RecvStream,
    server::{Builder, SendResponse},
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, OpenRequest, OpenRequests},
    heads,
};
use crate::{
    node::Node,
    transport::{Rest, Rewound, Room, Shared},
    unsent::Unsent,
};

mod message;
mod send;

use self::{
    message::translate,
    send::{Ended, Outgoing, send},
};

/// A connection without a request is closed after this time. It is longer than with HTTP/1.1: a client has only one
/// connection.
const IDLE: Duration = Duration::from_secs(60);
/// Time that a client has to read the end of a connection.
const LAST: Duration = Duration::from_secs(1);
/// Interval between PINGs.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Bytes of a request's body that may arrive before they are read, per request and per connection.
const WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Maximum number of responses of a connection that wait for its client; from this number on, the node
/// accepts at most one further request on the connection.
const MOST_BLOCKED: usize = 16;
/// Bytes of a response that wait for their client, in addition to those in the socket.
const SEND_BUFFER: usize = 32 << 10;

/// Context that all requests of a connection share.
struct Here<A> {
    app: Rc<A>,
    connection: Connection,
    peer: Option<SocketAddr>,
    room: Room,
    unsent: Unsent,
}

/// The PINGs of a connection.
struct Pings {
    pings: Option<PingPong>,
    /// Time of the unacknowledged PING; `None` after the client has acknowledged it.
    asked: Option<Instant>,
}

/// Serves a connection until it ends.
pub(super) async fn serve<A, B>(
    node: &Node,
    wire: Rewound,
    app: Rc<A>,
    connection: &Connection,
    peer: Option<SocketAddr>,
) where
    A: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse> + 'static,
    B: MessageBody + 'static,
{
    let most = node.config.server.http2_max_streams;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(most)
        .max_header_list_size(message::MOST_READ)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let wire = Shared::new(wire, node.unsent.clone());
    let room = wire.room();
    let Ok(handshake) = timeout(node.heads.timeout, builder.handshake::<_, Bytes>(wire)).await else {
        node.heads.count();
        return;
    };
    let Ok(mut http2) = handshake else { return };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let requests = Rc::<OpenRequests>::default();
    let unsent = node.unsent.clone();
    let here = Rc::new(Here { app, connection: connection.clone(), peer, room: room.clone(), unsent });
    let mut pings = Pings { pings: http2.ping_pong(), asked: None };
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The set aborts all tasks when the connection ends.
    let mut tasks = JoinSet::new();
    let (mut asked, mut leaving) = (false, false);
    // Each connection has its own token: a check of it does not contend with all other connections.
    let stopping = node.stopping.child_token();
    let mut idle = pin!(sleep(node.heads.timeout));
    loop {
        let enough = requests.count() > 0 && node.unsent.begun() >= node.config.server.http2_max_answering;
        let blocked = room.waiting() >= MOST_BLOCKED;
        let accepting = tasks.len() < most && !enough && !blocked;
        let accepted = poll_fn(|cx| {
            if accepting { http2.poll_accept(cx) } else { http2.poll_closed(cx).map(|closed| closed.err().map(Err)) }
        });
        tokio::select! {
            accepted = accepted => {
                let Some(Ok((request, respond))) = accepted else { return };
                asked = true;
                // Counted here: the task begins only after this loop has accepted all requests that are there.
                let counted = OpenRequest::new(&requests, &node.unsent);
                tasks.spawn_local(answer(here.clone(), request, respond, counted));
            }
            () = requests.fewer(), if enough => {}
            () = room.fewer(), if blocked => {}
            Some(ended) = tasks.join_next() => {
                // A panic in a task ends only its request.
                let Ended { last, stuck } = ended.unwrap_or_default();
                if stuck && (room.one_stuck(tasks.len() - requests.count()) || tasks.is_empty()) {
                    break;
                }
                if last && !leaving {
                    leaving = true;
                    http2.graceful_shutdown();
                }
                if tasks.is_empty() {
                    idle.as_mut().reset(Instant::now() + IDLE);
                }
            }
            () = &mut idle, if tasks.is_empty() => {
                if !asked {
                    node.heads.count();
                }
                break;
            }
            () = pings.answered(), if pings.asked.is_some() => {}
            _ = ping.tick() => {
                if !pings.ask(node.unsent.deadline()) {
                    return;
                }
            }
            () = stopping.cancelled(), if !leaving => {
                leaving = true;
                http2.graceful_shutdown();
            }
        }
    }
    drop(tasks);
    http2.abrupt_shutdown(Reason::NO_ERROR);
    let _ = timeout(LAST, poll_fn(|cx| http2.poll_closed(cx))).await;
}

/// One request and its response.
async fn answer<A, B>(
    here: Rc<Here<A>>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    counted: OpenRequest,
) -> Ended
where
    A: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse>,
    B: MessageBody,
{
    let (cut, rest) = (CancellationToken::new(), Rest::default());
    let is_head = request.method() == http::Method::HEAD;
    let counted = Rc::new(RefCell::new(Some(counted)));
    let connection = here.connection.for_one(cut.clone(), rest.clone(), counted.clone());
    let out = Outgoing { unsent: &here.unsent, room: here.room.clone(), rest, cut };
    let request = match translate(request, connection, here.peer) {
        Ok(request) => request,
        Err(problem) => {
            return send(Response::from(heads::refusal(&problem)), respond, is_head, &out).await;
        }
    };
    // Boxed, so that the handler's state is freed before the response is sent.
    let mut answered = Box::pin(here.app.call(request));
    let response = tokio::select! {
        biased;
        // A reset ends the request. It is polled first, so that a flood of resets does not even start the handler.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return Ended::default(),
        response = &mut answered => response,
    };
    drop(answered);
    counted.take();
    match response {
        Ok(response) => send(Response::from(response), respond, is_head, &out).await,
        Err(refusal) => send(Response::from(refusal), respond, is_head, &out).await,
    }
}

// === impl Pings ===

impl Pings {
    /// Sends a PING; false if the previous one was not acknowledged in time.
    fn ask(&mut self, deadline: Duration) -> bool {
        if let Some(asked) = self.asked {
            return asked.elapsed() < deadline;
        }
        if let Some(pings) = &mut self.pings
            && pings.send_ping(h2::Ping::opaque()).is_ok()
        {
            self.asked = Some(Instant::now());
        }
        true
    }

    async fn answered(&mut self) {
        match &mut self.pings {
            // An error means that the connection ends.
            Some(pings) => drop(poll_fn(|cx| pings.poll_pong(cx)).await),
            None => std::future::pending().await,
        }
        self.asked = None;
    }
}
