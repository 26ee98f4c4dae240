//! Reads one upstream and writes what it brings, one batch after the other: while a batch is on its way to the journal
//! the next one is gathered, up to a bound, so that commits are few and the upstream feels it when the journal is slow.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{
    append::{self, Halt},
    copy::{self, Outcome, Stand},
    group::{Group, Member},
    lifecycle, loops,
    record::{Ended, Progress},
    shared::Shared,
    spec::PlannedSource,
    state::State,
    told::{self, Arrival, State as Word, Told},
    trail::{Recent, Trail},
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
    /// Events that returned to a topic where they had already been.
    looped: u64,
    /// Origins of the events of the last minute.
    recent: Recent,
    /// What is to be written next.
    gathered: Gathered,
    /// What is on its way to the journal.
    writing: Option<BoxFuture<'static, Result<Written, Halt>>>,
    /// What the source has said that is no event: it waits until all events before it are written.
    said: Option<Said>,
}

/// A batch that is being gathered.
#[derive(Default)]
struct Gathered {
    told: Vec<Told>,
    /// Events among it.
    events: u64,
    /// Those of them that will be told of and not kept.
    skipped: u64,
    bytes: usize,
    /// The remote has sent a position, but no event yet. The position must be stored: after a restart the relay would
    /// otherwise miss the events published meanwhile.
    moved: bool,
}

/// A batch that the journal has.
struct Written {
    members: Vec<Arc<Member>>,
    progress: Progress,
    events: u64,
    skipped: u64,
    /// Events of the batch that returned to a topic where they had already been.
    looped: u64,
}

/// A batch with so many bytes waits for the one before it; one more piece of the stream may come on top.
const GATHERED_MAX: usize = 256 * 1024;
/// What an event takes beside its text.
const EVENT_BYTES: usize = 256;

