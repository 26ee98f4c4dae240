//! A source joins an upstream that other sources read already, and gets the events that they got before; pure.
//!
//! The events are copied from the history of another member. Each copied page and the newcomer's cursor are one commit. So
//! after a crash the newcomer continues as a source that has read that far by itself. If the history is not complete any
//! more, the newcomer reads the remote itself.

use std::sync::Arc;

use crate::{
    event::{SharedEvent, names},
    relay::{
        member::Member,
        output::{RelayOutput, SourceEvent},
        record::Progress,
        state::State,
    },
    topic::Topic,
};

/// A newcomer that is brought to the position of its upstream.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) member: Arc<Member>,
    /// The newcomer's own progress.
    own: Progress,
    stage: Stage,
    /// The history of an older member; `None` if the upstream has brought no events.
    history: Option<History>,
    /// A page that was read and is not written yet.
    page: Option<Vec<SharedEvent>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Counts the events of the history: all of them must be there.
    Count,
    /// Writes that the connection is open.
    Open,
    /// Copies the history.
    Copy,
    /// Writes the progress of the upstream as the newcomer's.
    Last,
    /// The history is not complete.
    Detach,
}

/// The history of a member, as far as it was read.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) topic: Topic,
    /// Only events of the source with this label.
    label: String,
    /// Read after this offset.
    pub(crate) after: u64,
    /// Read up to this offset; `None` means the current head of the journal.
    pub(crate) through: Option<u64>,
    found: u64,
}

/// A page of a history, which continues after it.
pub(crate) type HistoryPage = (History, Vec<SharedEvent>);

/// The next step of a join.
pub(super) enum Next {
    /// Read the next page of this history.
    Read(History),
    /// Write these events for the newcomer, with its progress.
    Write(Vec<RelayOutput>, Progress),
    /// Write the progress of the upstream for the newcomer; then it is a member.
    Last(Progress),
    /// The newcomer must read the remote itself, from the position in its record.
    Detach,
}

// === impl Join ===

impl Join {
    /// Begins to join an upstream with this progress, whose oldest member is `elder`.
    pub(super) fn new(member: Arc<Member>, start: &str, group: &Progress, elder: Option<&Member>) -> Self {
        let history = elder.filter(|_| group.cursor.events > 0).map(History::of);
        let stage = match &history {
            None if group.cursor.events == 0 => Stage::Open,
            // An event that the elder missed may still be at the remote.
            Some(_) if !group.missed => Stage::Count,
            _ => Stage::Detach,
        };
        Self { member, own: Progress::initial(start), stage, history, page: None }
    }

    /// The next step, while the upstream has this progress and this state.
    pub(super) fn next(&mut self, group: &Progress, state: State) -> Next {
        loop {
            match (self.stage, &self.history) {
                (Stage::Count, Some(history)) => return Next::Read(history.clone()),
                (Stage::Open, _) => {
                    self.stage = Stage::Copy;
                    if state == State::Open {
                        self.own.opens = group.opens;
                        self.own.seq += 1;
                        let reconnects = group.opens.saturating_sub(1);
                        let event = SourceEvent::Open { reconnects, resumed_after: None, may_have_missed: false };
                        return Next::Write(vec![RelayOutput::Source(event)], self.own.clone());
                    }
                }
                (Stage::Copy, Some(history)) => {
                    let next = Next::Read(history.clone());
                    return self.page.take().map_or(next, |page| self.copy(page));
                }
                (Stage::Count | Stage::Copy, None) => self.stage = Stage::Last,
                (Stage::Last, _) if self.own.cursor.events != group.cursor.events => self.stage = Stage::Detach,
                // From here on the newcomer's record is that of the upstream.
                (Stage::Last, _) => {
                    return Next::Last(Progress { seq: group.seq.max(self.own.seq) + 1, ..group.clone() });
                }
                (Stage::Detach, _) => return Next::Detach,
            }
        }
    }

    /// Takes a page of the history; `None` at its end, and if the journal could not read it.
    pub(super) fn read(&mut self, page: Option<HistoryPage>, group: &Progress) {
        let Some(history) = &mut self.history else { return };
        match (page, self.stage) {
            (Some((read, mut events)), stage) => {
                *history = read;
                events.retain(|event| event.source() == Some(&history.label));
                if stage == Stage::Count {
                    history.found += events.len() as u64;
                } else if !events.is_empty() {
                    self.page = Some(events);
                }
            }
            (None, Stage::Count) if history.found == group.cursor.events => {
                history.after = 0;
                self.stage = Stage::Open;
            }
            (None, Stage::Copy) => self.stage = Stage::Last,
            (None, _) => self.stage = Stage::Detach,
        }
    }

    fn copy(&mut self, page: Vec<SharedEvent>) -> Next {
        for event in &page {
            let origin = event.origin.as_deref().unwrap_or_default();
            self.own.cursor.add(names::original(event.name()), &event.data, Some(origin));
        }
        self.own.seq += 1;
        Next::Write(page.into_iter().map(RelayOutput::Copy).collect(), self.own.clone())
    }
}

// === impl History ===

impl History {
    fn of(elder: &Member) -> Self {
        let topic = Topic::relay(&elder.relay).expect("an id is a short word");
        Self { topic, label: elder.label.clone(), after: 0, through: None, found: 0 }
    }
}
