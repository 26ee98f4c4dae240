//! The space of jobs in the journal; pure. Histories of jobs are never cut, so jobs must not fill the journal.
//!
//! Above half of `journal.max_bytes` ended jobs are deleted early, the oldest first. Above three quarters, which only
//! unfinished jobs can hold, new jobs are rejected, progress is dropped, large results become errors, and
//! `aggregated_result` is short. So running jobs can end and free their space. The same limits apply to a single owner
//! whose unfinished jobs hold its share of these three quarters.

use std::collections::HashMap;

use crate::{
    jobs::{code, handler::TaskError, work::TaskDone},
    shares::{Owner, Share},
};

/// The part of the journal that jobs use.
#[derive(Debug)]
pub(crate) struct Room {
    max: u64,
    used: u64,
    share: Share,
    /// Bytes that unfinished jobs hold, by owner.
    owners: HashMap<Owner, u64>,
}

/// Results up to this size take about as much space as the error that would replace them.
const SMALL: usize = 1024;
/// Maximum space of an event in the journal as a multiple of its bytes: the data, and its encoded form.
pub(crate) const FOOTPRINT: u64 = 2;
/// The size of an `aggregated_result` if there is little space: some hundred small results or references.
const BRIEF: usize = 16 << 10;

// === impl Room ===

impl Room {
    pub(crate) fn new(max: u64, share: Share) -> Self {
        Self { max, used: 0, share, owners: HashMap::new() }
    }

    /// True if the journal has space only for the ends of tasks and jobs.
    pub(crate) fn tight(&self) -> bool {
        self.used > self.usable()
    }

    /// Like [`tight`](Self::tight), for the jobs of one owner.
    pub(crate) fn tight_for(&self, owner: &Owner) -> bool {
        let alone = self.owners.len() <= usize::from(self.owners.contains_key(owner));
        let own = self.owners.get(owner).copied().unwrap_or(0);
        self.tight() || own > self.share.most(self.usable(), alone)
    }

    /// Adds bytes to an owner's share; returns them.
    pub(crate) fn charge(&mut self, owner: &Owner, bytes: u64) -> u64 {
        *self.owners.entry(owner.clone()).or_insert(0) += bytes;
        bytes
    }

    /// Releases the bytes of a job that has ended.
    pub(crate) fn discharge(&mut self, owner: &Owner, bytes: u64) {
        if let Some(held) = self.owners.get_mut(owner) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// Bytes that all unfinished jobs together may hold.
    fn usable(&self) -> u64 {
        self.max / 4 * 3
    }

    /// Counts the bytes of an event that waits for the journal.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.used += FOOTPRINT * bytes as u64;
    }

    /// Maximum size of an `aggregated_result`, which must not exceed `most` bytes.
    pub(crate) fn for_all_results(&self, owner: &Owner, most: usize) -> usize {
        if self.tight_for(owner) { most.min(BRIEF) } else { most }
    }

    /// Replaces a result by an error if there is no space for it.
    pub(crate) fn for_result(&self, owner: &Owner, result: Result<TaskDone, TaskError>) -> Result<TaskDone, TaskError> {
        match result {
            Ok(done) if self.tight_for(owner) && done.result.get().len() > SMALL => {
                let bytes = done.result.get().len();
                let message = match self.tight() {
                    true => format!("the node has no room for the result of {bytes} bytes (`journal.max_bytes`)"),
                    false => format!(
                        "your unfinished jobs hold the maximum share of the journal (`limits.share_percent`): no room for \
                         the result of {bytes} bytes"
                    ),
                };
                Err(TaskError::fatal(code::NO_ROOM, message))
            }
            other => other,
        }
    }

    /// Sets the bytes of jobs: `stored` in the journal, and `pending` bytes of events that wait for it.
    pub(crate) fn set_used(&mut self, stored: u64, pending: usize) {
        self.used = stored + FOOTPRINT * pending as u64;
    }

    /// True if ended jobs must be deleted early.
    pub(crate) fn above_half(&self) -> bool {
        self.used > self.max / 2
    }
}
