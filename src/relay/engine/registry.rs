//! The relays of a node: which exist, in which state, and how many more are accepted; pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::effect::Caller;
use crate::{
    clock::Moment,
    durable::{self, Retention},
    event::{Draft, now_ms},
    journal::RecordWrite,
    relay::{
        Filter, Listing, Spec, Status, Summary, View,
        member::Member,
        output,
        record::{self, Ended, Progress, SpecRecord},
        state::{SourceView, State},
        upstream::UpstreamId,
    },
    shares::{Denied, Share},
    topic::Topic,
};

/// All relays of the node.
#[derive(Default)]
pub(super) struct Registry {
    relays: BTreeMap<String, Relay>,
    /// Ended relays, by the time of their end.
    retention: Retention<u64, String>,
    /// The number of relays that have not ended.
    running: usize,
    /// The sum of the specs' sizes.
    bytes: usize,
}

/// One relay.
pub(super) struct Relay {
    pub(super) id: String,
    pub(super) user: Option<String>,
    pub(super) spec: Spec,
    /// The size of the spec.
    bytes: usize,
    target: Option<Topic>,
    created_at: u64,
    pub(super) status: Status,
    /// When it ended; the age is measured by the steady clock.
    ended: Option<Moment>,
    pub(super) sources: Vec<Source>,
    /// The change that is being written. The changes of a relay follow one another.
    pub(super) current: Option<Change>,
    /// Changes that follow it.
    pub(super) queue: VecDeque<Change>,
    /// Changes that the journal did not take; they are repeated after a pause.
    pub(super) delayed: Vec<Change>,
    /// How often the journal did not take a change.
    pub(super) failures: u32,
}

/// A change of a relay.
pub(super) enum Change {
    /// Delete the relay, once none of its upstreams writes. Without a caller it is an ended relay whose time is over.
    Delete(Option<Caller<()>>, Deletion),
    /// Make all connections anew and begin ended sources again; or begin this source again, without a caller.
    Restart(Result<Caller<()>, usize>),
    /// End the relay if all its sources have ended. The time of the end is set once it is written.
    End(Option<Moment>),
}

/// How far a deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    /// It holds the upstreams of the relay, and waits for their writes that are in flight.
    Holding,
    /// The last event is written, and the records are deleted.
    Whole,
    /// The journal is full, so only the records are deleted: a full journal takes no event, and needs relays to leave.
    Records,
}

/// One source of a relay.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) state: State,
    /// Unix milliseconds.
    since: u64,
    events: u64,
    last_event_id: String,
    reconnects: u64,
    last_error: Option<String>,
    /// The upstream that reads it, or that it is about to join.
    pub(super) upstream: Option<UpstreamId>,
}

/// Maximum size of all specs together, in bytes: they are in memory and in the journal. Above half of it, ended relays
/// leave early, oldest end first.
const MAX_SPEC_BYTES: usize = 64 << 20;
/// Maximum number of ended relays that are kept; more leave early, oldest end first.
const MAX_ENDED: usize = 10_000;

// === impl Registry ===

