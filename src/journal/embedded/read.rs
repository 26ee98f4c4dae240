//! Reading: the index says which events, the cache has most of them, the store has all.
//!
//! Whatever is in the cache is answered at once; for the rest the reader goes to a thread that may wait for the disk.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;

use super::{
    Embedded, Shared,
    restore::{damaged, row_name},
    rows,
    store::StoreError,
    values,
    writer::unavailable,
};
use crate::{
    event::{Position, SharedEvent},
    journal::{
        Page, Query, Record, Since, Unavailable,
        log::{Chosen, Found},
    },
};

/// How long the index may know a value that the store has replaced or deleted already.
const PATIENCE: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What was fetched of what was chosen.
struct Fetched {
    events: Vec<SharedEvent>,
    /// The byte bound was reached with the last of them.
    full: bool,
    /// The first that was not there.
    missing: Option<u64>,
}

// === impl Embedded ===

impl Embedded {
    pub(super) async fn page(&self, query: Query) -> Result<Page, Unavailable> {
        loop {
            let Found { chosen, through, trimmed, .. } = self.shared.log().read(&query, self.shared.clock.steady_ms());
            let Fetched { events, full, missing } = self.fetch(chosen, query.max_bytes).await?;
            let last = events.last().map(|event| event.position.offset);
            let through = match (missing, last) {
                // It was let go in the meantime: whoever asks again hears of it.
                (Some(_), None) => continue,
                (Some(missing), Some(_)) => missing - 1,
                (None, Some(last)) if full => last,
                (None, _) => through,
            };
            return Ok(Page { events, through, trimmed });
        }
    }

    pub(super) async fn tail(&self, after: u64, limit: usize) -> Result<Since, Unavailable> {
        loop {
            let Found { chosen, through, missed, .. } =
                self.shared.log().since(after, limit, self.shared.clock.steady_ms());
            let Fetched { events, missing, .. } = self.fetch(chosen, usize::MAX).await?;
            let through = match missing {
                Some(_) if events.is_empty() => continue,
                Some(missing) => missing - 1,
                None => through,
            };
            return Ok(Since { events, through, missed });
        }
    }

    pub(super) async fn record(&self, key: String) -> Result<Option<Record>, Unavailable> {
        if self.shared.log().record(&key).is_none() {
            return Ok(None);
        }
        self.off_thread(move |shared| shared.record(&key)).await
    }

    async fn fetch(&self, chosen: Vec<Chosen>, max_bytes: usize) -> Result<Fetched, Unavailable> {
        let mut events = Vec::with_capacity(chosen.len());
        let mut bytes = 0;
        for (index, Chosen { offset, .. }) in chosen.iter().enumerate() {
            let Some(event) = self.shared.events.get(offset) else {
                let rest = chosen[index..].to_vec();
                return self.off_thread(move |shared| shared.fetch(&rest, events, bytes, max_bytes)).await;
            };
            bytes += event.data.len();
            events.push(event);
            if bytes >= max_bytes {
                return Ok(Fetched { events, full: true, missing: None });
            }
        }
        Ok(Fetched { events, full: false, missing: None })
    }

    /// On a thread that may wait for the disk.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let turn = self.readers.clone().acquire_owned().await.map_err(|_| Unavailable::Closed)?;
        let shared: Arc<Shared> = self.shared.clone();
        let work = spawn_blocking(move || {
            let _turn = turn;
            work(&shared)
        });
        work.await.map_err(|_| Unavailable::Closed)?.map_err(|error| unavailable(&error))
    }
}

// === impl Shared ===

impl Shared {
    fn fetch(
        &self,
        chosen: &[Chosen],
        mut events: Vec<SharedEvent>,
        mut bytes: usize,
        max_bytes: usize,
    ) -> Result<Fetched, StoreError> {
        let mut damage = None;
        for Chosen { offset, home } in chosen {
            let event = match self.find(*home, *offset) {
                Ok(Some(event)) => event,
                // Return the events before the damage; the reader's next call continues there.
                Ok(None) | Err(StoreError::Damaged(_)) if !events.is_empty() => {
                    return Ok(Fetched { events, full: false, missing: Some(*offset) });
                }
                Ok(None) if damage.is_none() => return Ok(Fetched { events, full: false, missing: Some(*offset) }),
                Err(StoreError::Damaged(what)) => {
                    // Damage affects a block with many events: skip all consecutive damaged events in one step.
                    damage = Some(StoreError::Unreadable { through: *offset, what });
                    continue;
                }
                Ok(None) => break,
                Err(error) => return Err(error),
            };
            if damage.is_some() {
                break;
            }
            bytes += event.data.len();
            events.push(event);
            if bytes >= max_bytes {
                return Ok(Fetched { events, full: true, missing: None });
            }
        }
        damage.map_or(Ok(Fetched { events, full: false, missing: None }), Err)
    }

    /// An event from the cache or the store; `None` if it was deleted meanwhile.
    fn find(&self, home: u64, offset: u64) -> Result<Option<SharedEvent>, StoreError> {
        if let Some(event) = self.events.get(&offset) {
            return Ok(Some(event));
        }
        match self.load(home, offset)? {
            None if self.log().contains(offset) => {
                let what = format!("event {offset} has no data; `millstream journal verify` tells more");
                Err(StoreError::Damaged(what))
            }
            found => Ok(found),
        }
    }

    fn load(&self, home: u64, offset: u64) -> Result<Option<SharedEvent>, StoreError> {
        let key = rows::event_key(home, offset);
        let Some(row) = self.with_store(|store| store.get(key))? else { return Ok(None) };
        let position = Position { epoch: self.epoch, offset };
        let event = rows::decode_event(&row, position).map_err(|bad| damaged(&row_name(&key), &bad))?;
        let event = Arc::new(event);
        self.events.insert(offset, event.clone());
        Ok(Some(event))
    }

    #[expect(clippy::disallowed_methods, reason = "a thread that may wait for the disk")]
    pub(super) fn record(&self, key: &str) -> Result<Option<Record>, StoreError> {
        // Value and revision are read apart, so they are read until they belong together: the store replaces or deletes
        // a value a moment before the index.
        let mut patience = Instant::now() + PATIENCE;
        loop {
            let Some(known) = self.log().record(key) else { return Ok(None) };
            let value = self.with_store(|store| values::read(&store.snapshot(), key, known))?;
            let in_parts = rows::parts_in(known.size) > 0;
            let unchanged = self.log().record(key) == Some(known);
            match value {
                // Parts carry their revision; a single row does not.
                Some(value) if in_parts || unchanged => {
                    return Ok(Some(Record { value, revision: known.revision }));
                }
                _ if !unchanged => patience = Instant::now() + PATIENCE,
                _ if Instant::now() < patience => std::thread::sleep(LOOK_AGAIN),
                _ => {
                    let record = row_name(&rows::record_key(key));
                    return Err(StoreError::Damaged(format!("{record} has no value")));
                }
            }
        }
    }
}
