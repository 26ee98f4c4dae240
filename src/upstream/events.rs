//! The client for remote event streams: one [`EventSource`] reads one stream, through as many connections as it takes.
//!
//! Follows the WHATWG rules of `EventSource` (HTML, section 9.2) where they serve a program: status 204 ends for good,
//! `retry:` is heeded, `Last-Event-ID` is sent. Where a browser gives up (another status, another content type) or never
//! does (a server that is gone), `policy` decides. It is pulled: who does not ask for more slows the upstream down, and
//! nothing is kept but what one chunk of the body brought.
//!
//! ```text
//!             ┌── broken: Said::Retry, wait ──┐
//!             v                               │
//!  connect ─> Said::Open ─> Said::Events* ────┴─> Said::End | Said::GaveUp
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, HeaderName, HeaderValue};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};

use super::{Chunks, Connections, Purpose, connections::Lease};
use crate::sse::{self, Decoder, Limits};

mod cursor;
mod dialect;
mod failure;
mod open;
mod policy;
mod said;
mod source;

pub(crate) use self::open::{Answer, Opened, open};
pub use self::{
    cursor::Cursor,
    failure::Failure,
    policy::Pace,
    said::{End, RemoteEvent, Said, TRAIL, TRAIL_MAX},
    source::{Repeat, Source},
};
use self::{
    cursor::Taken,
    dialect::{Dialect, Frame},
    open::Refused,
    policy::{Decision, Policy},
};

/// Reads one remote stream.
pub struct EventSource {
    source: Source,
    connections: Connections,
    cursor: Cursor,
    policy: Policy,
    rng: StdRng,
    state: State,
    /// What is to be said before anything else is read.
    queued: Option<Said>,
    reconnects: u64,
    /// A connection was open, and what it brought had no ids to resume with.
    blind: bool,
    doubles: u64,
}

enum State {
    Waiting(Instant),
    Connecting(BoxFuture<'static, Result<Answer, Refused>>),
    Open(Box<Stream>),
    Done,
}

/// A connection that is open.
struct Stream {
    chunks: Chunks,
    /// What has come and is not parsed yet.
    rest: Bytes,
    /// The end of the body is marked as such.
    framed: bool,
    decoder: Decoder,
    lease: Lease,
    dialect: Dialect,
    /// The path of the next event, as received so far.
    trail: String,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Most bytes that are parsed at once. An event takes six of them, and each that comes out has a copy of the id in
/// force, so this also bounds the memory of what is given at once.
const PIECE: usize = 16 * 1024;

// === impl EventSource ===

impl EventSource {
    /// A reader that begins after `cursor`; it connects when it is first asked.
    pub fn new(source: Source, cursor: Cursor, connections: Connections) -> Self {
        let max_retries = match source.repeat {
            Repeat::UntilEnd => Some(source.remote.max_retries()),
            Repeat::Forever => None,
        };
        // Events that were read in an earlier life show that the remote serves this request.
        let read_before = cursor.events > 0;
        Self {
            // A reader who waits for the answer is better told at once.
            policy: Policy::new(source.pace, max_retries, read_before)
                .waiting(matches!(source.purpose, Purpose::Relay | Purpose::Job)),
            // What was read in an earlier life without ids is as lost as what is read in this one.
            blind: read_before && cursor.resume_id().is_none(),
            reconnects: 0,
            doubles: 0,
            source,
            connections,
            cursor,
            rng: StdRng::seed_from_u64(rand::random()),
            state: State::Waiting(Instant::now()),
            queued: None,
        }
    }

    /// The same, connecting not before this delay is over: many who begin together must not ask together.
    #[must_use]
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.state = State::Waiting(Instant::now() + delay);
        self
    }

    /// What is read.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// How far it has been read, all that [`next`](Self::next) has given included. Who stores it with what was given can
    /// go on from there in another life without a loss and without doubles.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Events that came again after a reconnect, and were left out.
    pub fn doubles(&self) -> u64 {
        self.doubles
    }

    /// The end that follows at once on what [`next`](Self::next) has just given, if it does: to be stored with it.
    pub fn take_end(&mut self) -> Option<End> {
        match self.queued.take() {
            Some(Said::End(end)) => Some(end),
            other => {
                self.queued = other;
                None
            }
        }
    }

    /// Waits for what comes next; `None` after the end.
    ///
    /// May be cancelled and called again: nothing is lost, and every limit counts on.
    pub async fn next(&mut self) -> Option<Said> {
        loop {
            if let Some(said) = self.queued.take() {
                return Some(said);
            }
            match &mut self.state {
                State::Done => return None,
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = State::Connecting(self.connect());
                }
                State::Connecting(answer) => {
                    let answer = answer.await;
                    return Some(self.answered(answer));
                }
                State::Open(stream) if !stream.rest.is_empty() => {
                    let piece = stream.rest.split_to(stream.rest.len().min(PIECE));
                    if let Some(said) = self.take(&piece) {
                        return Some(said);
                    }
                }
                State::Open(stream) => {
                    let ended = stream.lease.ended();
                    let chunk = tokio::select! {
                        biased;
                        () = ended.cancelled() => Some(Err(Failure::Ended)),
                        chunk = stream.chunks.next() => chunk.map(|chunk| chunk.map_err(Failure::Transport)),
                    };
                    match chunk {
                        Some(Ok(chunk)) => stream.rest = chunk,
                        Some(Err(failure)) => return Some(self.lost(failure)),
                        None => return Some(self.closed()),
                    }
                }
            }
        }
    }

