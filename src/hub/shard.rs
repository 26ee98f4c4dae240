//! A shard: the emitters whose sockets live on one worker thread.
//!
//! Owns their registry and decides when each of them gets a turn. It is single-threaded by construction and needs no lock:
//! the actor (`actor.rs`), the connections and the two loops of [`Shard::run`] take turns. No borrow of the state is held
//! across an `await`.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::FutureExt;
use slab::Slab;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Change, ChangedBy, Config, Connect, ConnectError, Counters, EmitterStatus, HeartbeatKind, Inner, Reason, Selector,
    audience::Audience,
    due::Due,
    emitter::{Emitter, Phase, TICK, TURN_OFFERS},
    frames,
    pages::{Pages, STUCK},
    registry::{Key, Registry},
    start::StartPoint,
};
use crate::{
    clock::Clock,
    event::{Position, SharedEvent},
    journal::{Page, Shared, Tail, Unavailable, Waker},
    sse::Encoded,
    topic::Pattern,
};

/// Connections that are written before other work of the thread gets a turn: requests, readers that are behind. It
/// takes about a millisecond. With shorter turns publishers are faster than the deliveries: with 64, 2.3 times as many
/// deliveries a second arrived four times as late (`bench fanout --rate 0`).
const TURN_WRITES: usize = 256;
/// Emitters of the thread that read a page at the same time; the others wait. Live events never wait for more pages than
/// this. Two made the slowest deliveries slower, and no delivery faster (`bench laggards`).
const PAGE_READERS: usize = 1;
/// Delay before the tail is read again after a failure of the journal.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The emitters of one thread.
pub(super) struct Shard {
    config: Config,
    journal: Shared,
    pub(super) counters: Arc<Counters>,
    /// The topics that the emitters subscribe to, for other threads: publishers, and the tail's question whether an event
    /// is worth a wake.
    audience: Arc<Audience>,
    clock: Clock,
    /// Number of clock jumps for which the deadlines of tokens were computed.
    jumps: Cell<u64>,
    /// Taken by [`Shard::run`].
    tail: Cell<Option<Tail>>,
    /// Wakes the tail for a new emitter.
    waker: Waker,
    /// Cancelled when the node stops, or when the last handle of the hub is dropped.
    stopping: CancellationToken,
    next_serial: Cell<u64>,
    /// Permits to read a page, in the order of the requests.
    page_readers: Semaphore,
    /// Pages that were read and are not written yet.
    pages: Rc<Pages>,
    pub(super) state: RefCell<State>,
}

/// The changing part of a shard.
pub(super) struct State {
    pub(super) emitters: Slab<Emitter>,
    registry: Registry,
    due: Due,
    /// Every event up to this offset was offered to the live emitters.
    cursor: u64,
    /// The emitters of one event; empty between events, and kept for its memory.
    targets: Vec<Key>,
    /// Emitters whose outboxes have new frames.
    unwritten: VecDeque<Key>,
}

// === impl Shard ===

impl Shard {
    pub(super) fn new(hub: &Inner, audience: Arc<Audience>) -> Self {
        let cursor = *hub.journal.watch_head().borrow();
        let tail = Tail::of(hub.journal.clone(), cursor, audience.clone());
        Self {
            config: hub.config.clone(),
            journal: hub.journal.clone(),
            counters: hub.counters.clone(),
            audience,
            jumps: Cell::new(hub.clock.jumps()),
            clock: hub.clock.clone(),
            waker: tail.waker(),
            tail: Cell::new(Some(tail)),
            stopping: hub.stopping.clone(),
            next_serial: Cell::new(0),
            page_readers: Semaphore::new(PAGE_READERS),
            pages: Rc::new(Pages::new(&hub.bounds)),
            state: RefCell::new(State {
                emitters: Slab::new(),
                registry: Registry::default(),
                due: Due::default(),
                cursor,
                targets: Vec::new(),
                unwritten: VecDeque::new(),
            }),
        }
    }

