//! Equal sources of any relays, which one upstream reads for all of them; pure.
//!
//! The writes of a group follow one another. Between two writes newcomers join, and changes of its relays take place: a
//! change holds the group, which begins no write until it is released.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use super::{
    effect::{AppendFailure, Attempt, Effect, Effects, FAULT, Lane, Work},
    join::{HistoryPage, Join, Next},
    registry::Registry,
};
use crate::{
    durable,
    event::{MAX_TOPICS_PER_EVENT, now_ms},
    journal::{self, AppendError, RecordWrite, Unavailable},
    relay::{
        loops,
        member::Member,
        output::{self, MAX_ORIGIN, RelayOutput, SourceEvent},
        record::{self, Ended, Progress, Reason},
        spec::PlannedSource,
        state::State,
        stats::Stats,
        upstream::{Report, Start, UpstreamId},
    },
    shares::Owner,
    spans,
    topic::Topic,
    upstream::events::{Failure, StreamEvent},
};

/// A group of equal sources.
#[derive(Default)]
pub(super) struct SourceGroup {
    id: UpstreamId,
    /// What the upstream reads; `None` if the settings do not permit it any more.
    pub(super) source: Option<PlannedSource>,
    max_event_bytes: usize,
    /// These get the events that are read.
    pub(super) members: Vec<Arc<Member>>,
    /// These wait for the events that the members got before.
    pub(super) joining: VecDeque<Arc<Member>>,
    join: Option<Join>,
    /// The progress that the journal has.
    progress: Progress,
    state: State,
    pub(super) started: bool,
    /// Reconnects that were ordered. A report from before the last one does not concern the new connection.
    reconnects: u64,
    /// Events that returned to a topic where they had already been.
    looped: u64,
    /// A report that waits until the group may write.
    pub(super) report: Option<Report>,
    write: Option<Write>,
    /// An answer of the journal is awaited.
    pub(super) busy: bool,
    /// The journal did not take the write; it is repeated after a pause.
    pub(super) delayed: bool,
    /// The relays whose deletion holds the group.
    pub(super) held_by: Vec<String>,
    /// The sources are to be given up for this reason.
    failing: Option<Reason>,
    /// Nothing more is read or written.
    over: bool,
}

/// What a group changes beside itself.
pub(super) struct Scope<'a> {
    pub(super) registry: &'a mut Registry,
    pub(super) effects: &'a mut Effects,
}

/// A write until the journal has taken it.
struct Write {
    purpose: Purpose,
    outputs: Vec<RelayOutput>,
    /// The progress after this write.
    progress: Progress,
    /// The error that the sources show after this write.
    error: Option<String>,
    counted: Stats,
    /// An earlier attempt may have been written.
    unclear: bool,
}

/// What a write is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A request that must not be repeated is going to be sent; for all members.
    Request,
    /// A report; for all members.
    Report,
    /// A step of a join; for the newcomer.
    Join,
    /// The last step of a join; for the newcomer.
    LastJoin,
}

/// The first consecutive failures are reported in band; after them only the 16th, 32nd and so on.
const REPORTED_RETRIES: u32 = 8;

// === impl SourceGroup ===

impl SourceGroup {
    /// A group of these members, which continues after this progress; or why the sources cannot be read.
    pub(super) fn new(
        id: UpstreamId,
        source: Result<PlannedSource, Reason>,
        members: Vec<Arc<Member>>,
        progress: Progress,
        max_event_bytes: usize,
    ) -> Self {
        let failing = match &source {
            Ok(PlannedSource { source, .. }) if progress.asked && !source.may_repeat() => {
                let (method, failure) = (source.method.clone(), Box::new(Failure::ClosedEarly));
                Some(reason(&Failure::NotRepeated { method, failure }))
            }
            Ok(_) => None,
            Err(refusal) => Some(refusal.clone()),
        };
        Self { id, source: source.ok(), max_event_bytes, members, progress, failing, ..Self::default() }
    }

