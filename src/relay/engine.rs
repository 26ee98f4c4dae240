//! Decides everything about relays and does no I/O: messages come in, effects go out.
//!
//! The actor calls a method for each message, then carries out [`Engine::take_effects`]. The result of each [`Work`] comes
//! back through [`Engine::done`]. State changes when the journal has confirmed the write, so there is nothing to roll
//! back. After an error of the journal that may pass, the write is repeated after a pause.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Config, Created, Deps, Error, Filter, Limits, Listing, Spec, Stats, Status, Summary, View,
    member::Member,
    record::{self, EndRecord, Progress, Reason, SpecRecord},
    recovery::Found,
    spec::{Key, PlannedSource},
    upstream::{Report, UpstreamId},
};
use crate::{
    clock::{Clock, Moment},
    durable::{self, MAX_REQUESTS},
    event::{MAX_TOPICS_PER_EVENT, now_ms},
    journal::{AppendError, Batch, Expect, Unavailable},
    json::FieldError,
    shares::{Denied, Share},
    spans,
    upstream::Remotes,
};

pub(super) mod effect;
pub(super) mod join;
mod registry;
mod source_group;
#[cfg(test)]
mod tests;

use self::{
    effect::{AppendFailure, Caller, Done, Effect, Effects, FAULT, Lane, Work},
    registry::{Change, Deletion, Registry, Relay},
    source_group::{Scope, SourceGroup},
};

/// The relays of a node.
pub(super) struct Engine {
    config: Config,
    remotes: Remotes,
    share: Share,
    clock: Clock,
    max_event_bytes: usize,
    registry: Registry,
    /// Relays whose first records are being written.
    creating: HashMap<String, Creating>,
    groups: BTreeMap<UpstreamId, SourceGroup>,
    /// The groups of equal sources.
    equal: HashMap<Key, Vec<UpstreamId>>,
    last_upstream: UpstreamId,
    ids: ulid::Generator,
    effects: Effects,
    /// Last events of relays that are in flight. Readers of the journal may see them already.
    ends_in_flight: usize,
    /// Questions that came meanwhile: for a client that has read the last event the relay must not be running.
    questions: Vec<Question>,
    /// An expired relay is being removed; one at a time.
    removing: bool,
    stopping: bool,
}

/// A relay whose first records are being written.
struct Creating {
    relay: Relay,
    sources: Vec<PlannedSource>,
    caller: Caller<Created>,
    /// Why it was not written. What may have been written after all is being deleted.
    failed: Option<Unavailable>,
}

/// A question about relays.
pub(super) enum Question {
    View(String, Caller<View>),
    Summary(String, Caller<Summary>),
    List(Filter, Caller<Listing>),
}

// === impl Engine: messages ===

impl Engine {
    /// An engine without relays.
    pub(super) fn new(config: Config, deps: &Deps) -> Self {
        Self {
            config,
            remotes: deps.remotes.clone(),
            share: deps.share,
            clock: deps.clock.clone(),
            max_event_bytes: deps.max_event_bytes,
            registry: Registry::default(),
            creating: HashMap::new(),
            groups: BTreeMap::new(),
            equal: HashMap::new(),
            last_upstream: 0,
            ids: ulid::Generator::new(),
            effects: Effects::default(),
            ends_in_flight: 0,
            questions: Vec::new(),
            removing: false,
            stopping: false,
        }
    }

