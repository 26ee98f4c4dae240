//! The engine with plain values: messages in, effects out.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use tokio::{sync::oneshot, time::Duration};

use super::{effect::Attempt, *};
use crate::{
    journal::{Config as JournalConfig, Memory},
    relay::{
        output::{Arrival, RelayOutput},
        state::State,
        trail::Trail,
    },
    supervise::Supervisor,
    upstream::{
        Client, Connections, RemoteConfig,
        events::{Cursor, End, Failure, RemoteEvent, StreamEvent},
    },
};

/// An engine, and its effects that no test has looked at.
struct Case {
    engine: Engine,
    effects: VecDeque<Effect>,
    reconnects: u64,
}

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

impl Case {
    fn new() -> Self {
        let config = RemoteConfig { base_url: Some("http://h".into()), paths: vec!["/*".into()], ..Default::default() };
        let remotes = BTreeMap::from([("up".to_owned(), config)]);
        let remotes = Remotes::build(&remotes, &Client::new(crate::upstream::Config::default())).unwrap();
        let config = Config { default_remote: Some("up".into()), ..Config::default() };
        let deps = Deps {
            journal: Arc::new(Memory::new(&JournalConfig::default())),
            max_event_bytes: 1 << 20,
            remotes,
            connections: Connections::new(1),
            share: Share::WHOLE,
            clock: Clock::system(),
            supervisor: Supervisor::default(),
        };
        Self { engine: Engine::new(config, &deps), effects: VecDeque::new(), reconnects: 0 }
    }

    /// Sends answers; the other effects wait for the test.
    fn carry_out(&mut self) {
        for effect in self.engine.take_effects() {
            match effect {
                Effect::Answer(answer) => answer(),
                effect => self.effects.push_back(effect),
            }
        }
    }

    /// The next effect.
    fn next(&mut self) -> Option<Effect> {
        self.carry_out();
        self.effects.pop_front()
    }

    /// The next effect, which appends.
    fn append(&mut self) -> (Lane, Attempt) {
        match self.next() {
            Some(Effect::Work(Work::Append(lane, attempt))) => (lane, attempt),
            _ => panic!("it appends nothing"),
        }
    }

    fn written(&mut self, lane: Lane) {
        self.engine.done(Done::Append(lane, Ok(())));
    }

    fn refused(&mut self, lane: Lane, error: Unavailable) {
        self.engine.done(Done::Append(lane, Err(AppendFailure::Journal(error.into()))));
    }

    /// Writes the next batch; returns the names of its events.
    fn write(&mut self) -> Vec<String> {
        let (lane, attempt) = self.append();
        self.written(lane);
        attempt.batch.events.into_iter().map(|event| event.event).collect()
    }

    /// Sends an upstream's report.
    fn report(&mut self, upstream: UpstreamId, events: u64, report: Report) {
        let mut cursor = Cursor::after(events.to_string());
        cursor.events = events;
        self.engine.reported(Report { upstream, reconnects: self.reconnects, cursor, ..report });
    }

    /// A relay of this source whose records are written, and the number of its upstream if that was started.
    fn relay(&mut self, source: &Value) -> (String, Option<UpstreamId>) {
        let (caller, mut answer) = oneshot::channel();
        let mut spec: Spec = serde_json::from_value(json!({ "sources": [source] })).unwrap();
        let limits = Limits { config: &self.engine.config, remotes: &self.engine.remotes };
        let sources = spec.check(limits).unwrap();
        self.engine.create(spec, sources, None, caller);
        self.write();
        self.carry_out();
        let started = match self.effects.front() {
            Some(Effect::Start(start)) => Some(start.id),
            _ => None,
        };
        self.effects.drain(..usize::from(started.is_some()));
        (answer.try_recv().unwrap().unwrap().id, started)
    }

    fn delete(&mut self, id: &str) -> Answer<()> {
        let (caller, answer) = oneshot::channel();
        self.engine.delete(id, caller);
        answer
    }

    fn view(&mut self, id: &str) -> Answer<View> {
        let (caller, answer) = oneshot::channel();
        self.engine.ask(Question::View(id.to_owned(), caller));
        self.carry_out();
        answer
    }

