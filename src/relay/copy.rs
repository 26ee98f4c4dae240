//! What one who joins an upstream gets of the time before: the same events, from the history of one who was there.
//!
//! The newcomer's cursor moves with each page that is copied, in the same commit. A crash in between leaves it as one
//! that has read so far by itself. If the history is not whole any more, the newcomer reads the remote itself.

use std::sync::Arc;

use super::{
    append::{self, Halt},
    group::{Group, Member},
    record::Progress,
    shared::Shared,
    state::State,
    told::{self, State as Word, Told},
    trail::Trail,
};
use crate::{
    event::{Draft, Event, names},
    journal::{Page, Query},
    topic::{Pattern, Topic},
    upstream::events::RemoteEvent,
};

/// Events in one page.
const EVENTS: usize = 256;
/// Bytes of such a page.
const PAGE_BYTES: usize = 1 << 20;

/// Where a group stands, between two batches.
pub struct Stand<'a> {
    pub shared: &'a Shared,
    pub group: &'a Group,
    pub progress: &'a mut Progress,
    /// What the source is doing.
    pub state: State,
}

/// The history of an elder, page by page.
struct Past {
    topic: Topic,
    label: String,
    after: u64,
    through: u64,
}

/// What became of a newcomer.
pub enum Outcome {
    /// It stands where the group stands.
    Joined,
    /// It must read the remote itself, from here.
    Apart(Progress),
    /// It has left meanwhile.
    Left,
}

/// Brings a newcomer to where the group stands.
///
/// # Errors
/// When the node stops, or the upstream is over.
pub async fn catch_up(stand: Stand<'_>, joiner: &Arc<Member>) -> Result<Outcome, Halt> {
    let Stand { shared, group, progress, state } = stand;
    let mut own = Progress::initial(&group.planned.start);
    let count = progress.cursor.events;
    let past = if count == 0 {
        None
    } else {
        let elder = group.members().into_iter().next();
        let past = match elder.filter(|_| !progress.missed) {
            Some(elder) => Past::whole(shared, &elder, count).await,
            None => None,
        };
        // Not whole: trimmed, not kept in the first place, or missed. The remote may still have it.
        let Some(past) = past else { return Ok(Outcome::Apart(own)) };
        Some(past)
    };
    if state == State::Open {
        own.opens = progress.opens;
        own.seq += 1;
        let reconnects = own.opens.saturating_sub(1);
        let open = [Told::State(Word::Open { reconnects, resumed_after: None, may_have_missed: false })];
        let max = shared.deps.max_event_bytes;
        if !append_for(shared, group, joiner, &own, |members| told::drafts(&open, members, max)).await? {
            return Ok(Outcome::Left);
        }
    }
    if let Some(mut past) = past {
        while let Some(page) = past.next(shared).await {
            for event in &page {
                own.cursor.note(
                    names::original(event.name()),
                    &event.data,
                    event.origin.as_deref().unwrap_or_default(),
                );
            }
            own.seq += 1;
            let drafts = |_: &[Arc<Member>]| page.iter().map(|event| again(event, joiner)).collect();
            if !append_for(shared, group, joiner, &own, drafts).await? {
                return Ok(Outcome::Left);
            }
        }
        if own.cursor.events != count {
            return Ok(Outcome::Apart(own));
        }
    }
    // From here on its record is the group's.
    progress.seq = progress.seq.max(own.seq) + 1;
    if !append_for(shared, group, joiner, progress, |_| Vec::new()).await? {
        return Ok(Outcome::Left);
    }
    shared.note(std::slice::from_ref(joiner), progress, Some(state), None);
    Ok(Outcome::Joined)
}

/// An event of an elder as one of the newcomer's.
fn again(event: &Event, joiner: &Member) -> Draft {
    let remote = RemoteEvent {
        event: event.name().to_owned(),
        data: event.data.to_string(),
        id: event.origin.as_deref().unwrap_or_default().to_owned(),
        trail: String::new(),
        control: false,
    };
    // Where an elder has the same target the event is there already.
    let topics = joiner.topics.iter().filter(|topic| !event.topics.contains(topic)).cloned().collect();
    let draft = told::relayed(&remote, &Trail::default(), topics, told::publisher(joiner));
    Draft { comment: event.comment.as_deref().map(str::to_owned), ..draft }
}

async fn append_for(
    shared: &Shared,
    group: &Group,
    joiner: &Arc<Member>,
    progress: &Progress,
    drafts: impl Fn(&[Arc<Member>]) -> Vec<Draft>,
) -> Result<bool, Halt> {
    let who = || if group.wants_in(joiner) { vec![joiner.clone()] } else { Vec::new() };
    let held = |why: &str| tracing::warn!(relay_id = joiner.relay, why, "a relay waits for the journal");
    match append::append(shared, group, who, progress, drafts, held).await {
        Ok(_) => Ok(true),
        Err(Halt::Over) if !shared.stop.is_cancelled() && !group.over.is_cancelled() => Ok(false),
        Err(halt) => Err(halt),
    }
}

// === impl Past ===

impl Past {
    /// The history of an elder, if all `count` events of it are there.
    async fn whole(shared: &Shared, elder: &Member, count: u64) -> Option<Self> {
        let topic = Topic::relay(&elder.relay).expect("an id is a short word");
        let through = *shared.deps.journal.watch_head().borrow();
        let mut past = Self { topic, label: elder.label.clone(), after: 0, through };
        let mut found = 0;
        while let Some(page) = past.next(shared).await {
            found += page.len() as u64;
        }
        past.after = 0;
        (found == count).then_some(past)
    }

    /// The next events of the source, if any; `None` at the end, and when the journal cannot tell.
    async fn next(&mut self, shared: &Shared) -> Option<Vec<Arc<Event>>> {
        if self.after >= self.through {
            return None;
        }
        let patterns = [Pattern::Exact(self.topic.clone())].into();
        let query = Query { patterns, after: self.after, floor: self.after, limit: EVENTS, max_bytes: PAGE_BYTES };
        let Page { events, through, .. } = shared.deps.journal.read(query).await.ok()?;
        if through <= self.after {
            return None;
        }
        self.after = through;
        Some(events.into_iter().filter(|event| event.source() == Some(&self.label)).collect())
    }
}
