//! From rows on disk to an index in memory: what an opening has to read, which is everything but the payloads.

use std::collections::BTreeSet;

use super::{
    rows::{self, RecordRow, SPAN, STATE, State, TopicRow},
    store::{Store, StoreError},
};
use crate::{
    clock::Moment,
    journal::{Config, log::Log},
};

/// What was read.
pub(super) struct Restored {
    pub log: Log,
    pub state: State,
    /// Spans whose index rows should be written anew: too many, or with events that are gone.
    pub ragged: BTreeSet<u64>,
}

/// Index rows of one span that are not worth a rewrite.
pub(super) const FEW_ROWS: u32 = 8;
/// Events at the end of the log whose payloads an opening looks at.
const TAIL: u64 = 16;

/// Events that are ahead of the clock by less than this cause no log line.
const NOTED_MS: u64 = 60_000;

/// Reads the state row; `None` in an empty store.
pub(super) fn state(store: &Store) -> Result<Option<State>, StoreError> {
    store.get(STATE)?.map(|row| rows::decode(&row)).transpose().map_err(|bad| damaged("the state row", &bad))
}

/// Reads the index.
pub(super) fn restore(store: &Store, config: &Config, now: Moment) -> Result<Option<Restored>, StoreError> {
    let Some(state) = state(store)? else { return Ok(None) };
    let marks = state.marks();
    if let Some(ahead_ms) = marks.last_timestamp.checked_sub(now.wall).filter(|ahead| *ahead > NOTED_MS) {
        tracing::warn!(
            ahead_ms,
            "the last event is ahead of the clock; events ahead of it are taken to be as old as the next"
        );
    }
    let mut log = Log::new(config, state.epoch);
    log.restore_marks(&marks, now);
    for row in store.scan(b't', &[]) {
        let (key, row) = row?;
        let id = rows::number_of(&key).ok_or_else(|| strange(&key))?;
        let TopicRow { name, trimmed_through } = rows::decode(&row).map_err(|bad| damaged(&row_name(&key), &bad))?;
        log.restore_topic(id, &name, trimmed_through);
    }
    let mut ragged = BTreeSet::new();
    let (mut span, mut in_span) = (0, 0);
    for row in store.scan(b'i', &[]) {
        let (key, row) = row?;
        let first = rows::number_of(&key).ok_or_else(|| strange(&key))?;
        in_span = if first / SPAN == span { in_span + 1 } else { 1 };
        span = first / SPAN;
        let metas = rows::decode_metas(first, &row).map_err(|bad| damaged(&row_name(&key), &bad))?;
        let mut whole = true;
        for mut meta in metas {
            let offset = meta.offset;
            // A clock that was set back brings nothing back to life, nor does it end what came after.
            let swept = meta.expires.is_some_and(|at| now.wall < at && at <= marks.swept);
            if swept && store.get(rows::event_key(meta.topics[0], offset))?.is_none() {
                meta.expires = Some(0);
            }
            log.restore_event(meta);
            // An event ahead of the clock is added later; its row is rewritten with a corrected time.
            whole &= log.contains(offset);
        }
        if !whole || in_span > FEW_ROWS {
            ragged.insert(span);
        }
    }
    for row in store.scan(b'k', &[]) {
        let (key, row) = row?;
        let name = rows::name_of(&key).ok_or_else(|| strange(&key))?;
        let RecordRow { revision, size } = rows::decode(&row).map_err(|bad| damaged(&row_name(&key), &bad))?;
        log.restore_record(name.to_owned(), revision, size);
    }
    log.restored();
    if log.head() != marks.head {
        let (index, head) = (log.head(), marks.head);
        return Err(StoreError::Damaged(format!("the index ends with event {index}, the journal with {head}")));
    }
    check_tail(store, &log)?;
    Ok(Some(Restored { log, state, ragged }))
}

/// The last events must have their payloads.
fn check_tail(store: &Store, log: &Log) -> Result<(), StoreError> {
    for meta in log.metas(log.head().saturating_sub(TAIL), log.head()) {
        let key = rows::event_key(meta.topics[0], meta.offset);
        let row = store.get(key)?;
        let row = row.ok_or_else(|| StoreError::Damaged(format!("event {} has no data", meta.offset)))?;
        rows::unseal(&row).map_err(|bad| damaged(&row_name(&key), &bad))?;
    }
    Ok(())
}

/// How a row is called in messages.
pub(super) fn row_name(key: &[u8]) -> String {
    let number = || rows::number_of(key).unwrap_or(0);
    match key.first() {
        Some(b'e') => rows::place_of(key).map_or_else(|| "an event".into(), |(_, offset)| format!("event {offset}")),
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

fn strange(key: &[u8]) -> StoreError {
    StoreError::Damaged(format!("there is a row with a key of no known form: {key:?}"))
}