    fn connect(&self) -> BoxFuture<'static, Result<Answer, Refused>> {
        let Source { remote, method, url, headers, body, via, purpose, read_timeout, .. } = &self.source;
        let place = self.connections.enter(remote, method, url.path(), *purpose);
        let mut headers = headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static(sse::MEDIA_TYPE));
        // Whoever asked us may take more encodings than are read here.
        headers.remove(ACCEPT_ENCODING);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        headers.remove(LAST_EVENT_ID);
        if let Some(id) = self.cursor.resume_id() {
            headers.insert(LAST_EVENT_ID, id);
        }
        let mut request = remote.request(method.clone(), url, headers, body.clone());
        request.via = Some(via.clone());
        let idle = read_timeout.unwrap_or(remote.read_timeout());
        request.head_timeout = request.head_timeout.min(idle);
        Box::pin(open(remote.client().clone(), request, idle, place))
    }

    fn answered(&mut self, answer: Result<Answer, Refused>) -> Said {
        match answer {
            Err(Refused { failure, sent }) => self.failed(failure, sent),
            Ok(Answer::NoContent) => {
                self.state = State::Done;
                Said::End(End::NoContent)
            }
            Ok(Answer::Stream(opened)) => {
                let Opened { chunks, framed, lease } = *opened;
                let max = self.source.remote.max_event_bytes();
                // A line has the name of its field with it.
                let decoder = Decoder::new(Limits { line: max.saturating_add(64), event: max });
                let (rest, dialect, trail) = (Bytes::new(), Dialect::new(), String::new());
                let stream = Stream { chunks, rest, framed, decoder, lease, dialect, trail };
                self.state = State::Open(Box::new(stream));
                let may_have_missed = std::mem::take(&mut self.blind);
                self.policy.opened(Instant::now());
                self.cursor.reopened();
                let resumed_after = self.cursor.resume_id().map(|_| self.cursor.last_id.clone());
                Said::Open { reconnects: self.reconnects, resumed_after, may_have_missed }
            }
        }
    }

    /// Takes some bytes; what they completed, if anything.
    fn take(&mut self, piece: &[u8]) -> Option<Said> {
        let State::Open(stream) = &mut self.state else { return None };
        let (mut events, mut ended) = (Vec::new(), false);
        let (cursor, policy, end_event) = (&mut self.cursor, &mut self.policy, self.source.end_event.as_deref());
        let (doubles, Stream { decoder, dialect, lease, trail, .. }) = (&mut self.doubles, &mut **stream);
        let taken = decoder.push(piece, |item| match item {
            // What stands behind the last event of a stream belongs to nothing.
            _ if ended => {}
            sse::Item::Retry(ms) => policy.hint(ms),
            sse::Item::Id(id) => cursor.set(id),
            sse::Item::Comment(text) => note_trail(trail, text),
            sse::Item::Event { event, data, id, own_id } => {
                let trail = std::mem::take(trail);
                // Also one that is known: a life that ended between it and the end it stands for is told again.
                ended = end_event == Some(event);
                let frame = dialect.hear(event, data, own_id.then_some(id));
                let control = frame != Frame::Event;
                if let Frame::Greeting(Some(position)) = frame {
                    cursor.set(&position);
                }
                let taken = if control { Taken::New } else { cursor.take(event, data, own_id.then_some(id)) };
                if taken == Taken::Double {
                    *doubles += 1;
                } else {
                    let id = if control { String::new() } else { cursor.last_id.clone() };
                    events.push(RemoteEvent { event: event.to_owned(), data: data.to_owned(), id, trail, control });
                }
            }
        });
        lease.read(piece.len(), events.len());
        if events.iter().any(|event| !event.control) {
            policy.progressed();
        }
        let last = if ended {
            self.state = State::Done;
            Some(Said::End(End::EndEvent))
        } else {
            taken.err().map(|error| self.lost(Failure::Unreadable(error)))
        };
        if events.is_empty() {
            return last;
        }
        self.queued = last;
        Some(Said::Events(events))
    }

    /// The server has closed the stream, and nothing announced is missing.
    fn closed(&mut self) -> Said {
        if let State::Open(stream) = &self.state
            && self.source.repeat == Repeat::UntilEnd
            && self.source.end_event.is_none()
            && !stream.dialect.leaving()
        {
            let end = if stream.framed { End::Closed } else { End::Unknown };
            self.state = State::Done;
            return Said::End(end);
        }
        self.lost(Failure::ClosedEarly)
    }

    /// A connection that was open is so no more.
    fn lost(&mut self, failure: Failure) -> Said {
        self.reconnects += 1;
        self.blind |= self.cursor.resume_id().is_none();
        self.failed(failure, true)
    }

    /// Decides what follows; `sent` is false only where the remote cannot have got the request.
    fn failed(&mut self, failure: Failure, sent: bool) -> Said {
        let again = !sent || self.source.remote.may_repeat(&self.source.method);
        let now = Instant::now();
        let decision = self.policy.lost(now, &failure, again, &mut self.rng);
        if let Decision::Retry { attempt, delay } = decision {
            self.state = State::Waiting(now + delay);
            return Said::Retry { attempt, delay, failure };
        }
        self.state = State::Done;
        Said::GaveUp(match decision {
            Decision::NotAgain => {
                Failure::NotRepeated { method: self.source.method.clone(), failure: Box::new(failure) }
            }
            _ => failure,
        })
    }
}

/// Stores the path of the next event from a comment, at most [`TRAIL_MAX`] bytes.
fn note_trail(trail: &mut String, comment: &str) {
    if let Some(way) = comment.strip_prefix(TRAIL) {
        way[..way.floor_char_boundary(TRAIL_MAX)].clone_into(trail);
    }
}

impl std::fmt::Debug for EventSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventSource")
            .field("source", &self.source)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}
