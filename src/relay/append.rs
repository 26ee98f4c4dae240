//! Writing what a source brought together with the cursors that cover it: until it is written, and once.
//!
//! A write whose answer is not a plain yes may have happened. Before it is tried again the record of a member is read:
//! its `seq` says whether it did. The second attempt then expects that very record, so that a first one that lands late
//! makes it fail instead of writing twice.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::time::sleep;

use super::{
    group::{Group, Member},
    record::{self, Progress},
    shared::{APPEND_RETRY, Shared},
};
use crate::{
    event::Draft,
    journal::{AppendError, Batch, Expect, RecordWrite, Unavailable},
};

/// Why nothing was written, and nothing will be.
#[derive(Debug)]
pub enum Halt {
    /// The node stops, or nobody is left who wants it.
    Over,
    /// The journal will not take it, ever.
    Refused(String),
}

/// Whether an attempt of before has been written.
enum Before {
    Written,
    /// The records are these.
    Not(Vec<Expect>),
}

/// Appends what `drafts` makes for the members that `who` names, with their records; answers for whom it did.
///
/// While the journal takes nothing this waits, and tells so once by `held`.
pub async fn append(
    shared: &Shared,
    group: &Group,
    who: impl Fn() -> Vec<Arc<Member>>,
    progress: &Progress,
    drafts: impl Fn(&[Arc<Member>]) -> Vec<Draft>,
    held: impl Fn(&str),
) -> Result<Vec<Arc<Member>>, Halt> {
    let value = record::encode(progress);
    let mut unclear = false;
    loop {
        let failure = {
            let _turn = group.turn.lock().await;
            let members = who();
            if members.is_empty() || shared.stop.is_cancelled() {
                return Err(Halt::Over);
            }
            match attempt(shared, &members, progress.seq, unclear, &value, &drafts).await {
                Ok(()) => return Ok(members),
                Err(AppendError::Unavailable(Unavailable::Closed)) => return Err(Halt::Over),
                Err(error @ (AppendError::Unavailable(_) | AppendError::Conflict(_))) => error,
                Err(error) => return Err(Halt::Refused(error.to_string())),
            }
        };
        if !std::mem::replace(&mut unclear, true) {
            held(&failure.to_string());
        }
        tokio::select! {
            () = shared.stop.cancelled() => return Err(Halt::Over),
            () = group.over.cancelled() => return Err(Halt::Over),
            () = sleep(APPEND_RETRY) => {}
        }
    }
}

async fn attempt(
    shared: &Shared,
    members: &[Arc<Member>],
    seq: u64,
    unclear: bool,
    value: &bytes::Bytes,
    drafts: &impl Fn(&[Arc<Member>]) -> Vec<Draft>,
) -> Result<(), AppendError> {
    let expect = match unclear {
        false => Vec::new(),
        true => match before(shared, members, seq).await? {
            Before::Written => return Ok(()),
            Before::Not(expect) => expect,
        },
    };
    let write = |member: &Arc<Member>| RecordWrite {
        key: record::cursor_key(&member.relay, member.index),
        value: Some(value.clone()),
    };
    let batch = Batch { events: drafts(members), records: members.iter().map(write).collect(), expect };
    shared.deps.journal.append(batch).await.map(drop)
}

/// All members are written together, so one of them tells of all.
async fn before(shared: &Shared, members: &[Arc<Member>], seq: u64) -> Result<Before, Unavailable> {
    let mut expect = Vec::new();
    for member in members {
        let key = record::cursor_key(&member.relay, member.index);
        match record::read::<Progress>(&shared.deps.journal, key.clone()).await.map_err(Unavailable::from)? {
            Some((known, _)) if known.seq >= seq => return Ok(Before::Written),
            known => expect.push(Expect { key, revision: known.map(|(_, revision)| revision) }),
        }
    }
    Ok(Before::Not(expect))
}

/// Appends once. A panic is an error like any other, whose consequences the caller knows.
pub async fn guarded(shared: &Shared, batch: Batch) -> Result<(), AppendError> {
    let appended = AssertUnwindSafe(async { shared.deps.journal.append(batch).await }).catch_unwind().await;
    appended.unwrap_or_else(|_| Err(fault().into())).map(drop)
}

/// The error of a panic, for clients, which cannot see the log.
pub fn fault() -> Unavailable {
    Unavailable::Failed("a fault of this program; its log says more".into())
}