    /// The effects since the last call.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        self.effects.take()
    }

    /// Figures for metrics and status.
    pub(super) fn stats(&self) -> Stats {
        let (running, ended) = (self.registry.running() as u64, self.registry.ended() as u64);
        Stats { relays_running: running, relays_ended: ended, ..self.effects.stats }
    }

    /// Creates a relay of this user. The caller is answered when the journal has its records.
    pub(super) fn create(
        &mut self,
        spec: Spec,
        sources: Vec<PlannedSource>,
        user: Option<String>,
        caller: Caller<Created>,
    ) {
        if let Err(error) = self.admit(user.as_deref(), spec.bytes()) {
            return self.effects.answer(caller, Err(error));
        }
        let id = durable::new_id(&mut self.ids).to_string();
        let progress: Vec<_> = sources.iter().map(|source| Progress::initial(&source.start)).collect();
        let record = SpecRecord { version: record::VERSION, created_at: now_ms(), user, spec };
        let mut records = vec![durable::put(record::RELAYS.spec(&id), &record)];
        let cursor = |(index, progress)| durable::put(record::cursor_key(&id, index), progress);
        records.extend(progress.iter().enumerate().map(cursor));
        let relay = Relay::new(id.clone(), record, &progress, None);
        self.creating.insert(id.clone(), Creating { relay, sources, caller, failed: None });
        self.effects.append(Lane::Relay(id), Batch { records, ..Batch::default() });
    }

    /// Ends a relay and forgets it. The caller is answered when the journal has that.
    pub(super) fn delete(&mut self, id: &str, caller: Caller<()>) {
        self.request(id, Change::Delete(Some(caller), Deletion::Holding));
    }

    /// Makes all connections of a relay anew, and begins ended sources again.
    pub(super) fn restart(&mut self, id: &str, caller: Caller<()>) {
        self.request(id, Change::Restart(Ok(caller)));
    }

    /// Answers a question, once no last event of a relay is in flight.
    pub(super) fn ask(&mut self, question: Question) {
        self.questions.push(question);
        self.answer_questions();
    }

    /// Takes a report of an upstream.
    pub(super) fn reported(&mut self, report: Report) {
        self.with_group(report.upstream, |group, _| group.report = Some(report));
    }

    /// Records that an upstream has ended without a report: its actor has panicked.
    pub(super) fn upstream_died(&mut self, id: UpstreamId) {
        self.with_group(id, |group, _| group.fail(FAULT.to_owned()));
    }

    /// Takes a result of the journal.
    pub(super) fn done(&mut self, done: Done) {
        self.effects.in_flight -= 1;
        match done {
            Done::Append(Lane::Upstream(id), result) => {
                self.with_group(id, |group, scope| group.appended(result, scope));
            }
            Done::Read(id, page) => self.with_group(id, |group, _| group.read(page)),
            Done::GiveUp(id, result) => self.with_group(id, |group, scope| group.given_up(result, scope)),
            Done::Append(Lane::Relay(id), result) => match self.creating.remove(&id) {
                Some(creating) => self.created(id, creating, result),
                None => self.change_appended(&id, result),
            },
            Done::Reopen(id, result) => self.reopened(&id, result),
            Done::Purge => {}
        }
        self.answer_questions();
    }

    /// Repeats what the journal did not take; the pause is over.
    pub(super) fn retry(&mut self) {
        for lane in std::mem::take(&mut self.effects.delayed) {
            match lane {
                Lane::Upstream(id) => self.with_group(id, |group, _| group.delayed = false),
                Lane::Relay(id) => {
                    if let Some(relay) = self.registry.get_mut(&id) {
                        relay.queue.extend(std::mem::take(&mut relay.delayed));
                        self.run(&id);
                    }
                }
            }
        }
    }

    /// Removes ended relays whose time is over.
    pub(super) fn sweep(&mut self) {
        if !self.removing {
            self.remove_next();
        }
    }

    /// Begins the relays that the journal has kept. Equal sources at the same position share an upstream again.
    pub(super) fn restore(&mut self, found: Vec<Found>, unreadable: u64) {
        self.effects.stats.records_unreadable = unreadable;
        let mut sharing: HashMap<_, Vec<_>> = HashMap::new();
        let now = self.clock.moment();
        for Found { id, record, progress, end } in found {
            let end = end.map(|EndRecord { status, ended_at: wall }| {
                // The age of an end that is ahead of the clock begins now.
                let steady = now.steady.saturating_sub(now.wall.saturating_sub(wall));
                (status, Moment { steady, wall })
            });
            self.registry.insert(Relay::new(id.clone(), record, &progress, end));
            if end.is_some() {
                continue;
            }
            for (index, progress) in progress.into_iter().enumerate() {
                if progress.ended.is_none()
                    && let Some((source, member)) = self.plan(&id, index, &progress)
                {
                    let position = serde_json::to_string(&progress.cursor).expect("plain data serialises");
                    sharing.entry((source.key, position)).or_default().push((source, member, progress));
                }
            }
            // Its last source may have ended just before the node did.
            self.change(&id, Change::End(None));
        }
        self.registry.sort();
        // A source has at most two topics.
        for part in sharing.values().flat_map(|sharing| sharing.chunks(MAX_TOPICS_PER_EVENT / 2)) {
            let members = part.iter().map(|(_, member, _)| member.clone()).collect();
            let furthest = part.iter().max_by_key(|(_, _, progress)| progress.seq).expect("a chunk is not empty");
            self.begin(Ok(furthest.0.clone()), members, furthest.2.clone());
        }
    }

    /// Stops all upstreams and begins nothing more. The relays stay in the journal as they are.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        for (id, group) in &self.groups {
            if group.started {
                self.effects.push(Effect::Stop(*id));
            }
        }
        let queued: Vec<_> = self.registry.relays_mut().flat_map(|relay| std::mem::take(&mut relay.queue)).collect();
        queued.into_iter().for_each(|change| self.refuse(change, Error::Stopping));
    }

    /// True when the engine was stopped and nothing is in flight.
    pub(super) fn stopped(&self) -> bool {
        self.stopping && self.effects.in_flight == 0
    }
}

