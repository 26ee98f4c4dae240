//! Reads back the relays that the journal kept, at the start and before anybody is answered; unfinished ones go on.
//!
//! Sources that were read through one connection are so again: those that are equal and stand at the same place. A record
//! that cannot be read is left alone: a later version may know better. A journal that fails is asked again.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{Mutex as Gate, watch},
    time::sleep,
};

use super::{
    Status,
    books::Relay,
    group::Member,
    lifecycle,
    record::{self, EndRecord, Progress, ReadError, SpecRecord},
    shared::Shared,
    spec::{Key, Plan, PlannedSource},
    state::SourceState,
};
use crate::{event::MAX_TOPICS_PER_EVENT, journal::Unavailable};

/// Those who share a connection again, and where they stand.
type Sharing = HashMap<(Key, String), Vec<(PlannedSource, Arc<Member>, Progress)>>;

/// Keys of records in one page.
const PAGE: usize = 256;
/// How long to wait before a journal that failed is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads all back, and says when it is done.
pub async fn run(shared: Arc<Shared>, ready: watch::Sender<bool>) {
    if shared.deps.journal.durable() {
        while let Err(error) = take_up(&shared).await {
            if matches!(error, Unavailable::Closed) || shared.stop.is_cancelled() {
                return;
            }
            tracing::error!(%error, "relays cannot be read from the journal; trying again");
            shared.stop.run_until_cancelled(sleep(PATIENCE)).await;
        }
    }
    ready.send_replace(true);
}

/// Nothing is begun before all is read.
async fn take_up(shared: &Arc<Shared>) -> Result<(), Unavailable> {
    let (mut relays, mut after) = (Vec::new(), None);
    loop {
        let page = shared.deps.journal.keys(record::RECORDS.into(), after, PAGE).await?;
        for id in page.iter().filter_map(|key| record::relay_of_spec(key)) {
            match relay(shared, id).await {
                Ok(found) => relays.extend(found),
                Err(ReadError::Unreadable(reason)) => {
                    tracing::error!(relay_id = id, reason, "the record of a relay cannot be read; it is left alone");
                    shared.counters.unreadable.fetch_add(1, Relaxed);
                }
                Err(ReadError::Journal(error)) => return Err(error),
            }
        }
        match page.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    let mut sharing = Sharing::new();
    for (relay, progress) in relays {
        let (id, spec, target, ended) =
            (relay.id.clone(), relay.spec.clone(), relay.target.clone(), relay.status.ended());
        shared.books().insert(relay);
        if ended {
            continue;
        }
        for (index, progress) in progress.into_iter().enumerate().filter(|(_, progress)| progress.ended.is_none()) {
            if let Some((planned, member)) = lifecycle::planned(shared, &spec, target.as_ref(), &id, index) {
                let stand = serde_json::to_string(&progress.cursor).expect("plain data serialises");
                sharing.entry((planned.key, stand)).or_default().push((planned, member, progress));
            }
        }
        // Its last source may have ended just before the node did.
        lifecycle::settle(shared, id);
    }
    sharing.values().for_each(|sharing| begin(shared, sharing));
    Ok(())
}

/// Begins equal sources with as few connections as their topics permit.
fn begin(shared: &Arc<Shared>, sharing: &[(PlannedSource, Arc<Member>, Progress)]) {
    // A source has at most two topics.
    for part in sharing.chunks(MAX_TOPICS_PER_EVENT / 2) {
        let members = part.iter().map(|(_, member, _)| member.clone()).collect();
        let furthest = part.iter().max_by_key(|(_, _, progress)| progress.seq).expect("a chunk is not empty");
        shared.begin(furthest.0.clone(), members, furthest.2.clone());
    }
}

async fn relay(shared: &Shared, id: &str) -> Result<Option<(Relay, Vec<Progress>)>, ReadError> {
    let journal = &shared.deps.journal;
    let Some((kept, _)) = record::read::<SpecRecord>(journal, record::spec_key(id)).await? else { return Ok(None) };
    if kept.version != record::VERSION {
        let reason = format!("it has version {}, this node knows {}", kept.version, record::VERSION);
        return Err(ReadError::Unreadable(reason));
    }
    let mut progress = Vec::with_capacity(kept.spec.sources.len());
    for (index, source) in kept.spec.sources.iter().enumerate() {
        let known = record::read(journal, record::cursor_key(id, index)).await?;
        let fresh = || Progress::initial(source.last_event_id.as_deref().unwrap_or_default());
        progress.push(known.map_or_else(fresh, |(progress, _)| progress));
    }
    let end = record::read::<EndRecord>(journal, record::end_key(id)).await?.map(|(end, _)| end);
    let now = shared.deps.clock.moment();
    // If the end is ahead of the clock, the age starts now.
    let ended = end.as_ref().map(|end| now.steady.saturating_sub(now.wall.saturating_sub(end.ended_at)));
    let relay = Relay {
        id: id.to_owned(),
        user: kept.user,
        target: Plan::target(&kept.spec),
        created_at: kept.created_at,
        status: end.as_ref().map_or(Status::Running, |end| end.status),
        ended_at: end.map(|end| end.ended_at),
        ended,
        sources: progress.iter().map(SourceState::new).collect(),
        bytes: kept.spec.bytes(),
        spec: Arc::new(kept.spec),
        gate: Arc::new(Gate::new(())),
    };
    Ok(Some((relay, progress)))
}
