//! Random steps with restarts and crashes, compared with a journal in memory that has neither.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{cases, journal::Memory};

const HOUR_MS: u64 = 60 * 60 * 1000;
const TOPICS: [&str; 4] = ["a:1", "a:2", "b:1", "job:"];
const RECORDS: u8 = 3;
const PATTERNS: [&str; 6] = ["*", "a:*", "a:1", "b:1", "job:*", "nowhere"];

#[derive(Clone, Debug)]
enum Step {
    /// For each event: its topics as a bit set, whether it expires, and the event id of its publisher.
    Append(Vec<(u8, bool, Option<u8>)>),
    /// Writes the record with this number with a value of this size, or deletes it.
    Record(u8, Option<usize>),
    Purge(usize),
    /// A number of hours later. Events of `b:*` live for ten.
    Sweep(u64),
    Reopen {
        clean: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = (1_u8..16, any::<bool>(), proptest::option::weighted(0.2, 0_u8..3));
    let record = proptest::option::weighted(0.8, prop_oneof![Just(9_usize), Just(70 << 10), Just(150 << 10)]);
    let step = prop_oneof![
        6 => vec(event, 1..4).prop_map(Step::Append),
        1 => (0..RECORDS, record).prop_map(|(number, size)| Step::Record(number, size)),
        1 => (0..TOPICS.len()).prop_map(Step::Purge),
        1 => prop_oneof![Just(0_u64), Just(2), Just(20)].prop_map(Step::Sweep),
        2 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ];
    vec(step, 1..24)
}

struct Run {
    disk: Reopened,
    memory: Memory,
    /// Names of jobs are used once.
    job: usize,
    /// The latest sweep, in hours from now.
    swept: u64,
    died: bool,
    brief: bool,
    /// After a crash, events deleted by the limits of the node may be restored, and others deleted instead.
    exact: bool,
    appended: Vec<(u64, Vec<Topic>)>,
}

// === impl Run ===

impl Run {
    fn new(config: &Config, brief: bool, exact: bool) -> Self {
        let age = Retention { retention_ms: Some(10 * HOUR_MS), retention_events: None, ..keep("b:*", 0) };
        let config = Config { retention: vec![keep("a:1", 3), age], ..config.clone() };
        Self {
            disk: Reopened::new(config.clone()),
            memory: Memory::new(&config),
            job: 0,
            swept: 0,
            died: false,
            brief,
            exact,
            appended: Vec::new(),
        }
    }

    fn name(&self, index: usize) -> String {
        if index == TOPICS.len() - 1 { format!("job:{}", self.job) } else { TOPICS[index].to_owned() }
    }

    fn draft(&self, mask: u8, brief: bool, key: Option<u8>) -> Draft {
        let names: Vec<String> = (0..TOPICS.len()).filter(|i| mask >> i & 1 == 1).map(|i| self.name(i)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // A sweep in the future forgets keys, and a restart now would restore them.
        let key = key.filter(|_| self.swept == 0).map(|key| format!("{key}-{mask}-{brief}-{}", self.job));
        let ttl_ms = (brief && self.brief).then_some((self.swept + 1) * HOUR_MS);
        Draft { key, ttl_ms, ..draft(&names, "data") }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Append(events) => {
                let drafts: Vec<Draft> =
                    events.iter().map(|(mask, brief, key)| self.draft(*mask, *brief, *key)).collect();
                let memory = self.memory.append(Batch::events(drafts.clone())).await;
                let disk = Journal::append(&*self.disk, Batch::events(drafts.clone())).await;
                for (draft, receipt) in drafts.into_iter().zip(disk.iter().flatten()) {
                    self.appended.push((receipt.position.offset, draft.topics));
                }
                let shown = |receipts: Result<Vec<Receipt>, AppendError>| {
                    let shown = |receipt: Receipt| (receipt.position.offset, receipt.duplicate);
                    let receipts = receipts.map(|receipts| receipts.into_iter().map(shown).collect::<Vec<_>>());
                    receipts.map_err(|refused| refused.to_string())
                };
                let (disk, memory) = (shown(disk), shown(memory));
                assert!(disk == memory || !self.exact, "{disk:?}, {memory:?}");
            }
            Step::Record(number, size) => {
                let value = size.map(|size| noise(size, self.appended.len() as u64 + u64::from(*number)));
                let records = vec![RecordWrite { key: number.to_string(), value }];
                let batch = || Batch { records: records.clone(), ..Batch::default() };
                self.memory.append(batch()).await.unwrap();
                Journal::append(&*self.disk, batch()).await.unwrap();
            }
            Step::Purge(index) => {
                let name = topic(&self.name(*index));
                self.job += usize::from(*index == TOPICS.len() - 1);
                let (disk, memory) = (self.disk.purge(name.clone()).await, self.memory.purge(name).await);
                assert!(disk.unwrap() == memory.unwrap() || !self.exact);
            }
            Step::Sweep(hours) => {
                self.swept = self.swept.max(*hours);
                let then = now_ms() + hours * HOUR_MS;
                self.disk.sweep(then).await.unwrap();
                self.memory.sweep(then).await.unwrap();
            }
            Step::Reopen { clean } => {
                self.died |= !clean;
                self.disk.reopen(*clean).await;
            }
        }
        self.compare_records().await;
        if self.exact || !self.died {
            self.compare().await;
        }
        self.check_gaps().await;
    }