// === impl Engine: relays ===

impl Engine {
    fn admit(&mut self, user: Option<&str>, bytes: usize) -> Result<(), Error> {
        if self.stopping {
            return Err(Error::Stopping);
        }
        let (max, creating) = (self.config.max_relays, self.creating.values().map(|creating| &creating.relay));
        self.registry.room(creating, max, self.share, user, bytes).map_err(|denied| match denied {
            Denied::Pool => Error::Full(max),
            Denied::Share => {
                self.effects.stats.shares_refused += 1;
                Error::Share
            }
        })
    }

    fn created(&mut self, id: String, creating: Creating, result: Result<(), AppendFailure>) {
        let Creating { relay, sources, caller, failed } = creating;
        match (failed, result) {
            (None, Err(failure)) => {
                // The answer may have been lost, so the relay may exist: its records are deleted.
                let (records, failed) = (relay.delete_records(), Some(failure.into()));
                self.creating.insert(id.clone(), Creating { relay, sources, caller, failed });
                self.effects.append(Lane::Relay(id), Batch { records, ..Batch::default() });
            }
            (Some(error), _) => self.effects.answer(caller, Err(error.into())),
            (None, Ok(())) => {
                let Summary { topic, status, events_url, .. } = relay.summary();
                let members: Vec<_> = (0..sources.len()).map(|index| relay.member(index)).collect();
                self.registry.insert(relay);
                for (source, member) in sources.into_iter().zip(members) {
                    self.attach(source, member);
                }
                self.effects.answer(caller, Ok(Created { id, topic, status, events_url }));
            }
        }
    }

    /// Takes a change that a client asks for.
    fn request(&mut self, id: &str, change: Change) {
        match self.registry.get(id) {
            _ if self.stopping => self.refuse(change, Error::Stopping),
            None => self.refuse(change, Error::Unknown(id.to_owned())),
            // Each client waits for the answer to its change, unless it has disconnected.
            Some(relay) if relay.queue.len() > MAX_REQUESTS => self.refuse(change, Unavailable::Busy.into()),
            Some(_) => self.change(id, change),
        }
    }

    fn refuse(&mut self, change: Change, error: Error) {
        match change {
            Change::Delete(Some(caller), _) | Change::Restart(Ok(caller)) => self.effects.answer(caller, Err(error)),
            Change::Delete(None, _) => self.removing = false,
            Change::Restart(Err(_)) | Change::End(_) => {}
        }
    }

