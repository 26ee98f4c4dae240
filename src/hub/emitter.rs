//! One emitter; the shard decides when to call what.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Connect, Counters, Heartbeat, HeartbeatKind, Overflow, Reason, frames,
    line::Line,
    outbox::{Outbox, Waiting},
    pages::{PageBytes, Pages},
    registry::disjoint,
};
use crate::{
    event::{Event, Meta, Subscriber},
    journal::{Page, Trimmed},
    sse::Encoded,
    topic::{Pattern, Topic},
    unsent::{Pace, least},
};

/// One live SSE connection to one client.
pub(super) struct Emitter {
    /// Tells this emitter from a later one under the same key.
    pub(super) serial: u64,
    pub(super) id: Arc<str>,
    pub(super) user: Option<String>,
    pub(super) token: Option<Arc<str>>,
    pub(super) groups: Vec<String>,
    pub(super) topics: Vec<Pattern>,
    pub(super) own: Vec<Topic>,
    pub(super) meta: Meta,
    /// All that it hears, without overlaps.
    pub(super) patterns: Arc<[Pattern]>,
    pub(super) envelope: bool,
    pub(super) retry_ms: u64,
    pub(super) until: Option<&'static str>,
    until_after: u64,
    overflow: Overflow,
    pub(super) heartbeat: Heartbeat,
    pub(super) outbox: Outbox,
    pub(super) feed: Feed,
    /// Everything up to here was offered to it or passed over.
    pub(super) cursor: u64,
    /// Trimmed history after the cursor that was told already, or does not concern it.
    told: Vec<Trimmed>,
    pub(super) opened: Instant,
    pub(super) opened_at_ms: u64,
    pub(super) expires: Option<Instant>,
    /// When its token expires, by the monotonic clock and in Unix milliseconds.
    pub(super) token_expires: Option<Instant>,
    token_expires_at: Option<u64>,
    /// When the last frame went towards the socket, or the emitter began.
    pub(super) active: Instant,
    /// The pace at which the socket accepts bytes from the outbox.
    pace: Pace,
    /// Minimum number of bytes that the client must read per write deadline.
    least: u64,
    /// Bytes of history that were read for this emitter.
    pub(super) page: PageBytes,
    pub(super) closing: Option<Closing>,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    /// Of the task that writes it, unless that is about to be polled.
    pub(super) waker: Option<Waker>,
    /// Its connection, where the hub writes that itself.
    pub(super) line: Option<Box<Line>>,
    /// Something came into the outbox since it was written last.
    pub(super) unwritten: bool,
    pub(super) cut: Option<Rc<dyn Fn()>>,
    pub(super) flooded: Option<Box<dyn Fn() -> bool>>,
    _keep: Option<Box<dyn std::any::Any>>,
    pub(super) on_close: Option<Box<dyn FnOnce(Reason)>>,
}

/// Where its events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// From the shard, as they come.
    Live,
    /// From the journal, until it stands at the shard's cursor. `reading`: a page is on its way.
    CatchUp { reading: bool },
}

/// The stream is over once the outbox is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) reason: Reason,
    pub(super) since: Instant,
}

/// What became of an event that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It waits; so many older ones had to go for it.
    Queued { dropped: u64 },
    /// It was dropped.
    Dropped,
    /// It will be read from the journal.
    Lagging,
    /// The stream ends.
    TooSlow,
}

// === impl Emitter ===

