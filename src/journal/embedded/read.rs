//! Reads events and records. The index selects events; their payloads are in the cache, or else in the store.
//!
//! Cached events are returned at once. Events of the store are read on a thread that may block.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;

use super::{
    Embedded, EmbeddedState,
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
        log::{EventRef, Selection},
    },
};

/// Maximum time for which a value may differ from the index: the store replaces a value shortly before the index.
const VALUE_WAIT: Duration = Duration::from_millis(200);
const POLL_EVERY: Duration = Duration::from_millis(1);

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
        let turn = self.readers.clone().acquire_owned().await.map_err(|_| Unavailable::Closed)?;
        let shared: Arc<EmbeddedState> = self.shared.clone();
        let work = spawn_blocking(move || {
            let _turn = turn;
            work(&shared)
        });
        work.await.map_err(|_| Unavailable::Closed)?.map_err(|error| unavailable(&error))
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
        for EventRef { offset, primary_topic } in selected {
            let event = match self.find(*primary_topic, *offset) {
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
    fn find(&self, primary_topic: u64, offset: u64) -> Result<Option<SharedEvent>, StoreError> {
        if let Some(event) = self.events.get(&offset) {
            return Ok(Some(event));
        }
        match self.load(primary_topic, offset)? {
            None if self.log().contains(offset) => {
                let what = format!("event {offset} has no data; see `millstream journal verify`");
                Err(StoreError::Damaged(what))
            }
            found => Ok(found),
        }
    }

    fn load(&self, primary_topic: u64, offset: u64) -> Result<Option<SharedEvent>, StoreError> {
        let key = rows::event_key(primary_topic, offset);
        let Some(row) = self.with_store(|store| store.get(key))? else { return Ok(None) };
        let position = Position { epoch: self.epoch, offset };
        let event = rows::decode_event(&row, position).map_err(|bad| damaged(&row_name(&key), &bad))?;
        let event = Arc::new(event);
        self.events.insert(offset, event.clone());
        Ok(Some(event))
    }

    #[expect(clippy::disallowed_methods, reason = "a thread that may wait for the disk")]
    pub(super) fn record(&self, key: &str) -> Result<Option<Record>, StoreError> {
        // Value and revision are read separately. The store replaces or deletes a value shortly before the index, so read
        // until both belong together.
        let mut deadline = Instant::now() + VALUE_WAIT;
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
                _ if !unchanged => deadline = Instant::now() + VALUE_WAIT,
                _ if Instant::now() < deadline => std::thread::sleep(POLL_EVERY),
                _ => {
                    let record = row_name(&rows::record_key(key));
                    return Err(StoreError::Damaged(format!("{record} has no value")));
                }
            }
        }
    }
}
