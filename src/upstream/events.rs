//! The client for remote event streams: an [`EventSource`] reads one stream, and reconnects when a connection is lost.
//!
//! It follows the WHATWG rules of `EventSource` (HTML, section 9.2) where they suit a program: status 204 ends the stream,
//! `retry:` sets the delay, and `Last-Event-ID` is sent. `policy` decides where a browser gives up at once (another
//! status, another content type) or never (an unreachable server). The caller pulls: a slow caller slows the upstream
//! down, and the source buffers one chunk of the body at most.
//!
//! ```text
//!             ┌── lost: Retry, wait ──┐
//!             v                       │
//!  connect ─> Open ─> Events* ────────┴─> End | GaveUp
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, HeaderName, HeaderValue};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};

use super::{Chunks, Connections, Purpose, connections::StreamPermit};
use crate::sse::{self, Decoder, Limits};

mod cursor;
mod dialect;
mod failure;
mod open;
mod policy;
mod source;
mod stream_event;

pub(crate) use self::open::{OpenedStream, open};
pub use self::{
    cursor::Cursor,
    failure::Failure,
    policy::Pace,
    source::{Repeat, Source},
    stream_event::{End, RemoteEvent, StreamEvent, TRAIL, TRAIL_MAX},
};
use self::{
    dialect::{Dialect, Frame},
    open::OpenError,
    policy::{Decision, Policy},
};

/// A reader of one remote stream.
pub struct EventSource {
    source: Source,
    connections: Connections,
    cursor: Cursor,
    policy: Policy,
    rng: StdRng,
    state: State,
    /// Returned by the next call, before more is read.
    queued: Option<StreamEvent>,
    /// Connections that were lost.
    reconnects: u64,
    /// True if the last connection ended without an id to resume after.
    may_have_missed: bool,
    duplicates: u64,
}

enum State {
    Waiting(Instant),
    Connecting(BoxFuture<'static, Result<Option<OpenedStream>, OpenError>>),
    Open(Box<Stream>),
    Done,
}

/// An open connection.
struct Stream {
    chunks: Chunks,
    /// Received bytes that are not parsed yet.
    unparsed: Bytes,
    /// True if the response marks the end of its body.
    end_marked: bool,
    decoder: Decoder,
    permit: StreamPermit,
    dialect: Dialect,
    /// The path of the next event, from a comment before it.
    trail: String,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Maximum number of bytes that are parsed at once. An event has at least six bytes, and receives a copy of the current
/// id. So this also limits the memory of the events that are returned together.
const PIECE: usize = 16 * 1024;

// === impl EventSource ===

impl EventSource {
    /// Creates a reader that begins after `cursor`. It connects at the first call of [`next`](Self::next).
    pub fn new(source: Source, cursor: Cursor, connections: Connections) -> Self {
        let max_retries = match source.repeat {
            Repeat::UntilEnd => Some(source.remote.max_retries),
            Repeat::Forever => None,
        };
        // Events from before a restart show that the remote serves this request.
        let read_before = cursor.events > 0;
        let mut policy = Policy::new(source.pace, max_retries, read_before);
        // Proxies and merges have a client that waits, so they fail instead of waiting for a permit.
        policy.waits = matches!(source.purpose, Purpose::Relay | Purpose::Job);
        Self {
            policy,
            may_have_missed: read_before && cursor.resume_id().is_none(),
            reconnects: 0,
            duplicates: 0,
            source,
            connections,
            cursor,
            rng: StdRng::seed_from_u64(rand::random()),
            state: State::Waiting(Instant::now()),
            queued: None,
        }
    }

    /// Sets a delay before the first connection, so that many sources do not connect at the same time.
    #[must_use]
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.state = State::Waiting(Instant::now() + delay);
        self
    }

    /// The position after everything that [`next`](Self::next) has returned. A caller that stores it together with the events
    /// can resume after a restart without loss and without duplicates.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Number of events since the last call that the server sent again after a reconnect, and that were skipped.
    pub fn take_duplicates(&mut self) -> u64 {
        std::mem::take(&mut self.duplicates)
    }

    /// Takes the end of the stream, if it follows directly after the last events. The caller stores it together with them.
    pub fn take_end(&mut self) -> Option<End> {
        let Some(StreamEvent::End(end)) = self.queued else { return None };
        self.queued = None;
        Some(end)
    }

