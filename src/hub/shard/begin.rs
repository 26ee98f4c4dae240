//! How a stream begins: where in the journal, with which first frames, and when it is live.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::time::Instant;

use super::Shard;
use crate::{
    event::Position,
    hub::{
        Connect, ConnectError, Start, Subscription,
        emitter::{Emitter, Feed},
        frames::{self, GapReason, Resumed},
    },
    journal::{Page, Trimmed, Unavailable},
    topic::Pattern,
};

/// Where a stream begins, once the journal was asked.
struct Beginning {
    after: u64,
    from: Option<String>,
    resumed: Resumed,
    gap: Option<GapReason>,
    /// Whether trimmed history is a gap: who asks for the last events that are kept misses nothing.
    whole: bool,
}

// === impl Shard ===

impl Shard {
    /// Makes an emitter: the past first as far as one page reaches, then live or catching up, decided in one turn.
    pub(in crate::hub) async fn connect(self: Rc<Self>, connect: Connect) -> Result<Subscription, ConnectError> {
        let start = connect.start.clone();
        let greeting = connect.greeting.clone();
        let mut emitter = self.emitter(connect);
        let mut page = None;
        let beginning = match self.begin(&emitter.patterns, start).await? {
            Some(beginning) => {
                emitter.cursor = beginning.after;
                let _turn = self.turn().await;
                page = Some(match self.journal.read(self.query(&emitter)).await {
                    // The emitter reads this page again by itself, and reports the gap then.
                    Err(Unavailable::Unreadable { .. }) => {
                        Page { events: Vec::new(), through: beginning.after, trimmed: Vec::new() }
                    }
                    page => page?,
                });
                Some(beginning)
            }
            None => None,
        };
        let trimmed = page.as_mut().map(|page| std::mem::take(&mut page.trimmed)).unwrap_or_default();
        let (gap, lost) = match &beginning {
            Some(Beginning { gap: Some(reason), .. }) => (Some(*reason), self.earliest(&emitter.patterns).await?),
            Some(Beginning { whole: true, .. }) if !trimmed.is_empty() => (Some(GapReason::Trimmed), trimmed.clone()),
            _ => (None, Vec::new()),
        };
        // No await from here on: what the page holds, where the shard stands and whether the node stops belong to one
        // moment.
        if self.stopping.is_cancelled() {
            return Err(ConnectError::Stopping);
        }
        // First the audience, then the head: what is appended after it wakes the shard for this emitter.
        self.audience.join(emitter.serial, &emitter.patterns);
        let head = self.waker.wake();
        let beginning = beginning.unwrap_or_else(|| self.live(head));
        emitter.cursor = beginning.after;
        let now = Instant::now();
        let requested = beginning.from.as_deref();
        let resumed = if gap.is_some() { Resumed::Gap } else { beginning.resumed };
        let position = self.position_of(announced(&beginning, resumed, page.as_ref()));
        emitter.outbox.push_control(frames::connection(&emitter, &greeting, position, requested, resumed), now);
        if let Some(reason) = gap {
            self.counters.gaps.fetch_add(1, Relaxed);
            emitter.outbox.push_control(frames::gap(requested, reason, &lost), now);
        }
        if let Some(page) = page {
            emitter.told(trimmed);
            emitter.feed = Feed::CatchUp { reading: true };
            let position = self.position(&self.state.borrow());
            self.queue_page(&mut emitter, page, position, now);
        }
        Ok(Subscription::new(self.clone(), self.register(emitter)))
    }

    fn emitter(&self, connect: Connect) -> Emitter {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        let user = connect.user.as_deref().map_or_else(|| "anonymous".to_owned(), |user| format!("user_{user}"));
        let id: Arc<str> = format!("{user}_{}", uuid::Uuid::new_v4()).into();
        Emitter::new(serial, id, connect, &self.config, self.pages.clone(), Instant::now(), self.clock.now_ms())
    }

    fn position_of(&self, offset: u64) -> Position {
        Position { epoch: self.journal.epoch(), offset }
    }

    /// Begins with what comes after the head.
    fn live(&self, after: u64) -> Beginning {
        let from = self.position_of(after).to_string();
        Beginning { after, from: Some(from), resumed: Resumed::Live, gap: None, whole: false }
    }

    /// Where to begin; `None` for what comes from now on.
    async fn begin(&self, patterns: &Arc<[Pattern]>, start: Start) -> Result<Option<Beginning>, Unavailable> {
        let past = |after| Beginning { after, from: None, resumed: Resumed::Live, gap: None, whole: false };
        Ok(Some(match start {
            Start::Live => return Ok(None),
            // A new job's topic has no event yet, and no mark of its own: what the node has forgotten is not its past.
            Start::Beginning => past(0),
            Start::History(count) => past(self.journal.before_last(patterns.clone(), count).await?),
            Start::Since(timestamp) => past(self.journal.before_time(timestamp).await?),
            Start::After(text) => self.after(text),
        }))
    }

    /// Where a client that names a position goes on; from the earliest event where it is none of ours.
    fn after(&self, text: String) -> Beginning {
        let (after, gap) = match text.parse::<Position>() {
            Err(()) => (0, Some(GapReason::Unknown)),
            Ok(position) if position.epoch != self.journal.epoch() => (0, Some(GapReason::Foreign)),
            Ok(position) if position.offset > *self.journal.watch_head().borrow() => (0, Some(GapReason::Future)),
            Ok(position) => (position.offset, None),
        };
        Beginning { after, from: Some(text), resumed: Resumed::Resumed, gap, whole: true }
    }

    /// The earliest event of each topic, for a client whose position says nothing.
    async fn earliest(&self, patterns: &[Pattern]) -> Result<Vec<Trimmed>, Unavailable> {
        let mut list = Vec::new();
        for pattern in patterns {
            let room = Page::MAX_TRIMMED - list.len();
            if room == 0 {
                break;
            }
            let infos = self.journal.topics(pattern.clone(), None, room).await?;
            list.extend(infos.into_iter().map(|info| Trimmed { topic: info.topic.to_string(), earliest: info.first }));
        }
        Ok(list)
    }
}

/// The offset that the first frame carries. It is never beyond what was sent: a client that resumes without a gap keeps its
/// own position, one that gets a part of the past has the position before the first event of that part.
fn announced(beginning: &Beginning, resumed: Resumed, page: Option<&Page>) -> u64 {
    match page {
        Some(page) if resumed != Resumed::Resumed => {
            page.events.first().map_or(page.through, |first| first.position.offset - 1)
        }
        _ => beginning.after,
    }
}