    /// Deleted events are reported, unless they have expired.
    async fn check_gaps(&self) {
        let head = *self.disk.watch_head().borrow();
        for (name, after) in PATTERNS.into_iter().flat_map(|name| [(name, 0), (name, head / 2)]) {
            let pattern = Pattern::new(name).unwrap();
            let patterns = vec![pattern.clone()].into();
            let query = Query { patterns, after, floor: 0, limit: usize::MAX, max_bytes: usize::MAX };
            let page = self.disk.read(query).await.unwrap();
            let named = |(_, topics): &&(u64, Vec<Topic>)| topics.iter().any(|topic| pattern.matches(topic));
            for (offset, _) in self.appended.iter().filter(|(offset, _)| *offset > after).filter(named) {
                let there = page.events.iter().any(|event| event.position.offset == *offset);
                assert!(there || self.brief || !page.trimmed.is_empty(), "{offset} of {name} after {after}");
            }
        }
    }

    async fn compare_records(&self) {
        for number in 0..RECORDS {
            let (disk, memory) = (self.disk.get(number.to_string()).await, self.memory.get(number.to_string()).await);
            assert!(disk.unwrap() == memory.unwrap(), "record {number}");
        }
    }

    async fn compare(&self) {
        let head = *self.memory.watch_head().borrow();
        assert_eq!(*self.disk.watch_head().borrow(), head);
        for pattern in PATTERNS {
            let patterns: Arc<[Pattern]> = vec![Pattern::new(pattern).unwrap()].into();
            for after in [0, head / 2, head.saturating_sub(1)] {
                let query =
                    Query { patterns: patterns.clone(), after, floor: 0, limit: usize::MAX, max_bytes: usize::MAX };
                let (disk, memory) =
                    (self.disk.read(query.clone()).await.unwrap(), self.memory.read(query).await.unwrap());
                let shown = |page: &Page| -> Vec<_> {
                    page.events.iter().map(|event| (event.position.offset, event.topics.clone())).collect()
                };
                assert_eq!((shown(&disk), disk.through), (shown(&memory), memory.through), "{pattern} after {after}");
                let lost =
                    |page: Page| -> Vec<String> { page.trimmed.into_iter().map(|trimmed| trimmed.topic).collect() };
                let (disk, memory) = (lost(disk), lost(memory));
                assert!(
                    memory.iter().all(|topic| disk.contains(topic)),
                    "{pattern} after {after}: {memory:?}, {disk:?}"
                );
                assert!(self.died || disk == memory, "{pattern} after {after}: {memory:?}, {disk:?}");
            }
            let (disk, memory) = (self.disk.before_last(patterns.clone(), 2), self.memory.before_last(patterns, 2));
            assert_eq!(disk.await.unwrap(), memory.await.unwrap());
        }
        let shown = |infos: Vec<TopicInfo>| -> Vec<_> {
            let offset = |position: Option<crate::event::Position>| position.map(|position| position.offset);
            infos.into_iter().map(|i| (i.topic, i.events, i.bytes, offset(i.first), offset(i.last))).collect()
        };
        let (disk, memory) = (self.disk.topics(Pattern::any(), None, 99), self.memory.topics(Pattern::any(), None, 99));
        assert_eq!(shown(disk.await.unwrap()), shown(memory.await.unwrap()));
        let (disk, memory) = (self.disk.stats(), self.memory.stats());
        assert_eq!((disk.events, disk.bytes, disk.pinned_bytes), (memory.events, memory.bytes, memory.pinned_bytes));
    }
}

fn check(config: &Config, brief: bool, exact: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    proptest!(ProptestConfig::with_cases(cases(12)), |(steps in steps())| {
        runtime.block_on(async {
            let mut run = Run::new(config, brief, exact);
            for step in &steps {
                run.step(step).await;
            }
            run.disk.close().await;
        });
    });
}

#[test]
fn restarts_and_crashes_change_nothing() {
    check(&Config::default(), true, true);
}

#[test]
fn restarts_and_crashes_change_nothing_under_the_limits_of_the_node() {
    check(&Config { max_bytes: 5000, max_event_bytes: 1000, ..Config::default() }, false, true);
    check(&Config { max_topics: 2, ..Config::default() }, false, false);
}