    fn shown(&mut self, id: &str) -> View {
        self.view(id).try_recv().unwrap().unwrap()
    }
}

fn state(then: StreamEvent) -> Report {
    Report { then: Some(then), ..Report::default() }
}

fn opened() -> Report {
    state(StreamEvent::Open { reconnects: 0, resumed_after: None, may_have_missed: false })
}

fn event() -> Report {
    let (event, id, trail) = ("e".into(), "1".into(), String::new());
    let event = RemoteEvent { event, data: "d".into(), id, trail, control: false };
    let arrival = Arrival::new(event, Trail::default(), false);
    let counted = Stats { events: 1, ..Stats::default() };
    Report { outputs: vec![RelayOutput::Event(arrival)], counted, ..Report::default() }
}

fn full() -> Unavailable {
    Unavailable::Full("a test".into())
}

#[test]
fn a_relay_exists_when_its_records_are_written() {
    let mut case = Case::new();
    let (caller, mut answer) = oneshot::channel();
    let mut spec: Spec = serde_json::from_value(json!({ "sources": [{ "path": "/a" }] })).unwrap();
    let limits = Limits { config: &case.engine.config, remotes: &case.engine.remotes };
    let sources = spec.check(limits).unwrap();
    case.engine.create(spec, sources, None, caller);
    let (lane, attempt) = case.append();
    let keys: Vec<_> = attempt.batch.records.iter().map(|record| record.key.rsplit_once('/').unwrap().1).collect();
    assert_eq!(keys, ["spec", "0"]);
    assert_eq!(case.engine.stats().relays_running, 0);
    // What may have been written after all is deleted before the client gets its answer.
    case.refused(lane, full());
    let (lane, attempt) = case.append();
    assert!(attempt.batch.records.iter().all(|record| record.value.is_none()));
    assert!(answer.try_recv().is_err());
    case.written(lane);
    assert!(case.next().is_none());
    assert!(matches!(answer.try_recv(), Ok(Err(Error::Journal(Unavailable::Full(_))))));
}

#[test]
fn a_report_is_taken_when_the_journal_has_it_with_its_position() {
    let mut case = Case::new();
    let (id, up) = case.relay(&json!({ "path": "/a" }));
    let up = up.unwrap();
    case.report(up, 0, opened());
    assert_eq!(case.write(), ["relay_open"]);
    assert!(matches!(case.next(), Some(Effect::Taken(taken)) if taken == up));
    case.report(up, 1, event());
    let (lane, attempt) = case.append();
    assert_eq!((attempt.batch.events.len(), attempt.batch.records.len()), (1, 1));
    assert_eq!(attempt.batch.records[0].key, record::cursor_key(&id, 0));
    assert!(case.next().is_none(), "it is not taken yet");
    assert_eq!(case.shown(&id).summary.events, 0);
    case.written(lane);
    assert!(matches!(case.next(), Some(Effect::Taken(_))));
    assert_eq!((case.shown(&id).summary.events, case.engine.stats().events), (1, 1));
}

#[test]
fn a_batch_that_the_journal_does_not_take_is_repeated_and_marked_as_unclear() {
    let mut case = Case::new();
    let (id, up) = case.relay(&json!({ "path": "/a" }));
    case.report(up.unwrap(), 0, opened());
    let (lane, attempt) = case.append();
    assert_eq!(attempt.unclear, None);
    case.refused(lane, full());
    assert!(matches!(case.next(), Some(Effect::RetryLater)) && case.next().is_none());
    assert!(case.shown(&id).sources[0].last_error.as_deref().is_some_and(|error| error.contains("full")));
    case.engine.retry();
    let (lane, attempt) = case.append();
    assert_eq!(attempt.unclear, Some(1));
    case.written(lane);
    assert!(matches!(case.next(), Some(Effect::Taken(_))));
    assert_eq!(case.shown(&id).sources[0].state, State::Open);
}

