//! Reads the relays that the journal has kept, at the start and before any request is answered.
//!
//! A record that cannot be read stays in the journal: a later version may know it. A journal that fails is asked again.

use super::record::{self, EndRecord, Progress, RELAYS, SpecRecord};
use crate::{
    durable::{ReadFailure, Reader, check_version},
    spans,
};

/// A relay as the journal has it.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) record: SpecRecord,
    /// How far each source was read.
    pub(super) progress: Vec<Progress>,
    pub(super) end: Option<EndRecord>,
}

/// Keys in one page.
const PAGE: usize = 256;

/// All relays, and how many could not be read; `None` if the journal is closed.
pub(super) async fn read(reader: &Reader) -> Option<(Vec<Found>, u64)> {
    let (mut relays, mut unreadable, mut after) = (Vec::new(), 0, None);
    loop {
        let page =
            reader.read(Reader::LIST_TRIES, async |journal| RELAYS.page(journal, after.clone(), PAGE).await).await;
        let (ids, next) = match page {
            Ok(page) => page,
            Err(ReadFailure::Stopped) => return None,
            Err(ReadFailure::Damaged(reason)) => {
                tracing::error!(reason, "a part of the relays cannot be read; it stays in the journal");
                return Some((relays, unreadable + 1));
            }
        };
        for id in ids {
            match relay(reader, &id).await {
                Ok(found) => relays.extend(found),
                Err(ReadFailure::Stopped) => return None,
                Err(ReadFailure::Damaged(reason)) => {
                    let _span = spans::relay(&id).entered();
                    tracing::error!(
                        relay_id = id,
                        reason,
                        "the record of a relay cannot be read; it stays in the journal"
                    );
                    unreadable += 1;
                }
            }
        }
        if next.is_none() {
            return Some((relays, unreadable));
        }
        after = next;
    }
}

async fn relay(reader: &Reader, id: &str) -> Result<Option<Found>, ReadFailure> {
    let Some((record, _)) = reader.record::<SpecRecord>(&RELAYS.spec(id)).await? else { return Ok(None) };
    check_version(record.version, record::VERSION).map_err(ReadFailure::Damaged)?;
    let mut progress = Vec::with_capacity(record.spec.sources.len());
    for (index, source) in record.spec.sources.iter().enumerate() {
        let known = reader.record(&record::cursor_key(id, index)).await?;
        let fresh = || Progress::initial(source.last_event_id.as_deref().unwrap_or_default());
        progress.push(known.map_or_else(fresh, |(progress, _)| progress));
    }
    let end = reader.record(&record::end_key(id)).await?.map(|(end, _)| end);
    Ok(Some(Found { id: id.to_owned(), record, progress, end }))
}
