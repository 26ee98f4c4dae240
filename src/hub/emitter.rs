//! One emitter: a live SSE connection to one client. The shard decides when it does something; this file decides its
//! actions.
//!
//! Owns the request of the client, the emitter's position in the journal and its [`Phase`], its outbox, and the writer
//! of the outbox. Promises that the client gets each event of its topics once and in the journal's order, or a frame
//! that reports the missing events.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Config, Connect, Counters, HeartbeatKind, Reason,
    frames::{self, GapReason, Resumed},
    outbox::Outbox,
    overflow::Decision,
    pages::{PageBytes, Pages},
    registry::disjoint,
    socket_writer::SocketWriter,
};
use crate::{
    event::{Event, Filter, Position, Subscriber, Undecided},
    journal::{Page, Query, Trimmed},
    spans,
    sse::Encoded,
    topic::{Pattern, Topic},
};

/// One live SSE connection to one client.
pub(super) struct Emitter {
    /// Distinguishes this emitter from a later one with the same key.
    pub(super) serial: u64,
    pub(super) id: Arc<str>,
    /// The request of the client. Changes through the API are stored here.
    pub(super) request: Connect,
    /// Patterns of all topics that it receives; no pattern covers another one.
    pub(super) patterns: Arc<[Pattern]>,
    pub(super) phase: Phase,
    /// All events up to this offset were offered to this emitter, or are not for it.
    pub(super) cursor: u64,
    pub(super) outbox: Outbox,
    /// The task that polls this stream; `None` while that task is about to be polled anyway.
    pub(super) task: Option<Waker>,
    /// The connection, if the hub writes it itself; otherwise the HTTP framework polls for frames.
    pub(super) socket: Option<Box<SocketWriter>>,
    /// This emitter is in the shard's list of outboxes to write.
    pub(super) unwritten: bool,
    pub(super) opened: Instant,
    pub(super) opened_at_ms: u64,
    expires: Option<Instant>,
    /// Deadline of the token by the monotonic clock, and in Unix milliseconds.
    token_expires: Option<Instant>,
    token_expires_at_ms: Option<u64>,
    /// Events that were queued and not dropped afterwards.
    pub(super) delivered: u64,
    /// Events that the overflow policy dropped.
    pub(super) dropped: u64,
}

/// The phase of a stream. `hub.rs` draws the transitions.
#[derive(Debug)]
pub(super) enum Phase {
    /// It gets events from the shard when they are committed.
    Live,
    /// It reads from the journal, page by page, until it reaches the position of the shard.
    CatchUp {
        /// A page was requested.
        reading: bool,
        /// Trimmed history after the cursor that the client knows, or did not request.
        known_gaps: Vec<Trimmed>,
    },
    /// It ends when its outbox is empty. It gets no more events.
    Ending {
        reason: Reason,
        /// Start of the time that the client has to read the rest.
        since: Instant,
    },
}

/// Interval at which a shard checks its emitters; the precision of heartbeats and deadlines.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// A client must read something of the end of its stream within this time; otherwise its connection is cut.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Weight of filters in one turn of the thread: a millisecond or two. If events have few readers, that is many events, so
/// that a delayed shard catches up with publishers, which also get turns.
pub(super) const TURN_OFFERS: usize = 16384;
/// Events in one page of the journal for an emitter that is behind, and bytes of their data: about as much as a connection
/// writes in one turn. Larger pages would delay live emitters.
const PAGE_EVENTS: usize = 128;
const PAGE_BYTES: usize = 24 << 10;

// === impl Emitter ===

impl Emitter {
    pub(super) fn new(
        serial: u64,
        mut request: Connect,
        config: &Config,
        pages: Rc<Pages>,
        now: Instant,
        now_ms: u64,
    ) -> Self {
        let user = request.user.as_deref().map_or_else(|| "anonymous".to_owned(), |user| format!("user_{user}"));
        let outbox = Outbox::new(config, request.shared.take(), PageBytes::new(pages), now);
        let expires = request.lifetime.map(|lifetime| now + jittered(lifetime));
        let token_lifetime = request.token_expires;
        let mut emitter = Self {
            serial,
            id: format!("{user}_{}", uuid::Uuid::new_v4()).into(),
            request,
            patterns: Arc::from([]),
            phase: Phase::Live,
            cursor: 0,
            outbox,
            task: None,
            socket: None,
            unwritten: false,
            opened: now,
            opened_at_ms: now_ms,
            expires,
            token_expires: None,
            token_expires_at_ms: None,
            delivered: 0,
            dropped: 0,
        };
        emitter.patterns = emitter.subscribed().into();
        emitter.limit_token(token_lifetime, now, now_ms);
        emitter
    }

    // --- Identity ---

