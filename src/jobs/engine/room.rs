//! What the journal has room for. Histories of jobs are kept whole, so somebody must see to it that they do not fill it.
//!
//! Above a half of `journal.max_bytes` ended jobs leave before their time, the oldest first. Above three quarters, which
//! only unfinished jobs can hold, no job is let in, progress is not told, results that are not small become errors and
//! `aggregated_result` is brief: so running jobs can end and free their space. The same limits apply to a single
//! owner whose unfinished jobs hold its share of these three quarters.

use std::collections::HashMap;

use super::{Done, Engine, books::Leaving};
use crate::{
    jobs::{code, handler::TaskError},
    shares::{Owner, Share},
};

/// How full the journal is with what jobs keep there.
#[derive(Debug)]
pub struct Room {
    max: u64,
    used: u64,
    share: Share,
    /// Bytes that unfinished jobs hold, by owner.
    owners: HashMap<Owner, u64>,
}

/// A result that is no larger costs about as much as the error in its place would.
const SMALL: usize = 1024;
/// What an event costs the journal at most, as a multiple of its bytes: the data, and the same on the wire.
pub const FOOTPRINT: u64 = 2;
/// An `aggregated_result` for which there is little room: some hundred small results or references.
const BRIEF: usize = 16 << 10;

// === impl Room ===

impl Room {
    pub fn new(max: u64, share: Share) -> Self {
        Self { max, used: 0, share, owners: HashMap::new() }
    }

    /// True when only the ends of tasks and jobs are to be written.
    pub fn tight(&self) -> bool {
        self.used > self.usable()
    }

    /// Like [`tight`](Self::tight), for the jobs of one owner.
    pub fn tight_for(&self, owner: &Owner) -> bool {
        let alone = self.owners.len() <= usize::from(self.owners.contains_key(owner));
        let own = self.owners.get(owner).copied().unwrap_or(0);
        self.tight() || own > self.share.most(self.usable(), alone)
    }

    /// Adds bytes to an owner's share; returns them.
    pub fn charge(&mut self, owner: &Owner, bytes: u64) -> u64 {
        *self.owners.entry(owner.clone()).or_insert(0) += bytes;
        bytes
    }

    /// Releases the bytes of a job that has ended.
    pub fn discharge(&mut self, owner: &Owner, bytes: u64) {
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

    /// More is on its way to the journal.
    pub fn take(&mut self, bytes: usize) {
        self.used += FOOTPRINT * bytes as u64;
    }

    /// How large an `aggregated_result` may be that could have `most` bytes.
    pub fn for_all_results(&self, owner: &Owner, most: usize) -> usize {
        if self.tight_for(owner) { most.min(BRIEF) } else { most }
    }

    /// Turns a result for which there is no room into an error.
    pub fn for_result(&self, owner: &Owner, result: Result<Done, TaskError>) -> Result<Done, TaskError> {
        match result {
            Ok(done) if self.tight_for(owner) && done.result.get().len() > SMALL => {
                let bytes = done.result.get().len();
                let message = match self.tight() {
                    true => format!("the node has no room for the result of {bytes} bytes (`journal.max_bytes`)"),
                    false => format!(
                        "your unfinished jobs hold as much of the journal as one user may (`limits.share_percent`): no room for \
                         the result of {bytes} bytes"
                    ),
                };
                Err(TaskError::fatal(code::NO_ROOM, message))
            }
            other => other,
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Tells how many bytes jobs hold in the journal, events and records.
    pub fn load(&mut self, bytes: u64) {
        self.room.used = bytes + FOOTPRINT * self.outbox.bytes() as u64;
    }

    /// The job that ended first, when jobs hold more of the journal than they may.
    pub fn squeezed(&mut self) -> Option<Leaving> {
        if self.room.used <= self.room.max / 2 { None } else { self.oldest() }
    }
}
