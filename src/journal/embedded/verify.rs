//! Verifies a journal: every row by itself, and whether the rows belong together.

use std::collections::BTreeSet;

use super::{
    EmbeddedState,
    data_dir::exists,
    rows,
    scan::Scan,
    snapshot::JournalSnapshot,
    store::{Store, StoreError},
    values,
};
use crate::{clock::Clock, journal::Verified};

/// Number of events or records that are read from the index under one lock.
const ROWS_AT_ONCE: usize = 1024;

/// Reads a stopped journal and finds its damage.
pub(super) fn scan(snapshot: &JournalSnapshot) -> Result<Scan, StoreError> {
    let store = snapshot.store();
    if !exists(&store).map_err(|error| StoreError::io(&error))? {
        return Err(StoreError::Damaged("its directory `journal/store` is missing".to_owned()));
    }
    let mut scan = Scan::of(&Store::open(&store)?)?;
    logs(&mut scan, snapshot);
    high_water_mark(&mut scan, snapshot);
    events(&mut scan);
    records(&mut scan);
    Ok(scan)
}

fn logs(scan: &mut Scan, snapshot: &JournalSnapshot) {
    if snapshot.logs.damaged > 0 {
        let what = format!("damaged parts of the store's log, followed by commits: {}", snapshot.logs.damaged);
        scan.findings.damage("damaged-log", what);
        scan.index_incomplete = true;
    }
    if snapshot.logs.tail > 0 {
        let what = format!("the store's log ends with {} bytes that are not a whole commit", snapshot.logs.tail);
        scan.findings.note("log-tail", what);
    }
}

fn high_water_mark(scan: &mut Scan, snapshot: &JournalSnapshot) {
    match &snapshot.high_water_mark {
        Err(why) => scan.findings.damage("damaged-mark", format!("`journal/MARK`: {why}")),
        Ok(None) => scan.findings.damage("damaged-mark", "`journal/MARK` is missing"),
        Ok(Some(high_water_mark)) => {
            let Some(commit) = scan.state.map(|state| state.commit) else { return };
            let what =
                format!("commit {} was acknowledged, and the store ends with commit {commit}", high_water_mark.commit);
            if commit >= high_water_mark.commit {
                // Nothing is missing.
            } else if snapshot.may_have_lost() {
                scan.findings.note("lost-commits", format!("{what}: the machine stopped before they were on the disk"));
            } else {
                scan.findings.damage("lost-commits", what);
            }
        }
    }
}

/// Compares index and events, in both directions.
fn events(scan: &mut Scan) {
    let log = scan.log(Clock::system().moment());
    let findings = &mut scan.findings;
    let head = scan.state.map_or(u64::MAX, |state| state.log_state().head);
    for meta in scan.event_metas.values() {
        let offset = meta.offset;
        if offset > head {
            findings.damage("beyond-head", format!("event {offset} is beyond the end of the journal, {head}"));
        }
        match scan.events.get(&offset) {
            None if log.contains(offset) && !scan.bad_events.contains(&offset) => {
                findings.damage("missing-data", format!("event {offset} has no data"));
            }
            Some(primary_topic) if *primary_topic != meta.topics[0] => {
                findings.damage("misplaced", format!("event {offset} is not under the topic of the index"));
            }
            _ => {}
        }
    }
    for offset in scan.events.keys().filter(|offset| !log.contains(**offset)) {
        findings.note("orphan", format!("event {offset} was deleted, and its data are still on the disk"));
    }
}

fn records(scan: &mut Scan) {
    let findings = &mut scan.findings;
    // One finding per record: a damaged row of a value was reported when it was read.
    let is_bad = |key: &str| scan.bad_records.contains(&rows::record_key(key));
    for (key, record) in scan.records.iter().filter(|(key, _)| !is_bad(key)) {
        match (scan.values.get(key), scan.value_rows.get(key)) {
            (None, None) => findings.damage("missing-data", format!("record `{key}` has no value")),
            (None, Some(_)) => findings.damage("missing-data", format!("record `{key}` has only parts of its value")),
            (Some(value), _) if !value.is_of(record) => {
                findings.damage("misplaced", format!("record `{key}` has another size or revision"));
            }
            (Some(value), Some(value_rows)) if value_rows.has_other_rows(value) => {
                findings.damage("not-indexed", format!("record `{key}` has rows of another value"));
            }
            (Some(_), _) => {}
        }
    }
    for key in scan.value_rows.keys().filter(|key| !scan.records.contains_key(*key) && !is_bad(key)) {
        findings.damage("not-indexed", format!("record `{key}` is not in the index"));
    }
}

// === impl EmbeddedState ===

impl EmbeddedState {
    /// Verifies a journal in use: each row, and that everything in the index exists.
    pub(super) fn verify(&self) -> Result<Verified, StoreError> {
        let store = self.with_store(|store| Ok(store.clone()))?;
        let Scan { mut findings, bad_records, .. } = Scan::of(&store)?;
        let (head, mut after) = (self.log().head(), 0);
        while after < head {
            let part: Vec<_> = self.log().event_metas(after, head).take(ROWS_AT_ONCE).collect();
            after = part.last().map_or(head, |meta| meta.offset);
            for meta in part {
                let there = matches!(store.get(rows::event_key(meta.topics[0], meta.offset)), Ok(Some(_)));
                // The event may have been deleted meanwhile. Damage was found before.
                if !there && self.log().contains(meta.offset) {
                    findings.damage("missing-data", format!("event {} has no data", meta.offset));
                }
            }
        }
        self.verify_records(&store, &bad_records, &mut findings);
        Ok(findings)
    }

    fn verify_records(&self, store: &Store, bad: &BTreeSet<Vec<u8>>, findings: &mut Verified) {
        let mut after = None;
        loop {
            let part = self.log().record_keys("", after.as_deref(), ROWS_AT_ONCE);
            let Some(last) = part.last() else { return };
            after = Some(last.clone());
            for name in part.iter().filter(|name| !bad.contains(&rows::record_key(name))) {
                let Some(known) = self.log().record(name) else { continue };
                // Rows may be deleted or replaced meanwhile. Damage was found before.
                if values::lacks_rows(store, name, known.size)
                    && let Err(StoreError::Damaged(what)) = self.record(name)
                {
                    findings.damage("missing-data", what);
                }
            }
        }
    }
}
