//! Following the index: payloads that nobody needs leave the disk, marks are noted, index rows are brought in line.

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
    /// Does on disk what was decided in memory. Should the node die before, it will be decided again.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        let mut spans = std::mem::take(&mut self.ragged);
        let Changes { dropped, mut topics } = std::mem::take(&mut self.pending);
        if dropped.is_empty() && topics.is_empty() && spans.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let marks = shared.log().marks();
        for part in dropped.chunks(CHANGES_AT_ONCE).chain(std::iter::once(&[][..])) {
            let topics = std::mem::take(&mut topics);
            if part.is_empty() && topics.is_empty() {
                continue;
            }
            spans.extend(part.iter().map(|(_, offset)| offset / SPAN));
            self.write(&marks, false, |commit| {
                for id in topics {
                    match shared.log().topic(id) {
                        Some((name, trimmed_through)) => {
                            let row = TopicRow { name: name.clone(), trimmed_through };
                            commit.put(rows::topic_key(id), rows::encode(&row));
                        }
                        None => commit.delete(rows::topic_key(id)),
                    }
                }
                for (home, offset) in part {
                    commit.delete(rows::event_key(*home, *offset));
                    shared.events.remove(offset);
                }
            })?;
        }
        self.tidy(spans)
    }

    /// Brings index rows in line with the index: those of dead spans go, those of ragged ones become one.
    fn tidy(&mut self, spans: BTreeSet<u64>) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let log = shared.log();
        // A span that is still being filled is left for later.
        let (whole, filling): (BTreeSet<u64>, _) = spans.into_iter().partition(|span| (span + 1) * SPAN <= log.head());
        self.ragged = filling;
        if whole.is_empty() {
            return Ok(());
        }
        let mut stale = Vec::new();
        let mut fresh = Vec::new();
        for span in whole {
            let (first, last) = (span * SPAN, span * SPAN + SPAN - 1);
            let found = rows::encode_metas(log.metas(first.saturating_sub(1), last));
            stale.extend(
                self.index_rows(first, last)?.into_iter().filter(|old| found.iter().all(|(new, _)| new != old)),
            );
            fresh.extend(found);
        }
        self.write(&log.marks(), false, |commit| {
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