    /// True if one more member can join: the sources do not end, and an event has room for the member's topics.
    pub(super) fn fits(&self, newcomer: &Member) -> bool {
        let ending = self.write.as_ref().is_some_and(|write| write.progress.ended.is_some());
        let all = self.members.iter().chain(&self.joining).flat_map(|member| &member.topics);
        let topics: HashSet<&Topic> = all.chain(&newcomer.topics).collect();
        !ending && self.failing.is_none() && topics.len() <= MAX_TOPICS_PER_EVENT
    }

    /// Removes all members of a relay that holds the group.
    pub(super) fn remove(&mut self, relay: &str) {
        self.members.retain(|member| member.relay != relay);
        self.joining.retain(|member| member.relay != relay);
        if self.join.take_if(|join| join.member.relay == relay).is_some() {
            self.write = None;
        }
        self.over |= self.members.is_empty() && self.joining.is_empty();
    }

    /// Makes the connection anew.
    pub(super) fn reconnect(&mut self, scope: &mut Scope<'_>) {
        if self.started {
            self.reconnects += 1;
            self.state = State::Connecting;
            scope.effects.push(Effect::Reconnect(self.id, self.owner(scope)));
            self.show(scope, None);
        }
    }

    /// Gives the sources up, because this program itself has failed them.
    pub(super) fn fail(&mut self, error: String) {
        let remote = self.source.as_ref().map(|source| source.source.remote.name());
        for member in &self.members {
            let Member { relay, label, .. } = &**member;
            let _span = spans::relay(relay).entered();
            tracing::error!(relay_id = relay, label, remote, error, "a source of a relay was given up");
        }
        self.failing.get_or_insert(Reason { error, code: "internal".to_owned() });
    }

    /// Carries out the next steps, until the group has to wait. True when it is over.
    pub(super) fn advance(&mut self, scope: &mut Scope<'_>) -> bool {
        if self.failing.is_some() && !self.busy {
            self.write = None;
        }
        if !self.over && !self.busy && !self.delayed && self.held_by.is_empty() {
            if self.write.is_none() {
                self.prepare(scope);
            }
            self.attempt(scope.effects);
        }
        self.over
    }

    /// Takes the answer of the journal to a write.
    pub(super) fn appended(&mut self, result: Result<(), AppendFailure>, scope: &mut Scope<'_>) {
        self.busy = false;
        match result {
            Ok(()) => self.written(scope),
            Err(AppendFailure::Journal(AppendError::Unavailable(Unavailable::Closed))) => self.over = true,
            Err(AppendFailure::Journal(error @ (AppendError::Unavailable(_) | AppendError::Conflict(_)))) => {
                self.postpone(&error.to_string(), scope);
            }
            // A newcomer whose write is refused reads the remote itself; the others are not affected.
            Err(_) if self.join.is_some() => {
                (self.write, self.join) = (None, None);
                scope.effects.detached.extend(self.joining.pop_front());
            }
            Err(AppendFailure::Fault) => self.fail(FAULT.to_owned()),
            Err(AppendFailure::Journal(error)) => {
                self.fail(format!("the journal does not take what the source brought: {error}"));
            }
        }
    }

    /// Takes a page of the history that a newcomer copies.
    pub(super) fn read(&mut self, page: Option<HistoryPage>) {
        self.busy = false;
        if let Some(join) = &mut self.join {
            join.read(page, &self.progress);
        }
    }

    /// Takes the progress with which the sources were given up; `None` if they have no records any more.
    pub(super) fn given_up(&mut self, result: Result<Option<Progress>, Unavailable>, scope: &mut Scope<'_>) {
        self.busy = false;
        match result {
            Ok(Some(progress)) => {
                self.progress = progress;
                self.show(scope, self.failing.as_ref().map(|reason| reason.error.as_str()));
                scope.effects.stats.sources_failed += 1;
                self.over = true;
            }
            Ok(None) | Err(Unavailable::Closed) => self.over = true,
            Err(error) => self.postpone(&error.to_string(), scope),
        }
    }

