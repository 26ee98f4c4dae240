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

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, Method,
    header::{ACCEPT, CACHE_CONTROL, HeaderName, HeaderValue},
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};
use url::Url;

use super::{Connections, Purpose, Remote, connections::Lease};
use crate::sse::{self, Decoder, Limits};

mod chunks;
mod cursor;
mod failure;
mod open;
mod policy;

pub(crate) use self::{
    chunks::Chunks,
    open::{Answer, Opened, open},
};
pub use self::{cursor::Cursor, failure::Failure, policy::Pace};
use self::{
    cursor::Taken,
    policy::{Decision, Policy},
};

/// What to read, and how to go on when it breaks.
#[derive(Clone)]
pub struct Source {
    /// Whom to ask.
    pub remote: Arc<Remote>,
    /// How.
    pub method: Method,
    /// For what; a URL of the remote's ([`Remote::client_url`]).
    pub url: Url,
    /// Header fields beside the remote's own.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: Bytes,
    /// What the stream is read for.
    pub purpose: Purpose,
    /// When the stream is over.
    pub repeat: Repeat,
    /// An event of this name is the last one; without it no close is an end.
    pub end_event: Option<String>,
    /// How long a connection may bring nothing; the remote's limit where there is none.
    pub read_timeout: Option<Duration>,
    /// How fast it is tried again.
    pub pace: Pace,
}

/// When a stream is over that its server has closed in good order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Then: it had an end.
    #[default]
    UntilEnd,
    /// Only with status 204: it is opened again, as a browser would, and never given up because of passing failures.
    Forever,
}

/// An event as it came from a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEvent {
    /// Its name, `message` where it had none.
    pub event: String,
    /// Its payload.
    pub data: String,
    /// The last event id in force; ids are sticky, and empty where the stream has none.
    pub id: String,
    /// A frame with which another Millstream speaks of the stream itself: `connection`, `heartbeat`, `gap`,
    /// `disconnect`. None of what was published there.
    pub control: bool,
}

/// What a source says next.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A connection is open.
    Open {
        /// How many connections were lost before; 0 for the first one.
        reconnects: u64,
        /// The id that was sent as `Last-Event-ID`.
        resumed_after: Option<String>,
        /// True when events may be missing that nobody can ask for: what was read so far had no ids.
        may_have_missed: bool,
    },
    /// Events in order; at least one.
    Events(Vec<RemoteEvent>),
    /// The connection is lost or was not made; another one follows after the delay.
    Retry {
        /// How many attempts in a row have brought no event, this one included; from 1.
        attempt: u32,
        /// How long until the next one.
        delay: Duration,
        /// Why.
        failure: Failure,
    },
    /// It is over. Nothing follows.
    End(End),
    /// It was given up. Nothing follows.
    GaveUp(Failure),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum End {
    /// With status 204.
    #[serde(rename = "204")]
    NoContent,
    /// With the event that was named as its last.
    #[serde(rename = "end_event")]
    EndEvent,
    /// Closed in good order.
    #[serde(rename = "closed")]
    Closed,
    /// Closed; whether in good order cannot be known, as its length was not framed (HTTP/1.0).
    #[serde(rename = "unknown")]
    Unknown,
}

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
    Connecting(BoxFuture<'static, Result<Answer, Failure>>),
    Open(Box<Stream>),
    Done,
}

/// A connection that is open.
struct Stream {
    chunks: Chunks,
    /// The end of the body is marked as such.
    framed: bool,
    decoder: Decoder,
    lease: Lease,
    /// The server has said that it closes, and that one may come back.
    leaving: bool,
    dialect: bool,
    first: bool,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

// === impl Source ===

impl Source {
    /// A GET of this URL, with the remote's own limits.
    pub fn get(remote: Arc<Remote>, url: Url, purpose: Purpose) -> Self {
        Self {
            remote,
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            purpose,
            repeat: Repeat::UntilEnd,
            end_event: None,
            read_timeout: None,
            pace: Pace::default(),
        }
    }
}

/// Without header values, query and body: they may hold secrets.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("remote", &self.remote.name())
            .field("method", &self.method)
            .field("path", &self.url.path())
            .finish_non_exhaustive()
    }
}

// === impl EventSource ===