impl Emitter {
    pub(super) fn new(
        serial: u64,
        id: Arc<str>,
        connect: Connect,
        config: &super::Config,
        pages: Rc<Pages>,
        now: Instant,
        wall: u64,
    ) -> Self {
        let mut emitter = Self {
            serial,
            id,
            user: connect.user,
            token: connect.token,
            groups: connect.groups,
            topics: connect.topics,
            own: connect.own,
            meta: connect.meta,
            patterns: Arc::from([]),
            envelope: connect.envelope,
            retry_ms: connect.retry_ms,
            until: connect.until,
            until_after: connect.until_after,
            overflow: connect.overflow,
            heartbeat: connect.heartbeat,
            outbox: Outbox::new(config.outbox_events, config.outbox_bytes, connect.shared),
            feed: Feed::Live,
            cursor: 0,
            told: Vec::new(),
            opened: now,
            opened_at_ms: wall,
            expires: connect.lifetime.map(|lifetime| now + jittered(lifetime)),
            token_expires: None,
            token_expires_at: None,
            active: now,
            pace: Pace::default(),
            least: least(Duration::from_millis(config.write_deadline_ms)),
            page: PageBytes::new(pages),
            closing: None,
            delivered: 0,
            dropped: 0,
            waker: None,
            line: None,
            unwritten: false,
            cut: connect.cut.map(Rc::from),
            flooded: connect.flooded,
            _keep: connect.keep,
            on_close: connect.on_close,
        };
        emitter.patterns = emitter.heard().into_iter().collect();
        emitter.expires_in(connect.token_expires, now, wall);
        emitter
    }

    /// Limits the lifetime of its token to `left` from now.
    pub(super) fn expires_in(&mut self, left: Option<Duration>, now: Instant, wall: u64) {
        let Some(left) = left else { return };
        let at = wall.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        self.token_expires_at = Some(self.token_expires_at.map_or(at, |known| known.min(at)));
        self.clock_jumped(now, wall);
    }

    /// Recomputes the token's deadline after a jump of the wall clock: tokens expire by wall-clock time.
    pub(super) fn clock_jumped(&mut self, now: Instant, wall: u64) {
        let left = self.token_expires_at.map(|at| Duration::from_millis(at.saturating_sub(wall)));
        self.token_expires = left.and_then(|left| now.checked_add(left));
    }

    /// What it hears: its own topics, those of its groups, and what it asked for.
    pub(super) fn heard(&self) -> Vec<Pattern> {
        let own = self.own.iter().cloned().map(Pattern::Exact);
        let groups = self.groups.iter().filter_map(|group| Topic::group(group).ok()).map(Pattern::Exact);
        disjoint(own.chain(groups).chain(self.topics.iter().cloned()).collect())
    }