    fn change(&mut self, id: &str, change: Change) {
        if let Some(relay) = self.registry.get_mut(id) {
            relay.queue.push_back(change);
            self.run(id);
        }
    }

    /// Begins the next changes of a relay, until one has to wait for the journal.
    fn run(&mut self, id: &str) {
        while !self.stopping
            && let Some(relay) = self.registry.get_mut(id).filter(|relay| relay.current.is_none())
            && let Some(change) = relay.queue.pop_front()
        {
            match change {
                // It runs again.
                Change::Delete(None, _) if !relay.status.ended() => self.remove_next(),
                Change::Delete(..) => {
                    relay.current = Some(change);
                    for upstream in relay.upstreams() {
                        if let Some(group) = self.groups.get_mut(&upstream) {
                            group.held_by.push(id.to_owned());
                        }
                    }
                    self.delete_when_held(id);
                }
                Change::Restart(scope) => self.begin_restart(id, scope),
                Change::End(_) => self.begin_end(id),
            }
        }
    }

    /// Repeats a change after a pause, unless the journal is closed.
    fn delay_change(&mut self, id: &str, change: Change, error: &Unavailable) {
        if let Some(relay) = self.registry.get_mut(id)
            && !matches!(error, Unavailable::Closed)
        {
            relay.failures += 1;
            if relay.failures.is_power_of_two() {
                let _span = spans::relay(id).entered();
                tracing::warn!(relay_id = id, %error, failures = relay.failures, "a relay waits for the journal");
            }
            relay.delayed.push(change);
            self.effects.delay(Lane::Relay(id.to_owned()));
        }
    }

    /// Deletes a relay, once no write of its upstreams is in flight.
    fn delete_when_held(&mut self, id: &str) {
        let Some(relay) = self.registry.get_mut(id) else { return };
        let busy = relay.upstreams().iter().any(|upstream| self.groups.get(upstream).is_some_and(|group| group.busy));
        let Some(Change::Delete(_, stage @ Deletion::Holding)) = &mut relay.current else { return };
        if busy {
            return;
        }
        *stage = Deletion::Whole;
        let events = if relay.status.ended() { Vec::new() } else { vec![relay.last_event(Status::Deleted)] };
        let records = relay.delete_records();
        self.append_end(id, Batch { events, records, ..Batch::default() });
    }

    fn begin_end(&mut self, id: &str) {
        let Some(relay) = self.registry.get_mut(id) else { return };
        let (status, at) = (relay.outcome(), self.clock.moment());
        if relay.status.ended() || !status.ended() {
            return;
        }
        relay.current = Some(Change::End(Some(at)));
        let batch = Batch {
            events: vec![relay.last_event(status)],
            records: vec![durable::put(record::end_key(id), &EndRecord { status, ended_at: at.wall })],
            expect: vec![Expect { key: record::end_key(id), revision: None }],
        };
        self.append_end(id, batch);
    }

    fn append_end(&mut self, id: &str, batch: Batch) {
        self.ends_in_flight += 1;
        self.effects.append(Lane::Relay(id.to_owned()), batch);
    }

    fn change_appended(&mut self, id: &str, result: Result<(), AppendFailure>) {
        self.ends_in_flight -= 1;
        let Some(relay) = self.registry.get_mut(id) else { return };
        let Some(change) = relay.current.take() else { return };
        match (change, result) {
            // A conflict: an earlier attempt was written.
            (Change::End(Some(at)), Ok(()) | Err(AppendFailure::Journal(AppendError::Conflict(_)))) => {
                let status = relay.outcome();
                self.registry.end(id, status, at);
            }
            (change @ Change::End(_), Err(failure)) => self.delay_change(id, change, &failure.into()),
            (
                Change::Delete(caller, Deletion::Whole),
                Err(AppendFailure::Journal(AppendError::Unavailable(Unavailable::Full(_)))),
            ) => {
                relay.current = Some(Change::Delete(caller, Deletion::Records));
                let records = relay.delete_records();
                return self.append_end(id, Batch { records, ..Batch::default() });
            }
            (Change::Delete(caller, _), result) => self.deleted(id, caller, result),
            (Change::End(None) | Change::Restart(_), _) => {}
        }
        self.run(id);
    }

