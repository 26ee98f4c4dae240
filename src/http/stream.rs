//! Event streams as responses: headers, and the body that is polled for frames.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::{ConnectionType, Version, header},
    web::Bytes,
};
use tokio::time::{Duration, Instant};

use super::{Problem, gate::Connection};
use crate::{
    app::Node,
    hub::{Connect, ConnectError, Reason, Subscription},
    sse::{self, Frame},
};

/// The body of an event stream.
///
/// It also watches over the connection: bytes that a client sends behind its request make the framework poll the body
/// over and over without end (it has more than 128 KiB of input and nowhere to put it). Many polls without a frame in
/// a short time therefore end the connection. A client that also reads nothing is not caught so, as the framework does
/// not poll the body while it cannot write: for that one the hub asks how much has come ([`Connect::flooded`]).
struct Body {
    frames: Subscription,
    idle_polls: u32,
    counting_since: Instant,
}

/// So many polls without a frame within [`STORM_TIME`] are no accident: timers and the shard wake a body a few times a
/// second.
const STORM_POLLS: u32 = 2000;
const STORM_TIME: Duration = Duration::from_secs(2);
/// So many bytes behind the request are no accident: a client may send its next requests early, but a stream comes
/// before them. Below what the framework takes in before it spins (128 KiB).
const MOST_INPUT: u64 = 100 << 10;

// === impl Body ===

impl MessageBody for Body {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match self.frames.poll_frame(cx) {
            Poll::Ready(frame) => {
                self.idle_polls = 0;
                Poll::Ready(frame.map(Ok))
            }
            Poll::Pending => {
                if self.idle_polls == 0 {
                    self.counting_since = Instant::now();
                }
                self.idle_polls += 1;
                if self.idle_polls > STORM_POLLS {
                    self.idle_polls = 0;
                    if self.counting_since.elapsed() < STORM_TIME {
                        self.frames.set_end(Reason::InputFlood);
                        return Poll::Ready(Some(Err(io::Error::other("input flood behind an event stream"))));
                    }
                }
                Poll::Pending
            }
        }
    }
}

/// Connects and answers with the stream; when the node stops, with the polite refusal.
pub(super) async fn open(node: &Node, request: &HttpRequest, mut connect: Connect) -> Result<HttpResponse, Problem> {
    if let Some(socket) = request.conn_data::<Connection>().and_then(Connection::socket) {
        connect.cut = Some(Box::new(move || socket.cut()));
        let before = socket.received();
        connect.flooded = Some(Box::new(move || {
            let since = socket.received().zip(before).map(|(now, before)| now.saturating_sub(before));
            since.is_some_and(|bytes| bytes > MOST_INPUT)
        }));
    }
    match node.hub.connect(connect).await {
        Ok(frames) => {
            let mut response = headers().body(Body { frames, idle_polls: 0, counting_since: Instant::now() });
            if request.version() < Version::HTTP_11 {
                // It knows no chunks: the stream ends with the connection.
                response.head_mut().no_chunking(true);
                response.head_mut().set_connection_type(ConnectionType::Close);
            }
            Ok(response)
        }
        Err(ConnectError::Stopping) => Ok(refused_for_now(node, Reason::Shutdown.as_str())),
        Err(error) => Err(error.into()),
    }
}

/// Any status but 200 ends a browser's EventSource for good, so who is refused only for now gets a stream that says
/// when to come back.
pub(super) fn refused_for_now(node: &Node, reason: &str) -> HttpResponse {
    let retry = node.config.emitter.reconnect_time_ms;
    let retry = rand::random_range(retry / 2..=retry + retry / 2);
    let data = serde_json::json!({ "reason": reason }).to_string();
    let frame = Frame { event: "disconnect", data: Some(&data), retry: Some(retry), ..Frame::default() };
    let mut response = headers().body(frame.encode());
    // Who is to come back later does not hold a place meanwhile.
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

fn headers() -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, sse::MEDIA_TYPE))
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        // The framework writes `Connection` itself; persistence is what HTTP/1.1 does unless told otherwise.
        .insert_header(("X-Accel-Buffering", "no"));
    response
}