    /// Follows the journal and the clock until no stream is left and no new one can come.
    pub(super) async fn run(self: Rc<Self>) {
        let follow = async {
            self.follow().await;
            // The journal is closed. The streams still need the ticks that end them.
            std::future::pending::<()>().await;
        };
        let keep_time = async {
            while !self.is_over() {
                sleep(TICK).await;
                self.tick(Instant::now());
                self.flush().await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = keep_time => {}
        }
    }

    fn is_over(&self) -> bool {
        self.stopping.is_cancelled() && self.state.borrow().emitters.is_empty()
    }

    // --- The start and the end of an emitter ---

    /// Creates an emitter, and returns its key. It first gets the history that fits into one page; then it is live or
    /// catches up. The caller must remove it when its stream ends, and must not wait before it can.
    pub(super) async fn connect(&self, mut connect: Connect) -> Result<Key, ConnectError> {
        let start = std::mem::take(&mut connect.start);
        let mut emitter = self.new_emitter(connect);
        let start = StartPoint::find(&self.journal, &emitter.patterns, start).await?;
        let (mut page, mut trimmed, mut gap) = (None, Vec::new(), None);
        if let Some(start) = &start {
            emitter.cursor = start.after;
            let mut first = self.first_page(&emitter).await?;
            trimmed = std::mem::take(&mut first.trimmed);
            gap = start.gap(&self.journal, &emitter.patterns, &trimmed).await?;
            page = Some(first);
        }
        // No `await` from here on: the content of the page, the position of the shard and the state of the node must be of
        // the same moment.
        if self.stopping.is_cancelled() {
            return Err(ConnectError::Stopping);
        }
        // Join the audience before the head is read: events that are appended after this head wake the shard.
        self.audience.join(emitter.serial, &emitter.patterns);
        let head = self.waker.wake();
        let start = start.unwrap_or_else(|| StartPoint::live(self.position_at(head)));
        emitter.cursor = start.after;
        let now = Instant::now();
        let requested = start.requested.as_deref();
        let resumed = start.resumed(gap.is_some());
        let position = self.position_at(start.first_offset(resumed, page.as_ref()));
        emitter.greet(position, requested, resumed, now);
        if let Some((reason, lost)) = gap {
            self.counters.gaps.fetch_add(1, Relaxed);
            emitter.outbox.push_control(frames::gap(requested, reason, &lost), now);
        }
        if let Some(page) = page {
            emitter.phase = Phase::CatchUp { reading: true, known_gaps: trimmed };
            let position = self.position(&self.state.borrow());
            emitter.queue_page(page, position, &self.counters, now);
        }
        Ok(self.register(emitter))
    }

    fn new_emitter(&self, connect: Connect) -> Emitter {
        let serial = self.next_serial.get();
        self.next_serial.set(serial + 1);
        let (now, now_ms) = (Instant::now(), self.clock.now_ms());
        Emitter::new(serial, connect, &self.config, self.pages.clone(), now, now_ms)
    }

    async fn first_page(&self, emitter: &Emitter) -> Result<Page, Unavailable> {
        let _permit = self.page_permit().await;
        match self.journal.read(emitter.query(&self.config)).await {
            // The emitter reads this page again when it catches up, and reports the gap then.
            Err(Unavailable::Unreadable { .. }) => {
                Ok(Page { events: Vec::new(), through: emitter.cursor, trimmed: Vec::new() })
            }
            page => page,
        }
    }

    fn register(&self, emitter: Emitter) -> Key {
        let mut state = self.state.borrow_mut();
        self.counters.opened.fetch_add(1, Relaxed);
        emitter.span().in_scope(|| {
            tracing::info!(
                emitter = &*emitter.id,
                user = emitter.request.user,
                topics = emitter.patterns.len(),
                open = self.counters.open(),
                "stream opened"
            );
        });
        let (id, patterns) = (emitter.id.clone(), emitter.patterns.clone());
        let next_check = emitter.next_check(self.write_deadline(), Instant::now());
        let key = state.emitters.insert(emitter);
        state.due.set(key, next_check);
        state.registry.add(key, &patterns);
        state.registry.add_id(id, key);
        key
    }

    /// Removes an emitter whose subscription was dropped. `fallback` is the reason if no reason was set before.
    pub(super) fn remove(&self, key: Key, fallback: Reason) {
        let mut state = self.state.borrow_mut();
        let mut emitter = state.emitters.remove(key);
        state.due.remove(key);
        state.registry.remove(key, &emitter.patterns);
        state.registry.remove_id(&emitter.id);
        drop(state);
        let now = Instant::now();
        let reason = emitter.end_reason().unwrap_or_else(|| {
            // The operating system may have cut a stuck connection shortly before the tick would have.
            let stuck = |since: Instant| now - since + TICK * 2 >= self.write_deadline();
            let stuck = emitter.outbox.stuck_since().is_some_and(stuck);
            if stuck && fallback == Reason::ClientGone { Reason::WriteDeadline } else { fallback }
        });
        self.audience.leave(emitter.serial, &emitter.patterns);
        self.counters.close(reason);
        let _span = emitter.span().entered();
        tracing::info!(
            emitter = &*emitter.id,
            user = emitter.request.user,
            reason = reason.as_str(),
            delivered = emitter.delivered,
            dropped = emitter.dropped,
            millis = (now - emitter.opened).as_millis(),
            open = self.counters.open(),
            "stream closed"
        );
        if let Some(on_close) = emitter.request.on_close.take() {
            on_close(reason);
        }
    }

    // --- Live events ---

    async fn follow(&self) {
        let Some(mut tail) = self.tail.take() else { return };
        loop {
            let pulled = match tail.next().await {
                Ok(pulled) => pulled,
                Err(Unavailable::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, "the journal's tail cannot be read; trying again");
                    sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            if pulled.missed {
                self.all_fall_behind(pulled.after);
            }
            let mut rest = &pulled.events[..];
            while !rest.is_empty() {
                rest = &rest[self.deliver(rest)..];
                self.flush().await;
                // Other tasks get a turn before more events. Without more events they get it anyway, and a yield would cost
                // a look at all sockets (`epoll_wait`).
                if !rest.is_empty() || tail.is_behind() {
                    tokio::task::yield_now().await;
                }
            }
            let mut state = self.state.borrow_mut();
            state.cursor = state.cursor.max(pulled.through);
        }
    }

    /// Offers events to the live emitters of their topics, as many as fit into one turn, and returns how many. It takes no
    /// more than an empty outbox holds: a client that reads as fast as possible never overflows.
    ///
    /// With costly filters a turn may end between two emitters of an event. Then the event does not count, and is offered
    /// again to those emitters that did not get it.
    fn deliver(&self, events: &[SharedEvent]) -> usize {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let State { emitters, registry, due, cursor, targets, unwritten } = &mut *state;
        let (mut offers, mut work, mut bytes) = (0, 0, 0);
        for (count, event) in events.iter().enumerate() {
            bytes += event.data.len();
            let full = count >= self.config.outbox_events || bytes > self.config.outbox_bytes / 2;
            if count > 0 && (full || offers + work >= TURN_OFFERS) {
                return count;
            }
            for topic in &event.topics {
                registry.for_each_subscriber(topic, |key| targets.push(key));
            }
            offers += targets.len();
            for key in targets.drain(..) {
                let Some(emitter) = emitters.get_mut(key) else { continue };
                if let Some(filter) = &event.filter
                    && emitter.awaits(event)
                {
                    // `drain` empties `targets` when the loop ends.
                    if work >= TURN_OFFERS {
                        return count;
                    }
                    work += filter.weight(&emitter.subscriber());
                }
                if emitter.offer(event, &self.counters, now) {
                    note_unwritten(unwritten, key, emitter);
                }
                if emitter.is_ending() {
                    due.set(key, now);
                }
            }
            *cursor = event.position.offset;
        }
        events.len()
    }

    /// Writes all outboxes that have new frames.
    async fn flush(&self) {
        while self.flush_some() {
            tokio::task::yield_now().await;
        }
    }

    /// Writes the outboxes of one turn; true if there are more.
    fn flush_some(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let State { emitters, unwritten, .. } = &mut *state;
        let turn = unwritten.len().min(TURN_WRITES);
        for key in unwritten.drain(..turn) {
            // The key may belong to another emitter by now. To write the outbox of that one does no harm.
            let Some(emitter) = emitters.get_mut(key) else { continue };
            emitter.unwritten = false;
            emitter.flush(&self.counters);
        }
        !unwritten.is_empty()
    }

    /// The tail lost events after `after` before it read them. Each live emitter reads from the journal and finds its gap.
    fn all_fall_behind(&self, after: u64) {
        let mut state = self.state.borrow_mut();
        for (_, emitter) in &mut state.emitters {
            if emitter.is_live() {
                emitter.fall_behind(after);
                emitter.wake();
            }
        }
    }

    /// No event up to this offset is offered to live emitters in the future.
    fn position(&self, state: &State) -> u64 {
        state.cursor.max(self.waker.position())
    }

    fn position_at(&self, offset: u64) -> Position {
        Position { epoch: self.journal.epoch(), offset }
    }

    // --- Pages for emitters that are behind ---

    /// Reads the next page for an emitter that is behind.
    pub(super) fn read_page(self: &Rc<Self>, key: Key) {
        let mut state = self.state.borrow_mut();
        let Some(emitter) = state.emitters.get_mut(key) else { return };
        let Some(query) = emitter.start_reading(&self.config) else { return };
        let serial = emitter.serial;
        let shard = self.clone();
        tokio::task::spawn_local(async move {
            let asked = query.patterns.clone();
            let reading = async {
                let _permit = shard.page_permit().await;
                let page = shard.journal.read(query).await;
                shard.take_page(key, serial, &asked, page);
                // The connection writes this page before the next emitter reads one.
                tokio::task::yield_now().await;
            };
            if AssertUnwindSafe(reading).catch_unwind().await.is_err() {
                // The panic was logged. Without this the stream would wait for its page forever.
                let failed = Unavailable::Failed("reading the next page has failed".into());
                shard.take_page(key, serial, &asked, Err(failed));
            }
        });
    }

    /// Waits for the permit to read a page. No emitter gets one while too many pages wait for their clients.
    async fn page_permit(&self) -> SemaphorePermit<'_> {
        let permit = self.page_readers.acquire().await.expect("the semaphore is never closed");
        while self.pages.excess() > 0 {
            self.evict_stuck_pages(Instant::now());
            self.pages.changed().await;
        }
        permit
    }

    /// Ends emitters whose clients do not read their pages, until there is room for another page; the emitter that has been
    /// stuck longest ends first.
    fn evict_stuck_pages(&self, now: Instant) {
        let mut cuts = Vec::new();
        let mut state = self.state.borrow_mut();
        let stuck = |(key, emitter): (usize, &Emitter)| {
            let since = emitter.outbox.stuck_since().filter(|since| now - *since >= STUCK)?;
            (emitter.outbox.page_bytes() > 0).then_some((since, key))
        };
        let mut stuck: Vec<_> = state.emitters.iter().filter_map(stuck).collect();
        stuck.sort_unstable();
        let State { emitters, due, .. } = &mut *state;
        for (_, key) in stuck {
            if self.pages.excess() == 0 {
                break;
            }
            let Some(emitter) = emitters.get_mut(key) else { continue };
            emitter.outbox.release_page();
            emitter.end(Reason::WriteDeadline, now);
            self.pages.count_evicted();
            due.set(key, now);
            cuts.extend(emitter.request.cut.take());
        }
        drop(state);
        // The state is not borrowed any more: a cut may drop the subscription.
        cuts.iter().for_each(|cut| cut());
    }

    /// Gives a page to the emitter that requested it.
    fn take_page(&self, key: Key, serial: u64, asked: &Arc<[Pattern]>, page: Result<Page, Unavailable>) {
        let now = Instant::now();
        let epoch = self.journal.epoch();
        let mut state = self.state.borrow_mut();
        let position = self.position(&state);
        let State { emitters, due, .. } = &mut *state;
        let Some(emitter) = emitters.get_mut(key).filter(|emitter| emitter.serial == serial) else { return };
        match page {
            // Its topics were changed: the page has skipped events of the new ones.
            Ok(_) if !Arc::ptr_eq(asked, &emitter.patterns) => emitter.discard_page(),
            Ok(page) => emitter.take_page(page, epoch, position, &self.counters, now),
            Err(Unavailable::Unreadable { through, reason }) if through > emitter.cursor => {
                emitter.span().in_scope(|| {
                    tracing::error!(through, reason, "events cannot be read; the stream continues after them");
                });
                emitter.skip_unreadable(through, epoch, &self.counters, now);
            }
            Err(error) => {
                emitter.span().in_scope(|| tracing::warn!(%error, "an emitter cannot catch up"));
                emitter.end(Reason::JournalUnavailable, now);
            }
        }
        if emitter.is_ending() {
            due.set(key, now);
        }
        emitter.wake();
    }

    // --- Time ---

    /// Sends heartbeats, and ends streams that have lasted too long.
    fn tick(&self, now: Instant) {
        // Each form is encoded once for all emitters of this tick.
        let mut heartbeats: [Option<Encoded>; 2] = [None, None];
        let mut cuts = Vec::new();
        let mut state = self.state.borrow_mut();
        let State { emitters, due, unwritten, .. } = &mut *state;
        if self.jumps.replace(self.clock.jumps()) != self.clock.jumps() {
            for (key, emitter) in emitters.iter_mut() {
                emitter.clock_jumped(now, self.clock.now_ms());
                due.set(key, now);
            }
        }
        let write_deadline = self.write_deadline();
        for key in due.reached(now) {
            let Some(emitter) = emitters.get_mut(key) else { continue };
            if emitter.check_deadlines(write_deadline, now) {
                cuts.extend(emitter.request.cut.take());
            }
            if emitter.heartbeat_is_due(now) {
                let kind = emitter.request.heartbeat.kind;
                let frame = &mut heartbeats[usize::from(kind == HeartbeatKind::Event)];
                let frame = frame.get_or_insert_with(|| frames::heartbeat(kind)).clone();
                emitter.outbox.push_heartbeat(frame, now);
                note_unwritten(unwritten, key, emitter);
                self.counters.heartbeats.fetch_add(1, Relaxed);
            }
            due.set(key, emitter.next_check(write_deadline, now));
        }
        drop(state);
        // The state is not borrowed any more: a cut may drop the subscription.
        cuts.iter().for_each(|cut| cut());
    }

    fn write_deadline(&self) -> Duration {
        Duration::from_millis(self.config.write_deadline_ms)
    }

    /// Ends all streams, each at a random moment within `over`.
    pub(super) async fn drain(self: Rc<Self>, over: Duration) {
        let begin = Instant::now();
        let mut plan: Vec<(Instant, usize, u64)> = {
            let state = self.state.borrow();
            let moment = || begin + over.mul_f64(rand::random_range(0.0..1.0));
            state.emitters.iter().map(|(key, emitter)| (moment(), key, emitter.serial)).collect()
        };
        plan.sort_unstable();
        for (at, key, serial) in plan {
            sleep_until(at).await;
            let mut state = self.state.borrow_mut();
            if let Some(emitter) = state.emitters.get_mut(key).filter(|emitter| emitter.serial == serial) {
                let now = Instant::now();
                emitter.end(Reason::Shutdown, now);
                state.due.set(key, now);
            }
        }
    }

    // --- Requests of the actor ---

    pub(super) fn list(&self, selector: &Selector) -> Vec<EmitterStatus> {
        let state = self.state.borrow();
        let selected = state.emitters.iter().filter(|(_, emitter)| selector.matches(emitter));
        selected.map(|(_, emitter)| EmitterStatus::of(emitter)).collect()
    }

    /// Changes an emitter; `None` if it is gone, or if the credential of the change may not change it.
    pub(super) fn change(&self, id: &str, change: Change) -> Option<EmitterStatus> {
        let mut state = self.state.borrow_mut();
        let State { emitters, registry, due, .. } = &mut *state;
        let key = registry.find(id)?;
        let emitter = emitters.get_mut(key)?;
        if let Some(ChangedBy { token, expires }) = change.by {
            if emitter.request.token != token {
                return None;
            }
            let now = Instant::now();
            emitter.limit_token(expires, now, self.clock.now_ms());
            due.set(key, now);
        }
        let Connect { groups, topics, meta, .. } = &mut emitter.request;
        *groups = change.groups.unwrap_or_else(|| std::mem::take(groups));
        *topics = change.topics.unwrap_or_else(|| std::mem::take(topics));
        *meta = change.meta.unwrap_or_else(|| std::mem::take(meta));
        let patterns: Arc<[Pattern]> = emitter.subscribed().into();
        // The audience first, in one step: topics that the emitter keeps must stay wanted, else the shard would skip their
        // events.
        self.audience.change(emitter.serial, &emitter.patterns, &patterns);
        registry.remove(key, &emitter.patterns);
        registry.add(key, &patterns);
        emitter.patterns = patterns;
        Some(EmitterStatus::of(emitter))
    }

    /// Ends the selected streams, and returns how many.
    pub(super) fn disconnect(&self, selector: &Selector, reason: Reason) -> u64 {
        let now = Instant::now();
        let mut count = 0;
        let State { emitters, due, .. } = &mut *self.state.borrow_mut();
        for (key, emitter) in emitters {
            if !emitter.is_ending() && selector.matches(emitter) {
                emitter.end(reason, now);
                due.set(key, now);
                count += 1;
            }
        }
        count
    }

    /// Queues a frame for one emitter, past the journal; false if the emitter is gone or has no room. It is sent at most
    /// once.
    pub(super) fn push(&self, id: &str, frame: Encoded) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(key) = state.registry.find(id) else { return false };
        let emitter = &mut state.emitters[key];
        if emitter.is_ending() || !emitter.outbox.has_room_for_control(frame.len()) {
            return false;
        }
        emitter.control(frame, Instant::now());
        true
    }
}

/// Puts an emitter into the list of outboxes to write, once.
fn note_unwritten(unwritten: &mut VecDeque<Key>, key: Key, emitter: &mut Emitter) {
    if !std::mem::replace(&mut emitter.unwritten, true) {
        unwritten.push_back(key);
    }
}