#[test]
fn equal_sources_share_an_upstream_until_the_last_one_leaves() {
    let mut case = Case::new();
    let (first, up) = case.relay(&json!({ "path": "/a" }));
    let up = up.unwrap();
    let (second, started) = case.relay(&json!({ "path": "/a", "label": "mine" }));
    assert_eq!(started, None);
    assert!(case.write().is_empty(), "the newcomer gets the position of the others");
    case.report(up, 1, event());
    let (lane, attempt) = case.append();
    assert_eq!((attempt.batch.events.len(), attempt.batch.records.len()), (2, 2), "an event for each label");
    case.written(lane);
    assert!(matches!(case.next(), Some(Effect::Taken(_))));
    let mut answer = case.delete(&first);
    assert_eq!(case.write(), ["relay_end"]);
    assert!(case.next().is_none(), "the upstream continues for the other one");
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    case.delete(&second);
    case.write();
    assert!(matches!(case.next(), Some(Effect::Stop(stopped)) if stopped == up));
}

/// A write in flight would bring the records of a deleted relay back.
#[test]
fn a_deletion_waits_for_the_write_in_flight_and_holds_the_next_one() {
    let mut case = Case::new();
    let (id, up) = case.relay(&json!({ "path": "/a" }));
    let up = up.unwrap();
    case.report(up, 0, opened());
    let (open, _) = case.append();
    let mut answer = case.delete(&id);
    assert!(case.next().is_none());
    case.written(open);
    assert!(matches!(case.next(), Some(Effect::Taken(_))));
    let (deletion, attempt) = case.append();
    assert_eq!(attempt.batch.events[0].event, "relay_end");
    case.report(up, 1, event());
    assert!(case.next().is_none(), "the upstream is held");
    // The journal does not take it: the relay continues from its position.
    case.refused(deletion, Unavailable::Busy);
    assert_eq!(case.write(), ["e"]);
    assert!(matches!(answer.try_recv(), Ok(Err(Error::Journal(Unavailable::Busy)))));
    assert_eq!(case.shown(&id).summary.status, Status::Running);
}

#[test]
fn a_full_journal_lets_a_relay_leave_without_its_last_event() {
    let mut case = Case::new();
    let (id, up) = case.relay(&json!({ "path": "/a" }));
    case.report(up.unwrap(), 0, opened());
    let (open, _) = case.append();
    case.refused(open, full());
    assert!(matches!(case.next(), Some(Effect::RetryLater)));
    let mut answer = case.delete(&id);
    let (whole, _) = case.append();
    case.refused(whole, full());
    let (records, attempt) = case.append();
    assert!(attempt.batch.events.is_empty() && !attempt.batch.records.is_empty());
    case.written(records);
    assert!(matches!(case.next(), Some(Effect::Stop(_))) && case.next().is_none());
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    case.engine.retry();
    assert!(case.next().is_none(), "what waited is gone with the relay");
}

#[test]
fn an_upstream_that_dies_ends_its_relay_alone() {
    let mut case = Case::new();
    let (good, _) = case.relay(&json!({ "path": "/good" }));
    let (bad, up) = case.relay(&json!({ "path": "/bad" }));
    let up = up.unwrap();
    case.report(up, 1, event());
    let (lane, _) = case.append();
    case.engine.upstream_died(up);
    assert!(case.next().is_none(), "the write in flight comes first");
    case.written(lane);
    assert!(matches!(case.next(), Some(Effect::Taken(_))));
    let Some(Effect::Work(Work::GiveUp(_, members, reason))) = case.next() else { panic!("it is not given up") };
    assert_eq!((members[0].relay.as_str(), reason.code.as_str()), (bad.as_str(), "internal"));
    let progress = Progress { ended: Some(record::Ended::Failed(reason)), ..Progress::default() };
    case.engine.done(Done::GiveUp(up, Ok(Some(progress))));
    assert!(matches!(case.next(), Some(Effect::Stop(_))));
    assert_eq!(case.write(), ["relay_end"]);
    assert_eq!(case.shown(&bad).summary.status, Status::Failed);
    assert_eq!(case.shown(&good).summary.status, Status::Running);
    assert_eq!(case.engine.stats().sources_failed, 1);
}

