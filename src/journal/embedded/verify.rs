//! Verifies a journal: reads every byte of the log, and lists the damage.

use std::collections::HashSet;

use super::{StoreError, items::Restored, segments::Scan};
use crate::{
    clock::Clock,
    journal::{
        Config, Verified,
        log::{Log, Stored},
        new_epoch,
    },
};

/// The readable content of a journal, and its damage.
pub(super) struct Found {
    pub verified: Verified,
    /// The index, without limits and with a new epoch. It has events and records that cannot be read.
    pub log: Log,
    /// Segment and position of bodies that have changed.
    damaged: HashSet<(u32, u32)>,
}

/// Reads everything.
pub(super) fn verify(scan: &Scan) -> Result<Found, StoreError> {
    let mut restored = Restored::default();
    let content = scan.read(&mut restored).map_err(|error| StoreError::io(&error))?;
    let mut state = content.state();
    if !content.damage.is_empty() || scan.high_water_mark.is_err() {
        restored.complete(&scan.files(), &mut state);
    }
    let damaged = std::mem::take(&mut restored.damaged);
    let log = restored.finish(&Config::unlimited(), new_epoch(), &state, Clock::system().moment());
    let stats = log.stats();
    let (events, topics, records) = (stats.events, stats.topics, stats.records);
    let mut verified = Verified { events, topics, records, ..Verified::default() };
    if let Err(why) = &scan.high_water_mark {
        verified.damage("damaged-mark", why.clone());
    }
    for what in &content.damage {
        verified.damage("damaged-commits", what.clone());
    }
    match scan.lost(&content) {
        Some((what, true)) => verified.damage("lost-commits", what),
        Some((what, false)) => {
            verified.note("lost-commits", format!("{what}: the machine stopped before they were on the disk"));
        }
        None => {}
    }
    let mut found = Found { verified: Verified::default(), log, damaged };
    for (offset, _) in found.log.stored_after(0).filter(|(_, stored)| found.is_damaged(*stored)) {
        verified.damage("damaged-event", format!("event {offset} has changed"));
    }
    for (key, _) in found.log.records_after(None).filter(|(_, known)| found.is_damaged(known.stored)) {
        verified.damage("damaged-record", format!("record `{key}` has changed"));
    }
    found.verified = verified;
    Ok(found)
}

// === impl Found ===

impl Found {
    /// True if a body has changed.
    pub(super) fn is_damaged(&self, stored: Stored) -> bool {
        self.damaged.contains(&(stored.segment, stored.position))
    }
}
