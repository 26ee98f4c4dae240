//! How relays begin, end, leave, and are begun again. Whoever changes a relay holds its gate.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::{
    sync::{Mutex as Gate, OwnedMutexGuard},
    time::{Duration, MissedTickBehavior, interval, sleep},
};

use super::{
    Error, Spec, Status, append,
    books::Relay,
    group::Member,
    record::{self, EndRecord, Ended, Progress, ReadError, SpecRecord},
    shared::{APPEND_RETRY, Shared},
    spec::{FieldError, Plan, PlannedSource},
    state::SourceState,
    told::{self, State as Word, Told},
};
use crate::{
    event::now_ms,
    journal::{AppendError, Batch, Expect, RecordWrite, Unavailable},
    shares::Denied,
    topic::Topic,
};

/// Ended relays that are kept at most; the oldest leave early.
const MAX_KEPT: usize = 10_000;

/// Keeps a relay that was checked, and begins it. Answers its id.
pub async fn create(shared: Arc<Shared>, spec: Spec, plan: Plan, user: Option<String>) -> Result<String, Error> {
    let bytes = spec.bytes();
    promise(&shared, user.as_deref(), bytes)?;
    let (id, created_at) = (shared.new_id(), now_ms());
    let progress: Vec<_> = plan.sources.iter().map(|source| Progress::initial(&source.start)).collect();
    let mut records = vec![record::put(
        record::spec_key(&id),
        &SpecRecord { version: record::VERSION, created_at, user: user.clone(), spec: spec.clone() },
    )];
    let cursor = |(index, progress)| record::put(record::cursor_key(&id, index), progress);
    records.extend(progress.iter().enumerate().map(cursor));
    let kept = append::guarded(&shared, Batch { records, ..Batch::default() }).await;
    let gate = Arc::new(Gate::new(()));
    let _turn = gate.clone().lock_owned().await;
    {
        let mut books = shared.books();
        books.break_promise(user.as_deref(), bytes);
        if kept.is_ok() {
            books.insert(Relay {
                id: id.clone(),
                user,
                bytes,
                spec: Arc::new(spec),
                target: plan.target.clone(),
                created_at,
                status: Status::Running,
                ended_at: None,
                ended: None,
                sources: progress.iter().map(SourceState::new).collect(),
                gate,
            });
        }
    }
    if let Err(error) = kept {
        // An answer that was lost is none: what may be there after all goes.
        let gone = Batch { records: record::all_gone(&id, progress.len()), ..Batch::default() };
        drop(append::guarded(&shared, gone).await);
        return Err(unavailable(error).into());
    }
    for (index, source) in plan.sources.into_iter().enumerate() {
        let member = member(&id, index, &source.label, plan.target.as_ref());
        shared.attach(source, &member);
    }
    Ok(id)
}

/// Reserves a slot for a relay that is about to run.
fn promise(shared: &Shared, user: Option<&str>, bytes: usize) -> Result<(), Error> {
    let (max, share) = (shared.config.max_relays, shared.deps.share);
    shared.books().promise(max, share, user, bytes).map_err(|denied| match denied {
        Denied::Pool => Error::Full(max),
        Denied::Share => {
            shared.counters.shares_refused.fetch_add(1, Relaxed);
            Error::Share
        }
    })
}

