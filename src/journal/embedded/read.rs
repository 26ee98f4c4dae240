//! Reads events and records. The index selects events; their payloads are in the cache, or else in the store.
//!
//! Cached events are returned at once. Events of the store are read on a thread that may block.

use std::sync::{Arc, atomic::Ordering};

use tokio::task::spawn_blocking;

use super::{Embedded, EmbeddedState, StoreError, items};
use crate::{
    event::{Position, SharedEvent},
    journal::{
        Page, Query, Record, Since, Unavailable,
        log::{EventRef, Selection, Stored},
    },
};

/// The payloads of selected events.
struct Fetched {
    events: Vec<SharedEvent>,
    /// True if the last event reached the limit of bytes.
    full: bool,
    /// The first selected event that was not found.
    missing: Option<u64>,
}

// === impl Embedded ===

impl Embedded {
    pub(super) async fn page(&self, query: Query) -> Result<Page, Unavailable> {
        loop {
            let Selection { selected, through, trimmed, .. } =
                self.shared.log().read(&query, self.shared.clock.steady_ms());
            let Fetched { events, full, missing } = self.fetch(selected, query.max_bytes).await?;
            let last = events.last().map(|event| event.position.offset);
            let through = match (missing, last) {
                // The event was deleted meanwhile. The next read reports it as trimmed.
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
            let Selection { selected, through, missed, .. } =
                self.shared.log().since(after, limit, self.shared.clock.steady_ms());
            let Fetched { events, missing, .. } = self.fetch(selected, usize::MAX).await?;
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
        self.run_blocking(move |shared| shared.record(&key)).await
    }

    async fn fetch(&self, selected: Vec<EventRef>, max_bytes: usize) -> Result<Fetched, Unavailable> {
        let mut events = Vec::with_capacity(selected.len());
        let mut bytes = 0;
        for (index, EventRef { offset, .. }) in selected.iter().enumerate() {
            let Some(event) = self.shared.events.get(offset) else {
                let rest = selected[index..].to_vec();
                return self.run_blocking(move |shared| shared.fetch(&rest, events, bytes, max_bytes)).await;
            };
            bytes += event.data.len();
            events.push(event);
            if bytes >= max_bytes {
                return Ok(Fetched { events, full: true, missing: None });
            }
        }
        Ok(Fetched { events, full: false, missing: None })
    }

    /// Runs `work` on a thread that may wait for the disk.
    pub(super) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&EmbeddedState) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Unavailable> {
        if self.shared.closed.load(Ordering::Relaxed) {
            return Err(Unavailable::Closed);
        }
        let turn = self.readers.clone().acquire_owned().await.map_err(|_| Unavailable::Closed)?;
        let shared: Arc<EmbeddedState> = self.shared.clone();
        let work = spawn_blocking(move || {
            let _turn = turn;
            work(&shared)
        });
        work.await.map_err(|_| Unavailable::Closed)?.map_err(|error| (&error).into())
    }
}

// === impl EmbeddedState ===

impl EmbeddedState {
    fn fetch(
        &self,
        selected: &[EventRef],
        mut events: Vec<SharedEvent>,
        mut bytes: usize,
        max_bytes: usize,
    ) -> Result<Fetched, StoreError> {
        let mut damage = None;
        for EventRef { offset, stored } in selected {
            let event = match self.find(*offset, *stored) {
                Ok(Some(event)) => event,
                // Return the events before the damage; the reader's next call continues there.
                Ok(None) | Err(StoreError::Damaged(_)) if !events.is_empty() => {
                    return Ok(Fetched { events, full: false, missing: Some(*offset) });
                }
                Ok(None) if damage.is_none() => return Ok(Fetched { events, full: false, missing: Some(*offset) }),
                Err(StoreError::Damaged(what)) => {
                    // Damage may affect many events: skip all consecutive damaged events in one step.
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

    /// An event from the cache or the disk; `None` if it was deleted meanwhile.
    fn find(&self, offset: u64, mut stored: Stored) -> Result<Option<SharedEvent>, StoreError> {
        loop {
            if let Some(event) = self.events.get(&offset) {
                return Ok(Some(event));
            }
            match self.load(offset, stored) {
                Ok(event) => return Ok(Some(event)),
                Err(error) => match self.log().stored(offset) {
                    None => return Ok(None),
                    // It was moved meanwhile.
                    Some(now) if now != stored => stored = now,
                    Some(_) => return Err(error),
                },
            }
        }
    }

    fn load(&self, offset: u64, stored: Stored) -> Result<SharedEvent, StoreError> {
        let damaged = |what: &dyn std::fmt::Display| StoreError::Damaged(format!("event {offset} is damaged: {what}"));
        let bytes = self.files.read(stored).map_err(|error| match error {
            StoreError::Damaged(what) => damaged(&what),
            error => error,
        })?;
        let position = Position { epoch: self.epoch, offset };
        let event = Arc::new(items::decode_event(&bytes, position).map_err(|error| damaged(&error))?);
        self.events.insert(offset, event.clone());
        Ok(event)
    }

    fn record(&self, key: &str) -> Result<Option<Record>, StoreError> {
        loop {
            let Some(known) = self.log().record(key) else { return Ok(None) };
            match self.files.read(known.stored) {
                Ok(value) => return Ok(Some(Record { value, revision: known.revision })),
                // It was moved or replaced meanwhile.
                Err(_) if self.log().record(key) != Some(known) => {}
                Err(StoreError::Damaged(what)) => {
                    return Err(StoreError::Damaged(format!("record `{key}` is damaged: {what}")));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
