//! Checks whether a reader has the whole history of an entity.

use crate::{
    event::Position,
    journal::{Query, Shared, Unavailable},
    topic::{Pattern, Topic},
};

/// True if a reader that has received the events up to `seen` has the whole history of an entity. Its stream would
/// never send an event, so it gets 204.
///
/// `last_event` is the name of the entity's last event. The topic decides, not the entity's state, because the two
/// change one after the other. `ended` is the result for a topic without events: retention has deleted all events, or
/// the entity has none yet.
///
/// # Errors
/// If the journal cannot be read.
pub async fn seen_all(
    journal: &Shared,
    topic: &Topic,
    last_event: &str,
    ended: bool,
    seen: Option<Position>,
) -> Result<bool, Unavailable> {
    let info = journal.topics(Pattern::Exact(topic.clone()), None, 1).await?.pop();
    let Some(last) = info.and_then(|info| info.last) else { return Ok(ended) };
    let head = *journal.watch_head().borrow();
    if seen.is_none_or(|seen| seen.epoch != last.epoch || !(last.offset..=head).contains(&seen.offset)) {
        return Ok(false);
    }
    let (patterns, after) = (vec![Pattern::Exact(topic.clone())].into(), last.offset.saturating_sub(1));
    let page = journal.read(Query { patterns, after, floor: after, limit: 1, max_bytes: 1 }).await?;
    // An event that was deleted meanwhile was not the newest of a live entity. A relayed event may have any name.
    Ok(page.events.first().is_none_or(|event| event.name() == last_event && event.source().is_none()))
}