/// Ends a relay, if it has not ended, and lets go of all that is kept of it; its events stay as long as any.
pub async fn delete(shared: Arc<Shared>, id: String) -> Result<(), Error> {
    let _turn = enter(&shared, &id).await?;
    let Some((before, sources, target)) = shared.books().get_mut(&id).map(|relay| {
        let before = std::mem::replace(&mut relay.status, Status::Deleted);
        (before, relay.sources.len(), relay.target.clone())
    }) else {
        return Err(Error::Unknown(id));
    };
    for (index, group) in shared.groups_of(&id) {
        group.leave(&id, index).await;
    }
    let events = shared.of(&id, Relay::events).unwrap_or_default();
    let topics = told::topics(&id, target.as_ref());
    let last = (!before.ended()).then(|| told::end(&id, topics, Status::Deleted, sources, events));
    let whole = Batch { events: last.into_iter().collect(), records: record::all_gone(&id, sources), expect: vec![] };
    let mut gone = append::guarded(&shared, whole).await;
    if let Err(AppendError::Unavailable(Unavailable::Full(_))) = gone {
        // A full journal takes no event, and needs relays to go.
        let records = record::all_gone(&id, sources);
        gone = append::guarded(&shared, Batch { records, ..Batch::default() }).await;
    }
    if let Err(error) = gone {
        if let Some(relay) = shared.books().get_mut(&id) {
            relay.status = before;
        }
        let running =
            |relay: &Relay| relay.sources.iter().enumerate().filter(|(_, s)| !s.over()).map(|(i, _)| i).collect();
        let again: Vec<usize> = shared.of(&id, running).unwrap_or_default();
        if let Ok(progress) = read_all(&shared, &id, &again).await {
            take_up(&shared, &id, progress);
        }
        return Err(unavailable(error).into());
    }
    shared.books().remove(&id);
    Ok(())
}

/// Makes all connections anew; what has ended is taken up again.
pub async fn restart(shared: Arc<Shared>, id: String) -> Result<(), Error> {
    let _turn = enter(&shared, &id).await?;
    let Some((over, ended)) =
        shared.of(&id, |relay| (relay.sources.iter().map(SourceState::over).collect::<Vec<_>>(), relay.status.ended()))
    else {
        return Err(Error::Unknown(id));
    };
    let groups = shared.groups_of(&id);
    let lives = |index: usize| groups.iter().any(|(own, group)| *own == index && group.restart(&id, index));
    let again: Vec<usize> = (0..over.len()).filter(|index| over[*index] || !lives(*index)).collect();
    if again.is_empty() {
        return Ok(());
    }
    let user = shared.of(&id, |relay| relay.user.clone()).flatten();
    if ended {
        promise(&shared, user.as_deref(), 0)?;
    }
    let kept = reopen(&shared, &id, &again).await;
    let mut books = shared.books();
    if ended {
        books.break_promise(user.as_deref(), 0);
    }
    let progress = kept?;
    if let Some(relay) = books.get_mut(&id) {
        (relay.status, relay.ended_at, relay.ended) = (Status::Running, None, None);
        for (index, progress) in &progress {
            let last_error = relay.sources[*index].last_error.take();
            relay.sources[*index] = SourceState { last_error, ..SourceState::new(progress) };
        }
    }
    drop(books);
    take_up(&shared, &id, progress);
    Ok(())
}

/// Writes that these sources, and the relay, have not ended after all.
async fn reopen(shared: &Shared, id: &str, sources: &[usize]) -> Result<Vec<(usize, Progress)>, Error> {
    let mut progress = read_all(shared, id, sources).await?;
    for (_, progress) in &mut progress {
        progress.seq += 1;
        progress.ended = None;
        // Whoever asks for it wants it sent again.
        progress.asked = false;
        progress.since = now_ms();
    }
    let cursor = |(index, progress): &(usize, Progress)| record::put(record::cursor_key(id, *index), progress);
    let mut records: Vec<_> = progress.iter().map(cursor).collect();
    records.push(RecordWrite { key: record::end_key(id), value: None });
    append::guarded(shared, Batch { records, ..Batch::default() }).await.map_err(unavailable)?;
    Ok(progress)
}

/// Goes on with these sources of a relay where they stand, each with a connection of its own.
pub fn take_up(shared: &Arc<Shared>, id: &str, sources: Vec<(usize, Progress)>) {
    let Some((spec, target)) = shared.of(id, |relay| (relay.spec.clone(), relay.target.clone())) else { return };
    for (index, progress) in sources {
        if let Some((planned, member)) = planned(shared, &spec, target.as_ref(), id, index) {
            shared.begin(planned, vec![member], progress);
        }
    }
}

