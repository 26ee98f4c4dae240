//! The basic promise of the hub: every emitter that catches up gets the events of its topics after its start, each
//! once, in the journal's order. It holds for any order of appends, connects, slow readers and changes of pace.

use proptest::{prelude::*, test_runner::TestCaseResult};
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::support::{Got, Reader, Rig, draft, settle};
use crate::{
    cases,
    event::Position,
    hub::{Config, Connect, Start},
    journal::{self, Journal},
    topic::Topic,
};

const TOPICS: [&str; 4] = ["a", "b", "o:1", "o:2"];
const SUBSCRIBED: [&[&str]; 5] = [&["a"], &["a", "b"], &["o:*"], &["*"], &["b", "o:*", "o:1"]];

/// One step of the test.
#[derive(Clone, Debug)]
enum Step {
    /// Appends in one batch, each event into the topics whose bits are set.
    Append(Vec<u8>),
    /// A reader starts to connect: index of its topics, and its start.
    Connect(usize, Begin),
    /// The reader with this index polls this number of times.
    Read(usize, usize),
    /// The reader with this index disconnects.
    Leave(usize),
    /// The other tasks get this number of turns.
    Turns(usize),
    /// Blocks the reads of the journal, or releases them.
    Hold(bool),
}

#[derive(Clone, Copy, Debug)]
enum Begin {
    Live,
    Beginning,
    History(usize),
    /// After the event at this percentage of the existing events.
    After(u64),
}

/// A reader and its state in the model.
struct Actor {
    subscribed: usize,
    reader: Option<Reader>,
    connecting: Option<JoinHandle<Reader>>,
    begin: Begin,
    /// Head of the journal when it began to connect.
    head_before: u64,
    /// Head of the journal when it was connected.
    head_after: u64,
    after: u64,
    got: Vec<Got>,
}

/// The model: the appended events and the readers.
struct World {
    rig: Rig,
    actors: Vec<Actor>,
    appended: Vec<(u64, Vec<Topic>)>,
    held: Option<tokio::sync::OwnedRwLockWriteGuard<()>>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let begin = prop_oneof![
        Just(Begin::Live),
        Just(Begin::Beginning),
        (0_usize..30).prop_map(Begin::History),
        (0_u64..=100).prop_map(Begin::After),
    ];
    let step = prop_oneof![
        4 => prop::collection::vec(1_u8..16, 1..12).prop_map(Step::Append),
        1 => prop::collection::vec(1_u8..16, 250..600).prop_map(Step::Append),
        3 => (0..SUBSCRIBED.len(), begin).prop_map(|(subscribed, begin)| Step::Connect(subscribed, begin)),
        6 => (0_usize..8, 1_usize..20).prop_map(|(reader, times)| Step::Read(reader, times)),
        1 => (0_usize..8).prop_map(Step::Leave),
        4 => (1_usize..12).prop_map(Step::Turns),
        1 => any::<bool>().prop_map(Step::Hold),
    ];
    prop::collection::vec(step, 1..60)
}

// === impl World ===

impl World {
    fn new(outbox_events: usize) -> Self {
        let config = Config { outbox_events, outbox_bytes: 1024, ..Config::default() };
        let rig = Rig::with(config, &journal::Config::default());
        Self { rig, actors: Vec::new(), appended: Vec::new(), held: None }
    }

    fn head(&self) -> u64 {
        self.appended.last().map_or(0, |(offset, _)| *offset)
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(events) => self.append(&events).await,
            Step::Connect(subscribed, begin) => self.connect(subscribed, begin),
            Step::Read(index, times) => self.read(index, times).await,
            Step::Leave(index) => {
                if let Some(actor) = self.actors.get_mut(index) {
                    actor.reader = None;
                }
            }
            Step::Turns(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
            Step::Hold(true) => self.held = self.rig.journal.pages.clone().try_write_owned().ok().or(self.held.take()),
            Step::Hold(false) => self.held = None,
        }
        self.take_connected().await;
    }