    /// Repeats the write after a pause.
    fn postpone(&mut self, error: &str, scope: &mut Scope<'_>) {
        self.delayed = true;
        scope.effects.delay(Lane::Upstream(self.id));
        if self.write.as_mut().is_some_and(|write| !std::mem::replace(&mut write.unclear, true)) {
            for member in &self.members {
                let Member { relay, label, .. } = &**member;
                let _span = spans::relay(relay).entered();
                tracing::warn!(relay_id = relay, label, error, "a source of a relay waits for the journal");
            }
            self.show(scope, Some(error));
        }
    }

    /// Prepares the next write, or carries out the steps before it.
    fn prepare(&mut self, scope: &mut Scope<'_>) {
        if let Some(reason) = self.failing.clone() {
            scope.effects.detached.extend(self.joining.drain(..));
            self.over = self.members.is_empty();
            if !self.over {
                self.busy = true;
                scope.effects.work(Work::GiveUp(self.id, self.members.clone(), reason));
            }
            return;
        }
        let Some(PlannedSource { source, start, .. }) = &self.source else { return };
        if !self.started && !source.may_repeat() && !self.progress.asked {
            // A request that must not be repeated is noted before it is sent.
            let mut write = self.write_for(Purpose::Request);
            (write.progress.asked, write.progress.since) = (true, now_ms());
            self.write = Some(write);
            return;
        }
        if !self.started {
            scope.effects.push(Effect::Start(Box::new(Start {
                id: self.id,
                source: source.clone(),
                cursor: self.progress.cursor.clone(),
                resumed: self.progress.opens > 0,
                owner: self.owner(scope),
            })));
            self.started = true;
        }
        while let Some(newcomer) = self.joining.front() {
            let elder = self.members.first().map(Arc::as_ref);
            let join = self.join.get_or_insert_with(|| Join::new(newcomer.clone(), start, &self.progress, elder));
            let (purpose, outputs, progress) = match join.next(&self.progress, self.state) {
                Next::Read(history) => {
                    self.busy = true;
                    return scope.effects.work(Work::Read(self.id, history));
                }
                Next::Detach => {
                    self.join = None;
                    scope.effects.detached.extend(self.joining.pop_front());
                    continue;
                }
                Next::Write(outputs, own) => (Purpose::Join, outputs, own),
                Next::Last(progress) => (Purpose::LastJoin, Vec::new(), progress),
            };
            self.write = Some(Write { outputs, progress, ..self.write_for(purpose) });
            return;
        }
        self.over = self.members.is_empty();
        if let Some(report) = self.report.take() {
            self.take(report, scope);
        }
    }

