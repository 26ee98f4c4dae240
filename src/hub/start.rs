//! The start of a stream: its position in the journal, and the report about it in the first frames.

use std::sync::Arc;

use super::{
    Start,
    frames::{GapReason, Resumed},
};
use crate::{
    event::Position,
    journal::{Page, Shared, Trimmed, Unavailable},
    topic::Pattern,
};

/// The position in the journal at which a stream starts.
pub(super) struct StartPoint {
    /// The stream starts with the first event after this offset.
    pub(super) after: u64,
    /// The position that the first frame reports as requested.
    pub(super) requested: Option<String>,
    resumed: Resumed,
    gap: Option<GapReason>,
    /// Trimmed history is a gap. A client that asks for the last events that are kept misses nothing.
    complete: bool,
}

// === impl StartPoint ===

impl StartPoint {
    /// Finds the position; `None` for a stream that starts with the next event.
    pub(super) async fn find(
        journal: &Shared,
        patterns: &Arc<[Pattern]>,
        start: Start,
    ) -> Result<Option<Self>, Unavailable> {
        let history = |after| Self { after, requested: None, resumed: Resumed::Live, gap: None, complete: false };
        Ok(Some(match start {
            Start::Live => return Ok(None),
            // Not a gap for the topic of a new job: it has no events yet, and events that the node deleted are not its own.
            Start::Beginning => history(0),
            Start::History(count) => history(journal.before_last(patterns.clone(), count).await?),
            Start::Since(timestamp) => history(journal.before_time(timestamp).await?),
            Start::After(text) => Self::after_text(journal, text),
        }))
    }

    /// Starts with the first event after the head.
    pub(super) fn live(head: Position) -> Self {
        let requested = Some(head.to_string());
        Self { after: head.offset, requested, resumed: Resumed::Live, gap: None, complete: false }
    }

    /// Continues after the position that a client names; with the earliest event if the position is not of this journal.
    fn after_text(journal: &Shared, text: String) -> Self {
        let (after, gap) = match text.parse::<Position>() {
            Err(()) => (0, Some(GapReason::Unknown)),
            Ok(position) if position.epoch != journal.epoch() => (0, Some(GapReason::Foreign)),
            Ok(position) if position.offset > *journal.watch_head().borrow() => (0, Some(GapReason::Future)),
            Ok(position) => (position.offset, None),
        };
        Self { after, requested: Some(text), resumed: Resumed::Resumed, gap, complete: true }
    }

    /// The gap before the first event, with the topics that it concerns. `trimmed` is that of the first page.
    pub(super) async fn gap(
        &self,
        journal: &Shared,
        patterns: &[Pattern],
        trimmed: &[Trimmed],
    ) -> Result<Option<(GapReason, Vec<Trimmed>)>, Unavailable> {
        if let Some(reason) = self.gap {
            return Ok(Some((reason, earliest(journal, patterns).await?)));
        }
        Ok((self.complete && !trimmed.is_empty()).then(|| (GapReason::Trimmed, trimmed.to_vec())))
    }

    /// What the first frame reports.
    pub(super) fn resumed(&self, has_gap: bool) -> Resumed {
        if has_gap { Resumed::Gap } else { self.resumed }
    }

    /// The offset that the first frame carries. It is never after the sent events. A client that resumes without a gap
    /// keeps its own position. A client that gets a part of the history gets the position before its first event.
    pub(super) fn first_offset(&self, resumed: Resumed, page: Option<&Page>) -> u64 {
        match page {
            Some(page) if resumed != Resumed::Resumed => {
                page.events.first().map_or(page.through, |first| first.position.offset - 1)
            }
            _ => self.after,
        }
    }
}

/// The earliest event of each topic, for a client whose position is not of this journal.
async fn earliest(journal: &Shared, patterns: &[Pattern]) -> Result<Vec<Trimmed>, Unavailable> {
    let mut list = Vec::new();
    for pattern in patterns {
        let room = Page::MAX_TRIMMED - list.len();
        if room == 0 {
            break;
        }
        let infos = journal.topics(pattern.clone(), None, room).await?;
        list.extend(infos.into_iter().map(|info| Trimmed { topic: info.topic.to_string(), earliest: info.first }));
    }
    Ok(list)
}