    async fn append(&mut self, events: &[u8]) {
        let names =
            |bits: u8| TOPICS.iter().enumerate().filter(move |(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name);
        let drafts = events.iter().map(|bits| draft(&names(*bits).collect::<Vec<_>>(), "x")).collect::<Vec<_>>();
        let topics = drafts.iter().map(|draft| draft.topics.clone()).collect::<Vec<_>>();
        let positions = self.rig.append(drafts).await;
        self.appended.extend(positions.into_iter().map(|position| position.offset).zip(topics));
    }

    fn connect(&mut self, subscribed: usize, begin: Begin) {
        if self.actors.len() == 8 {
            return;
        }
        let (head, epoch) = (self.head(), self.rig.journal.epoch());
        let after = if let Begin::After(percent) = begin { head * percent / 100 } else { 0 };
        let start = match begin {
            Begin::Live => Start::Live,
            Begin::Beginning => Start::Beginning,
            Begin::History(count) => Start::History(count),
            Begin::After(_) => Start::After(Position { epoch, offset: after }.to_string()),
        };
        let (hub, connect) = (self.rig.hub.clone(), Connect { start, ..self.rig.connect(SUBSCRIBED[subscribed]) });
        let connecting = spawn_local(async move { Reader::new(hub.connect(connect).await.unwrap()) });
        self.actors.push(Actor {
            subscribed,
            reader: None,
            connecting: Some(connecting),
            begin,
            head_before: head,
            head_after: 0,
            after,
            got: Vec::new(),
        });
    }

    /// Takes the readers whose connection was made.
    async fn take_connected(&mut self) {
        let head = self.head();
        for actor in &mut self.actors {
            if actor.connecting.as_ref().is_some_and(JoinHandle::is_finished) {
                let connecting = actor.connecting.take().unwrap();
                actor.reader = Some(connecting.await.unwrap());
                actor.head_after = head;
            }
        }
    }

    async fn read(&mut self, index: usize, times: usize) {
        let Some(actor) = self.actors.get_mut(index) else { return };
        let Some(reader) = &mut actor.reader else { return };
        for _ in 0..times {
            actor.got.extend(reader.poll().await);
        }
    }

    /// Reads all streams to their end, and compares them with the model.
    async fn check(mut self) -> TestCaseResult {
        self.held = None;
        settle().await;
        self.take_connected().await;
        let actors = std::mem::take(&mut self.actors);
        for mut actor in actors {
            let gone = actor.reader.is_none();
            if let Some(reader) = &mut actor.reader {
                actor.got.extend(reader.frames().await);
            }
            self.compare(&actor, gone)?;
        }
        settle().await;
        prop_assert_eq!(self.rig.hub.counters().open(), 0);
        prop_assert_eq!(self.rig.hub.totals().await.total_topics, 0);
        Ok(())
    }

    fn compare(&self, actor: &Actor, gone: bool) -> TestCaseResult {
        let Some((first, rest)) = actor.got.split_first() else { return Ok(()) };
        prop_assert_eq!(&first.name, "connection");
        prop_assert!(rest.iter().all(|got| got.id.is_some()), "neither gaps nor ends: {:?}", rest);
        let got: Vec<u64> =
            rest.iter().map(|got| got.id.as_ref().unwrap().parse::<Position>().unwrap().offset).collect();
        let patterns = super::support::patterns(SUBSCRIBED[actor.subscribed]);
        let receives =
            |topics: &[Topic]| topics.iter().any(|topic| patterns.iter().any(|pattern| pattern.matches(topic)));
        let expected_offsets = self.appended.iter().filter(|(_, topics)| receives(topics)).map(|(offset, _)| *offset);
        let expected_offsets: Vec<u64> = expected_offsets.collect();
        let after = match actor.begin {
            Begin::Beginning | Begin::After(_) => actor.after,
            Begin::Live => {
                let from: Position = first.json()["resume"]["from"].as_str().unwrap().parse().unwrap();
                prop_assert!(from.offset <= actor.head_after);
                from.offset
            }
            Begin::History(count) => {
                // The last `count` events at some moment while it was connecting.
                let last = |head: u64| {
                    let until = expected_offsets.partition_point(|offset| *offset <= head);
                    if count == 0 {
                        head
                    } else {
                        expected_offsets[until.saturating_sub(count)..until].first().map_or(head, |offset| offset - 1)
                    }
                };
                let after = got.first().map_or_else(|| last(actor.head_after), |first| first - 1);
                let earliest = expected_offsets.partition_point(|offset| *offset <= last(actor.head_before));
                let latest = expected_offsets.partition_point(|offset| *offset <= last(actor.head_after));
                let begin = expected_offsets.partition_point(|offset| *offset <= after);
                prop_assert!((earliest..=latest).contains(&begin), "{:?} began at {}", actor.begin, after);
                after
            }
        };
        let mut expected = expected_offsets.into_iter().filter(|offset| *offset > after).collect::<Vec<_>>();
        if gone {
            expected.truncate(got.len());
        }
        prop_assert_eq!(got, expected, "{:?} of {:?}", actor.begin, SUBSCRIBED[actor.subscribed]);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    #[test]
    fn every_emitter_sees_its_events_once_and_in_order(steps in steps(), outbox_events in 1_usize..12) {
        actix_rt::System::new().block_on(async {
            let mut world = World::new(outbox_events);
            for step in steps {
                world.step(step).await;
            }
            world.check().await
        })?;
    }
}
