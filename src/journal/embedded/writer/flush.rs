//! Writes pending changes to the store: deletes payloads, stores topics, rewrites index rows.

use std::collections::BTreeSet;

use super::{CHANGES_AT_ONCE, Writer};
use crate::journal::{
    embedded::{
        rows::{self, SPAN, TopicRow},
        store::StoreError,
    },
    log::Changes,
};

// === impl Writer ===

impl Writer {
    /// Writes pending changes to the store. After a crash before this, they are determined again.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        let mut spans = std::mem::take(&mut self.fragmented);
        let Changes { dropped, mut topics } = std::mem::take(&mut self.pending);
        if dropped.is_empty() && topics.is_empty() && spans.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let log_state = shared.log().log_state();
        for part in dropped.chunks(CHANGES_AT_ONCE).chain(std::iter::once(&[][..])) {
            let topics = std::mem::take(&mut topics);
            if part.is_empty() && topics.is_empty() {
                continue;
            }
            spans.extend(part.iter().map(|(_, offset)| offset / SPAN));
            self.write(&log_state, false, |commit| {
                for id in topics {
                    match shared.log().topic(id) {
                        Some((name, trimmed_through)) => {
                            let row = TopicRow { name: name.clone(), trimmed_through };
                            commit.put(rows::topic_key(id), rows::encode(&row));
                        }
                        None => commit.delete(rows::topic_key(id)),
                    }
                }
                for (primary_topic, offset) in part {
                    commit.delete(rows::event_key(*primary_topic, *offset));
                    shared.events.remove(offset);
                }
            })?;
        }
        self.rewrite_index_rows(spans)
    }

    /// Rewrites index rows: deletes those of empty spans, and joins those of fragmented ones.
    fn rewrite_index_rows(&mut self, spans: BTreeSet<u64>) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let log = shared.log();
        // A span that is still being filled is kept for later.
        let (whole, filling): (BTreeSet<u64>, _) = spans.into_iter().partition(|span| (span + 1) * SPAN <= log.head());
        self.fragmented = filling;
        if whole.is_empty() {
            return Ok(());
        }
        let mut stale = Vec::new();
        let mut fresh = Vec::new();
        for span in whole {
            let (first, last) = (span * SPAN, span * SPAN + SPAN - 1);
            let found = rows::encode_event_metas(log.event_metas(first.saturating_sub(1), last));
            stale.extend(
                self.index_rows(first, last)?.into_iter().filter(|old| found.iter().all(|(new, _)| new != old)),
            );
            fresh.extend(found);
        }
        self.write(&log.log_state(), false, |commit| {
            stale.into_iter().for_each(|first| commit.delete(rows::index_key(first)));
            fresh.into_iter().for_each(|(first, row)| commit.put(rows::index_key(first), row));
        })
    }

    fn index_rows(&self, first: u64, last: u64) -> Result<Vec<u64>, StoreError> {
        self.shared.with_store(|store| {
            let keys = store.keys(&rows::index_key(first), &rows::index_key(last + 1));
            keys.map(|key| key.map(|key| rows::number_of(&key).unwrap_or(u64::MAX))).collect()
        })
    }
}