/// A source as the settings of today permit it. One that they do not permit any more fails, and says so in band.
pub fn planned(
    shared: &Arc<Shared>,
    spec: &Spec,
    target: Option<&Topic>,
    id: &str,
    index: usize,
) -> Option<(PlannedSource, Arc<Member>)> {
    let label = spec.sources[index].label.as_deref().unwrap_or_default();
    let member = member(id, index, label, target);
    match Plan::source(spec, index, shared.limits()) {
        Ok(planned) => Some((planned, member)),
        Err(FieldError { field, detail }) => {
            let code = if field.ends_with(".remote") { "unknown_remote" } else { "refused" };
            give_up(shared, member, detail, code);
            None
        }
    }
}

/// Ends a source that no runner reads, and its relay where it was the last one.
pub fn give_up(shared: &Arc<Shared>, member: Arc<Member>, error: String, code: &'static str) {
    let own = shared.clone();
    shared.keep("failures of sources", move || {
        let (shared, member, error) = (own.clone(), member.clone(), error.clone());
        async move {
            fail(&shared, &member, &error, code).await;
            settle(&shared, member.relay.clone());
        }
    });
}

/// Writes that a source was given up that no runner has.
async fn fail(shared: &Shared, member: &Arc<Member>, error: &str, code: &str) {
    let (key, mut told) = (record::cursor_key(&member.relay, member.index), false);
    while !shared.stop.is_cancelled() {
        let failure = match record::read::<Progress>(&shared.deps.journal, key.clone()).await {
            // It was deleted.
            Ok(None) | Err(ReadError::Journal(Unavailable::Closed)) => return,
            Ok(Some((mut progress, revision))) => {
                let member = [member.clone()];
                if progress.ended.is_some() {
                    return shared.note(&member, &progress, None, None);
                }
                progress.seq += 1;
                progress.since = now_ms();
                progress.ended = Some(Ended::Failed { error: error.to_owned(), code: code.to_owned() });
                let word = Told::State(Word::Error { error: error.to_owned(), code: code.to_owned() });
                let batch = Batch {
                    events: told::drafts(&[word], &member, shared.deps.max_event_bytes),
                    records: vec![record::put(key.clone(), &progress)],
                    expect: vec![Expect { key: key.clone(), revision: Some(revision) }],
                };
                match shared.deps.journal.append(batch).await {
                    Ok(_) => {
                        shared.counters.failed.fetch_add(1, Relaxed);
                        return shared.note(&member, &progress, None, Some(error));
                    }
                    Err(failure) => failure.to_string(),
                }
            }
            Err(failure) => Unavailable::from(failure).to_string(),
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(relay_id = member.relay, failure, "the end of a source waits for the journal");
        }
        pause(shared).await;
    }
}

/// Reads a source by itself that waited for a group which is over, from where its record says: a part of the past may
/// have been copied.
pub async fn apart(shared: Arc<Shared>, planned: PlannedSource, member: Arc<Member>) {
    while !shared.stop.is_cancelled() {
        {
            let Ok(_turn) = enter(&shared, &member.relay).await else { return };
            if shared.groups_of(&member.relay).iter().any(|(index, _)| *index == member.index) {
                // A restart was faster.
                return;
            }
            let key = record::cursor_key(&member.relay, member.index);
            match record::read::<Progress>(&shared.deps.journal, key).await {
                Ok(Some((progress, _))) if progress.ended.is_none() => {
                    return shared.begin(planned, vec![member], progress);
                }
                Ok(_) | Err(ReadError::Journal(Unavailable::Closed)) => return,
                Err(_) => {}
            }
        }
        pause(&shared).await;
    }
}

/// Ends a relay whose sources are all over.
pub fn settle(shared: &Arc<Shared>, id: String) {
    let own = shared.clone();
    shared.keep("ends of relays", move || finish(own.clone(), id.clone()));
}

