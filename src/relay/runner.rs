//! Reads one upstream and writes what it brings, one batch after the other: while a batch is on its way to the journal
//! nothing more is read, so that the upstream feels it when the journal is slow.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{
    append::{self, Halt},
    copy::{self, Outcome, Stand},
    group::{Group, Member},
    lifecycle,
    record::{Ended, Progress},
    shared::Shared,
    spec::PlannedSource,
    state::State,
    told::{self, State as Word, Told},
};
use crate::{
    event::now_ms,
    upstream::events::{EventSource, Failure, RemoteEvent, Said},
};

/// Reads one upstream.
pub struct Runner {
    pub shared: Arc<Shared>,
    pub group: Arc<Group>,
    source: EventSource,
    pub progress: Progress,
    /// What the source is doing.
    pub state: State,
    /// Doubles that are counted already.
    doubles: u64,
}

/// Code of a source that this program itself has failed.
pub const INTERNAL: &str = "internal";

/// Runs a group to its end. Whatever happens in there ends only this upstream.
pub async fn watch_over(shared: Arc<Shared>, group: Arc<Group>, progress: Progress) {
    let runner = Runner::new(shared.clone(), group.clone(), progress);
    let ended = match tokio::spawn(runner.run()).await {
        Ok(Ok(()) | Err(Halt::Over)) => None,
        Ok(Err(Halt::Refused(reason))) => Some(format!("the journal does not take what the source brought: {reason}")),
        Err(_) => Some("a fault of this program; its log says more".to_owned()),
    };
    if let Some(error) = &ended {
        tracing::error!(remote = group.planned.source.remote.name(), error, "an upstream of relays was given up");
    }
    let elsewhere = group.close();
    shared.forget(&group);
    if !shared.stop.is_cancelled() {
        for member in group.members() {
            if let Some(error) = &ended {
                lifecycle::fail(&shared, &member, error, INTERNAL).await;
            }
            lifecycle::settle(&shared, member.relay.clone());
        }
        for member in elsewhere {
            shared.begin(labelled(&group, &member), vec![member], Progress::initial(&group.planned.start));
        }
    }
}

/// What the group reads, for one of another label.
fn labelled(group: &Group, member: &Member) -> PlannedSource {
    PlannedSource { label: member.label.clone(), ..group.planned.clone() }
}

// === impl Runner ===

impl Runner {
    fn new(shared: Arc<Shared>, group: Arc<Group>, progress: Progress) -> Self {
        let planned = &group.planned;
        let source = EventSource::new(planned.source.clone(), progress.cursor.clone(), shared.deps.connections.clone());
        Self { shared, group, source, progress, state: State::Connecting, doubles: 0 }
    }

    async fn run(mut self) -> Result<(), Halt> {
        loop {
            self.admit().await?;
            if self.group.members().is_empty() {
                return Ok(());
            }
            if self.group.take_restart() {
                self.reconnect();
            }
            let (shared, group) = (self.shared.clone(), self.group.clone());
            let said = tokio::select! {
                biased;
                () = shared.stop.cancelled() => return Ok(()),
                () = group.over.cancelled() => return Ok(()),
                () = group.wake.notified() => continue,
                said = self.source.next() => said,
            };
            let Some(said) = said else { return Ok(()) };
            self.take(said).await?;
            if self.progress.ended.is_some() {
                return Ok(());
            }
        }
    }

    /// Drops the connection; the next one goes on after the cursor, and without delay.
    fn reconnect(&mut self) {
        let source = self.source.source().clone();
        let cursor = self.source.cursor().clone();
        self.source = EventSource::new(source, cursor, self.shared.deps.connections.clone());
        self.doubles = 0;
        self.state = State::Connecting;
        self.shared.note(&self.group.members(), &self.progress, Some(State::Connecting), None);
    }

