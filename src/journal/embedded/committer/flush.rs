//! Writes changes of the index that are in no commit: new limits of topics, removed topics, deletions.

use super::Committer;
use crate::journal::{
    Unavailable,
    embedded::{StoreError, items, segments::Item},
    log::TopicId,
};

/// Maximum number of topics in one commit.
const TOPICS_AT_ONCE: usize = 4096;

// === impl Committer ===

impl Committer {
    /// Writes pending changes to the log. After a crash before this, they are determined again.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        while self.changed_state || !self.changed_topics.is_empty() {
            let part: Vec<TopicId> = self.changed_topics.iter().take(TOPICS_AT_ONCE).copied().collect();
            self.begin_draft(false);
            let log = shared.log();
            for id in &part {
                match log.topic(*id) {
                    Some((name, trimmed_through)) => items::add_topic(&mut self.draft, *id, name, trimmed_through),
                    None => self.draft.add(&Item::RemovedTopic { id: *id }),
                }
            }
            drop(log);
            let location = self.commit()?;
            self.changed_state = false;
            let log = shared.log();
            for id in part {
                self.changed_topics.remove(&id);
                match log.topic(id) {
                    Some(_) => self.topic_segments.insert(id, location.segment),
                    None => self.topic_segments.remove(&id),
                };
            }
        }
        let corrected = std::mem::take(&mut self.corrected);
        self.move_events(&corrected).inspect_err(|_| self.corrected = corrected)
    }

    pub(super) fn flush_now(&mut self) -> Result<(), Unavailable> {
        self.ready()?;
        self.flush().map_err(|error| self.failed(error))
    }

    /// Begins a frame that writes the values of the journal as they are.
    pub(super) fn begin_draft(&mut self, adds_data: bool) {
        let state = self.segments.state().with(&self.shared.log().log_state());
        self.draft.begin(state, adds_data);
    }
}