    /// Patterns of all topics that it receives: its own topics, those of its groups, and those that it asked for.
    pub(super) fn subscribed(&self) -> Vec<Pattern> {
        let Connect { own, groups, topics, .. } = &self.request;
        let own = own.iter().cloned().map(Pattern::Exact);
        let groups = groups.iter().filter_map(|group| Topic::group(group).ok()).map(Pattern::Exact);
        disjoint(own.chain(groups).chain(topics.iter().cloned()).collect())
    }

    /// The properties that the filter of an event may use.
    pub(super) fn subscriber(&self) -> Subscriber<'_> {
        let Connect { meta, user, groups, .. } = &self.request;
        Subscriber { meta, user: user.as_deref(), groups, emitter_id: &self.id }
    }

    /// Limits the lifetime of its token to `left` from now.
    pub(super) fn limit_token(&mut self, left: Option<Duration>, now: Instant, now_ms: u64) {
        let Some(left) = left else { return };
        let at = now_ms.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        self.token_expires_at_ms = Some(self.token_expires_at_ms.map_or(at, |known| known.min(at)));
        self.clock_jumped(now, now_ms);
    }

    /// Computes the deadline of the token again after a jump of the wall clock: tokens expire by wall-clock time.
    pub(super) fn clock_jumped(&mut self, now: Instant, now_ms: u64) {
        let left = self.token_expires_at_ms.map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
        self.token_expires = left.and_then(|left| now.checked_add(left));
    }

    // --- Phases ---

    pub(super) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// The span of its log lines. Made for each line, because the memory of a span is too much for an idle stream.
    pub(super) fn span(&self) -> tracing::Span {
        spans::stream(&self.id, self.request.user.as_deref())
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// The reason why it ends.
    pub(super) fn end_reason(&self) -> Option<Reason> {
        match self.phase {
            Phase::Ending { reason, .. } => Some(reason),
            Phase::Live | Phase::CatchUp { .. } => None,
        }
    }

    /// True if it is behind and has sent all that it has read.
    pub(super) fn needs_page(&self) -> bool {
        matches!(self.phase, Phase::CatchUp { reading: false, .. }) && self.outbox.is_empty()
    }

    /// From now on it reads from the journal, after `offset` or after its cursor.
    pub(super) fn fall_behind(&mut self, offset: u64) {
        self.cursor = self.cursor.max(offset);
        self.phase = Phase::CatchUp { reading: false, known_gaps: Vec::new() };
    }

    /// Ends the stream after the frames that wait. The client gets a `disconnect` frame, unless the stream is complete or
    /// the client would not read the frame.
    pub(super) fn end(&mut self, reason: Reason, now: Instant) {
        if self.is_ending() {
            return;
        }
        if !matches!(reason, Reason::Ended | Reason::ClientGone | Reason::InputFlood | Reason::WriteDeadline) {
            self.outbox.push_control(frames::disconnect(reason, jittered_ms(self.request.retry_ms)), now);
        }
        self.phase = Phase::Ending { reason, since: now };
        self.wake();
    }

    // --- Live events ---

    /// True for an event that was not offered to it yet, if it is live. An event in several topics comes once for each of
    /// them, and the cursor admits it once.
    pub(super) fn awaits(&self, event: &Event) -> bool {
        self.is_live() && event.position.offset > self.cursor
    }

    /// Offers an event. True if there is something to write, or the emitter must read a page.
    pub(super) fn offer(&mut self, event: &Event, counters: &Counters, now: Instant) -> bool {
        if !self.awaits(event) {
            return false;
        }
        let offset = event.position.offset;
        if !self.accepts(event, counters) {
            self.cursor = offset;
            return false;
        }
        let frame = self.frame(event);
        match self.request.overflow.decide(&mut self.outbox, frame.len(), now) {
            Decision::Queue { dropped } => {
                self.cursor = offset;
                self.dropped += dropped;
                self.delivered = self.delivered.saturating_sub(dropped) + 1;
                self.outbox.push(frame, now);
                counters.dropped.fetch_add(dropped, Relaxed);
                counters.delivered.fetch_add(1, Relaxed);
            }
            Decision::Drop => {
                self.cursor = offset;
                self.dropped += 1;
                counters.dropped.fetch_add(1, Relaxed);
            }
            Decision::CatchUp => {
                if tracing::enabled!(tracing::Level::DEBUG) {
                    self.span().in_scope(|| tracing::debug!("outbox full, catching up from the journal"));
                }
                self.fall_behind(offset - 1);
                counters.lagged.fetch_add(1, Relaxed);
            }
            Decision::Disconnect => {
                // The client gets these events when it resumes.
                self.delivered = self.delivered.saturating_sub(self.outbox.clear_events());
                self.end(Reason::Slow, now);
            }
        }
        if self.is_last(event) && self.is_live() {
            self.end(Reason::Ended, now);
        }
        true
    }

    /// True if the filter of the event matches it. A filter that cannot be applied does not match.
    fn accepts(&self, event: &Event, counters: &Counters) -> bool {
        let matches = |filter: &Filter| filter.matches(&self.subscriber());
        event.filter.as_ref().is_none_or(|filter| {
            matches(filter).unwrap_or_else(|Undecided| {
                counters.filters_failed.fetch_add(1, Relaxed);
                false
            })
        })
    }

    /// True for the event that ends this stream. An event that a relay brought from another server has only its name.
    fn is_last(&self, event: &Event) -> bool {
        self.request.until.is_some_and(|until| until == event.name())
            && event.source().is_none()
            && event.position.offset > self.request.until_after
    }

    fn frame(&self, event: &Event) -> Encoded {
        if self.request.envelope { event.wire_in_envelope() } else { event.wire() }
    }

    // --- Pages of the journal ---

    /// The next page that it has to read.
    pub(super) fn query(&self, config: &Config) -> Query {
        Query {
            patterns: self.patterns.clone(),
            after: self.cursor,
            // `new_gaps` removes the gaps that were reported before.
            floor: self.cursor,
            limit: PAGE_EVENTS.min(config.outbox_events),
            max_bytes: PAGE_BYTES.min(config.outbox_bytes / 2),
        }
    }

    /// Starts to read the next page; `None` if it needs none now.
    pub(super) fn start_reading(&mut self, config: &Config) -> Option<Query> {
        let Phase::CatchUp { reading: reading @ false, .. } = &mut self.phase else { return None };
        *reading = true;
        Some(self.query(config))
    }

    /// The page that was requested is useless; the next one is read from the same place.
    pub(super) fn discard_page(&mut self) {
        if let Phase::CatchUp { reading, .. } = &mut self.phase {
            *reading = false;
        }
    }

    /// Takes the page that was requested. `position` is that of the shard.
    pub(super) fn take_page(&mut self, mut page: Page, epoch: u64, position: u64, counters: &Counters, now: Instant) {
        let Phase::CatchUp { known_gaps, .. } = &mut self.phase else { return };
        let lost = new_gaps(known_gaps, std::mem::take(&mut page.trimmed));
        if !lost.is_empty() {
            self.report_gap(GapReason::Trimmed, &lost, epoch, counters, now);
        }
        self.queue_page(page, position, counters, now);
    }

    /// Continues after events that cannot be read, and reports the gap.
    pub(super) fn skip_unreadable(&mut self, through: u64, epoch: u64, counters: &Counters, now: Instant) {
        if self.is_ending() {
            return;
        }
        self.report_gap(GapReason::Damaged, &[], epoch, counters, now);
        self.cursor = through;
        self.discard_page();
    }

    fn report_gap(&mut self, reason: GapReason, lost: &[Trimmed], epoch: u64, counters: &Counters, now: Instant) {
        counters.gaps.fetch_add(1, Relaxed);
        let requested = Position { epoch, offset: self.cursor }.to_string();
        self.outbox.push_control(frames::gap(Some(&requested), reason, lost), now);
    }

    /// Queues the events of a page. It goes live if the page reaches the position of the shard.
    pub(super) fn queue_page(&mut self, page: Page, position: u64, counters: &Counters, now: Instant) {
        let mut reached = page.through >= position;
        self.cursor = page.through;
        let mut work = 0;
        for event in page.events {
            if let Some(filter) = &event.filter {
                // A page with costly filters takes several turns. The rest of it is read again.
                if work >= TURN_OFFERS {
                    self.cursor = event.position.offset - 1;
                    reached = false;
                    break;
                }
                work += filter.weight(&self.subscriber());
            }
            if !self.accepts(&event, counters) {
                continue;
            }
            self.outbox.push_from_page(self.frame(&event), now);
            self.delivered += 1;
            counters.delivered.fetch_add(1, Relaxed);
            if self.is_last(&event) {
                return self.end(Reason::Ended, now);
            }
        }
        if reached {
            self.phase = Phase::Live;
        } else {
            self.discard_page();
        }
    }

    // --- Time ---

    /// Ends the stream if its lifetime is over; true if its connection must be cut.
    pub(super) fn check_deadlines(&mut self, write_deadline: Duration, now: Instant) -> bool {
        if self.deadline(write_deadline, now) <= now {
            self.end(Reason::WriteDeadline, now);
            return true;
        }
        if self.token_expires.is_some_and(|at| now >= at) {
            self.end(Reason::TokenExpired, now);
        }
        if self.expires.is_some_and(|at| now >= at) {
            self.end(Reason::Lifetime, now);
        }
        false
    }

    /// Time when its connection must be cut if the client reads nothing from now on.
    fn deadline(&self, write_deadline: Duration, now: Instant) -> Instant {
        match self.phase {
            // The last event of a complete stream may be large, and a slow client may take its time. Others resume.
            Phase::Ending { reason: Reason::Ended, since } => {
                self.outbox.stuck_since().unwrap_or(since.max(self.outbox.sent_at())) + write_deadline
            }
            Phase::Ending { since, .. } => since.max(self.outbox.sent_at()) + END_TIMEOUT,
            Phase::Live | Phase::CatchUp { .. } => self.outbox.stuck_since().unwrap_or(now) + write_deadline,
        }
    }

    /// True if a heartbeat is due. No heartbeat is due while other frames wait.
    pub(super) fn heartbeat_is_due(&self, now: Instant) -> bool {
        !self.is_ending()
            && self.request.heartbeat.kind != HeartbeatKind::None
            && self.outbox.stuck_since().is_none()
            && self.heartbeat_at() <= now + TICK / 2
    }

    fn heartbeat_at(&self) -> Instant {
        self.outbox.sent_at() + self.request.heartbeat.every
    }

    /// When the deadlines and the heartbeat of this emitter must be checked again, if it was checked now. Frames that are
    /// sent meanwhile only make it later. If the stream is ended meanwhile, the shard checks it with its next tick.
    pub(super) fn next_check(&self, write_deadline: Duration, now: Instant) -> Instant {
        let mut next = self.deadline(write_deadline, now);
        if !self.is_ending() {
            next = [self.expires, self.token_expires].into_iter().flatten().fold(next, Instant::min);
            if self.request.heartbeat.kind != HeartbeatKind::None {
                next = next.min(self.heartbeat_at() - TICK / 2);
            }
        }
        // A check that is due now, but could not be done, is repeated with the next tick.
        next.max(now + TICK / 2)
    }

    // --- Output ---

    /// Queues the first frame.
    pub(super) fn greet(&mut self, position: Position, requested: Option<&str>, resumed: Resumed, now: Instant) {
        let greeting = std::mem::take(&mut self.request.greeting);
        let frame = frames::connection(&frames::Connection {
            emitter_id: &self.id,
            user: self.request.user.as_deref(),
            groups: &self.request.groups,
            topics: &self.patterns,
            greeting: &greeting,
            retry_ms: self.request.retry_ms,
            position,
            requested,
            resumed,
        });
        self.outbox.push_control(frame, now);
    }

    /// Queues a control frame, even if there is no room: control frames are few and small.
    pub(super) fn control(&mut self, frame: Encoded, now: Instant) {
        self.outbox.push_control(frame, now);
        self.wake();
    }

    /// Writes the waiting frames to the connection; `None` if the hub does not write it itself.
    pub(super) fn poll_output(&mut self, counters: &Counters, cx: &mut Context<'_>) -> Option<Poll<()>> {
        let ending = self.is_ending();
        let socket = self.socket.as_mut()?;
        Some(socket.poll_output(&mut self.outbox, ending, counters, cx))
    }

    /// Writes the waiting frames for the shard. The task of the stream does the rest: the end of the stream, the next page,
    /// and frames of a stream that the HTTP framework writes.
    pub(super) fn flush(&mut self, counters: &Counters) {
        // Without a waker the task is about to be polled, and writes the frames itself.
        let Some(waker) = self.task.clone() else { return };
        let written = self.poll_output(counters, &mut Context::from_waker(&waker));
        if self.needs_page() || written.is_none_or(|written| written.is_ready()) {
            self.wake();
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.task.take() {
            waker.wake();
        }
    }
}

/// The trimmed topics of a page that the client does not know of. A topic that was trimmed further has another earliest
/// event. A topic without an earliest event, and a list that was cut off, are reported again: a gap is reported rather
/// twice than never.
fn new_gaps(known: &mut Vec<Trimmed>, trimmed: Vec<Trimmed>) -> Vec<Trimmed> {
    let cut_off = trimmed.len() >= Page::MAX_TRIMMED;
    let is_new = |lost: &&Trimmed| cut_off || lost.earliest.is_none() || !known.contains(lost);
    let new = trimmed.iter().filter(is_new).cloned().collect();
    *known = trimmed;
    new
}

/// A lifetime within a tenth of the configured one: streams that start together must not end together.
fn jittered(lifetime: Duration) -> Duration {
    lifetime.mul_f64(rand::random_range(0.9..=1.1))
}

/// A reconnection time from half to one and a half of the configured one: after a stop, clients reconnect spread out.
fn jittered_ms(retry_ms: u64) -> u64 {
    rand::random_range(retry_ms / 2..=retry_ms.saturating_add(retry_ms / 2))
}
