//! Catching up: an emitter that is behind reads from the journal, page by page, until it stands at the shard's cursor.

use std::{
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures::FutureExt;
use tokio::{sync::SemaphorePermit, time::Instant};

use super::{Shard, State, TURN_OFFERS};
use crate::{
    event::Position,
    hub::{
        Reason, bytes_for,
        emitter::{Emitter, Feed},
        frames::{self, GapReason},
        pages::STUCK,
        registry::Key,
    },
    journal::{Page, Query, Unavailable},
    topic::Pattern,
};

/// Events in one page of the journal for an emitter that is behind, and bytes of their data: about what a connection
/// writes in one turn. More would hold up those who are live.
const PAGE_EVENTS: usize = 128;
const PAGE_BYTES: usize = 24 << 10;

impl Shard {
    /// Reads on for an emitter that is behind.
    pub(in crate::hub) fn read_on(self: &Rc<Self>, key: Key) {
        let mut state = self.state.borrow_mut();
        let Some(emitter) = state.emitters.get_mut(key) else { return };
        if emitter.feed != (Feed::CatchUp { reading: false }) || emitter.closing.is_some() {
            return;
        }
        emitter.feed = Feed::CatchUp { reading: true };
        let (serial, query) = (emitter.serial, self.query(emitter));
        let shard = self.clone();
        tokio::task::spawn_local(async move {
            let asked = query.patterns.clone();
            let reading = async {
                let _turn = shard.turn().await;
                let page = shard.journal.read(query).await;
                shard.page_came(key, serial, &asked, page);
                // The connection writes the page before the next emitter reads one.
                tokio::task::yield_now().await;
            };
            if AssertUnwindSafe(reading).catch_unwind().await.is_err() {
                // Its panic is logged. The stream would wait for its page for ever.
                let failed = Unavailable::Failed("reading on has failed".into());
                shard.page_came(key, serial, &asked, Err(failed));
            }
        });
    }

    /// Permission to read a page. Emitters get theirs in turn, and none while too many pages wait for their clients.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.turns.acquire().await.expect("the semaphore is never closed");
        while self.pages.excess() > 0 {
            self.give_up_pages(Instant::now());
            self.pages.changed().await;
        }
        turn
    }

    /// Ends emitters whose clients are stuck until there is room for a page, those first that have been for longest.
    fn give_up_pages(&self, now: Instant) {
        let mut cuts = Vec::new();
        let mut state = self.state.borrow_mut();
        let stuck = |(key, emitter): (usize, &Emitter)| {
            let since = emitter.stuck_since().filter(|since| now - *since >= STUCK)?;
            (emitter.page.bytes() > 0).then_some((since, key))
        };
        let mut stuck: Vec<_> = state.emitters.iter().filter_map(stuck).collect();
        stuck.sort_unstable();
        let State { emitters, due, .. } = &mut *state;
        for (_, key) in stuck {
            if self.pages.excess() == 0 {
                break;
            }
            let Some(emitter) = emitters.get_mut(key) else { continue };
            emitter.page.clear();
            emitter.close(Reason::WriteDeadline, now);
            self.pages.count();
            due.soon(key, now);
            cuts.extend(emitter.cut.clone());
        }
        drop(state);
        // Nothing is borrowed any more: a cut may well drop the subscription.
        cuts.iter().for_each(|cut| cut());
    }

    fn page_came(&self, key: Key, serial: u64, asked: &Arc<[Pattern]>, page: Result<Page, Unavailable>) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let position = self.position(&state);
        let State { emitters, due, .. } = &mut *state;
        let Some(emitter) = emitters.get_mut(key).filter(|emitter| emitter.serial == serial) else { return };
        match page {
            // It hears something else since: the page would pass over what has come for it meanwhile.
            Ok(_) if !Arc::ptr_eq(asked, &emitter.patterns) => emitter.feed = Feed::CatchUp { reading: false },
            Ok(page) => self.take_page(emitter, page, position, now),
            Err(Unavailable::Unreadable { through, reason }) if through > emitter.cursor => {
                tracing::error!(
                    emitter = &*emitter.id,
                    through,
                    reason,
                    "events cannot be read; the stream continues behind them"
                );
                self.pass_over(emitter, through, now);
            }
            Err(error) => {
                tracing::warn!(emitter = &*emitter.id, %error, "an emitter cannot catch up");
                emitter.close(Reason::JournalUnavailable, now);
            }
        }
        if emitter.closing.is_some() {
            due.soon(key, now);
        }
        emitter.wake();
    }

    fn take_page(&self, emitter: &mut Emitter, mut page: Page, position: u64, now: Instant) {
        if emitter.closing.is_some() {
            return;
        }
        let lost = emitter.news(std::mem::take(&mut page.trimmed));
        if !lost.is_empty() {
            self.counters.gaps.fetch_add(1, Relaxed);
            let requested = Position { epoch: self.journal.epoch(), offset: emitter.cursor }.to_string();
            emitter.outbox.push_control(frames::gap(Some(&requested), GapReason::Trimmed, &lost), now);
        }
        self.queue_page(emitter, page, position, now);
    }

    /// Continues behind events that cannot be read, and reports the gap.
    fn pass_over(&self, emitter: &mut Emitter, through: u64, now: Instant) {
        self.counters.gaps.fetch_add(1, Relaxed);
        let requested = Position { epoch: self.journal.epoch(), offset: emitter.cursor }.to_string();
        emitter.outbox.push_control(frames::gap(Some(&requested), GapReason::Damaged, &[]), now);
        emitter.cursor = through;
        emitter.feed = Feed::CatchUp { reading: false };
    }

    /// Queues a page; the emitter goes live when the page reaches the position of the shard.
    pub(super) fn queue_page(&self, emitter: &mut Emitter, page: Page, position: u64, now: Instant) {
        let mut reached = page.through >= position;
        emitter.cursor = page.through;
        let mut work = 0;
        for event in page.events {
            if let Some(filter) = &event.filter {
                // A page of costly filters takes several turns: what is left of it is read again.
                if work >= TURN_OFFERS {
                    emitter.cursor = event.position.offset - 1;
                    reached = false;
                    break;
                }
                work += filter.weight(&emitter.subscriber());
            }
            if !self.is_for(&event, emitter) {
                continue;
            }
            let frame = bytes_for(&event, emitter.envelope);
            emitter.page.add(frame.len());
            emitter.outbox.push(frame, now);
            emitter.delivered += 1;
            self.counters.delivered.fetch_add(1, Relaxed);
            if emitter.is_last(&event) {
                emitter.close(Reason::Ended, now);
                break;
            }
        }
        if reached {
            emitter.go_live();
        } else {
            emitter.feed = Feed::CatchUp { reading: false };
        }
    }

    pub(super) fn query(&self, emitter: &Emitter) -> Query {
        Query {
            patterns: emitter.patterns.clone(),
            after: emitter.cursor,
            // What was told already is sorted out by the emitter, topic by topic.
            floor: emitter.cursor,
            limit: PAGE_EVENTS.min(self.config.outbox_events),
            max_bytes: PAGE_BYTES.min(self.config.outbox_bytes / 2),
        }
    }
}