impl Registry {
    /// Checks whether there is room for one more running relay of this user, with a spec of this size. `creating` are
    /// relays that are not added yet; `share` limits the number and the size of the relays of one user.
    ///
    /// # Errors
    /// When there are `max` relays, the specs are too large, or the user has its share.
    pub(super) fn room<'a>(
        &'a self,
        creating: impl Iterator<Item = &'a Relay> + Clone,
        max: usize,
        share: Share,
        user: Option<&str>,
        bytes: usize,
    ) -> Result<(), Denied> {
        let relays = self.relays.values().chain(creating);
        let [all, own] = [None, Some(user)].map(|of| {
            let relays = relays.clone().filter(|relay| of.is_none_or(|user| relay.user.as_deref() == user));
            let count = relays.clone().filter(|relay| relay.is_counted()).count();
            (count, relays.map(|relay| relay.bytes).sum::<usize>())
        });
        if all.0 >= max || all.1 + bytes > MAX_SPEC_BYTES {
            return Err(Denied::Pool);
        }
        let most = |total: usize, alone| share.most(total as u64, alone);
        if own.0 as u64 >= most(max, own.0 == all.0) || (own.1 + bytes) as u64 > most(MAX_SPEC_BYTES, own.1 == all.1) {
            return Err(Denied::Share);
        }
        Ok(())
    }

    /// Adds a relay.
    pub(super) fn insert(&mut self, relay: Relay) {
        self.bytes += relay.bytes;
        match relay.ended {
            Some(ended) => self.retention.push(ended.steady, relay.id.clone()),
            None => self.running += 1,
        }
        self.relays.insert(relay.id.clone(), relay);
    }

    /// Orders the ended relays by their end, after relays were added in another order.
    pub(super) fn sort(&mut self) {
        self.retention.sort();
    }

    pub(super) fn get(&self, id: &str) -> Option<&Relay> {
        self.relays.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Relay> {
        self.relays.get_mut(id)
    }

    /// The source of a member, if its relay exists.
    pub(super) fn source_mut(&mut self, member: &Member) -> Option<&mut Source> {
        self.relays.get_mut(&member.relay)?.sources.get_mut(member.index)
    }

    pub(super) fn relays_mut(&mut self) -> impl Iterator<Item = &mut Relay> {
        self.relays.values_mut()
    }

    /// Ends a relay.
    pub(super) fn end(&mut self, id: &str, status: Status, at: Moment) {
        if let Some(relay) = self.relays.get_mut(id) {
            (relay.status, relay.ended) = (status, Some(at));
            self.running -= 1;
            self.retention.push(at.steady, id.to_owned());
        }
    }

    /// Begins an ended relay again.
    pub(super) fn reopen(&mut self, id: &str) {
        if let Some(relay) = self.relays.get_mut(id)
            && relay.status.ended()
        {
            (relay.status, relay.ended) = (Status::Running, None);
            self.running += 1;
            self.retention.remove(&relay.id);
        }
    }

    /// Removes a relay.
    pub(super) fn remove(&mut self, id: &str) -> Option<Relay> {
        let relay = self.relays.remove(id)?;
        self.bytes -= relay.bytes;
        match relay.ended {
            Some(_) => self.retention.remove(&relay.id),
            None => self.running -= 1,
        }
        Some(relay)
    }

    /// Takes the next ended relay to remove: its time is over at this monotonic time, or there is no room for it any more.
    pub(super) fn expired(&mut self, now: u64, retention_ms: u64) -> Option<String> {
        let expired = self.retention.expired(now.checked_sub(retention_ms), MAX_ENDED);
        expired.or_else(|| if self.bytes > MAX_SPEC_BYTES / 2 { self.retention.oldest() } else { None })
    }

    /// Keeps an ended relay that could not be removed, so that it expires again.
    pub(super) fn keep(&mut self, id: &str) {
        if let Some(ended) = self.relays.get(id).and_then(|relay| relay.ended) {
            self.retention.push(ended.steady, id.to_owned());
            self.retention.sort();
        }
    }

    /// The number of relays that have not ended.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// The number of ended relays.
    pub(super) fn ended(&self) -> usize {
        self.relays.len() - self.running
    }

    pub(super) fn list(&self, filter: &Filter) -> Listing {
        let (relays, next) =
            durable::list(&self.relays, filter, |relay| (relay.status, relay.user.as_deref()), Relay::summary);
        Listing { relays, next }
    }
}

// === impl Relay ===

impl Relay {
    /// A relay with these records, which may have ended.
    pub(super) fn new(id: String, record: SpecRecord, progress: &[Progress], end: Option<(Status, Moment)>) -> Self {
        let SpecRecord { created_at, user, spec, .. } = record;
        let (status, ended) = end.unzip();
        Self {
            id,
            user,
            bytes: spec.bytes(),
            target: spec.target(),
            spec,
            created_at,
            status: status.unwrap_or(Status::Running),
            ended,
            sources: progress.iter().map(Source::new).collect(),
            current: None,
            queue: VecDeque::new(),
            delayed: Vec::new(),
            failures: 0,
        }
    }