/// A client that has read the last event must not see a running relay.
#[test]
fn a_question_waits_for_the_end_that_is_in_flight() {
    let mut case = Case::new();
    let (id, up) = case.relay(&json!({ "path": "/a" }));
    case.report(up.unwrap(), 0, state(StreamEvent::End(End::Closed)));
    assert_eq!(case.write(), ["relay_complete"]);
    assert!(matches!(case.next(), Some(Effect::Taken(_))) && matches!(case.next(), Some(Effect::Stop(_))));
    let (lane, attempt) = case.append();
    assert_eq!(attempt.batch.events[0].event, "relay_end");
    let mut answer = case.view(&id);
    assert!(answer.try_recv().is_err());
    case.refused(lane, full());
    case.carry_out();
    assert_eq!(answer.try_recv().unwrap().unwrap().summary.status, Status::Running);
    assert!(matches!(case.next(), Some(Effect::RetryLater)));
    case.engine.retry();
    assert_eq!(case.write(), ["relay_end"]);
    assert_eq!(case.shown(&id).summary.status, Status::Completed);
}

#[test]
fn what_a_replaced_connection_failed_of_does_not_concern_the_new_one() {
    let mut case = Case::new();
    let (id, up) = case.relay(&json!({ "path": "/a" }));
    let up = up.unwrap();
    let (caller, mut answer) = oneshot::channel();
    case.engine.restart(&id, caller);
    assert!(matches!(case.next(), Some(Effect::Reconnect(..))) && case.next().is_none());
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    let lost = || state(StreamEvent::Retry { attempt: 1, delay: Duration::ZERO, failure: Failure::ClosedEarly });
    case.report(up, 0, lost());
    assert!(matches!(case.next(), Some(Effect::Taken(_))) && case.next().is_none());
    assert_eq!(case.shown(&id).sources[0].state, State::Connecting);
    case.reconnects = 1;
    case.report(up, 0, lost());
    assert_eq!(case.write(), ["relay_retry"]);
    assert_eq!(case.shown(&id).sources[0].state, State::Waiting);
}

#[test]
fn a_request_that_must_not_be_repeated_is_noted_before_it_is_sent() {
    let mut case = Case::new();
    let source = json!({ "path": "/a", "method": "POST" });
    let (_, started) = case.relay(&source);
    assert_eq!(started, None);
    let (lane, attempt) = case.append();
    let progress: Progress = serde_json::from_slice(attempt.batch.records[0].value.as_ref().unwrap()).unwrap();
    assert!(progress.asked && attempt.batch.events.is_empty());
    case.written(lane);
    assert!(matches!(case.next(), Some(Effect::Start(_))));
    // The next run of the node gives it up.
    let mut next = Case::new();
    let record = SpecRecord {
        version: record::VERSION,
        created_at: 0,
        user: None,
        spec: serde_json::from_value(json!({ "sources": [{ "path": "/a", "method": "POST", "label": "a" }] })).unwrap(),
    };
    next.engine.restore(vec![Found { id: "r".into(), record, progress: vec![progress], end: None }], 0);
    let Some(Effect::Work(Work::GiveUp(_, _, reason))) = next.next() else { panic!("it is not given up") };
    assert!(reason.error.contains("POST"), "{}", reason.error);
}

#[test]
fn after_a_stop_nothing_begins_and_what_is_in_flight_ends() {
    let mut case = Case::new();
    let (id, up) = case.relay(&json!({ "path": "/a" }));
    let up = up.unwrap();
    case.report(up, 0, opened());
    let (lane, _) = case.append();
    case.engine.stop();
    assert!(matches!(case.next(), Some(Effect::Stop(stopped)) if stopped == up) && !case.engine.stopped());
    case.written(lane);
    assert!(case.engine.stopped());
    case.report(up, 1, event());
    let mut answer = case.delete(&id);
    while let Some(effect) = case.next() {
        assert!(matches!(effect, Effect::Taken(_)));
    }
    assert!(matches!(answer.try_recv(), Ok(Err(Error::Stopping))));
}