async fn finish(shared: Arc<Shared>, id: String) {
    let mut told = false;
    loop {
        {
            let Ok(_turn) = enter(&shared, &id).await else { return };
            let Some(end) = end_of(&shared, &id) else { return };
            match append::guarded(&shared, end).await {
                // A conflict: an attempt of before had come through.
                Ok(()) | Err(AppendError::Conflict(_) | AppendError::Unavailable(Unavailable::Closed)) => return,
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(relay_id = id, %error, "the end of a relay waits for the journal");
                }
                Err(_) => {}
            }
            if let Some(relay) = shared.books().get_mut(&id) {
                (relay.status, relay.ended_at, relay.ended) = (Status::Running, None, None);
            }
        }
        pause(&shared).await;
    }
}

/// Notes that a relay has ended, before anybody can read so; what is to be written. `None` when it has not, or had.
fn end_of(shared: &Shared, id: &str) -> Option<Batch> {
    let mut books = shared.books();
    let relay = books.get_mut(id).filter(|relay| !relay.status.ended() && !shared.stop.is_cancelled())?;
    let (status, ended) = (Status::of(&relay.sources), shared.deps.clock.moment());
    let ended_at = ended.wall;
    if !status.ended() {
        return None;
    }
    (relay.status, relay.ended_at, relay.ended) = (status, Some(ended_at), Some(ended.steady));
    let topics = told::topics(id, relay.target.as_ref());
    Some(Batch {
        events: vec![told::end(id, topics, status, relay.sources.len(), relay.events())],
        records: vec![record::put(record::end_key(id), &EndRecord { status, ended_at })],
        expect: vec![Expect { key: record::end_key(id), revision: None }],
    })
}

/// Lets go of relays whose time is over, once a second.
pub async fn sweep(shared: Arc<Shared>) {
    let mut every = interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shared.stop.run_until_cancelled(every.tick()).await.is_some() {
        let leaving = shared.books().leaving(shared.deps.clock.steady_ms(), shared.config.retention_ms, MAX_KEPT);
        for id in leaving {
            if let Err(error) = leave(&shared, &id).await {
                tracing::warn!(relay_id = id, %error, "what is kept of an ended relay could not go; trying again");
                break;
            }
        }
    }
}

async fn leave(shared: &Shared, id: &str) -> Result<(), Unavailable> {
    let Ok(_turn) = enter(shared, id).await else { return Ok(()) };
    let Some(sources) = shared.of(id, |relay| relay.status.ended().then_some(relay.sources.len())).flatten() else {
        return Ok(());
    };
    let batch = Batch { records: record::all_gone(id, sources), ..Batch::default() };
    shared.deps.journal.append(batch).await.map_err(unavailable)?;
    shared.books().remove(id);
    if let Ok(topic) = Topic::relay(id) {
        shared.deps.journal.purge(topic).await?;
    }
    Ok(())
}

/// A source of a relay as its group knows it.
pub fn member(id: &str, index: usize, label: &str, target: Option<&Topic>) -> Arc<Member> {
    Arc::new(Member { relay: id.to_owned(), index, label: label.to_owned(), topics: told::topics(id, target) })
}

async fn enter(shared: &Shared, id: &str) -> Result<OwnedMutexGuard<()>, Error> {
    if shared.stop.is_cancelled() {
        return Err(Error::Stopping);
    }
    let gate = shared.of(id, |relay| relay.gate.clone()).ok_or_else(|| Error::Unknown(id.to_owned()))?;
    Ok(gate.lock_owned().await)
}

async fn read_all(shared: &Shared, id: &str, sources: &[usize]) -> Result<Vec<(usize, Progress)>, Error> {
    let mut all = Vec::with_capacity(sources.len());
    for index in sources {
        let known =
            record::read(&shared.deps.journal, record::cursor_key(id, *index)).await.map_err(Unavailable::from)?;
        let (progress, _) = known.ok_or_else(|| Unavailable::Failed(format!("a cursor of relay `{id}` is missing")))?;
        all.push((*index, progress));
    }
    Ok(all)
}

async fn pause(shared: &Shared) {
    shared.stop.run_until_cancelled(sleep(APPEND_RETRY)).await;
}

fn unavailable(error: AppendError) -> Unavailable {
    match error {
        AppendError::Unavailable(unavailable) => unavailable,
        other => Unavailable::Failed(other.to_string()),
    }
}