impl EventSource {
    /// A reader that begins after `cursor`; it connects when it is first asked.
    pub fn new(source: Source, cursor: Cursor, connections: Connections) -> Self {
        let max_retries = match source.repeat {
            Repeat::UntilEnd => Some(source.remote.max_retries()),
            Repeat::Forever => None,
        };
        Self {
            policy: Policy::new(source.pace, max_retries),
            // What was read in an earlier life without ids is as lost as what is read in this one.
            blind: cursor.events > 0 && cursor.last_id.is_empty(),
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

    /// Waits for what comes next; `None` after the end.
    ///
    /// May be cancelled and called again: nothing is lost.
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
                    if let Some(said) = self.answered(answer) {
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
                        Some(Ok(chunk)) => {
                            if let Some(said) = self.take(&chunk) {
                                return Some(said);
                            }
                        }
                        Some(Err(failure)) => return Some(self.lost(failure)),
                        None => return Some(self.closed()),
                    }
                }
            }
        }
    }

    fn connect(&self) -> BoxFuture<'static, Result<Answer, Failure>> {
        let Source { remote, method, url, headers, body, purpose, read_timeout, .. } = &self.source;
        let place = self.connections.enter(remote, method, url.path(), *purpose);
        let mut headers = headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static(sse::MEDIA_TYPE));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        headers.remove(LAST_EVENT_ID);
        if let Some(id) = self.cursor.resume_id() {
            headers.insert(LAST_EVENT_ID, id);
        }
        let mut request = remote.request(method.clone(), url, headers, body.clone());
        let idle = read_timeout.unwrap_or(remote.read_timeout());
        request.head_timeout = request.head_timeout.min(idle);
        Box::pin(open(remote.client().clone(), request, idle, place))
    }

    fn answered(&mut self, answer: Result<Answer, Failure>) -> Option<Said> {
        match answer {
            Err(failure) => Some(self.lost(failure)),
            Ok(Answer::NoContent) => {
                self.state = State::Done;
                Some(Said::End(End::NoContent))
            }
            Ok(Answer::Stream(opened)) => {
                let Opened { chunks, framed, lease } = *opened;
                let max = self.source.remote.max_event_bytes();
                // A line has the name of its field with it.
                let decoder = Decoder::new(Limits { line: max.saturating_add(64), event: max });
                let (leaving, dialect, first) = (false, false, true);
                let stream = Stream { chunks, framed, decoder, lease, leaving, dialect, first };
                self.state = State::Open(Box::new(stream));
                let may_have_missed = std::mem::take(&mut self.blind);
                self.policy.opened(Instant::now());
                self.cursor.reopened();
                let resumed_after = self.cursor.resume_id().map(|_| self.cursor.last_id.clone());
                Some(Said::Open { reconnects: self.reconnects, resumed_after, may_have_missed })
            }
        }
    }

    /// Takes a chunk; what it completed, if anything.
    fn take(&mut self, chunk: &Bytes) -> Option<Said> {
        let State::Open(stream) = &mut self.state else { return None };
        let (mut events, mut ended) = (Vec::new(), false);
        let (cursor, policy, end_event) = (&mut self.cursor, &mut self.policy, self.source.end_event.as_deref());
        let (doubles, Stream { decoder, leaving, dialect, first, .. }) = (&mut self.doubles, &mut **stream);
        let taken = decoder.push(chunk, |item| match item {
            sse::Item::Retry(ms) => policy.hint(ms),
            sse::Item::Id(id) => cursor.set(id),
            sse::Item::Comment(_) => {}
            // What stands behind the last event of a stream belongs to nothing.
            sse::Item::Event { .. } if ended => {}
            sse::Item::Event { event, data, id, own_id } => {
                if std::mem::take(first)
                    && !own_id
                    && event == "connection"
                    && let Ok(greeting) = serde_json::from_str::<Greeting>(data)
                {
                    *dialect = greeting.status == "connected";
                    cursor.begin(greeting.live_position());
                }
                let control = *dialect && !own_id && CONTROL.contains(&event);
                *leaving |= control && event == "disconnect";
                let taken = if control { Taken::New } else { cursor.take(event, data, own_id.then_some(id)) };
                if taken == Taken::Double {
                    *doubles += 1;
                } else {
                    ended = end_event == Some(event);
                    let id = if control { String::new() } else { cursor.last_id.clone() };
                    events.push(RemoteEvent { event: event.to_owned(), data: data.to_owned(), id, control });
                }
            }
        });
        stream.lease.read(chunk.len(), events.len());
        if events.iter().any(|event| !event.control) {
            self.policy.progressed();
        }
        if ended {
            self.state = State::Done;
            self.queued = Some(Said::End(End::EndEvent));
        } else if let Err(error) = taken {
            let failure = self.lost(Failure::Unreadable(error));
            if events.is_empty() {
                return Some(failure);
            }
            self.queued = Some(failure);
        }
        (!events.is_empty()).then_some(Said::Events(events))
    }

    /// The server has closed the stream, and nothing announced is missing.
    fn closed(&mut self) -> Said {
        let State::Open(stream) = &self.state else { return self.lost(Failure::ClosedEarly) };
        let end = if stream.framed { End::Closed } else { End::Unknown };
        let over = self.source.repeat == Repeat::UntilEnd && self.source.end_event.is_none() && !stream.leaving;
        if over {
            self.state = State::Done;
            return Said::End(end);
        }
        self.lost(Failure::ClosedEarly)
    }

    fn lost(&mut self, failure: Failure) -> Said {
        let was_open = matches!(self.state, State::Open(_));
        if was_open {
            self.reconnects += 1;
            self.blind |= self.cursor.resume_id().is_none();
        }
        let again = failure.unsent() || self.source.remote.may_repeat(&self.source.method);
        let now = Instant::now();
        match self.policy.lost(now, was_open, &failure, again, &mut self.rng) {
            Decision::Retry { attempt, delay } => {
                self.state = State::Waiting(now + delay);
                Said::Retry { attempt, delay, failure }
            }
            Decision::GiveUp => {
                self.state = State::Done;
                Said::GaveUp(failure)
            }
        }
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

/// Frames with which a Millstream speaks of the stream itself. They have no id.
const CONTROL: [&str; 4] = ["connection", "heartbeat", "gap", "disconnect"];

/// What the first frame of a Millstream's own streams says.
#[derive(serde::Deserialize)]
struct Greeting {
    #[serde(rename = "emitterId")]
    _emitter_id: String,
    status: String,
    #[serde(default)]
    resume: Resume,
}

#[derive(Default, serde::Deserialize)]
struct Resume {
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    status: String,
}

// === impl Greeting ===

impl Greeting {
    /// Where a live stream began: a break before its first event then loses nothing.
    fn live_position(self) -> Option<String> {
        self.resume.from.filter(|_| self.resume.status == "live")
    }
}
