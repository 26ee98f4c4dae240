//! A shard: the emitters whose sockets live on one worker thread.
//!
//! Single-threaded by construction, so there is no lock: the actor (`actor.rs`), the connections and the tail's loop
//! take turns. No borrow of the state outlives a turn, that is, none is held across an `await`.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use slab::Slab;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Counters, Inner, Reason,
    audience::Audience,
    bytes_for,
    emitter::{Emitter, Feed, Offered},
    pages::Pages,
    registry::{Key, Registry},
};
use crate::{
    clock::Clock,
    event::{Event, Filter, SharedEvent, Undecided},
    journal::{Shared, Tail, Unavailable, Waker},
    topic::Pattern,
};

mod begin;
mod catch_up;
mod due;
mod flush;
pub(super) mod tick;

use self::{due::Due, flush::Unwritten};

/// Offers of events to emitters in one turn: a millisecond or two. Where events have few readers that is many events, so
/// that a shard which was held up catches up with publishers who get a turn as well.
const TURN_OFFERS: usize = 16384;
/// Emitters of the thread that read a page at once; the others wait for their turn. However many are behind, live events
/// wait for so many pages at most. Two made the slowest deliveries slower and nobody faster (`bench laggards`).
const TURNS: usize = 1;

/// The emitters of one thread.
pub(super) struct Shard {
    pub(super) config: Config,
    journal: Shared,
    pub(super) counters: Arc<Counters>,
    audience: Arc<Audience>,
    pub(super) clock: Clock,
    /// Jumps of the clock that the ends of tokens were adjusted to.
    jumps: Cell<u64>,
    /// Until the shard follows it.
    tail: Cell<Option<Tail>>,
    waker: Waker,
    /// Cancelled when the node stops or nobody holds the hub any more.
    stopping: CancellationToken,
    serial: Cell<u64>,
    /// Who may read a page next, first come first served.
    turns: Semaphore,
    /// What was read and is not written.
    pages: Rc<Pages>,
    pub(super) state: RefCell<State>,
}

/// What changes.
pub(super) struct State {
    pub(super) emitters: Slab<Emitter>,
    pub(super) registry: Registry,
    pub(super) due: Due,
    /// Everything up to here was offered to the live emitters.
    cursor: u64,
    /// Reused by each delivery.
    targets: Vec<Key>,
    /// Emitters that have something to write.
    unwritten: Unwritten,
}

// === impl Shard ===