    fn deleted(&mut self, id: &str, caller: Option<Caller<()>>, result: Result<(), AppendFailure>) {
        let (held, gone) = (self.registry.get(id).map(Relay::upstreams).unwrap_or_default(), result.is_ok());
        if gone {
            let waiting = self.registry.remove(id).into_iter().flat_map(|relay| relay.queue);
            waiting.for_each(|change| self.refuse(change, Error::Unknown(id.to_owned())));
        }
        match (caller, result.map_err(Unavailable::from)) {
            (Some(caller), result) => self.effects.answer(caller, result.map_err(Into::into)),
            (None, Ok(())) => {
                self.effects.work(Work::Purge(id.to_owned()));
                self.remove_next();
            }
            (None, Err(error)) => {
                let _span = spans::relay(id).entered();
                tracing::warn!(relay_id = id, %error, "an ended relay could not be removed; trying again");
                self.registry.keep(id);
                self.removing = false;
            }
        }
        for upstream in held {
            self.with_group(upstream, |group, _| {
                group.held_by.retain(|holder| holder != id);
                if gone {
                    group.remove(id);
                }
            });
        }
    }

    fn begin_restart(&mut self, id: &str, scope: Result<Caller<()>, usize>) {
        let Some(relay) = self.registry.get_mut(id) else { return };
        let (user, ended) = (relay.user.clone(), relay.status.ended());
        let idle = relay.sources.iter().enumerate().filter(|(_, source)| source.upstream.is_none());
        let mut again: Vec<usize> = idle.map(|(index, _)| index).collect();
        match &scope {
            // Another restart may have been faster.
            Err(source) => again.retain(|index| index == source),
            Ok(_) => {
                for upstream in relay.upstreams() {
                    self.with_group(upstream, SourceGroup::reconnect);
                }
            }
        }
        let admitted = if ended && !again.is_empty() { self.admit(user.as_deref(), 0) } else { Ok(()) };
        match (admitted, scope) {
            (Ok(()), scope) if !again.is_empty() => {
                if let Some(relay) = self.registry.get_mut(id) {
                    relay.current = Some(Change::Restart(scope));
                }
                self.effects.work(Work::Reopen(id.to_owned(), again));
            }
            (admitted, Ok(caller)) => self.effects.answer(caller, admitted),
            (_, Err(_)) => {}
        }
    }

    fn reopened(&mut self, id: &str, result: Result<Vec<(usize, Progress)>, Unavailable>) {
        let Some(relay) = self.registry.get_mut(id) else { return };
        let Some(Change::Restart(scope)) = relay.current.take() else { return };
        match (result, scope) {
            (Ok(progress), scope) => {
                progress.iter().for_each(|(index, progress)| relay.sources[*index].reopen(progress));
                self.registry.reopen(id);
                for (index, progress) in progress {
                    if let Some((source, member)) = self.plan(id, index, &progress) {
                        self.begin(Ok(source), vec![member], progress);
                    }
                }
                if let Ok(caller) = scope {
                    self.effects.answer(caller, Ok(()));
                }
            }
            (Err(error), Ok(caller)) => self.effects.answer(caller, Err(error.into())),
            (Err(error), scope) => self.delay_change(id, Change::Restart(scope), &error),
        }
        self.run(id);
    }

    fn remove_next(&mut self) {
        let expired = self.registry.expired(self.clock.steady_ms(), self.config.retention_ms);
        self.removing = expired.is_some();
        if let Some(id) = expired {
            self.change(&id, Change::Delete(None, Deletion::Holding));
        }
    }