    /// True if it runs, or is about to run again.
    fn is_counted(&self) -> bool {
        !self.status.ended() || matches!(self.current, Some(Change::Restart(_)))
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            id: self.id.clone(),
            user: self.user.clone(),
            topic: self.target.as_ref().map_or_else(|| format!("relay:{}", self.id), ToString::to_string),
            status: self.status,
            events_url: format!("/api/relays/{}/events", self.id),
            created_at: self.created_at,
            ended_at: self.ended.map(|ended| ended.wall),
            events: self.events(),
        }
    }

    pub(super) fn view(&self) -> View {
        let spec = self.spec.redacted();
        let rows = self.sources.iter().zip(&spec.sources).map(|(source, spec)| SourceView {
            label: spec.label.clone().unwrap_or_default(),
            remote: spec.remote.clone().unwrap_or_default(),
            path: spec.path.clone(),
            state: source.state,
            events: source.events,
            last_event_id: Some(source.last_event_id.clone()).filter(|id| !id.is_empty()),
            reconnects: source.reconnects,
            last_error: source.last_error.clone(),
            since: source.since,
        });
        View { summary: self.summary(), sources: rows.collect(), spec }
    }

    /// Events of all its sources.
    fn events(&self) -> u64 {
        self.sources.iter().map(|source| source.events).sum()
    }

    /// The status that follows from its sources.
    pub(super) fn outcome(&self) -> Status {
        Status::of(self.sources.iter().map(|source| source.state))
    }

    /// The source with this number, as its upstream sees it.
    pub(super) fn member(&self, index: usize) -> Arc<Member> {
        let label = self.spec.sources[index].label.clone().unwrap_or_default();
        Arc::new(Member { relay: self.id.clone(), index, label, topics: self.topics() })
    }

    /// The topics that get its events: its target, if it has one, and its own topic.
    fn topics(&self) -> Vec<Topic> {
        let own = Topic::relay(&self.id).expect("an id is a short word");
        self.target.iter().cloned().chain([own]).collect()
    }

    /// Its last event.
    pub(super) fn last_event(&self, status: Status) -> Draft {
        output::end(&self.id, self.topics(), status, self.sources.len(), self.events())
    }

    /// Deletes its records.
    pub(super) fn delete_records(&self) -> Vec<RecordWrite> {
        record::delete_all(&self.id, self.sources.len())
    }

    /// The upstreams that read its sources.
    pub(super) fn upstreams(&self) -> Vec<UpstreamId> {
        let mut upstreams: Vec<_> = self.sources.iter().filter_map(|source| source.upstream).collect();
        upstreams.sort_unstable();
        upstreams.dedup();
        upstreams
    }
}

// === impl Source ===

impl Source {
    /// A source that continues from the position in its record.
    pub(super) fn new(progress: &Progress) -> Self {
        let mut source = Self::default();
        source.update(progress, State::Connecting, None);
        Self { since: progress.since, ..source }
    }

    /// Shows what the journal has, and an error if there is one. `state` is the state of a source that has not ended.
    pub(super) fn update(&mut self, progress: &Progress, state: State, error: Option<&str>) {
        self.events = progress.cursor.events;
        self.last_event_id.clone_from(&progress.cursor.last_id);
        self.reconnects = progress.opens.saturating_sub(1);
        let (state, failure) = match &progress.ended {
            None => (state, None),
            Some(Ended::Complete(_)) => (State::Ended, None),
            Some(Ended::Failed(reason)) => (State::Failed, Some(reason.error.as_str())),
        };
        if self.state != state {
            (self.state, self.since) = (state, now_ms());
        }
        if let Some(error) = error.or(failure) {
            self.last_error = Some(error.to_owned());
        }
    }

    /// Begins again after an end; the last error is still shown.
    pub(super) fn reopen(&mut self, progress: &Progress) {
        *self = Self { last_error: self.last_error.take(), ..Self::new(progress) };
    }
}