    async fn take(&mut self, said: Said) -> Result<(), Halt> {
        match said {
            Said::Open { resumed_after, may_have_missed, .. } => {
                // Counted here: the client of the stream does not know of earlier lives.
                let reconnects = self.progress.opens;
                self.progress.opens += 1;
                self.progress.missed |= may_have_missed;
                self.shared.counters.reconnects.fetch_add(u64::from(reconnects > 0), Relaxed);
                self.state = State::Open;
                self.tell(vec![Told::State(Word::Open { reconnects, resumed_after, may_have_missed })], None).await
            }
            Said::Events(events) => self.relay(events).await,
            Said::Retry { attempt, delay, failure } => {
                self.state = State::Waiting;
                let retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                let (error, code) = words(&failure);
                let word = Word::Retry { attempt, retry_in_ms, error: error.clone(), code };
                self.tell(vec![Told::State(word)], Some(&error)).await
            }
            Said::End(end) => {
                self.progress.ended = Some(Ended::Complete(end));
                let events = self.source.cursor().events;
                self.tell(vec![Told::State(Word::Complete { events, end })], None).await
            }
            Said::GaveUp(failure) => {
                let (error, code) = words(&failure);
                self.progress.ended = Some(Ended::Failed { error: error.clone(), code: code.clone() });
                self.shared.counters.failed.fetch_add(1, Relaxed);
                self.tell(vec![Told::State(Word::Error { error: error.clone(), code })], Some(&error)).await
            }
        }
    }

    async fn relay(&mut self, events: Vec<RemoteEvent>) -> Result<(), Halt> {
        let max = self.shared.deps.max_event_bytes;
        let (mut told, mut skipped) = (Vec::with_capacity(events.len()), 0);
        for event in events {
            if event.control {
                // Of what another node says of its stream only this is news for those who read it here.
                if event.event == "gap" {
                    self.progress.missed = true;
                    told.push(Told::State(Word::gap(&event.data, max)));
                }
            } else {
                skipped += u64::from(told::unfit(&event, max));
                told.push(Told::Event(event));
            }
        }
        if told.is_empty() {
            return Ok(());
        }
        let events = told.iter().filter(|told| matches!(told, Told::Event(_))).count() as u64;
        self.tell(told, None).await?;
        let counters = &self.shared.counters;
        counters.events.fetch_add(events - skipped, Relaxed);
        counters.skipped.fetch_add(skipped, Relaxed);
        Ok(())
    }

    /// Writes what is told together with the cursor.
    async fn tell(&mut self, told: Vec<Told>, error: Option<&str>) -> Result<(), Halt> {
        self.progress.seq += 1;
        self.progress.cursor = self.source.cursor().clone();
        if !matches!(told.as_slice(), [Told::Event(_), ..]) {
            self.progress.since = now_ms();
        }
        let (shared, group, progress) = (&self.shared, &self.group, &self.progress);
        let max = shared.deps.max_event_bytes;
        let drafts = |members: &[Arc<Member>]| told::drafts(&told, members, max);
        let held = |why: &str| {
            tracing::warn!(remote = group.planned.source.remote.name(), why, "a relay waits for the journal");
            shared.note(&group.members(), progress, None, Some(why));
        };
        let members = append::append(shared, group, || group.members(), progress, drafts, held).await?;
        shared.note(&members, progress, Some(self.state), error);
        let doubles = self.source.doubles();
        shared.counters.doubles.fetch_add(doubles - self.doubles, Relaxed);
        self.doubles = doubles;
        Ok(())
    }

    /// Lets those in who want to share this upstream.
    async fn admit(&mut self) -> Result<(), Halt> {
        while let Some(joiner) = self.group.joiner() {
            let stand =
                Stand { shared: &self.shared, group: &self.group, progress: &mut self.progress, state: self.state };
            let outcome = copy::catch_up(stand, &joiner).await?;
            let still_there = self.group.admit(&joiner, matches!(outcome, Outcome::Joined));
            if let Outcome::Apart(progress) = outcome
                && still_there
            {
                self.shared.begin(labelled(&self.group, &joiner), vec![joiner], progress);
            }
        }
        Ok(())
    }
}

/// A failure for people and for programs.
fn words(failure: &Failure) -> (String, String) {
    (failure.to_string(), failure.code().to_owned())
}