/// Failures in a row that are told in band; of those behind them the 16th, 32nd and so on.
const TOLD_RETRIES: u32 = 8;
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
        for member in elsewhere {
            let (own, planned) = (shared.clone(), labelled(&group, &member));
            shared.keep("sources of relays", move || lifecycle::apart(own.clone(), planned.clone(), member.clone()));
        }
        for member in group.members() {
            match &ended {
                Some(error) => lifecycle::give_up(&shared, member, error.clone(), INTERNAL),
                None => lifecycle::settle(&shared, member.relay.clone()),
            }
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
        let connections = shared.connections(&group);
        let mut source = EventSource::new(planned.source.clone(), progress.cursor.clone(), connections);
        if progress.opens > 0 {
            // It goes on where an earlier life ended, as all others do at a start.
            let most = planned.source.pace.initial;
            source = source.delayed(rand::random_range(Duration::ZERO..=most));
        }
        Self {
            shared,
            group,
            source,
            progress,
            state: State::Connecting,
            doubles: 0,
            looped: 0,
            recent: Recent::default(),
            gathered: Gathered::default(),
            writing: None,
            said: None,
        }
    }

    async fn run(mut self) -> Result<(), Halt> {
        if !self.source.source().may_repeat() {
            if self.progress.asked {
                let method = self.source.source().method.clone();
                let failure = Failure::NotRepeated { method, failure: Box::new(Failure::ClosedEarly) };
                return self.take(Said::GaveUp(failure)).await;
            }
            self.progress.asked = true;
            self.tell(Vec::new(), None).await?;
        }
        loop {
            if self.writing.is_none() {
                self.admit().await?;
                if self.group.members().is_empty() {
                    return Ok(());
                }
                if self.group.take_restart() {
                    self.reconnect();
                }
                if !self.gathered.told.is_empty() || self.gathered.moved {
                    if let Some(Said::End(end)) = self.said {
                        // In the commit of the last events: a life that ends between the two would wait for an end that
                        // has been.
                        self.said = None;
                        self.progress.since = now_ms();
                        self.progress.ended = Some(Ended::Complete(end));
                        let events = self.source.cursor().events;
                        self.gathered.told.push(Told::State(Word::Complete { events, end }));
                    }
                    self.writing = Some(self.write());
                } else if let Some(said) = self.said.take() {
                    self.take(said).await?;
                    if self.progress.ended.is_some() {
                        return Ok(());
                    }
                    continue;
                }
            }
            let full = self.said.is_some() || self.progress.ended.is_some() || self.gathered.bytes >= GATHERED_MAX;
            let idle = self.writing.is_none();
            let (shared, group, writing) = (&self.shared, &self.group, &mut self.writing);
            let written = async {
                match writing {
                    Some(writing) => writing.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                // A write that has begun comes to its end; it looks at the first two itself.
                () = shared.stop.cancelled(), if idle => return Ok(()),
                () = group.over.cancelled(), if idle => return Ok(()),
                () = group.wake.notified(), if idle => {}
                written = written => {
                    self.writing = None;
                    self.note(&written?, None);
                    if self.progress.ended.is_some() {
                        return Ok(());
                    }
                }
                said = self.source.next(), if !full => match said {
                    Some(Said::Events(events)) => self.gather(events),
                    Some(said) => self.said = Some(said),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Drops the connection; the next one goes on after the cursor, and without delay.
    fn reconnect(&mut self) {
        let source = self.source.source().clone();
        let cursor = self.source.cursor().clone();
        self.source = EventSource::new(source, cursor, self.shared.connections(&self.group));
        self.doubles = 0;
        // An end that was read has been; what the old connection failed of does not concern the new one.
        self.said = self.said.take().filter(|said| matches!(said, Said::End(_)));
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
                let resumed_after = resumed_after.filter(|id| id.len() <= told::MAX_ORIGIN);
                self.tell(vec![Told::State(Word::Open { reconnects, resumed_after, may_have_missed })], None).await
            }
            Said::Events(events) => {
                self.gather(events);
                Ok(())
            }
            Said::Retry { attempt, delay, failure } => {
                self.state = State::Waiting;
                let retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                let (error, code) = words(&failure);
                if attempt > TOLD_RETRIES && !attempt.is_power_of_two() {
                    // A remote that is gone for days must not push the events of the others out of the topics.
                    self.shared.note(&self.group.members(), &self.progress, Some(self.state), Some(&error));
                    return Ok(());
                }
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

    /// Puts events to those that are to be written next.
    fn gather(&mut self, events: Vec<RemoteEvent>) {
        let (max, now) = (self.shared.deps.max_event_bytes, Instant::now());
        let gathered = &mut self.gathered;
        for event in events {
            if event.control {
                // Of what another node says of its stream only this is news for those who read it here.
                if event.event == "gap" {
                    self.progress.missed = true;
                    // Twice and more: it is kept as a JSON value.
                    gathered.bytes += EVENT_BYTES + 4 * event.data.len();
                    gathered.told.push(Told::State(Word::gap(&event.data, max)));
                }
            } else {
                gathered.events += 1;
                gathered.skipped += u64::from(told::unfit(&event, max));
                gathered.bytes += EVENT_BYTES + event.event.len() + event.data.len() + event.id.len();
                gathered.bytes += event.trail.len();
                let trail = Trail::of(&event);
                let again = trail.begin().is_some_and(|begin| self.recent.again(begin, now));
                gathered.told.push(Told::Event(Arrival::new(event, trail, again)));
            }
        }
        self.gathered.moved = self.source.cursor().last_id != self.progress.cursor.last_id;
        if let Some(end) = self.source.take_end() {
            self.said = Some(Said::End(end));
        }
    }

    /// Writes a state of the source; all that came before it is written.
    async fn tell(&mut self, told: Vec<Told>, error: Option<&str>) -> Result<(), Halt> {
        self.progress.since = now_ms();
        self.gathered.told = told;
        let written = self.write().await?;
        self.note(&written, error);
        Ok(())
    }

    /// Writes what is gathered together with the cursor, which covers just that and what was written before.
    fn write(&mut self) -> BoxFuture<'static, Result<Written, Halt>> {
        self.progress.seq += 1;
        self.progress.cursor = self.source.cursor().clone();
        let Gathered { mut told, events, skipped, .. } = std::mem::take(&mut self.gathered);
        let known = self.looped;
        let (shared, group, progress) = (self.shared.clone(), self.group.clone(), self.progress.clone());
        Box::pin(async move {
            let max = shared.deps.max_event_bytes;
            let looped = loops::mark(&shared.deps.journal, &group.members(), &mut told, known).await;
            let drafts = |members: &[Arc<Member>]| told::drafts(&told, members, max);
            let held = |why: &str| {
                tracing::warn!(remote = group.planned.source.remote.name(), why, "a relay waits for the journal");
                shared.note(&group.members(), &progress, None, Some(why));
            };
            let members = append::append(&shared, &group, || group.members(), &progress, drafts, held).await?;
            Ok(Written { members, progress, events, skipped, looped })
        })
    }

    /// Makes known what the journal has.
    fn note(&mut self, written: &Written, error: Option<&str>) {
        let Written { members, progress, events, skipped, looped } = written;
        self.shared.note(members, progress, Some(self.state), error);
        let counters = &self.shared.counters;
        counters.events.fetch_add(events.saturating_sub(skipped + looped), Relaxed);
        counters.loops.fetch_add(*looped, Relaxed);
        self.looped += looped;
        counters.skipped.fetch_add(*skipped, Relaxed);
        let doubles = self.source.doubles();
        counters.doubles.fetch_add(doubles - self.doubles, Relaxed);
        self.doubles = doubles;
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