    /// Turns a report into a write, if it needs one.
    fn take(&mut self, report: Report, scope: &mut Scope<'_>) {
        let Report { reconnects, mut outputs, counted, missed, then, cursor, .. } = report;
        let looped = loops::count(&mut outputs, &self.members, self.looped);
        let mut write = self.write_for(Purpose::Report);
        write.counted = Stats { events: counted.events.saturating_sub(looped), loops_dropped: looped, ..counted };
        write.progress.cursor = cursor;
        write.progress.missed |= missed;
        // A report without events and without a state brings a position.
        let mut needed = !outputs.is_empty() || then.is_none();
        write.outputs = outputs;
        let outdated = reconnects != self.reconnects;
        let event = match then.filter(|then| !outdated || matches!(then, StreamEvent::End(_))) {
            None | Some(StreamEvent::Events(_)) => None,
            Some(StreamEvent::Open { resumed_after, may_have_missed, .. }) => {
                // Counted here: the client of the stream does not know of earlier runs of the node.
                let reconnects = write.progress.opens;
                write.progress.opens += 1;
                write.progress.missed |= may_have_missed;
                write.counted.reconnects = u64::from(reconnects > 0);
                self.state = State::Open;
                let resumed_after = resumed_after.filter(|id| id.len() <= MAX_ORIGIN);
                Some(SourceEvent::Open { reconnects, resumed_after, may_have_missed })
            }
            Some(StreamEvent::Retry { attempt, delay, failure }) => {
                self.state = State::Waiting;
                let Reason { error, code } = reason(&failure);
                write.error = Some(error.clone());
                let retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                // A remote that is gone for days must not push the events of others out of the topics.
                let reported = attempt <= REPORTED_RETRIES || attempt.is_power_of_two();
                reported.then_some(SourceEvent::Retry { attempt, retry_in_ms, error, code })
            }
            Some(StreamEvent::End(end)) => {
                write.progress.ended = Some(Ended::Complete(end));
                Some(SourceEvent::Complete { events: write.progress.cursor.events, end })
            }
            Some(StreamEvent::GaveUp(failure)) => {
                let reason = reason(&failure);
                write.progress.ended = Some(Ended::Failed(reason.clone()));
                write.counted.sources_failed = 1;
                Some(SourceEvent::Error(reason))
            }
        };
        if let Some(event) = event {
            write.progress.since = now_ms();
            write.outputs.push(RelayOutput::Source(event));
            needed = true;
        }
        if needed {
            self.write = Some(write);
        } else {
            self.show(scope, write.error.as_deref());
            scope.effects.push(Effect::Taken(self.id));
        }
    }

    /// An empty write behind the last one.
    fn write_for(&self, purpose: Purpose) -> Write {
        Write {
            purpose,
            outputs: Vec::new(),
            progress: Progress { seq: self.progress.seq + 1, ..self.progress.clone() },
            error: None,
            counted: Stats::default(),
            unclear: false,
        }
    }

    /// Tries the write, for all that want it now.
    fn attempt(&mut self, effects: &mut Effects) {
        let Some(write) = &self.write else { return };
        let newcomer = self.join.as_ref().map(|join| std::slice::from_ref(&join.member));
        let members = newcomer.unwrap_or(&self.members);
        let events = output::drafts(&write.outputs, members, self.max_event_bytes);
        let value = durable::encode(&write.progress);
        let key = |member: &Arc<Member>| record::cursor_key(&member.relay, member.index);
        let records = members.iter().map(|member| RecordWrite { key: key(member), value: Some(value.clone()) });
        let batch = journal::Batch { records: records.collect(), events, ..Default::default() };
        (self.busy, self.over) = (!members.is_empty(), members.is_empty());
        if self.busy {
            let unclear = write.unclear.then_some(write.progress.seq);
            effects.work(Work::Append(Lane::Upstream(self.id), Attempt { batch, unclear }));
        }
    }

    /// The journal has taken the write.
    fn written(&mut self, scope: &mut Scope<'_>) {
        let Some(write) = self.write.take() else { return };
        match write.purpose {
            Purpose::Join => return,
            Purpose::LastJoin => {
                self.join = None;
                self.members.extend(self.joining.pop_front());
            }
            Purpose::Report => {
                self.looped += write.counted.loops_dropped;
                scope.effects.push(Effect::Taken(self.id));
            }
            Purpose::Request => {}
        }
        self.progress = write.progress;
        self.show(scope, write.error.as_deref());
        scope.effects.stats.add(write.counted);
        self.over = self.progress.ended.is_some();
    }

    /// Shows what the journal has, and an error if there is one, at all members.
    fn show(&self, scope: &mut Scope<'_>, error: Option<&str>) {
        for member in &self.members {
            if let Some(source) = scope.registry.source_mut(member) {
                source.update(&self.progress, self.state, error);
            }
        }
    }

    /// The connection counts for the user of the first relay.
    fn owner(&self, scope: &Scope<'_>) -> Owner {
        let first = self.members.first()?;
        scope.registry.get(&first.relay)?.user.as_deref().map(Into::into)
    }
}

fn reason(failure: &Failure) -> Reason {
    Reason { error: failure.to_string(), code: failure.code().to_owned() }
}