    /// Waits for the next change or the next events; `None` after the end.
    ///
    /// Cancel safe: nothing is lost, and all time limits continue.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        loop {
            if let Some(queued) = self.queued.take() {
                return Some(queued);
            }
            match &mut self.state {
                State::Done => return None,
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = State::Connecting(self.connect());
                }
                State::Connecting(opening) => {
                    let result = opening.await;
                    return Some(self.on_response(result));
                }
                State::Open(stream) if !stream.unparsed.is_empty() => {
                    let piece = stream.unparsed.split_to(stream.unparsed.len().min(PIECE));
                    if let Some(event) = self.parse(&piece) {
                        return Some(event);
                    }
                }
                State::Open(stream) => {
                    let ended = stream.permit.end_token();
                    let chunk = tokio::select! {
                        biased;
                        () = ended.cancelled() => Some(Err(Failure::Ended)),
                        chunk = stream.chunks.next() => chunk.map(|chunk| chunk.map_err(Failure::Transport)),
                    };
                    match chunk {
                        Some(Ok(chunk)) => stream.unparsed = chunk,
                        Some(Err(failure)) => return Some(self.on_lost_connection(failure)),
                        None => return Some(self.on_close()),
                    }
                }
            }
        }
    }

    fn connect(&self) -> BoxFuture<'static, Result<Option<OpenedStream>, OpenError>> {
        let Source { remote, method, url, headers, body, via, purpose, read_timeout, .. } = &self.source;
        let permit = self.connections.acquire(remote, method, url.path(), *purpose);
        let mut headers = headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static(sse::MEDIA_TYPE));
        // The client may accept more encodings than this reader.
        headers.remove(ACCEPT_ENCODING);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        headers.remove(LAST_EVENT_ID);
        if let Some(id) = self.cursor.resume_id() {
            headers.insert(LAST_EVENT_ID, id);
        }
        let mut request = remote.request(method.clone(), url, headers, body.clone());
        request.via = Some(via.clone());
        let idle = read_timeout.unwrap_or(remote.read_timeout);
        request.head_timeout = request.head_timeout.min(idle);
        Box::pin(open(remote.client().clone(), request, idle, permit))
    }

    fn on_response(&mut self, result: Result<Option<OpenedStream>, OpenError>) -> StreamEvent {
        match result {
            Err(OpenError { failure, sent }) => self.on_failure(failure, sent),
            Ok(None) => {
                self.state = State::Done;
                StreamEvent::End(End::NoContent)
            }
            Ok(Some(OpenedStream { chunks, end_marked, permit })) => {
                let max = self.source.remote.max_event_bytes;
                // A line also contains the name of its field.
                let decoder = Decoder::new(Limits { line: max.saturating_add(64), event: max });
                let (unparsed, dialect, trail) = (Bytes::new(), Dialect::default(), String::new());
                let stream = Stream { chunks, unparsed, end_marked, decoder, permit, dialect, trail };
                self.state = State::Open(Box::new(stream));
                let may_have_missed = std::mem::take(&mut self.may_have_missed);
                self.policy.on_open(Instant::now());
                self.cursor.on_open();
                let resumed_after = self.cursor.resume_id().map(|_| self.cursor.last_id.clone());
                StreamEvent::Open { reconnects: self.reconnects, resumed_after, may_have_missed }
            }
        }
    }

    /// Parses received bytes. Returns the events or the end that they complete, if any.
    fn parse(&mut self, piece: &[u8]) -> Option<StreamEvent> {
        let State::Open(stream) = &mut self.state else { return None };
        let (mut events, mut ended) = (Vec::new(), false);
        let (cursor, policy, end_event) = (&mut self.cursor, &mut self.policy, self.source.end_event.as_deref());
        let (duplicates, Stream { decoder, dialect, permit, trail, .. }) = (&mut self.duplicates, &mut **stream);
        let parsed = decoder.push(piece, |item| match item {
            // Nothing after the end event belongs to the stream.
            _ if ended => {}
            sse::Item::Retry(ms) => policy.set_retry(ms),
            sse::Item::Id(id) => cursor.set_id(id),
            sse::Item::Comment(text) => store_trail(trail, text),
            sse::Item::Event { event, data, id, own_id } => {
                let trail = std::mem::take(trail);
                // A duplicate ends the stream too: before a restart, the event may have been stored without the end.
                ended = end_event == Some(event);
                let frame = dialect.classify(event, data, own_id.then_some(id));
                let control = frame != Frame::Event;
                if let Frame::Greeting(Some(position)) = frame {
                    cursor.set_id(&position);
                }
                if control || cursor.add(event, data, own_id.then_some(id)) {
                    let id = if control { String::new() } else { cursor.last_id.clone() };
                    events.push(RemoteEvent { event: event.to_owned(), data: data.to_owned(), id, trail, control });
                } else {
                    *duplicates += 1;
                }
            }
        });
        permit.count(piece.len(), events.len());
        if events.iter().any(|event| !event.control) {
            policy.on_new_event();
        }
        let end = if ended {
            self.state = State::Done;
            Some(StreamEvent::End(End::EndEvent))
        } else {
            parsed.err().map(|error| self.on_lost_connection(Failure::Unreadable(error)))
        };
        if events.is_empty() {
            return end;
        }
        self.queued = end;
        Some(StreamEvent::Events(events))
    }

    /// The body is complete. Decides whether that is the end of the stream.
    fn on_close(&mut self) -> StreamEvent {
        if let State::Open(stream) = &self.state
            && self.source.repeat == Repeat::UntilEnd
            && self.source.end_event.is_none()
            && !stream.dialect.announced_close
        {
            let end = if stream.end_marked { End::Closed } else { End::Unknown };
            self.state = State::Done;
            return StreamEvent::End(end);
        }
        self.on_lost_connection(Failure::ClosedEarly)
    }

    fn on_lost_connection(&mut self, failure: Failure) -> StreamEvent {
        self.reconnects += 1;
        self.may_have_missed |= self.cursor.resume_id().is_none();
        self.on_failure(failure, true)
    }

    /// Decides whether to reconnect. `sent` is false only if the remote cannot have received the request.
    fn on_failure(&mut self, failure: Failure, sent: bool) -> StreamEvent {
        let may_repeat = !sent || self.source.may_repeat();
        let now = Instant::now();
        let last = match self.policy.on_failure(now, &failure, may_repeat, &mut self.rng) {
            Decision::Retry { attempt, delay } => {
                self.state = State::Waiting(now + delay);
                return StreamEvent::Retry { attempt, delay, failure };
            }
            Decision::GiveUp => failure,
            Decision::NotRepeatable => {
                Failure::NotRepeated { method: self.source.method.clone(), failure: Box::new(failure) }
            }
        };
        self.state = State::Done;
        StreamEvent::GaveUp(last)
    }
}

/// Stores the path of the next event from a comment, at most [`TRAIL_MAX`] bytes.
fn store_trail(trail: &mut String, comment: &str) {
    if let Some(path) = comment.strip_prefix(TRAIL) {
        path[..path.floor_char_boundary(TRAIL_MAX)].clone_into(trail);
    }
}