    /// What the filter of an event is asked about.
    pub(super) fn subscriber(&self) -> Subscriber<'_> {
        Subscriber { meta: &self.meta, user: self.user.as_deref(), groups: &self.groups, emitter_id: &self.id }
    }

    /// True for an event that it has not been offered yet, if it lives. One in several topics comes once for each of them:
    /// the cursor lets one through.
    pub(super) fn awaits(&self, event: &Event) -> bool {
        self.feed == Feed::Live && event.position.offset > self.cursor && self.closing.is_none()
    }

    /// True for the event with which this stream ends; one that a relay has brought from elsewhere has only the name.
    pub(super) fn is_last(&self, event: &Event) -> bool {
        self.until.is_some_and(|until| until == event.name())
            && event.source().is_none()
            && event.position.offset > self.until_after
    }

    /// Says whether silence lasts: nothing waits that will break it, nor will the end.
    pub(super) fn is_silent(&self) -> bool {
        self.closing.is_none() && self.heartbeat.kind != HeartbeatKind::None && self.stuck_since().is_none()
    }

    /// When silence has lasted long enough.
    pub(super) fn heartbeat_due(&self) -> Instant {
        self.active + self.heartbeat.every
    }

    /// How long its socket has not taken what is there for it.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        [self.outbox.stuck_since(), self.pace.since()].into_iter().flatten().min()
    }

    /// Puts an event into the outbox, or does what the policy says.
    pub(super) fn offer(&mut self, offset: u64, frame: Encoded, now: Instant) -> Offered {
        if self.overflow == Overflow::DropOldest || self.outbox.has_room(frame.len()) {
            let dropped = self.outbox.make_room(frame.len());
            self.cursor = offset;
            self.dropped += dropped;
            self.delivered = self.delivered.saturating_sub(dropped) + 1;
            self.outbox.push(frame, now);
            return Offered::Queued { dropped };
        }
        match self.overflow {
            Overflow::CatchUp => {
                self.fall_behind(offset - 1);
                Offered::Lagging
            }
            Overflow::DropLatest | Overflow::DropOldest => {
                self.cursor = offset;
                self.dropped += 1;
                self.outbox.drop_new(now);
                Offered::Dropped
            }
            Overflow::Disconnect => {
                // They come again when the client resumes.
                self.delivered = self.delivered.saturating_sub(self.outbox.clear_events());
                self.close(Reason::Slow, now);
                Offered::TooSlow
            }
        }
    }

    /// From now on it reads from the journal, after `offset` or where it stands.
    pub(super) fn fall_behind(&mut self, offset: u64) {
        self.cursor = self.cursor.max(offset);
        self.feed = Feed::CatchUp { reading: false };
    }

    /// The client knows of this trimmed history, or does not miss it.
    pub(super) fn told(&mut self, trimmed: Vec<Trimmed>) {
        self.told = trimmed;
    }

    /// Of what a page reports as trimmed, what the client does not know yet. A topic that was trimmed further has
    /// another earliest event; where there is none, or the report is cut off, it is told rather twice than never.
    pub(super) fn news(&mut self, trimmed: Vec<Trimmed>) -> Vec<Trimmed> {
        let cut_off = trimmed.len() >= Page::MAX_TRIMMED;
        let new = |lost: &&Trimmed| cut_off || lost.earliest.is_none() || !self.told.contains(lost);
        let news = trimmed.iter().filter(new).cloned().collect();
        self.told = trimmed;
        news
    }

    /// It stands at the shard's cursor.
    pub(super) fn go_live(&mut self) {
        self.feed = Feed::Live;
        self.told = Vec::new();
    }

    /// Called when all bytes that left the outbox are written.
    pub(super) fn written(&mut self) {
        if self.outbox.len() == 0 {
            self.page.clear();
        }
    }

    /// Takes the next frame that goes towards the socket.
    pub(super) fn next_frame(&mut self, counters: &Counters, now: Instant) -> Option<Encoded> {
        let waiting = self.outbox.pop(now)?;
        self.active = now;
        if let Waiting::Dropped(_) = waiting {
            counters.gaps.fetch_add(1, Relaxed);
        }
        Some(waiting.into_frame())
    }

    /// Writes what waits to its line; `None` where it has none.
    pub(super) fn poll_output(&mut self, counters: &Counters, cx: &mut Context<'_>) -> Option<Poll<()>> {
        let mut line = self.line.take()?;
        let written = line.poll_output(self, counters, cx);
        self.line = Some(line);
        Some(written)
    }

    /// Called when the socket accepts no bytes; a client that reads too slowly for too long is disconnected.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.pace.blocked(now);
    }

    /// Called when the socket has accepted bytes.
    pub(super) fn took(&mut self, bytes: usize, now: Instant) {
        if self.pace.since().is_some() {
            self.active = now;
        }
        if self.pace.took(bytes, self.least, now) {
            // The client reads fast enough, so the waiting frames are not blocked.
            self.outbox.touch(now);
        }
    }

    /// Called when the socket has accepted all bytes.
    pub(super) fn unblocked(&mut self, now: Instant) {
        if self.pace.clear() {
            self.outbox.touch(now);
        }
    }

    /// Puts a control frame into the outbox, whatever its bounds: they are few and small.
    pub(super) fn control(&mut self, frame: Encoded, now: Instant) {
        self.outbox.push_control(frame, now);
        self.wake();
    }

    /// Ends the stream after what is waiting, with a last word where somebody is there to hear it.
    pub(super) fn close(&mut self, reason: Reason, now: Instant) {
        if self.closing.is_some() {
            return;
        }
        if !matches!(reason, Reason::Ended | Reason::ClientGone | Reason::InputFlood | Reason::WriteDeadline) {
            let retry = jittered_ms(self.retry_ms);
            self.outbox.push_control(frames::disconnect(reason, retry), now);
        }
        self.closing = Some(Closing { reason, since: now });
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A lifetime within a tenth of what was asked, so that streams which began together do not end together.
fn jittered(lifetime: Duration) -> Duration {
    lifetime.mul_f64(rand::random_range(0.9..=1.1))
}

/// A reconnection time from half to one and a half of what is set: after a stop clients come back spread out.
pub(super) fn jittered_ms(retry_ms: u64) -> u64 {
    rand::random_range(retry_ms / 2..=retry_ms.saturating_add(retry_ms / 2))
}