    fn answer_questions(&mut self) {
        if self.ends_in_flight > 0 {
            return;
        }
        for question in std::mem::take(&mut self.questions) {
            let find = |id: String| self.registry.get(&id).ok_or(Error::Unknown(id));
            match question {
                Question::View(id, caller) => self.effects.answer(caller, find(id).map(Relay::view)),
                Question::Summary(id, caller) => self.effects.answer(caller, find(id).map(Relay::summary)),
                Question::List(filter, caller) => self.effects.answer(caller, Ok(self.registry.list(&filter))),
            }
        }
    }
}

// === impl Engine: upstreams ===

impl Engine {
    /// Reads a source from its start: with an upstream that reads the same, if there is one.
    fn attach(&mut self, source: PlannedSource, member: Arc<Member>) {
        let equal = self.equal.get(&source.key).into_iter().flatten().copied();
        let open = equal.into_iter().find(|id| self.groups.get(id).is_some_and(|group| group.fits(&member)));
        let Some(id) = open else {
            let progress = Progress::initial(&source.start);
            return self.begin(Ok(source), vec![member], progress);
        };
        self.bind(&member, Some(id));
        self.with_group(id, |group, _| group.joining.push_back(member));
    }

    /// Reads a source for these members through a new upstream, from where they are; or gives it up.
    fn begin(&mut self, source: Result<PlannedSource, Reason>, members: Vec<Arc<Member>>, progress: Progress) {
        self.last_upstream += 1;
        let id = self.last_upstream;
        members.iter().for_each(|member| self.bind(member, Some(id)));
        if let Ok(source) = &source {
            self.equal.entry(source.key).or_default().push(id);
        }
        self.groups.insert(id, SourceGroup::new(id, source, members, progress, self.max_event_bytes));
        self.with_group(id, |_, _| ());
    }

    fn bind(&mut self, member: &Member, upstream: Option<UpstreamId>) {
        if let Some(source) = self.registry.source_mut(member) {
            source.upstream = upstream;
        }
    }

    /// A source as the current settings permit it. A source that they do not permit any more is given up.
    fn plan(&mut self, id: &str, index: usize, progress: &Progress) -> Option<(PlannedSource, Arc<Member>)> {
        let relay = self.registry.get(id)?;
        let member = relay.member(index);
        match relay.spec.source(index, Limits { config: &self.config, remotes: &self.remotes }) {
            Ok(source) => Some((source, member)),
            Err(FieldError { field, detail }) => {
                let code = if field.ends_with(".remote") { "unknown_remote" } else { "refused" };
                let reason = Reason { error: detail, code: code.to_owned() };
                self.begin(Err(reason), vec![member], progress.clone());
                None
            }
        }
    }

    /// Changes a group, then continues: first deletions that wait for it, then the group itself.
    fn with_group(&mut self, id: UpstreamId, change: impl FnOnce(&mut SourceGroup, &mut Scope<'_>)) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        change(group, &mut Scope { registry: &mut self.registry, effects: &mut self.effects });
        for relay in group.held_by.clone() {
            self.delete_when_held(&relay);
        }
        if let Some(group) = self.groups.get_mut(&id).filter(|_| !self.stopping)
            && group.advance(&mut Scope { registry: &mut self.registry, effects: &mut self.effects })
        {
            self.close(id);
        }
        for member in std::mem::take(&mut self.effects.detached) {
            self.bind(&member, None);
            self.change(&member.relay, Change::Restart(Err(member.index)));
        }
    }

    /// Ends an upstream. Relays whose last source has ended end, too; newcomers read the remote themselves.
    fn close(&mut self, id: UpstreamId) {
        let Some(group) = self.groups.remove(&id) else { return };
        if let Some(key) = group.source.map(|source| source.key)
            && let Some(equal) = self.equal.get_mut(&key)
        {
            equal.retain(|other| *other != id);
            if equal.is_empty() {
                self.equal.remove(&key);
            }
        }
        if group.started {
            self.effects.push(Effect::Stop(id));
        }
        self.effects.detached.extend(group.joining);
        for member in group.members {
            self.bind(&member, None);
            self.change(&member.relay, Change::End(None));
        }
        group.held_by.iter().for_each(|relay| self.delete_when_held(relay));
    }
}
