//! Whether a journal is as it was written: every row by itself, and whether they belong together.

use std::collections::BTreeSet;

use super::{
    Shared,
    look::Look,
    place::there,
    rows,
    store::{Store, StoreError},
    survey::Survey,
    values,
};
use crate::{clock::Clock, journal::Verified};

/// Events or records whose rows are looked for under one lock.
const AT_ONCE: usize = 1024;

/// What is in a stopped journal, and what is wrong with it.
pub(super) fn survey(look: &Look) -> Result<Survey, StoreError> {
    let store = look.store();
    if !there(&store).map_err(|error| StoreError::io(&error))? {
        return Err(StoreError::Damaged("its directory `journal/store` is missing".to_owned()));
    }
    let mut survey = Survey::of(&Store::open(&store)?)?;
    logs(&mut survey, look);
    mark(&mut survey, look);
    events(&mut survey);
    records(&mut survey);
    Ok(survey)
}

fn logs(survey: &mut Survey, look: &Look) {
    if look.logs.damaged > 0 {
        let what = format!("damaged stretches in the store's log, with commits behind them: {}", look.logs.damaged);
        survey.findings.damage("damaged-log", what);
        survey.index_hurt = true;
    }
    if look.logs.tail > 0 {
        let what = format!("the store's log ends with {} bytes that are no whole commit", look.logs.tail);
        survey.findings.note("log-tail", what);
    }
}

fn mark(survey: &mut Survey, look: &Look) {
    match &look.mark {
        Err(why) => survey.findings.damage("damaged-mark", format!("`journal/MARK`: {why}")),
        Ok(None) => survey.findings.damage("damaged-mark", "`journal/MARK` is missing"),
        Ok(Some(mark)) => {
            let Some(commit) = survey.state.map(|state| state.commit) else { return };
            let what = format!("commit {} was acknowledged, and the store ends with commit {commit}", mark.commit);
            if commit >= mark.commit {
                // Nothing is missing.
            } else if look.may_have_lost() {
                survey
                    .findings
                    .note("lost-commits", format!("{what}: the machine stopped before they were on the disk"));
            } else {
                survey.findings.damage("lost-commits", what);
            }
        }
    }
}

/// The index against the events, both ways.
fn events(survey: &mut Survey) {
    let log = survey.log(Clock::system().moment());
    let findings = &mut survey.findings;
    let head = survey.state.map_or(u64::MAX, |state| state.marks().head);
    for meta in survey.metas.values() {
        let offset = meta.offset;
        if offset > head {
            findings.damage("beyond-head", format!("event {offset} is beyond the end of the journal, {head}"));
        }
        match survey.events.get(&offset) {
            None if log.contains(offset) && !survey.bad_events.contains(&offset) => {
                findings.damage("missing-data", format!("event {offset} has no data"));
            }
            Some(home) if *home != meta.topics[0] => {
                findings.damage("misplaced", format!("event {offset} is not where the index has it"));
            }
            _ => {}
        }
    }
    for offset in survey.events.keys().filter(|offset| !log.contains(**offset)) {
        findings.note("orphan", format!("event {offset} was let go and is not cleared away yet"));
    }
}

fn records(survey: &mut Survey) {
    let findings = &mut survey.findings;
    // One finding for each record: a damaged row of a value was reported when it was read.
    let is_bad = |key: &str| survey.bad_records.contains(&rows::record_key(key));
    for (key, record) in survey.records.iter().filter(|(key, _)| !is_bad(key)) {
        match (survey.values.get(key), survey.pieces.get(key)) {
            (None, None) => findings.damage("missing-data", format!("record `{key}` has no value")),
            (None, Some(_)) => findings.damage("missing-data", format!("record `{key}` has only parts of its value")),
            (Some(value), _) if !value.is_of(record) => {
                findings.damage("misplaced", format!("record `{key}` has another size or revision"));
            }
            (Some(value), Some(pieces)) if pieces.exceed(value) => {
                findings.damage("not-indexed", format!("record `{key}` has rows of another value"));
            }
            (Some(_), _) => {}
        }
    }
    for key in survey.pieces.keys().filter(|key| !survey.records.contains_key(*key) && !is_bad(key)) {
        findings.damage("not-indexed", format!("record `{key}` is not in the index"));
    }
}

// === impl Shared ===

impl Shared {
    /// Verifies a journal that is in use: each row, and that all is there that the index has.
    pub(super) fn verify(&self) -> Result<Verified, StoreError> {
        let store = self.with_store(|store| Ok(store.clone()))?;
        let Survey { mut findings, bad_records, .. } = Survey::of(&store)?;
        let (head, mut after) = (self.log().head(), 0);
        while after < head {
            let part: Vec<_> = self.log().metas(after, head).take(AT_ONCE).collect();
            after = part.last().map_or(head, |meta| meta.offset);
            for meta in part {
                let there = matches!(store.get(rows::event_key(meta.topics[0], meta.offset)), Ok(Some(_)));
                // It may have been let go in the meantime; what cannot be read was found before.
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
            let part = self.log().record_keys("", after.as_deref(), AT_ONCE);
            let Some(last) = part.last() else { return };
            after = Some(last.clone());
            for name in part.iter().filter(|name| !bad.contains(&rows::record_key(name))) {
                let Some(known) = self.log().record(name) else { continue };
                // Rows may be deleted or replaced meanwhile; a row that cannot be read was found before.
                if values::lacks_rows(store, name, known.size)
                    && let Err(StoreError::Damaged(what)) = self.record(name)
                {
                    findings.damage("missing-data", what);
                }
            }
        }
    }
}