impl Shard {
    pub(super) fn new(hub: &Inner, audience: Arc<Audience>) -> Self {
        let cursor = *hub.journal.watch_head().borrow();
        let tail = Tail::of(hub.journal.clone(), cursor, audience.clone());
        let (emitters, registry, due) = (Slab::new(), Registry::default(), Due::default());
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
            serial: Cell::new(0),
            turns: Semaphore::new(TURNS),
            pages: Rc::new(Pages::new(&hub.bounds)),
            state: RefCell::new(State {
                emitters,
                registry,
                due,
                cursor,
                targets: Vec::new(),
                unwritten: Unwritten::default(),
            }),
        }
    }

    /// Follows the journal and the clock until the last stream is gone and none will come.
    pub(super) async fn run(self: Rc<Self>) {
        let follow = async {
            self.follow().await;
            // The streams go on where the journal is closed: somebody still has to end them.
            std::future::pending::<()>().await;
        };
        let keep_time = async {
            while !self.over() {
                tokio::time::sleep(tick::EVERY).await;
                self.tick(Instant::now());
                self.flush().await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = keep_time => {}
        }
    }

    fn over(&self) -> bool {
        self.stopping.is_cancelled() && self.state.borrow().emitters.is_empty()
    }

    async fn follow(&self) {
        let Some(mut tail) = self.tail.take() else { return };
        loop {
            let pulled = match tail.next().await {
                Ok(pulled) => pulled,
                Err(Unavailable::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, "the journal's tail cannot be read; trying again");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            if pulled.missed {
                self.all_behind(pulled.after);
            }
            let mut rest = &pulled.events[..];
            while !rest.is_empty() {
                rest = &rest[self.deliver(rest)..];
                self.flush().await;
                // Others get their turn before more comes. Where nothing more is there they do so anyway, and to yield
                // would cost a look at all sockets (`epoll_wait`).
                if !rest.is_empty() || tail.is_behind() {
                    tokio::task::yield_now().await;
                }
            }
            let mut state = self.state.borrow_mut();
            state.cursor = state.cursor.max(pulled.through);
        }
    }

    fn register(&self, emitter: Emitter) -> Key {
        let mut state = self.state.borrow_mut();
        self.counters.opened.fetch_add(1, Relaxed);
        tracing::info!(
            emitter = &*emitter.id,
            user = emitter.user,
            topics = emitter.patterns.len(),
            open = self.counters.open(),
            "stream opened"
        );
        let (id, patterns) = (emitter.id.clone(), emitter.patterns.clone());
        let look = self.next_look(&emitter, Instant::now());
        let key = state.emitters.insert(emitter);
        state.due.at(key, look);
        state.registry.add(key, &patterns);
        state.registry.name(id, key);
        key
    }

    /// Takes an emitter out; called when its body is dropped.
    pub(super) fn remove(&self, key: Key, fallback: Reason) {
        let mut state = self.state.borrow_mut();
        let mut emitter = state.emitters.remove(key);
        state.due.never(key);
        state.registry.remove(key, &emitter.patterns);
        state.registry.unname(&emitter.id);
        drop(state);
        let now = Instant::now();
        // The operating system may have cut a stuck peer a moment before the tick would have.
        let deadline = std::time::Duration::from_millis(self.config.write_deadline_ms);
        let stuck = emitter.stuck_since().is_some_and(|since| now - since + tick::EVERY * 2 >= deadline);
        let reason = match emitter.closing {
            Some(closing) => closing.reason,
            None if stuck && fallback == Reason::ClientGone => Reason::WriteDeadline,
            None => fallback,
        };
        self.audience.leave(emitter.serial, &emitter.patterns);
        self.counters.close(reason);
        let (delivered, dropped, millis) = (emitter.delivered, emitter.dropped, (now - emitter.opened).as_millis());
        let open = self.counters.open();
        tracing::info!(
            emitter = &*emitter.id,
            user = emitter.user,
            reason = reason.as_str(),
            delivered,
            dropped,
            millis,
            open,
            "stream closed"
        );
        if let Some(on_close) = emitter.on_close.take() {
            on_close(reason);
        }
    }

    /// Offers events to the live emitters that hear them, so many as make a turn, and answers how many: no more than an
    /// empty outbox holds, so who reads as fast as possible never overflows.
    ///
    /// Where the filter of an event is costly a turn may end in the midst of its emitters: then the event is not counted,
    /// and comes again for those who have not had it.
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
                registry.hearing(topic, |key| targets.push(key));
            }
            offers += targets.len();
            for key in targets.drain(..) {
                let Some(emitter) = emitters.get_mut(key) else { continue };
                if let Some(filter) = &event.filter
                    && emitter.awaits(event)
                {
                    // `targets` is emptied as the loop ends.
                    if work >= TURN_OFFERS {
                        return count;
                    }
                    work += filter.weight(&emitter.subscriber());
                }
                if self.offer(emitter, event, now) {
                    unwritten.add(key, emitter);
                }
                if emitter.closing.is_some() {
                    due.soon(key, now);
                }
            }
            *cursor = event.position.offset;
        }
        events.len()
    }

    /// True when there is something to write, or the emitter has to read on.
    fn offer(&self, emitter: &mut Emitter, event: &Event, now: Instant) -> bool {
        let offset = event.position.offset;
        if !emitter.awaits(event) {
            return false;
        }
        if !self.is_for(event, emitter) {
            emitter.cursor = offset;
            return false;
        }
        match emitter.offer(offset, bytes_for(event, emitter.envelope), now) {
            Offered::Queued { dropped } => {
                self.counters.dropped.fetch_add(dropped, Relaxed);
                self.counters.delivered.fetch_add(1, Relaxed)
            }
            Offered::Dropped => self.counters.dropped.fetch_add(1, Relaxed),
            Offered::Lagging => {
                tracing::debug!(emitter = &*emitter.id, "outbox full, catching up from the journal");
                self.counters.lagged.fetch_add(1, Relaxed)
            }
            Offered::TooSlow => 0,
        };
        if emitter.is_last(event) && emitter.feed == Feed::Live {
            emitter.close(Reason::Ended, now);
        }
        true
    }

    /// Says whether the event's filter lets the emitter have it.
    fn is_for(&self, event: &Event, emitter: &Emitter) -> bool {
        let matches = |filter: &Filter| filter.matches(&emitter.subscriber());
        event.filter.as_ref().is_none_or(|filter| {
            matches(filter).unwrap_or_else(|Undecided| {
                self.counters.filters_failed.fetch_add(1, Relaxed);
                false
            })
        })
    }

    /// Nothing up to here is offered to live emitters any more.
    fn position(&self, state: &State) -> u64 {
        state.cursor.max(self.waker.position())
    }

    /// The tail lost events after `after` before it came to them: each live emitter looks for itself what it missed.
    fn all_behind(&self, after: u64) {
        let mut state = self.state.borrow_mut();
        for (_, emitter) in &mut state.emitters {
            if emitter.feed == Feed::Live {
                emitter.fall_behind(after);
                emitter.wake();
            }
        }
    }

    /// Changes the index after an emitter's topics, groups or metadata have changed.
    pub(super) fn rehear(&self, state: &mut State, key: Key) {
        let State { emitters, registry, .. } = state;
        let Some(emitter) = emitters.get_mut(key) else { return };
        let patterns: Arc<[Pattern]> = emitter.heard().into();
        // First this: in between nobody would want what both hear, and the shard would pass over it.
        self.audience.change(emitter.serial, &emitter.patterns, &patterns);
        registry.remove(key, &emitter.patterns);
        registry.add(key, &patterns);
        emitter.patterns = patterns;
    }
}
