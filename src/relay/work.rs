//! Carries out the work that the engine asks of the journal.

use std::{cell::Cell, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;

use super::{
    engine::{
        effect::{AppendFailure, Attempt, Done, Work},
        join::{History, HistoryPage},
    },
    member::Member,
    output::SourceEvent,
    record::{self, Ended, Progress, Reason},
};
use crate::{
    durable,
    event::now_ms,
    journal::{AppendError, Batch, Expect, Query, Shared, Unavailable},
    spans,
    supervise::Supervisor,
    topic::{Pattern, Topic},
};

/// Events in one page of a history.
const PAGE_EVENTS: usize = 256;
/// Bytes in one page of a history.
const PAGE_BYTES: usize = 1 << 20;

/// Carries out one piece of work. A panic ends what the work belongs to, not the actor of the relays.
pub(super) async fn perform(journal: Shared, supervisor: Supervisor, work: Work) -> Done {
    match work {
        Work::Append(lane, attempt) => {
            let appended = AssertUnwindSafe(append(&journal, attempt)).catch_unwind().await;
            let result = appended.map_or(Err(AppendFailure::Fault), |result| result.map_err(AppendFailure::Journal));
            Done::Append(lane, result)
        }
        Work::Read(upstream, history) => Done::Read(upstream, guarded(read(&journal, history)).await.ok().flatten()),
        Work::Reopen(relay, sources) => {
            let reopened = guarded(reopen(&journal, &relay, &sources)).await;
            Done::Reopen(relay, reopened)
        }
        Work::GiveUp(upstream, members, reason) => {
            let given_up = Cell::new(Ok(None));
            // Nothing else would end these sources, so the supervisor repeats this after a panic.
            let attempt = || async { given_up.set(give_up(&journal, &members, &reason).await) };
            supervisor.keep("failures of sources", attempt).await;
            Done::GiveUp(upstream, given_up.into_inner())
        }
        Work::Purge(relay) => {
            let purge = async { journal.purge(Topic::relay(&relay).expect("an id is a short word")).await };
            if let Err(error) = guarded(purge).await {
                let _span = spans::relay(&relay).entered();
                tracing::warn!(relay_id = relay, %error, "the events of an ended relay were not deleted");
            }
            Done::Purge
        }
    }
}

/// Turns a panic into an error.
async fn guarded<T>(work: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_| Err(AppendFailure::Fault.into()))
}

/// Appends a batch once. An attempt after an unclear one first reads the records: their `seq` shows whether the earlier one
/// was written. If it was not, the batch expects these very records, so an earlier attempt that lands late makes it fail
/// instead of writing twice.
async fn append(journal: &Shared, attempt: Attempt) -> Result<(), AppendError> {
    let Attempt { mut batch, unclear } = attempt;
    if let Some(seq) = unclear {
        for record in &batch.records {
            let key = record.key.clone();
            // All records are written together, so one of them speaks for all.
            match durable::read::<Progress>(journal, key.clone()).await.map_err(Unavailable::from)? {
                Some((known, _)) if known.seq >= seq => return Ok(()),
                known => batch.expect.push(Expect { key, revision: known.map(|(_, revision)| revision) }),
            }
        }
    }
    journal.append(batch).await.map(drop)
}

/// The next page of a history; `None` at its end.
async fn read(journal: &Shared, mut history: History) -> Result<Option<HistoryPage>, Unavailable> {
    let (through, after) = (*history.through.get_or_insert_with(|| *journal.watch_head().borrow()), history.after);
    if after >= through {
        return Ok(None);
    }
    let patterns = [Pattern::Exact(history.topic.clone())].into();
    let query = Query { patterns, after, floor: after, limit: PAGE_EVENTS, max_bytes: PAGE_BYTES };
    let page = journal.read(query).await?;
    history.after = page.through;
    Ok((page.through > after).then_some((history, page.events)))
}

/// Writes that these sources, and the relay, have not ended.
async fn reopen(journal: &Shared, relay: &str, sources: &[usize]) -> Result<Vec<(usize, Progress)>, Unavailable> {
    let (mut reopened, mut records) = (Vec::with_capacity(sources.len()), Vec::with_capacity(sources.len() + 1));
    for index in sources {
        let key = record::cursor_key(relay, *index);
        let known = durable::read::<Progress>(journal, key.clone()).await?;
        let (mut progress, _) =
            known.ok_or_else(|| Unavailable::Failed(format!("a cursor of relay `{relay}` is missing")))?;
        progress.seq += 1;
        progress.ended = None;
        // A client that restarts a source wants its request to be sent again.
        progress.asked = false;
        progress.since = now_ms();
        records.push(durable::put(key, &progress));
        reopened.push((*index, progress));
    }
    records.push(durable::delete(record::end_key(relay)));
    let batch = Batch { records, ..Batch::default() };
    journal.append(batch).await?;
    Ok(reopened)
}

/// Writes that equal sources are given up, after what the journal has: a write whose answer was lost may have been written.
async fn give_up(journal: &Shared, members: &[Arc<Member>], reason: &Reason) -> Result<Option<Progress>, Unavailable> {
    let (mut batch, mut last) = (Batch::default(), None);
    for member in members {
        let key = record::cursor_key(&member.relay, member.index);
        let Some((mut progress, revision)) = durable::read::<Progress>(journal, key.clone()).await? else { continue };
        if progress.ended.is_none() {
            progress.seq += 1;
            progress.since = now_ms();
            progress.ended = Some(Ended::Failed(reason.clone()));
            batch.events.push(SourceEvent::Error(reason.clone()).draft(member));
            batch.records.push(durable::put(key.clone(), &progress));
            batch.expect.push(Expect { key, revision: Some(revision) });
        }
        last = Some(progress);
    }
    if !batch.records.is_empty() {
        journal.append(batch).await?;
    }
    Ok(last)
}
