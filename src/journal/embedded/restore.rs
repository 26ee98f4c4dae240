//! Restores the index from the rows on the disk. Reads all rows except payloads.

use std::collections::BTreeSet;

use super::{
    rows::{self, RecordRow, SPAN, STATE_KEY, StateRow, TopicRow},
    store::{Store, StoreError},
};
use crate::{
    clock::Moment,
    journal::{Config, log::Log},
};

/// The restored index.
pub(super) struct Restored {
    pub log: Log,
    pub state: StateRow,
    /// Spans whose index rows are rewritten: they have too many rows, or contain deleted events.
    pub fragmented: BTreeSet<u64>,
}

/// Up to this number, the index rows of a span are not rewritten.
pub(super) const FEW_ROWS: u32 = 8;
/// Number of events at the end of the log whose payloads are checked at the start.
const TAIL_EVENTS: u64 = 16;

/// Timestamps ahead of the clock by less than this are not logged.
const WARN_AHEAD_MS: u64 = 60_000;

/// Reads the state row; `None` in an empty store.
pub(super) fn state(store: &Store) -> Result<Option<StateRow>, StoreError> {
    store.get(STATE_KEY)?.map(|row| rows::decode(&row)).transpose().map_err(|bad| damaged("the state row", &bad))
}

/// Reads the index; `None` in an empty store.
pub(super) fn restore(store: &Store, config: &Config, now: Moment) -> Result<Option<Restored>, StoreError> {
    let Some(state) = state(store)? else { return Ok(None) };
    let log_state = state.log_state();
    if let Some(ahead_ms) = log_state.last_timestamp.checked_sub(now.wall).filter(|ahead| *ahead > WARN_AHEAD_MS) {
        tracing::warn!(
            ahead_ms,
            "the last event is ahead of the clock; events ahead of the clock get the age of the event after them"
        );
    }
    let mut log = Log::new(config, state.epoch);
    log.restore_state(&log_state, now);
    for row in store.scan(b't', &[]) {
        let (key, row) = row?;
        let id = rows::number_of(&key).ok_or_else(|| unknown_key(&key))?;
        let TopicRow { name, trimmed_through } = rows::decode(&row).map_err(|bad| damaged(&row_name(&key), &bad))?;
        log.restore_topic(id, &name, trimmed_through);
    }
    let mut fragmented = BTreeSet::new();
    let (mut span, mut in_span) = (0, 0);
    for row in store.scan(b'i', &[]) {
        let (key, row) = row?;
        let first = rows::number_of(&key).ok_or_else(|| unknown_key(&key))?;
        in_span = if first / SPAN == span { in_span + 1 } else { 1 };
        span = first / SPAN;
        let event_metas = rows::decode_event_metas(first, &row).map_err(|bad| damaged(&row_name(&key), &bad))?;
        let mut whole = true;
        for mut meta in event_metas {
            let offset = meta.offset;
            // If the clock was set back, an event that had expired and was deleted must not appear again.
            let swept = meta.expires.is_some_and(|at| now.wall < at && at <= log_state.swept);
            if swept && store.get(rows::event_key(meta.topics[0], offset))?.is_none() {
                meta.expires = Some(0);
            }
            log.restore_event(meta);
            // An event ahead of the clock is added later; its row is rewritten with a corrected time.
            whole &= log.contains(offset);
        }
        if !whole || in_span > FEW_ROWS {
            fragmented.insert(span);
        }
    }
    for row in store.scan(b'k', &[]) {
        let (key, row) = row?;
        let name = rows::name_of(&key).ok_or_else(|| unknown_key(&key))?;
        let RecordRow { revision, size } = rows::decode(&row).map_err(|bad| damaged(&row_name(&key), &bad))?;
        log.restore_record(name.to_owned(), revision, size);
    }
    log.finish_restore();
    if log.head() != log_state.head {
        let (index, head) = (log.head(), log_state.head);
        return Err(StoreError::Damaged(format!("the index ends with event {index}, the journal with {head}")));
    }
    check_tail(store, &log)?;
    Ok(Some(Restored { log, state, fragmented }))
}

/// Checks that the last events have payloads.
fn check_tail(store: &Store, log: &Log) -> Result<(), StoreError> {
    for meta in log.event_metas(log.head().saturating_sub(TAIL_EVENTS), log.head()) {
        let key = rows::event_key(meta.topics[0], meta.offset);
        let row = store.get(key)?;
        let row = row.ok_or_else(|| StoreError::Damaged(format!("event {} has no data", meta.offset)))?;
        rows::unseal(&row).map_err(|bad| damaged(&row_name(&key), &bad))?;
    }
    Ok(())
}

/// The name of a row in messages.
pub(super) fn row_name(key: &[u8]) -> String {
    let number = || rows::number_of(key).unwrap_or(0);
    match key.first() {
        Some(b'e') => {
            rows::topic_and_offset_of(key).map_or_else(|| "an event".into(), |(_, offset)| format!("event {offset}"))
        }
        Some(b'i') => format!("index row {}", number()),
        Some(b't') => format!("topic row {}", number()),
        Some(b'p') => "a part of a record".into(),
        Some(b'k' | b'r') => format!("record `{}`", rows::name_of(key).unwrap_or("?")),
        Some(b's') => "the state row".into(),
        _ => "a row of no known kind".into(),
    }
}

pub(super) fn damaged(what: &str, bad: &rows::BadRow) -> StoreError {
    StoreError::Damaged(format!("{what} is damaged: {bad}"))
}

fn unknown_key(key: &[u8]) -> StoreError {
    StoreError::Damaged(format!("there is a row with a key of no known form: {key:?}"))
}
